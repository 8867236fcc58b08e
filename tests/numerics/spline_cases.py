"""Knots and slopes that the tests of splines share, and what SciPy makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BPoly, PPoly

KNOTS = np.array([0.0, 0.1, 0.35, 0.4, 1.0])
SLOPES = np.array([0.7, 2.0, 0.3, 1.1])


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def points(knots, outside=True):
    """Return points between, below and beyond the knots, and the knots themselves."""
    span = knots[-1] - knots[0]
    ends = (knots[0] - 0.5 * span, knots[-1] + 0.7 * span) if outside else (knots[0], knots[-1])
    return np.sort(np.concatenate([knots, np.linspace(*ends, 101)]))


def integrate(slope: PPoly, value0, x):
    """Return the antiderivative that is ``value0`` at the first knot, its slope and curvature."""
    spline = slope.antiderivative()
    return value0 + spline(x) - spline(slope.x[0]), slope(x), slope.derivative()(x)


def quadratic_slope(knots, slopes):
    """Return the slope as SciPy's: linear through the slopes, constant on the first interval."""
    left = np.concatenate([slopes[:1], slopes[:-1]])
    return PPoly(np.array([(slopes - left) / np.diff(knots), left]), knots)


def inner_slopes(knots, b):
    h = np.diff(knots)
    return (h[1:] * b[:-1] + h[:-1] * b[1:]) / (h[:-1] + h[1:])


def cubic_slope(knots, b, positive):
    """Return the slope as SciPy's Bernstein polynomials, with a constant piece on each side."""
    s = np.concatenate([b[:1], inner_slopes(knots, b)])
    last = b[-1] ** 2 / s[-1] if positive else 2 * b[-1] - s[-1]
    s = np.append(s, last)
    inside = PPoly.from_bernstein_basis(BPoly(np.array([s[:-1], b, s[1:]]), knots))
    x = np.concatenate([[knots[0] - 100], knots, [knots[-1] + 100]])
    flat = np.zeros((3, 2))
    flat[2] = s[0], s[-1]
    return PPoly(np.hstack([flat[:, :1], inside.c, flat[:, 1:]]), x)


def reference(kind, knots, slopes, value0, x, positive=False):
    if kind == "quadratic":
        return integrate(quadratic_slope(knots, slopes), value0, x)
    slope = cubic_slope(knots, slopes, positive)
    value, first, second = integrate(slope, value0, x)
    # SciPy counts from its own first break, which lies below the first knot.
    shift = slope.antiderivative()(slope.x[0]) - slope.antiderivative()(knots[0])
    # At the last knot ours looks left.
    at_end = np.isclose(x, knots[-1], rtol=0, atol=0)
    second[at_end] = slope.derivative()(knots[-1] - 1e-13)
    return value + shift, first, second


CASES = [("quadratic", False), ("cubic", False), ("cubic", True)]
cases = pytest.mark.parametrize(("kind", "positive"), CASES)
