"""One pass over the pixels of a problem on a GPU, as Triton kernels.

The formulas, and the names, are those of `~torusimaging_torch.evaluation.closed_form`. A program
has a problem and a share of its pixels, and goes through them in blocks. What a block adds to a
table is a product of two small matrices, which interval each pixel is in and the powers of t; so no
sum depends on which thread comes first, and results are the same to the last bit every time.

A transform is `_place` and `_by_frame`: with SHEETS, a constant and the others, that of
`~torusimaging_torch.evaluation.potential`; without, an ellipse's. A potential is worked out anew in
each pixel: a GPU has it sooner than it finds it. TERMS is the number of factors at the end of the
frame, of what the pixels add to the label.
"""

# Triton reads these functions' text: a type is what it can know before they run.
from __future__ import annotations

import math

import triton
import triton.language as tl

from torusimaging_torch.torus.sech_squared import L_TERMS, NEAR

__all__ = ["gradient_kernel", "information_kernel"]

# Numbers that differ from one batch to the next: no kernel is compiled anew for them.
_NUMBERS = (
    *("N", "P", "pixel_step", "knot_step", "left_step", "field_step", "offset_step", "term_step"),
)

_NEAR, _LN_2 = tl.constexpr(NEAR), tl.constexpr(math.log(2))
_C1, _C2, _C3, _C4, _C5, _C6 = map(tl.constexpr, L_TERMS[1:])


@triton.jit
def _ratios(s):  # type: ignore[no-untyped-def]
    """Return L and M; see `~torusimaging_torch.torus.sech_squared`."""
    size = tl.abs(s)
    small = size < _NEAR
    u = tl.where(small, s * s, 0.0)
    near_L = u * (u * (u * (u * (u * (u * _C6 + _C5) + _C4) + _C3) + _C2) + _C1) + 1.0
    # Each term of M is n + 1 times that of L.
    near_M = u * (u * (u * (7.0 * _C6 * u + 6.0 * _C5) + 5.0 * _C4) + 4.0 * _C3) + 3.0 * _C2
    near_M = u * (u * near_M + 2.0 * _C1) + 1.0
    x = tl.where(small, 1.0, size)
    t = tl.exp(-2.0 * x)
    L = 2.0 * (x + tl.log(1.0 + t) - _LN_2) / (x * x)
    M = (1.0 - t) / ((1.0 + t) * x)
    return tl.where(small, near_L, L), tl.where(small, near_M, M)


@triton.jit
def _place(  # type: ignore[no-untyped-def]
    pos, vel, frame, field,
    SWAP: tl.constexpr, SHEETS: tl.constexpr, FRAME: tl.constexpr,
):  # fmt: skip
    """Return the coordinates a and b of pixels, and what `_by_frame` needs of a potential.

    These are z, the root of Q, kappa, and the rows q_k of Q in the places of their parameters.
    """
    if SHEETS:
        z = pos - tl.load(frame)
        row = tl.arange(0, FRAME)
        is_sheet = (row >= 2) & (row < 2 + SHEETS)
        w = tl.exp(tl.load(frame + row, mask=is_sheet, other=0.0)) * tl.load(field + 1)
        w = tl.where(is_sheet, w, 0.0)[:, None]
        # The constant has no height.
        h = tl.load(field + row - 1, mask=is_sheet & (row > 2), other=1.0)
        L, M = _ratios(z[None, :] / h[:, None])
        q = w * tl.where(row[:, None] == 2, 1.0, L)
        kappa = tl.sum(w * tl.where(row[:, None] == 2, 1.0, M), 0)
        root = tl.sqrt(tl.sum(q, 0))
        return (vel - tl.load(frame + 1)) / tl.sqrt(tl.load(field)), z * root, z, root, kappa, q
    else:
        root = tl.exp(0.5 * tl.load(frame + 2))
        x = (vel - tl.load(frame + 1)) / root
        y = (pos - tl.load(frame)) * root
        if SWAP:
            return y, x, x, x, x, x
        else:
            return x, y, x, x, x, x


@triton.jit
def _by_frame(  # type: ignore[no-untyped-def]
    f_a, f_b, a, b, z, root, kappa, q, frame, field,
    SWAP: tl.constexpr, SHEETS: tl.constexpr, FRAME: tl.constexpr,
):  # fmt: skip
    """Return the derivatives by the frame, (FRAME, BLOCK), from those by a and b."""
    row = tl.arange(0, FRAME)[:, None]
    if SHEETS:
        by_pos0, by_vel0 = -f_b * kappa / root, -f_a / tl.sqrt(tl.load(field))
        others = (0.5 * f_b * z / root)[None, :] * q
    else:
        scale = tl.exp(0.5 * tl.load(frame + 2))
        if SWAP:
            f_x, f_y, x, y = f_b, f_a, b, a
        else:
            f_x, f_y, x, y = f_a, f_b, a, b
        by_pos0, by_vel0 = -f_y * scale, -f_x / scale
        others = tl.where(row == 2, (0.5 * (f_y * y - f_x * x))[None, :], 0.0)
    return tl.where(row == 0, by_pos0[None, :], tl.where(row == 1, by_vel0[None, :], others))


@triton.jit
def _added(  # type: ignore[no-untyped-def]
    label, n, frame, offset, terms, term_size,
    F: tl.constexpr, FRAME: tl.constexpr, TERMS: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    """Return labels with what the pixels add, and its derivatives by the frame, (FRAME, BLOCK)."""
    if HAS_OFFSET:
        label += tl.load(offset + n)
    row = tl.arange(0, FRAME)
    own = tl.zeros((FRAME, n.shape[0]), tl.float64)
    if TERMS:
        is_term = (row >= F - TERMS) & (row < F)
        place = (row - (F - TERMS))[:, None] * term_size + n[None, :]
        own = tl.load(terms + place, mask=is_term[:, None], other=0.0)
        label += tl.sum(tl.load(frame + row, mask=is_term, other=0.0)[:, None] * own, 0)
    return label, own


@triton.jit
def _chebyshev(c, m: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return T_m and m U_(m-1)."""
    one, zero = tl.full(c.shape, 1.0, tl.float64), tl.zeros(c.shape, tl.float64)
    if m == 0:
        return one, zero
    else:
        T_before, T, U_before, U = one, c, zero, one
        for _ in tl.static_range(m - 1):
            T_before, T = T, 2.0 * c * T - T_before
            U_before, U = U, 2.0 * c * U - U_before
        return T, m * U


@triton.jit
def _interval(x, knots, left, n: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the interval of points in the table of a function with n knots, and t there."""
    row = tl.zeros(x.shape, tl.int32)
    for k in range(n):
        row += (x >= tl.load(knots + k)).to(tl.int32)
    return row, x - tl.load(left + row)


@triton.jit
def _polynomial(t, entry):  # type: ignore[no-untyped-def]
    """Return a local polynomial and its slope."""
    c1, c2, c3 = tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    return tl.load(entry) + t * (c1 + t * (c2 + t * c3)), c1 + t * (2.0 * c2 + 3.0 * t * c3)


@triton.jit
def _radius(a, b, knots, left, table, ORDERS: tl.constexpr, KNOTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return r_e, c, r, dr/da and dr/db of pixels, and where the tables of the label are."""
    square = a * a + b * b
    origin = square == 0.0
    r_e = tl.sqrt(square)
    inverse = tl.where(origin, 0.0, 1.0 / tl.where(origin, 1.0, r_e))
    along, s = a * inverse, b * inverse
    c = tl.where(origin, 1.0, along)
    S, D = tl.full(a.shape, 1.0, tl.float64), tl.zeros(a.shape, tl.float64)
    W = tl.zeros(a.shape, tl.float64)
    for i in tl.static_range(len(ORDERS)):
        T, U = _chebyshev(c, ORDERS[i])
        row, t = _interval(r_e, knots, left, KNOTS[i])
        e, slope = _polynomial(t, table + 4 * row)
        S += e * T
        D += slope * T
        W += e * U
        knots += KNOTS[i]
        left += KNOTS[i] + 1
        table += 4 * (KNOTS[i] + 1)
    A = S + r_e * D
    return r_e, c, r_e * S, A * along + W * s * s, A * s - W * s * along, knots, left, table


@triton.jit
def _score(label, observed, weight, COUNTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Ln L of pixels, its derivative by the label, and minus the second one."""
    if COUNTS:
        expected = tl.exp(label)
        terms = weight * (observed * label - expected)
        return terms, weight * (observed - expected), weight * expected
    else:
        residual = observed - label
        return -0.5 * weight * residual * residual, weight * residual, weight


@triton.jit
def _moments(row, t, g, ROWS: tl.constexpr, POWERS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the sums of g t^d over the pixels in each row of the tables, (ROWS, POWERS)."""
    inside = tl.arange(0, ROWS)[:, None] == row[None, :]
    d, g, t = tl.arange(0, POWERS)[None, :], g[:, None], t[:, None]
    powers = tl.where(d == 0, g, tl.where(d == 1, g * t, g * t * tl.where(d == 2, t, t * t)))
    powers = tl.where(d < 4, powers, 0.0)
    return tl.dot(inside.to(tl.float64), powers, out_dtype=tl.float64)


@triton.jit(do_not_specialize=[name for name in _NUMBERS if name != "P"])
def gradient_kernel(  # type: ignore[no-untyped-def]
    pos, vel, observed, weight, knots, left, fields, offset, terms, rows, frames, tables, out, N,
    pixel_step, knot_step, left_step, field_step, offset_step, term_step, ORDERS: tl.constexpr,
    KNOTS: tl.constexpr, F: tl.constexpr, T: tl.constexpr, SWAP: tl.constexpr,
    SHEETS: tl.constexpr, TERMS: tl.constexpr, HAS_OFFSET: tl.constexpr, COUNTS: tl.constexpr,
    HAS_ROWS: tl.constexpr, SLOPES: tl.constexpr, FRAME: tl.constexpr, ROWS: tl.constexpr,
    POWERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Ln L and its gradient by frame and table of a share of the pixels, (R, shares, 1 + F + T).

    Steps are the numbers between one problem and the next, 0 where all have the same.
    """
    problem, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    which = tl.load(rows + problem) if HAS_ROWS else problem
    knots, left = knots + which * knot_step, left + which * left_step
    pos, vel = pos + which * pixel_step, vel + which * pixel_step
    observed, weight = observed + which * pixel_step, weight + which * pixel_step
    offset, terms = offset + which * offset_step, terms + which * term_step
    frame, table, field = frames + problem * F, tables + problem * T, fields + which * field_step
    ln_l = tl.zeros((BLOCK,), tl.float64)
    by_frame = tl.zeros((FRAME, BLOCK), tl.float64)
    by_table = tl.zeros((ROWS, POWERS), tl.float64)
    for start in range(share * BLOCK, N, tl.num_programs(1) * BLOCK):
        n = start + tl.arange(0, BLOCK)
        w = tl.load(weight + n, mask=n < N, other=0.0)
        n = tl.minimum(n, N - 1)
        a, b, z, root, kappa, q = _place(
            tl.load(pos + n), tl.load(vel + n), frame, field, SWAP, SHEETS, FRAME
        )
        r_e, c, r, r_a, r_b, knots_l, left_l, table_l = _radius(
            a, b, knots, left, table, ORDERS, KNOTS
        )
        row, t = _interval(r, knots_l, left_l, KNOTS[len(ORDERS)])
        label, slope = _polynomial(t, table_l + 4 * row)
        label, own = _added(label, n, frame, offset, terms, N, F, FRAME, TERMS, HAS_OFFSET)
        ln_l_n, g, _ = _score(label, tl.load(observed + n), w, COUNTS)
        ln_l += ln_l_n
        if SLOPES:
            by_r = g * slope
            by_frame += _by_frame(
                by_r * r_a, by_r * r_b, a, b, z, root, kappa, q, frame, field, SWAP, SHEETS, FRAME
            )
            if TERMS:
                by_frame += g[None, :] * own
            first = 0
            for i in tl.static_range(len(ORDERS)):
                T_m, _ = _chebyshev(c, ORDERS[i])
                e_row, e_t = _interval(r_e, knots + first - i, left + first, KNOTS[i])
                by_table += _moments(first + e_row, e_t, by_r * r_e * T_m, ROWS, POWERS)
                first += KNOTS[i] + 1
            by_table += _moments(first + row, t, g, ROWS, POWERS)
    out += (problem * tl.num_programs(1) + share) * (1 + F + T)
    tl.store(out, tl.sum(ln_l, 0))
    if SLOPES:
        k, row, d = tl.arange(0, FRAME), tl.arange(0, ROWS)[:, None], tl.arange(0, POWERS)[None, :]
        tl.store(out + 1 + k, tl.sum(by_frame, 1), mask=k < F)
        tl.store(out + 1 + F + 4 * row + d, by_table, mask=(4 * row < T) & (d < 4))


@triton.jit
def _spread(row, weight, t, d: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return weight t^d in the row of the tables that each pixel is in, (ROWS, BLOCK)."""
    for _ in tl.static_range(d):
        weight = weight * t
    return tl.where(tl.arange(0, ROWS)[:, None] == row[None, :], weight[None, :], 0.0)


@triton.jit(do_not_specialize=_NUMBERS)
def information_kernel(  # type: ignore[no-untyped-def]
    pos, vel, observed, weight, knots, left, fields, offset, terms, rows, frames, tables, jacobian,
    out, N, P, pixel_step, knot_step, left_step, field_step, offset_step, term_step,
    ORDERS: tl.constexpr, KNOTS: tl.constexpr, F: tl.constexpr, T: tl.constexpr, SWAP: tl.constexpr,
    SHEETS: tl.constexpr, TERMS: tl.constexpr, HAS_OFFSET: tl.constexpr, COUNTS: tl.constexpr,
    HAS_ROWS: tl.constexpr, FRAME: tl.constexpr, ROWS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up J^T W J over a share of the pixels by the P parameters, with shape (R, shares, P, P).

    ``jacobian`` are the derivatives of frame and table by the parameters, (R, F + T, P). That of
    the tables is multiplied, power by power, with what each pixel does to its rows.
    """
    problem, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    which = tl.load(rows + problem) if HAS_ROWS else problem
    knots, left = knots + which * knot_step, left + which * left_step
    pos, vel = pos + which * pixel_step, vel + which * pixel_step
    observed, weight = observed + which * pixel_step, weight + which * pixel_step
    offset, terms = offset + which * offset_step, terms + which * term_step
    frame, table, field = frames + problem * F, tables + problem * T, fields + which * field_step
    p, k, entry = tl.arange(0, SIZE), tl.arange(0, FRAME), 4 * tl.arange(0, ROWS)
    of_frame = jacobian + problem * (F + T) * P + p[:, None]
    of_rows = of_frame + (F + entry)[None, :] * P
    in_frame = (p < P)[:, None] & (k < F)[None, :]
    in_rows = (p < P)[:, None] & (entry < T)[None, :]
    total = tl.zeros((SIZE, SIZE), tl.float64)
    for start in range(share * BLOCK, N, tl.num_programs(1) * BLOCK):
        n = start + tl.arange(0, BLOCK)
        w = tl.load(weight + n, mask=n < N, other=0.0)
        n = tl.minimum(n, N - 1)
        a, b, z, root_Q, kappa, q = _place(
            tl.load(pos + n), tl.load(vel + n), frame, field, SWAP, SHEETS, FRAME
        )
        r_e, c, r, r_a, r_b, knots_l, left_l, table_l = _radius(
            a, b, knots, left, table, ORDERS, KNOTS
        )
        row, t = _interval(r, knots_l, left_l, KNOTS[len(ORDERS)])
        label, slope = _polynomial(t, table_l + 4 * row)
        label, own = _added(label, n, frame, offset, terms, N, F, FRAME, TERMS, HAS_OFFSET)
        _, _, curvature = _score(label, tl.load(observed + n), w, COUNTS)
        root = tl.sqrt(curvature)
        slope *= root
        change = _by_frame(
            *(slope * r_a, slope * r_b, a, b, z, root_Q, kappa, q, frame, field),
            *(SWAP, SHEETS, FRAME),
        )
        if TERMS:
            change += root[None, :] * own
        part = tl.load(of_frame + k[None, :] * P, mask=in_frame, other=0.0)
        J = tl.dot(part, change, out_dtype=tl.float64)
        for d in tl.static_range(4):
            first = 0
            spread = tl.zeros((ROWS, BLOCK), tl.float64)
            for i in tl.static_range(len(ORDERS)):
                T_m, _ = _chebyshev(c, ORDERS[i])
                e_row, e_t = _interval(r_e, knots + first - i, left + first, KNOTS[i])
                spread += _spread(first + e_row, slope * r_e * T_m, e_t, d, ROWS)
                first += KNOTS[i] + 1
            spread += _spread(first + row, root, t, d, ROWS)
            part = tl.load(of_rows + d * P, mask=in_rows, other=0.0)
            J += tl.dot(part, spread, out_dtype=tl.float64)
        total += tl.dot(J, tl.trans(J), out_dtype=tl.float64)
    out += (problem * tl.num_programs(1) + share) * P * P
    tl.store(out + p[:, None] * P + p[None, :], total, mask=(p < P)[:, None] & (p < P)[None, :])
