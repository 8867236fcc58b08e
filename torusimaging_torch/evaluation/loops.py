r"""The formulas of `closed_form` and `second_derivatives` as compiled loops over pixels, by Numba.

A pixel takes some hundred operations and no memory but its own numbers and the tables. Functions
write to nothing but what they made themselves, so any number of threads may call them.

A problem has pixels ``data``, its positions, velocities, observations and weights, (4, N); splines,
a tuple of the orders, the number of knots of each function, and all knots and left ends of
intervals; and its ``frame`` and ``table``, (rows, 4).
"""

from __future__ import annotations

import numpy as np

from torusimaging_torch.evaluation.compiled import compiled, inlined, one
from torusimaging_torch.evaluation.ellipse_loops import (
    bend_ellipse,
    frames_of,
    place_ellipse,
    pull_ellipse,
)
from torusimaging_torch.evaluation.sheet_loops import place_sheets, pull_sheets
from torusimaging_torch.evaluation.table_loops import interval, look_up

__all__ = ["labels", "ln_likelihood", "ln_likelihoods", "own_part", "products"]


@inlined()
def _score(counts, label, observed, weight):  # type: ignore[no-untyped-def]
    """Return a pixel's ln L, its derivative by the label, and minus the second one."""
    if counts:
        expected = np.exp(label)
        value, gradient, curvature = observed * label - expected, observed - expected, expected
    else:
        gradient = observed - label
        value, curvature = -0.5 * gradient * gradient, 1.0
    return weight * value, weight * gradient, weight * curvature


@inlined()
def _polar(a, b, T, U):  # type: ignore[no-untyped-def]
    """Return r_e, c and s, both 0 in the origin, and 1/r_e; fill in T_m and U_m."""
    square = a * a + b * b
    r_e = np.sqrt(square)
    inverse = 0.0 if square == 0.0 else 1 / r_e
    c = 1.0 if square == 0.0 else a * inverse
    T[0], T[1], U[0], U[1] = 1.0, c, 1.0, 2 * c
    for m in range(2, len(T)):
        T[m] = 2 * c * T[m - 1] - T[m - 2]
        U[m] = 2 * c * U[m - 1] - U[m - 2]
    return r_e, a * inverse, b * inverse, inverse


@inlined()
def _harmonics(r_e, T, U, orders, n_knots, knots, left, table, rows, ts):  # type: ignore[no-untyped-def]
    """Return S, D and W, and the label's row and t; fill in those of each e_m."""
    S, D, W = 1.0, 0.0, 0.0
    first, row = 0, 0
    for i in range(len(orders)):
        m = orders[i]
        rows[i] = row + interval(knots, first, n_knots[i], r_e)
        ts[i] = r_e - left[rows[i]]
        e, slope, _ = look_up(table, rows[i], ts[i])
        S += e * T[m]
        D += slope * T[m]
        if m > 0:
            W += m * e * U[m - 1]
        first += n_knots[i]
        row += n_knots[i] + 1
    r = r_e * S
    row += interval(knots, first, n_knots[len(orders)], r)
    return S, D, W, row, r - left[row]


@inlined()
def _add_moments(sums, row, g, t):  # type: ignore[no-untyped-def]
    sums[row, 0] += g
    sums[row, 1] += g * t
    sums[row, 2] += g * t * t
    sums[row, 3] += g * t * t * t


@compiled()
def _pixels(data, counts, a, b, shift, splines, table, gradient, by):  # type: ignore[no-untyped-def]
    """Return ln L; fill in its gradient by the table, and in ``by`` that by a, b and the label.

    ``shift`` is what pixels add to their label, unless it is empty; ``by`` is where nobody wants a
    gradient.
    """
    orders, n_knots, knots, left = splines
    size, wanted, shifted = len(orders), by.shape[1] > 0, len(shift) > 0
    observed, weight = data[2], data[3]
    T, U = np.empty(orders[-1] + 2 if size else 2), np.empty(orders[-1] + 2 if size else 2)
    rows, ts = np.empty(size, np.int64), np.empty(size)
    total = 0.0
    for n in range(len(a)):
        if wanted:
            by[0, n], by[1, n], by[2, n] = 0.0, 0.0, 0.0
        # What has no weight is left out, but for what is no number.
        if weight[n] == 0.0 and a[n] == a[n] and b[n] == b[n]:
            continue
        r_e, c, s, _ = _polar(a[n], b[n], T, U)
        S, D, W, row, t = _harmonics(r_e, T, U, orders, n_knots, knots, left, table, rows, ts)
        label, slope, _ = look_up(table, row, t)
        if shifted:
            label += shift[n]
        value, g, _ = _score(counts, label, observed[n], weight[n])
        total += value
        if not wanted:
            continue
        by_r, A = g * slope, S + r_e * D
        _add_moments(gradient, row, g, t)
        for i in range(size):
            _add_moments(gradient, rows[i], by_r * r_e * T[orders[i]], ts[i])
        by[0, n] = by_r * (A * c + W * s * s)
        by[1, n] = by_r * (A * s - W * s * c)
        by[2, n] = g
    return total


@compiled()
def _shifts(added, frame, n_pixels):  # type: ignore[no-untyped-def]
    """Return what pixels add to their label, nothing at all if none does."""
    offset, terms = added
    shift = np.zeros(n_pixels if len(offset) or len(terms) else 0)
    for n in range(len(offset)):
        shift[n] = offset[n]
    for j in range(len(terms)):
        factor = frame[len(frame) - len(terms) + j]
        for n in range(n_pixels):
            shift[n] += factor * terms[j, n]
    return shift


@compiled()
def _pull_shifts(by_label, terms, gradient):  # type: ignore[no-untyped-def]
    for j in range(len(terms)):
        total = 0.0
        for n in range(len(by_label)):
            total += terms[j, n] * by_label[n]
        gradient[j] = total


@compiled()
def ln_likelihood(data, added, counts, frame, transform, splines, table, gradient):  # type: ignore[no-untyped-def]
    """Return ln L of a problem; fill in its gradient, (F + T,), if that is not empty.

    ``added`` is what pixels add to their label, an offset, (N,), and terms, (J, N), either of which
    can be empty; ``counts`` tells whether star counts are observed. The ``transform`` are its
    convention, and a potential's heights, frequency, 4 pi G, and the positions of pixels, each
    once, with the place of each pixel among them; an ellipse has no heights.
    """
    vp, is_ellipse = transform[0], len(transform[1]) == 0
    n_pixels, n_levels, n_frame = data.shape[1], len(transform[4]), len(frame)
    n_wanted = n_pixels if len(gradient) else 0
    a, b, by = np.empty(n_pixels), np.empty(n_pixels), np.empty((3, n_wanted))
    q, kappa = np.empty((n_levels, 1 + len(transform[1]))), np.empty(n_levels)
    if is_ellipse:
        place_ellipse(data[0], data[1], frame, vp, a, b)
    else:
        place_sheets(data[0], data[1], frame, transform, q, kappa, a, b)
    moments = gradient[n_frame : len(gradient)].reshape(-1, 4) if n_wanted else np.empty((0, 4))
    shift = _shifts(added, frame, n_pixels)
    value = _pixels(data, counts, a, b, shift, splines, table, moments, by)
    if n_wanted:
        if is_ellipse:
            pull_ellipse(by[0], by[1], a, b, frame, vp, gradient)
        else:
            pull_sheets(by[0], by[1], frame, transform, q, kappa, gradient)
        _pull_shifts(by[2], added[1], gradient[n_frame - len(added[1]) : n_frame])
    return value


@inlined()
def _slopes_of_r(r_e, c, s, T, U, orders, rows, ts, place, dr, dr_a, dr_b):  # type: ignore[no-untyped-def]
    """Fill in r_e T_m t^d for each m and d, its slopes by a and b, and its place in the matrix."""
    for i in range(len(orders)):
        m = orders[i]
        turn = m * U[m - 1] if m > 0 else 0.0
        power, change = 1.0, 0.0
        for d in range(4):
            j = 3 + 4 * i + d
            place[j] = 3 + 4 * rows[i] + d
            dr[j] = r_e * T[m] * power
            # Along the radius, and across it.
            radial, angular = T[m] * (power + r_e * change), s * turn * power
            dr_a[j] = c * radial + s * angular
            dr_b[j] = s * radial - c * angular
            change = change * ts[i] + power
            power *= ts[i]


@inlined()
def _hessian_of_r(r_e, c, s, inverse, T, U, S, D, orders, table, rows, ts):  # type: ignore[no-untyped-def]
    """Return the second derivatives of r by a twice, by b twice, and by a and b."""
    E, V, Q = 0.0, 0.0, 0.0
    for i in range(len(orders)):
        m = orders[i]
        e, slope, bend = look_up(table, rows[i], ts[i])
        E += bend * T[m]
        Q += m * m * e * T[m]
        if m > 0:
            V += m * slope * U[m - 1]
    rr, rt, tt = 2 * D + r_e * E, -s * V, (S + r_e * D - Q) * inverse
    return (
        c * c * rr - 2 * c * s * rt + s * s * tt,
        s * s * rr + 2 * c * s * rt + c * c * tt,
        c * s * (rr - tt) + (c * c - s * s) * rt,
    )


@inlined()
def _add_products(hessian, place, dr, among, first, z, w, w_slope, g):  # type: ignore[no-untyped-def]
    """Add what a pixel says by products of first derivatives, its label's table included."""
    size = len(dr)
    for i in range(size):
        for j in range(i + 1):
            hessian[place[i], place[j]] += among * dr[i] * dr[j]
    power, change = 1.0, 0.0
    for d in range(4):
        coupling = w_slope * power - g * change
        for i in range(size):
            hessian[first + d, place[i]] += coupling * dr[i]
        other = power
        for j in range(d, 4):
            hessian[first + j, first + d] += w * power * other
            other *= z
        change = change * z + power
        power *= z


@compiled()
def _add_pixels(data, counts, a, b, by_frame, splines, table, exact, hessian):  # type: ignore[no-untyped-def]
    """Add up the information of a problem by frame and table; lower half.

    Derivatives of r by the frame and by the entries of tables in the pixel's intervals stand side
    by side in ``dr``, their places in the matrix in ``place``; ``dr_a`` and ``dr_b`` are the
    slopes of these by the coordinates.
    """
    orders, n_knots, knots, left = splines
    size, n_local = len(orders), 3 + 4 * len(orders)
    observed, weight = data[2], data[3]
    T, U = np.empty(orders[-1] + 2 if size else 2), np.empty(orders[-1] + 2 if size else 2)
    place, rows, ts = np.arange(n_local), np.empty(size, np.int64), np.empty(size)
    dr, dr_a, dr_b = np.empty(n_local), np.empty(n_local), np.empty(n_local)
    for n in range(len(a)):
        if weight[n] == 0.0 and a[n] == a[n] and b[n] == b[n]:
            continue
        r_e, c, s, inverse = _polar(a[n], b[n], T, U)
        S, D, W, row, z = _harmonics(r_e, T, U, orders, n_knots, knots, left, table, rows, ts)
        label, slope, bend = look_up(table, row, z)
        _, g, w = _score(counts, label, observed[n], weight[n])
        g = g if exact else 0.0
        A = S + r_e * D
        r_a, r_b = A * c + W * s * s, A * s - W * s * c
        _slopes_of_r(r_e, c, s, T, U, orders, rows, ts, place, dr, dr_a, dr_b)
        for i in range(3):
            dr[i] = r_a * by_frame[0, i, n] + r_b * by_frame[1, i, n]
        among = w * slope * slope - g * bend
        _add_products(hessian, place, dr, among, 3 + 4 * row, z, w, w * slope, g)
        if not exact:
            continue
        aa, bb, ab = _hessian_of_r(r_e, c, s, inverse, T, U, S, D, orders, table, rows, ts)
        for i in range(3):
            dr_a[i] = aa * by_frame[0, i, n] + ab * by_frame[1, i, n]
            dr_b[i] = ab * by_frame[0, i, n] + bb * by_frame[1, i, n]
        for j in range(3):
            for i in range(j, n_local):
                bent = dr_a[i] * by_frame[0, j, n] + dr_b[i] * by_frame[1, j, n]
                hessian[place[i], j] -= g * slope * bent


@compiled()
def _products(data, counts, frame, vp, splines, table, exact, hessian):  # type: ignore[no-untyped-def]
    """Fill in the information of a problem by frame and table, (F + T, F + T), zero before."""
    n_pixels = data.shape[1]
    a, b = np.empty(n_pixels), np.empty(n_pixels)
    place_ellipse(data[0], data[1], frame, vp, a, b)
    _add_pixels(data, counts, a, b, frames_of(a, b, frame, vp), splines, table, exact, hessian)
    if exact:
        gradient, by = np.zeros((len(table), 4)), np.empty((3, n_pixels))
        _pixels(data, counts, a, b, np.empty(0), splines, table, gradient, by)
        bend_ellipse(by[0], by[1], a, b, frame, vp, hessian)
    for m in range(len(hessian)):
        for n in range(m):
            hessian[n, m] = hessian[m, n]


@compiled()
def own_part(data, added, transform, splines, i):  # type: ignore[no-untyped-def]
    """Return what a problem has of pixels, what they add, the transform and the splines."""
    offset, terms = added
    vp, heights, omega, four_pi_G, levels, place = transform
    orders, n_knots, knots, left = splines
    own = (vp, one(heights, i), one(omega, i)[0], four_pi_G, one(levels, i), one(place, i))
    return (
        one(data, i),
        (one(offset, i), one(terms, i)),
        own,
        (orders, n_knots, one(knots, i), one(left, i)),
    )


@compiled()
def ln_likelihoods(  # type: ignore[no-untyped-def]
    data, added, constant, counts, frames, transform, splines, tables, rows, wanted
):
    """Return ln L, (R,), and its gradient, (R, F + T), without entries if it is not ``wanted``.

    ``rows`` tells which problem each frame (R, F) and table (R, rows, 4) belongs to.
    """
    n_gradient = frames.shape[1] + 4 * tables.shape[1] if wanted else 0
    value, gradient = np.empty(len(frames)), np.zeros((len(frames), n_gradient))
    for k in range(len(frames)):
        i = rows[k]
        pixels, plus, place, own = own_part(data, added, transform, splines, i)
        value[k] = one(constant, i) + ln_likelihood(
            pixels, plus, counts, frames[k], place, own, tables[k], gradient[k]
        )
    return value, gradient


@compiled()
def labels(data, added, frames, transform, splines, tables, rows):  # type: ignore[no-untyped-def]
    """Return the labels of pixels, (R, N); the arguments are as in `ln_likelihoods`."""
    n_pixels, n_levels, n_sheets = data.shape[2], transform[4].shape[1], transform[1].shape[1]
    found, a, b = np.empty((len(frames), n_pixels)), np.empty(n_pixels), np.empty(n_pixels)
    q, kappa = np.empty((n_levels, 1 + n_sheets)), np.empty(n_levels)
    for k in range(len(frames)):
        pixels, _, place, own = own_part(data, added, transform, splines, rows[k])
        if n_sheets == 0:
            place_ellipse(pixels[0], pixels[1], frames[k], transform[0], a, b)
        else:
            place_sheets(pixels[0], pixels[1], frames[k], place, q, kappa, a, b)
        _labels(a, b, own, tables[k], found[k])
    return found


@compiled()
def _labels(a, b, splines, table, found):  # type: ignore[no-untyped-def]
    orders, n_knots, knots, left = splines
    size = len(orders)
    T, U = np.empty(orders[-1] + 2 if size else 2), np.empty(orders[-1] + 2 if size else 2)
    rows, ts = np.empty(size, np.int64), np.empty(size)
    for n in range(len(a)):
        r_e, _, _, _ = _polar(a[n], b[n], T, U)
        harmonics = _harmonics(r_e, T, U, orders, n_knots, knots, left, table, rows, ts)
        found[n], _, _ = look_up(table, harmonics[3], harmonics[4])


@compiled()
def products(data, counts, frames, vp, splines, tables, rows, exact):  # type: ignore[no-untyped-def]
    """Return the information of problems by frame and table, (R, F + T, F + T).

    It is minus the second derivatives of ln L if it is to be ``exact``, else J^T W J; the other
    arguments are as in `ln_likelihoods`.
    """
    orders, n_knots, knots, left = splines
    total = 3 + 4 * tables.shape[1]
    information = np.zeros((len(frames), total, total))
    for k in range(len(frames)):
        i = rows[k]
        own = (orders, n_knots, one(knots, i), one(left, i))
        # Filled in where it belongs: to copy whole arrays takes long to compile.
        _products(one(data, i), counts, frames[k], vp, own, tables[k], exact, information[k])
    return information
