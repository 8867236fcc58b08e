"""The formulas of `wall` and `moving_wall` as compiled loops over positions, by Numba.

n, d and their slopes are looked up in the tables of the e functions, as pixels look them up.
"""

from __future__ import annotations

import math

import numpy as np

from torusimaging_torch.evaluation.compiled import compiled
from torusimaging_torch.evaluation.table_loops import interval, look_up

__all__ = ["push_wall"]


@compiled()
def _fraction(r, side, axis, splines, table, rows, ts):  # type: ignore[no-untyped-def]
    """Return n and d, and both their first two derivatives; fill in where r lies in the tables."""
    orders, n_knots, knots, left = splines
    n, dn, d2n, d, dd, d2d = 1.0, 0.0, 0.0, 1.0, 0.0, 0.0
    first, row = 0, 0
    for i in range(len(orders)):
        m = orders[i]
        rows[i] = row + interval(knots, first, n_knots[i], r)
        ts[i] = r - left[rows[i]]
        e, e1, e2 = look_up(table, rows[i], ts[i])
        e3 = 6 * table[rows[i], 3]
        cosine = axis[i] * side if m % 2 else axis[i]
        n += cosine * (e + r * e1)
        dn += cosine * (2 * e1 + r * e2)
        d2n += cosine * (3 * e2 + r * e3)
        d += cosine * ((1 - m * m) * e + r * e1)
        dd += cosine * ((2 - m * m) * e1 + r * e2)
        d2d += cosine * ((3 - m * m) * e2 + r * e3)
        first += n_knots[i]
        row += n_knots[i] + 1
    return n, dn, d2n, d, dd, d2d


@compiled()
def _pull(weight, slopes, r, side, axis, orders, rows, ts, by_table):  # type: ignore[no-untyped-def]
    """Take the gradient by the tables off, given that by n, n', d and d'."""
    by_n, by_dn, by_d, by_dd = slopes
    for i in range(len(orders)):
        m, t = orders[i], ts[i]
        cosine = weight * (axis[i] * side if m % 2 else axis[i])
        by_e = cosine * (by_n + (1 - m * m) * by_d)
        by_e1 = cosine * (r * (by_n + by_d) + 2 * by_dn + (2 - m * m) * by_dd)
        by_e2 = cosine * r * (by_dn + by_dd)
        by_table[rows[i], 0] -= by_e
        by_table[rows[i], 1] -= by_e * t + by_e1
        by_table[rows[i], 2] -= (by_e * t + 2 * by_e1) * t + 2 * by_e2
        by_table[rows[i], 3] -= ((by_e * t + 3 * by_e1) * t + 6 * by_e2) * t


@compiled()
def push_wall(wall, splines, vector, table, by_table, by_vector):  # type: ignore[no-untyped-def]
    """Return the wall's part of R; take its gradients by tables and vector off.

    The ``wall`` are radii, whether they move with pos0, cosines on the position axis by order,
    scale, strength, and the places of ln_Omega0 and pos0. ``by_table``, (rows, 4), may be empty.
    """
    radii, moves, axis, scale, strength, ln_Omega0, pos0 = wall
    orders = splines[0]
    rows, ts = np.empty(len(orders), np.int64), np.empty(len(orders))
    factor, root = -math.exp(2 * vector[ln_Omega0]) / scale, math.exp(0.5 * vector[ln_Omega0])
    offset, total = vector[pos0] * root if moves else 0.0, 0.0
    for k in range(len(radii)):
        y = radii[k] - offset
        r, side = abs(y), np.sign(y) if moves else 1.0
        n, dn, d2n, d, dd, d2d = _fraction(r, side, axis, splines, table, rows, ts)
        i = 1 / d
        by_r = dn * i - n * dd * i * i
        ratio = n * i + r * by_r
        z = factor * ratio
        # The soft rectifier, without an exponential that overflows.
        small = math.exp(-abs(z))
        total += strength * (max(z, 0.0) + math.log1p(small))
        pressure = strength * (1.0 if z > 0 else small) / (1 + small)
        by_vector[ln_Omega0] -= 2 * pressure * z
        if not len(by_table):
            continue
        slopes = (
            *(i - r * dd * i * i, r * i),
            *(r * n * dd * i * i * i - i * ratio, -r * n * i * i),
        )
        weight = pressure * factor
        _pull(weight, slopes, r, side, axis, orders, rows, ts, by_table)
        if moves:
            along = slopes[0] * dn + slopes[1] * d2n + slopes[2] * dd + slopes[3] * d2d + by_r
            by_vector[pos0] += weight * along * side * root
            by_vector[ln_Omega0] += weight * along * 0.5 * side * offset
    return total
