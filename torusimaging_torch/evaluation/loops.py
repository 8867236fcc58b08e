r"""The formulas of `closed_form` and `second_derivatives` as compiled loops over pixels, by Numba.

A pixel takes some hundred operations and no memory but its own numbers and the tables. Functions
are compiled when first called, and kept on disk. They release the GIL, start no threads, and write
nothing but what they are given, so that any number of threads may call them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit

__all__ = ["curvatures", "values_and_gradients"]

# Numbers that are not finite go through, as they do in torch; nothing is reordered.
compiled: Any = partial(njit, cache=True, nogil=True, error_model="numpy")

# Of more knots than this the interval is found by halving.
_FEW = 16


@compiled(inline="always")
def _interval(knots, first, n, x):  # type: ignore[no-untyped-def]
    """Return how many of n knots are not above x."""
    if n <= _FEW:
        count = 0
        for j in range(first, first + n):
            count += x >= knots[j]
        return count
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if x >= knots[first + middle]:
            low = middle + 1
        else:
            high = middle
    return low


@compiled(inline="always")
def _score(counts, label, observed, weight):  # type: ignore[no-untyped-def]
    """Return a pixel's ln L, its derivative by the label, and minus the second one."""
    if counts:
        expected = np.exp(label)
        value, gradient, curvature = observed * label - expected, observed - expected, expected
    else:
        gradient = observed - label
        value, curvature = -0.5 * gradient * gradient, 1.0
    return weight * value, weight * gradient, weight * curvature


@compiled()
def _ellipse(pos, vel, frame, vp, a, b):  # type: ignore[no-untyped-def]
    """Fill in the coordinates of pixels, as `ellipse.Ellipse.coordinates` does."""
    root, inverse = np.exp(0.5 * frame[2]), np.exp(-0.5 * frame[2])
    x, y = (b, a) if vp else (a, b)
    for n in range(len(pos)):
        x[n] = (vel[n] - frame[1]) * inverse
        y[n] = (pos[n] - frame[0]) * root


@compiled()
def _pull_ellipse(by_a, by_b, a, b, frame, vp, gradient):  # type: ignore[no-untyped-def]
    """Fill in the gradient by the frame, as `ellipse.Ellipse.pull` does."""
    root = np.exp(0.5 * frame[2])
    f_x, f_y = (by_b, by_a) if vp else (by_a, by_b)
    x, y = (b, a) if vp else (a, b)
    sum_x, sum_y, twist = 0.0, 0.0, 0.0
    for n in range(len(x)):
        sum_x += f_x[n]
        sum_y += f_y[n]
        twist += f_y[n] * y[n] - f_x[n] * x[n]
    gradient[0], gradient[1], gradient[2] = -sum_y * root, -sum_x / root, 0.5 * twist


@compiled()
def _bend_ellipse(by_a, by_b, a, b, frame, vp, hessian):  # type: ignore[no-untyped-def]
    """Take the transform's own curvature off, as `ellipse.Ellipse.bend` says; lower half."""
    root = np.exp(0.5 * frame[2])
    f_x, f_y = (by_b, by_a) if vp else (by_a, by_b)
    x, y = (b, a) if vp else (a, b)
    for n in range(len(x)):
        hessian[2, 0] += 0.5 * root * f_y[n]
        hessian[2, 1] -= 0.5 / root * f_x[n]
        hessian[2, 2] -= 0.25 * (f_x[n] * x[n] + f_y[n] * y[n])


@compiled(inline="always")
def _chebyshev(c, T, U):  # type: ignore[no-untyped-def]
    """Fill in the Chebyshev polynomials T_m and U_m of c."""
    T[0], T[1], U[0], U[1] = 1.0, c, 1.0, 2 * c
    for m in range(2, len(T)):
        T[m] = 2 * c * T[m - 1] - T[m - 2]
        U[m] = 2 * c * U[m - 1] - U[m - 2]


@compiled()
def _pixels(  # type: ignore[no-untyped-def]
    a, b, observed, weight, counts, orders, n_knots, knots, left, table, gradient, by_a, by_b
):
    """Return ln L of a problem, and fill in its gradient by tables and coordinates.

    With ``by_a`` empty there is no gradient.
    """
    size, wanted = len(orders), len(by_a) > 0
    T, U = np.empty(orders[-1] + 2 if size else 2), np.empty(orders[-1] + 2 if size else 2)
    rows, ts = np.empty(size, np.int64), np.empty(size)
    total = 0.0
    for n in range(len(a)):
        square = a[n] * a[n] + b[n] * b[n]
        if wanted:
            by_a[n], by_b[n] = 0.0, 0.0
        if weight[n] == 0.0 and square == square:
            continue
        r_e = np.sqrt(square)
        inverse = 0.0 if square == 0.0 else 1 / r_e
        along, s = a[n] * inverse, b[n] * inverse
        _chebyshev(1.0 if square == 0.0 else along, T, U)
        S, D, W = 1.0, 0.0, 0.0
        k, row = 0, 0
        for i in range(size):
            m = orders[i]
            rows[i] = row + _interval(knots, k, n_knots[i], r_e)
            c0, c1, c2, c3 = table[rows[i]]
            t = r_e - left[rows[i]]
            e = c0 + t * (c1 + t * (c2 + t * c3))
            S += e * T[m]
            D += (c1 + t * (2 * c2 + 3 * t * c3)) * T[m]
            if m > 0:
                W += m * e * U[m - 1]
            ts[i] = t
            k += n_knots[i]
            row += n_knots[i] + 1
        r = r_e * S
        row += _interval(knots, k, n_knots[size], r)
        c0, c1, c2, c3 = table[row]
        t = r - left[row]
        label = c0 + t * (c1 + t * (c2 + t * c3))
        value, g, _ = _score(counts, label, observed[n], weight[n])
        total += value
        if not wanted:
            continue
        by_r = g * (c1 + t * (2 * c2 + 3 * t * c3))
        _add_moments(gradient[row], g, t)
        for i in range(size):
            _add_moments(gradient[rows[i]], by_r * r_e * T[orders[i]], ts[i])
        A = S + r_e * D
        by_a[n] = by_r * (A * along + W * s * s)
        by_b[n] = by_r * (A * s - W * s * along)
    return total


@compiled(inline="always")
def _add_moments(sums, g, t):  # type: ignore[no-untyped-def]
    sums[0] += g
    sums[1] += g * t
    sums[2] += g * t * t
    sums[3] += g * t * t * t


@compiled()
def values_and_gradients(  # type: ignore[no-untyped-def]
    data, of_data, counts, frame, vp, table, of_table, orders, n_knots, knots, left, wanted
):
    """Return ln L of problems, (R,), and its gradient, (R, F + T) or empty if not ``wanted``.

    Parameters
    ----------
    data
        Positions, velocities, what was observed and weights, with shape (4, B, N).
    of_data, of_table
        Which of the data, and of the knots, belong to each problem, with shape (R,).
    counts
        Whether star counts are observed.
    frame, table
        Frames (R, 3) and tables (R, rows, 4).
    vp
        The convention.
    orders, n_knots, knots, left
        As in `tables.Tables`.
    wanted
        Whether gradients are.
    """
    size, n_pixels = len(frame), data.shape[-1]
    value, gradient = np.empty(size), np.zeros((size if wanted else 0, 3 + 4 * table.shape[1]))
    a, b = np.empty(n_pixels), np.empty(n_pixels)
    by_a, by_b = np.empty(n_pixels if wanted else 0), np.empty(n_pixels if wanted else 0)
    nothing = np.empty((0, 4))
    for i in range(size):
        j = of_data[i]
        _ellipse(data[0, j], data[1, j], frame[i], vp, a, b)
        moments = gradient[i, 3:].reshape(-1, 4) if wanted else nothing
        k = of_table[i]
        value[i] = _pixels(
            a, b, data[2, j], data[3, j], counts, orders, n_knots, knots[k], left[k], table[i],
            moments, by_a, by_b,
        )  # fmt: skip
        if wanted:
            _pull_ellipse(by_a, by_b, a, b, frame[i], vp, gradient[i])
    return value, gradient


@compiled()
def _frames(a, b, frame, vp, by_frame):  # type: ignore[no-untyped-def]
    """Fill in the coordinates' derivatives by the frame, (2, 3, N)."""
    root = np.exp(0.5 * frame[2])
    i, j = (1, 0) if vp else (0, 1)
    x, y = (b, a) if vp else (a, b)
    by_frame[:] = 0.0
    for n in range(len(a)):
        by_frame[i, 1, n] = -1 / root
        by_frame[i, 2, n] = -0.5 * x[n]
        by_frame[j, 0, n] = -root
        by_frame[j, 2, n] = 0.5 * y[n]


@compiled()
def _products(  # type: ignore[no-untyped-def]
    a, b, by_frame, observed, weight, counts, orders, n_knots, knots, left, table, exact, hessian
):
    """Add up the information of a problem by frame and tables; lower half.

    Derivatives of r by the frame and by the entries of the e functions' tables in the pixel's
    intervals stand side by side in ``dr``, their places in the matrix in ``place``.
    """
    size, n_frame = len(orders), by_frame.shape[1]
    T, U = np.empty(orders[-1] + 2 if size else 2), np.empty(orders[-1] + 2 if size else 2)
    n_local = n_frame + 4 * size
    dr, place = np.empty(n_local), np.arange(n_local)
    # Of the derivatives by the tables, those by both coordinates.
    dr_a, dr_b, rows, ts = (
        np.empty(n_local),
        np.empty(n_local),
        np.empty(size, np.int64),
        np.empty(size),
    )
    for n in range(len(a)):
        square = a[n] * a[n] + b[n] * b[n]
        if weight[n] == 0.0 and square == square:
            continue
        r_e = np.sqrt(square)
        inverse = 0.0 if square == 0.0 else 1 / r_e
        along, s = a[n] * inverse, b[n] * inverse
        _chebyshev(1.0 if square == 0.0 else along, T, U)
        S, D, W, E, V, Q = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
        k, row = 0, 0
        for i in range(size):
            m = orders[i]
            turn = m * U[m - 1] if m > 0 else 0.0
            rows[i] = row + _interval(knots, k, n_knots[i], r_e)
            c0, c1, c2, c3 = table[rows[i]]
            t = r_e - left[rows[i]]
            e, slope = c0 + t * (c1 + t * (c2 + t * c3)), c1 + t * (2 * c2 + 3 * t * c3)
            S += e * T[m]
            D += slope * T[m]
            W += e * turn
            E += (2 * c2 + 6 * t * c3) * T[m]
            V += slope * turn
            Q += m * m * e * T[m]
            ts[i] = t
            k += n_knots[i]
            row += n_knots[i] + 1
            # r_e T_m t^d along the radius, and across it.
            power, change = 1.0, 0.0
            for d in range(4):
                j = n_frame + 4 * i + d
                place[j] = n_frame + 4 * rows[i] + d
                dr[j] = r_e * T[m] * power
                radial, angular = T[m] * (power + r_e * change), s * turn * power
                dr_a[j] = along * radial + s * angular
                dr_b[j] = s * radial - along * angular
                change = change * t + power
                power *= t
        r = r_e * S
        row += _interval(knots, k, n_knots[size], r)
        c0, c1, c2, c3 = table[row]
        z = r - left[row]
        slope = c1 + z * (2 * c2 + 3 * z * c3)
        label = c0 + z * (c1 + z * (c2 + z * c3))
        _, g, w = _score(counts, label, observed[n], weight[n])
        if not exact:
            g = 0.0
        A = S + r_e * D
        r_a, r_b = A * along + W * s * s, A * s - W * s * along
        rr, rt, tt = 2 * D + r_e * E, -s * V, (A - Q) * inverse
        r_aa = along * along * rr - 2 * along * s * rt + s * s * tt
        r_bb = s * s * rr + 2 * along * s * rt + along * along * tt
        r_ab = along * s * (rr - tt) + (along * along - s * s) * rt
        for i in range(n_frame):
            dr[i] = r_a * by_frame[0, i, n] + r_b * by_frame[1, i, n]
            dr_a[i] = r_aa * by_frame[0, i, n] + r_ab * by_frame[1, i, n]
            dr_b[i] = r_ab * by_frame[0, i, n] + r_bb * by_frame[1, i, n]
        among, pull = w * slope * slope - g * (2 * c2 + 6 * z * c3), g * slope
        for i in range(n_local):
            for j in range(i + 1):
                hessian[place[i], place[j]] += among * dr[i] * dr[j]
        if exact:
            for j in range(n_frame):
                for i in range(j, n_local):
                    bend = dr_a[i] * by_frame[0, j, n] + dr_b[i] * by_frame[1, j, n]
                    hessian[place[i], j] -= pull * bend
        first, power, change = n_frame + 4 * row, 1.0, 0.0
        for d in range(4):
            for i in range(n_local):
                hessian[first + d, place[i]] += (w * slope * power - g * change) * dr[i]
            other = power
            for j in range(d, 4):
                hessian[first + j, first + d] += w * power * other
                other *= z
            change = change * z + power
            power *= z


@compiled()
def curvatures(  # type: ignore[no-untyped-def]
    data, of_data, counts, frame, vp, table, of_table, orders, n_knots, knots, left, exact
):
    """Return the information of problems by frame and tables, (R, F + T, F + T).

    Parameters are as in `values_and_gradients`; the information is minus the second derivatives if
    it is to be ``exact``, else J^T W J.
    """
    size, n_pixels, total = len(frame), data.shape[-1], 3 + 4 * table.shape[1]
    hessian = np.zeros((size, total, total))
    a, b, by_frame = np.empty(n_pixels), np.empty(n_pixels), np.empty((2, 3, n_pixels))
    by_a, by_b, gradient = np.empty(n_pixels), np.empty(n_pixels), np.empty((table.shape[1], 4))
    for i in range(size):
        j, k = of_data[i], of_table[i]
        _ellipse(data[0, j], data[1, j], frame[i], vp, a, b)
        _frames(a, b, frame[i], vp, by_frame)
        _products(
            a, b, by_frame, data[2, j], data[3, j], counts, orders, n_knots, knots[k], left[k],
            table[i], exact, hessian[i],
        )  # fmt: skip
        if exact:
            _pixels(
                a, b, data[2, j], data[3, j], counts, orders, n_knots, knots[k], left[k], table[i],
                gradient, by_a, by_b,
            )  # fmt: skip
            _bend_ellipse(by_a, by_b, a, b, frame[i], vp, hessian[i])
        for m in range(total):
            for n in range(m):
                hessian[i, n, m] = hessian[i, m, n]
    return hessian
