"""The formulas of `potential` as compiled loops over the positions of pixels, by Numba."""

from __future__ import annotations

import math

import numpy as np

from torusimaging_torch.evaluation.compiled import compiled
from torusimaging_torch.torus.sech_squared import L_TERMS, M_TERMS, NEAR

__all__ = ["place_sheets", "pull_sheets"]


@compiled()
def _ratios(s):  # type: ignore[no-untyped-def]
    """Return L and M; see `~torusimaging_torch.torus.sech_squared`."""
    x = abs(s)
    if x < NEAR:
        L, M = 0.0, 0.0
        for i in range(len(L_TERMS)):
            L = L * s * s + L_TERMS[-1 - i]
            M = M * s * s + M_TERMS[-1 - i]
        return L, M
    t = math.exp(-2 * x)
    tanh = -math.expm1(-2 * x) / (1 + t)
    near, far = -0.5 * math.log1p(-tanh * tanh), x + math.log1p(t) - math.log(2)
    ln_cosh = near if x < 1 else far
    return 2 * ln_cosh / (x * x), tanh / x


@compiled()
def place_sheets(pos, vel, frame, transform, q, kappa, a, b):  # type: ignore[no-untyped-def]
    """Fill in the coordinates of pixels, as `potential.Potential.coordinates` does.

    Fill in also the sheets at each level: q_k, with shape (U, K + 1), and kappa, (U,).
    """
    _, heights, omega, four_pi_G, levels, place = transform
    factor, inverse = four_pi_G / omega, 1 / np.sqrt(omega)
    w = factor * np.exp(frame[2 : 3 + len(heights)])
    y = np.empty(len(levels))
    for i in range(len(levels)):
        z, total, slope = levels[i] - frame[0], w[0], w[0]
        q[i, 0] = w[0]
        for k in range(len(heights)):
            L, M = _ratios(z / heights[k])
            q[i, 1 + k] = w[1 + k] * L
            total += q[i, 1 + k]
            slope += w[1 + k] * M
        kappa[i], y[i] = slope, z * np.sqrt(total)
    for n in range(len(pos)):
        a[n], b[n] = (vel[n] - frame[1]) * inverse, y[place[n]]


@compiled()
def pull_sheets(by_a, by_b, frame, transform, q, kappa, gradient):  # type: ignore[no-untyped-def]
    """Fill in the gradient by the frame, as `potential.Potential.pull` does."""
    _, _, omega, _, levels, place = transform
    felt, sum_a = np.zeros(len(levels)), 0.0
    for n in range(len(by_a)):
        felt[place[n]] += by_b[n]
        sum_a += by_a[n]
    gradient[0], gradient[1] = 0.0, -sum_a / np.sqrt(omega)
    gradient[2 : 2 + q.shape[1]] = 0.0
    for i in range(len(levels)):
        root = np.sqrt(q[i].sum())
        gradient[0] -= felt[i] * kappa[i] / root
        share = felt[i] * (levels[i] - frame[0]) / (2 * root)
        for k in range(q.shape[1]):
            gradient[2 + k] += share * q[i, k]
