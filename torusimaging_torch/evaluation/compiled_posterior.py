"""ln L - R of whole problems in one compiled call: coefficients, tables, pixels and penalty.

For one problem at a time the small steps around the pixels would take longer in torch than the
pixels themselves. The formulas are those of `coefficients` and `penalties`.
"""

from __future__ import annotations

import math

import numpy as np

from torusimaging_torch.evaluation.compiled import compiled, one
from torusimaging_torch.evaluation.loops import ln_likelihood, own_part
from torusimaging_torch.evaluation.wall_loops import push_wall

__all__ = ["posteriors"]


@compiled()
def _dot(row, x):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(len(x)):
        total += row[j] * x[j]
    return total


@compiled()
def _coefficients(vector, sign, before, end, shares, c, growth, share):  # type: ignore[no-untyped-def]
    """Fill in coefficients, their growth and the shares p; see `coefficients.Coefficients.at`."""
    size = len(vector)
    for i in range(size):
        slope = sign[i] * math.exp(vector[i]) if sign[i] != 0.0 else 0.0
        c[i] = slope if sign[i] != 0.0 else vector[i]
        growth[i] = slope if sign[i] != 0.0 else 1.0
    for k in range(len(end)):
        inner = shares[k, 0] * c[before[k]] + shares[k, 1] * c[end[k]]
        c[size + k] = c[end[k]] * c[end[k]] / inner
        share[k] = shares[k, 0] * c[before[k]] / inner


@compiled()
def _pull_coefficients(by_c, c, growth, share, before, end, gradient):  # type: ignore[no-untyped-def]
    """Add the gradient by the vector; see `coefficients.Coefficients.pull`."""
    size = len(growth)
    for i in range(size):
        gradient[i] += by_c[i] * growth[i]
    for k in range(len(end)):
        felt = by_c[size + k] * c[size + k]
        gradient[before[k]] -= felt * share[k]
        gradient[end[k]] += felt * (1 + share[k])


@compiled()
def _form(matrix, x, by_x):  # type: ignore[no-untyped-def]
    """Return a quadratic form; take its gradient off."""
    total = 0.0
    for i in range(len(x)):
        row = 0.0
        for j in range(len(x)):
            row += matrix[i, j] * x[j]
        total += row * x[i]
        by_x[i] -= 2 * row
    return total


@compiled()
def _penalty(vector, c, penalty, i, splines, table, by_vector, by_c, by_table):  # type: ignore[no-untyped-def]
    """Return R of problem i; take its gradients off."""
    of_coefficients, of_parameters, center, wall = penalty
    radii, moves, axis, scale, strength, ln_Omega0, pos0 = wall
    total = _form(one(of_coefficients, i), c, by_c)
    total += _form(one(of_parameters, i), vector - one(center, i), by_vector)
    own = one(radii, i), moves, axis, one(scale, i)[0], one(strength, i)[0], ln_Omega0, pos0
    return total + push_wall(own, splines, vector, table, by_table, by_vector)


@compiled()
def posteriors(  # type: ignore[no-untyped-def]
    vectors,
    rows,
    data,
    added,
    constant,
    counts,
    transform,
    splines,
    maps,
    frame,
    of_coefficients,
    penalty,
    wanted,
):
    """Return ln L - R of problems, (R,), and its gradient, (R, P); if not ``wanted``, of no use.

    Parameters
    ----------
    vectors, rows
        Vectors (R, P), and which problem each is one of, (R,).
    data, added, constant, counts, transform, splines
        As in `numba_form.NumbaForm`, by problem.
    maps, frame
        Those of `tables.Tables` and of `likelihood.ClosedLikelihood`.
    of_coefficients, penalty
        The fields of `coefficients.Coefficients` and `penalties.DefaultPenalty`, the wall as in
        `wall_loops.push_wall`.
    """
    sign, before, end, shares = of_coefficients
    n_rows, size, n_table = vectors.shape[0], vectors.shape[1], maps.shape[1]
    n_frame, n_all = len(frame), maps.shape[2]
    value, gradient = np.empty(n_rows), np.zeros((n_rows, size))
    c, growth, share = np.empty(n_all), np.empty(size), np.empty(len(end))
    table, place = np.empty(n_table), np.empty(n_frame)
    for k in range(n_rows):
        i, vector = rows[k], vectors[k]
        _coefficients(vector, sign, before, end, one(shares, i), c, growth, share)
        matrix = one(maps, i)
        for j in range(n_table):
            table[j] = _dot(matrix[j], c)
        for j in range(n_frame):
            place[j] = vector[frame[j]]
        by_table = np.zeros(n_frame + n_table if wanted else 0)
        pixels, plus, plane, own = own_part(data, added, transform, splines, i)
        by_c, pieces = np.zeros(n_all), table.reshape(-1, 4)
        ln_l = ln_likelihood(pixels, plus, counts, place, plane, own, pieces, by_table)
        moments = by_table[n_frame : len(by_table)].reshape(-1, 4)
        r = _penalty(vector, c, penalty, i, own, pieces, gradient[k], by_c, moments)
        value[k] = ln_l + one(constant, i) - r
        if wanted:
            for j in range(n_table):
                for m in range(n_all):
                    by_c[m] += by_table[n_frame + j] * matrix[j, m]
            for j in range(n_frame):
                gradient[k, frame[j]] += by_table[j]
            _pull_coefficients(by_c, c, growth, share, before, end, gradient[k])
    return value, gradient
