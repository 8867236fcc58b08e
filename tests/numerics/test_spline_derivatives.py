"""Derivatives of splines in points, values and slopes, by autograd and differences."""

from __future__ import annotations

import pytest
import torch
from spline_cases import KNOTS, SLOPES, cases, points, tensor
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.numerics.splines import CubicSpline, make_spline


@cases
def test_derivatives_equal_autograd(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor(points(KNOTS)).requires_grad_()
    value, first, second = spline.derivatives(x, tensor(0.3), tensor(SLOPES))
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(slope, first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(curvature, second, rtol=1e-11, atol=1e-11)


@cases
@pytest.mark.parametrize("at_knots", [False, True])
def test_gradcheck(kind, positive, at_knots):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor(KNOTS if at_knots else [-0.3, 0.05, 0.2, 0.37, 0.8, 1.7]).requires_grad_()
    inputs = (x, tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_())
    # Central differences across the end of the knots see the jump of a derivative there.
    assert gradcheck(spline, inputs, atol=1e-4 if at_knots else 1e-6)


@cases
def test_gradgradcheck_between_knots(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor([-0.3, 0.05, 0.2, 0.37, 0.8, 1.7]).requires_grad_()
    inputs = (x, tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_())
    assert gradgradcheck(spline, inputs)


@pytest.mark.parametrize("positive", [False, True])
def test_cubic_gradgradcheck_exactly_at_knots(positive):
    spline = CubicSpline(tensor(KNOTS), positive)
    x = tensor(KNOTS[:-1]).requires_grad_()
    inputs = (x, tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_())
    assert gradgradcheck(spline, inputs, atol=1e-4)


@cases
def test_gradgradcheck_in_the_slopes_at_knots(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)

    def fun(value0, slopes):
        return spline(tensor(KNOTS), value0, slopes)

    assert gradgradcheck(fun, (tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_()))


@cases
@pytest.mark.parametrize("order", [1, 2])
def test_gradcheck_of_the_closed_derivatives(kind, positive, order):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor([-0.3, 0.05, 0.2, 0.37, 0.8, 1.7])

    def fun(x, slopes):
        return spline.derivatives(x, tensor(0.0), slopes)[order]

    inputs = (x.requires_grad_(), tensor(SLOPES).requires_grad_())
    assert gradcheck(fun, inputs)
    assert gradgradcheck(fun, inputs)


@cases
def test_vmap_of_jvp_is_the_jacobian(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x, slopes = tensor(points(KNOTS)), tensor(SLOPES)

    def fun(slopes):
        return spline(x, tensor(0.2), slopes)

    got = torch.func.vmap(lambda t: torch.func.jvp(fun, (slopes,), (t,))[1])(
        torch.eye(4, dtype=torch.float64)
    )
    torch.testing.assert_close(got.mT, torch.autograd.functional.jacobian(fun, slopes))
