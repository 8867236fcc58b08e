"""The formulas of `ellipse` as compiled loops over pixels, by Numba."""

from __future__ import annotations

import numpy as np

from torusimaging_torch.evaluation.compiled import compiled

__all__ = ["bend_ellipse", "frames_of", "place_ellipse", "pull_ellipse"]


@compiled()
def place_ellipse(pos, vel, frame, vp, a, b):  # type: ignore[no-untyped-def]
    """Fill in the coordinates of pixels, as `ellipse.Ellipse.coordinates` does."""
    root, inverse = np.exp(0.5 * frame[2]), np.exp(-0.5 * frame[2])
    x, y = (b, a) if vp else (a, b)
    for n in range(len(pos)):
        x[n] = (vel[n] - frame[1]) * inverse
        y[n] = (pos[n] - frame[0]) * root


@compiled()
def pull_ellipse(by_a, by_b, a, b, frame, vp, gradient):  # type: ignore[no-untyped-def]
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
def bend_ellipse(by_a, by_b, a, b, frame, vp, hessian):  # type: ignore[no-untyped-def]
    """Take the transform's own curvature off, as `ellipse.Ellipse.bend` says; lower half."""
    root = np.exp(0.5 * frame[2])
    f_x, f_y = (by_b, by_a) if vp else (by_a, by_b)
    x, y = (b, a) if vp else (a, b)
    for n in range(len(x)):
        hessian[2, 0] += 0.5 * root * f_y[n]
        hessian[2, 1] -= 0.5 / root * f_x[n]
        hessian[2, 2] -= 0.25 * (f_x[n] * x[n] + f_y[n] * y[n])


@compiled()
def frames_of(a, b, frame, vp):  # type: ignore[no-untyped-def]
    """Return the coordinates' derivatives by the frame, (2, 3, N)."""
    root = np.exp(0.5 * frame[2])
    i, j = (1, 0) if vp else (0, 1)
    x, y = (b, a) if vp else (a, b)
    by_frame = np.zeros((2, 3, len(a)))
    for n in range(len(a)):
        by_frame[i, 1, n] = -1 / root
        by_frame[i, 2, n] = -0.5 * x[n]
        by_frame[j, 0, n] = -root
        by_frame[j, 2, n] = 0.5 * y[n]
    return by_frame
