"""The Fourier distortion: harmonics, its inverse, its slope and its validity."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.torus.distortion import (
    FourierDistortion,
    chebyshev,
    check_e_funcs,
)
from torusimaging_torch.torus.radial_function import Function, as_function
from torusimaging_torch.torus.spline_functions import SplineEFunction

KNOTS = torch.linspace(0, 0.4, 5, dtype=torch.float64)
ORDER_SETS = [(2,), (2, 4), (0,), (1,), (0, 1, 2, 3), (5, 3), ()]
orders_sets = pytest.mark.parametrize("orders", ORDER_SETS, ids=str)


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def make(orders, kind="cubic", batch=(), size=-2.0, seed=0):
    """Return a distortion with splines and parameters that keep orbits from crossing."""
    generator = torch.Generator().manual_seed(seed)
    signs = {m: (-1.0) ** m for m in orders}
    distortion = FourierDistortion({m: SplineEFunction(KNOTS, signs[m], kind) for m in orders})
    e_params = {
        m: {"vals": size + torch.rand((*batch, 4), generator=generator, dtype=torch.float64)}
        for m in orders
    }
    return distortion, e_params


def points(n=40, seed=0):
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-np.pi, np.pi, n)
    return tensor(rng.uniform(0, 0.45, n)), tensor(theta)


@pytest.mark.parametrize("m", range(9))
def test_chebyshev_is_the_cosine_of_the_multiple(m):
    theta = torch.linspace(-4, 4, 101, dtype=torch.float64)
    got = chebyshev(theta.cos(), [m])[m]
    torch.testing.assert_close(got, (m * theta).cos(), rtol=0, atol=1e-13)


def test_chebyshev_gives_exactly_the_orders_wanted():
    assert list(chebyshev(tensor([0.5]), [4, 1])) == [4, 1]
    assert chebyshev(tensor([0.5]), []) == {}
    assert chebyshev(tensor([0.3]), [0])[0] == 1


@orders_sets
@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
def test_radius_equals_its_formula(orders, kind):
    distortion, e_params = make(orders, kind)
    r_e, theta = points()
    factor = torch.ones_like(r_e)
    for m in orders:
        e = distortion.e_funcs[m](r_e, **e_params[m])
        assert e.abs().max() > 0
        factor = factor + e * (m * theta).cos()
    got = distortion(r_e, theta.cos(), e_params)
    torch.testing.assert_close(got, r_e * factor, rtol=1e-13, atol=1e-15)
    for m, e in distortion.es(r_e, e_params).items():
        assert torch.equal(e, distortion.derivatives(r_e, e_params)[m][0])


def test_e_functions_keep_their_order():
    distortion, _ = make((4, 0, 2))
    assert list(distortion.e_funcs) == [0, 2, 4]


@orders_sets
@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
def test_inverse_there_and_back(orders, kind):
    distortion, e_params = make(orders, kind)
    r_e, theta = points(200)
    r = distortion(r_e, theta.cos(), e_params)
    got = distortion.invert(r, theta.cos(), e_params)
    torch.testing.assert_close(got, r_e, rtol=1e-12, atol=1e-15)
    given_upper = distortion.invert(r, theta.cos(), e_params, upper=0.7)
    torch.testing.assert_close(given_upper, r_e, rtol=1e-12, atol=1e-15)


def test_inverse_equals_scipy():
    distortion, e_params = make((0, 1, 2))
    r, theta = points(20)

    def excess(r_e, i):
        return float(distortion(tensor(r_e), theta[i].cos(), e_params) - r[i])

    expected = [brentq(excess, 0, 5, args=(i,), xtol=1e-15) for i in range(20)]
    got = distortion.invert(r, theta.cos(), e_params)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-11)


def test_inverse_at_zero_and_out_of_reach():
    distortion, e_params = make((2,))
    r = tensor([0.0, 0.3, 0.3, np.nan])
    cos = tensor([0.2, 0.2, 0.2, 0.2])
    upper = tensor([1.0, 1.0, 0.1, 1.0])
    got = distortion.invert(r, cos, e_params, upper=upper)
    assert got[0] == 0
    assert got.isnan().tolist() == [False, False, True, True]
    assert distortion.invert(r[:1], cos[:1], e_params) == 0


@pytest.mark.parametrize("orders", [(2,), (0, 1)], ids=str)
def test_inverse_gradients_follow_the_implicit_function_theorem(orders):
    distortion, e_params = make(orders)
    r = tensor([0.17, 0.6])
    cos = tensor([0.9, -0.3])
    vals = [e_params[m]["vals"].requires_grad_() for m in orders]

    def fun(r, cos, *vals):
        p = {m: {"vals": v} for m, v in zip(orders, vals, strict=True)}
        return distortion.invert(r, cos, p)

    inputs = (r.requires_grad_(), cos.requires_grad_(), *vals)
    assert gradcheck(fun, inputs)
    assert gradgradcheck(fun, inputs)
    r_e = fun(*inputs)
    (slope,) = torch.autograd.grad(r_e.sum(), r)
    torch.testing.assert_close(slope, 1 / distortion.dr_dre(r_e, cos, e_params).detach())


@orders_sets
@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
def test_slope_equals_autograd(orders, kind):
    distortion, e_params = make(orders, kind)
    r_e, theta = points()
    r_e.requires_grad_()
    (expected,) = torch.autograd.grad(distortion(r_e, theta.cos(), e_params).sum(), r_e)
    got = distortion.dr_dre(r_e, theta.cos(), e_params)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@orders_sets
def test_gradcheck(orders):
    distortion, e_params = make(orders)
    r_e, theta = points(3)
    vals = [e_params[m]["vals"].requires_grad_() for m in orders]

    def radius(r_e, cos, *vals):
        p = {m: {"vals": v} for m, v in zip(orders, vals, strict=True)}
        return distortion(r_e, cos, p), distortion.dr_dre(r_e, cos, p)

    inputs = (r_e.requires_grad_(), theta.cos().requires_grad_(), *vals)
    assert gradcheck(radius, inputs)
    assert gradgradcheck(radius, inputs)


@orders_sets
def test_batch_equals_loop(orders):
    distortion, e_params = make(orders, batch=(3,))
    r_e, theta = (t.reshape(3, 10) for t in points(30))
    cos = theta.cos()
    methods = (distortion, distortion.dr_dre, distortion.invert)
    for method in methods:
        many = method(r_e, cos, e_params)
        for i in range(3):
            own = {m: {"vals": e_params[m]["vals"][i]} for m in orders}
            torch.testing.assert_close(many[i], method(r_e[i], cos[i], own), rtol=1e-12, atol=1e-15)


def crossing(m, size, kind="cubic"):
    """Return a distortion that is so large that orbits cross, or not."""
    distortion = FourierDistortion({m: SplineEFunction(KNOTS, -1.0, kind)})
    return distortion, {m: {"vals": torch.full((4,), size, dtype=torch.float64)}}


@pytest.mark.parametrize("m", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [-2.0, 0.0, 0.4, 1.5])
@pytest.mark.parametrize("r_e_max", [0.2, 0.4])
def test_validity_equals_brute_force(m, size, r_e_max):
    distortion, e_params = crossing(m, size)
    r_e = torch.linspace(1e-6, r_e_max, 200, dtype=torch.float64)
    cos = torch.linspace(-np.pi, np.pi, 361, dtype=torch.float64).cos().unsqueeze(-1)
    slope = distortion.dr_dre(r_e, cos, e_params)
    valid, checks = check_e_funcs(distortion, e_params, r_e_max)
    assert bool(valid) == bool((slope > 0).all())
    assert checks.shape == (16, 128)
    assert 1 + checks.min().item() == pytest.approx(slope.min().item(), rel=0.05, abs=0.02)
    assert 1 + checks.max().item() == pytest.approx(slope.max().item(), rel=0.05, abs=0.02)


def test_validity_fails_for_some_and_holds_for_others():
    """The test above would be empty if all of its cases were valid."""
    verdicts = {bool(check_e_funcs(*crossing(2, size), 0.4)[0]) for size in (-2.0, 1.5)}
    assert verdicts == {True, False}


def test_validity_in_a_batch():
    distortion, _ = crossing(2, 0.0)
    vals = torch.stack([torch.full((4,), s, dtype=torch.float64) for s in (-2.0, 1.5)])
    valid, checks = check_e_funcs(distortion, {2: {"vals": vals}}, tensor([0.4, 0.4]), n_theta=32)
    assert valid.tolist() == [True, False]
    assert checks.shape == (2, 16, 32)
    shared, _ = check_e_funcs(distortion, {2: {"vals": vals}}, 0.4)
    assert torch.equal(valid, shared)


def test_validity_of_plain_functions_in_a_batch():
    distortion = FourierDistortion({2: lambda x, a: a * x})
    valid, checks = check_e_funcs(distortion, {2: {"a": tensor([0.1, 2.0])}}, tensor([0.4, 0.4]))
    assert valid.tolist() == [True, False]
    expected = [0.4 * 2 * a for a in (0.1, 2.0)]
    np.testing.assert_allclose(checks.amax((-1, -2)).numpy(), expected, rtol=1e-12)


def test_validity_in_float32():
    distortion, e_params = crossing(2, 1.5)
    distortion.float()
    valid, checks = check_e_funcs(distortion, {2: {"vals": e_params[2]["vals"].float()}}, 0.4)
    assert not valid
    assert checks.dtype == torch.float32


# -- functions of one's own ------------------------------------------------------------------


def power(x, a, b):
    return a * x**2 + b * x**3


def test_plain_functions_know_their_derivatives():
    x = tensor([0.0, 0.5, 2.0])
    value, first, second = Function(power).derivatives(x, a=tensor(3.0), b=tensor(-1.0))
    torch.testing.assert_close(value, 3 * x**2 - x**3)
    torch.testing.assert_close(first, 6 * x - 3 * x**2)
    torch.testing.assert_close(second, 6 - 6 * x)


def test_derivatives_of_plain_functions_can_be_differentiated():
    function = Function(power)

    def fun(x, a, b):
        return function.derivatives(x, a=a, b=b)

    inputs = [tensor(v).requires_grad_() for v in ([0.3, 0.5], 3.0, -1.0)]
    assert gradcheck(fun, inputs)
    assert gradgradcheck(fun, inputs)


def test_forward_differentiation_of_a_spline_equals_its_closed_form():
    spline = SplineEFunction(KNOTS, -1.0)
    vals = tensor([-1.0, 0.0, 1.0, -0.5])
    x = tensor(np.linspace(-0.1, 0.6, 40))
    got = Function(lambda x, vals: spline(x, vals)).derivatives(x, vals=vals)
    for ours, closed in zip(got, spline.derivatives(x, vals), strict=True):
        torch.testing.assert_close(ours, closed, rtol=1e-11, atol=1e-11)


def test_a_distortion_of_plain_functions_equals_that_of_modules():
    spline, e_params = make((2, 3))
    plain = FourierDistortion({m: partial(f.forward) for m, f in spline.e_funcs.items()})
    r_e, theta = points()
    for name in ("forward", "dr_dre", "invert"):
        one, other = (getattr(d, name)(r_e, theta.cos(), e_params) for d in (spline, plain))
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_constant_functions_have_zero_derivatives():
    distortion = FourierDistortion({0: lambda x, c: c * torch.ones_like(x)})
    r_e = tensor([0.1, 0.2])
    got = distortion.dr_dre(r_e, torch.ones_like(r_e), {0: {"c": tensor(0.25)}})
    torch.testing.assert_close(got, tensor([1.25, 1.25]))


def test_modules_with_derivatives_are_kept_and_others_wrapped():
    spline = SplineEFunction(KNOTS, 1.0)
    assert as_function(spline) is spline
    layer = nn.Softplus()
    wrapped = as_function(layer)
    assert wrapped.function is layer
    x = tensor([0.3])
    torch.testing.assert_close(wrapped.derivatives(x)[1], x.sigmoid())
    with pytest.raises(TypeError, match="expected a callable"):
        as_function(3.0)


@pytest.mark.parametrize("m", [-1, 0.5])
def test_orders_must_be_non_negative_integers(m):
    with pytest.raises(ValueError, match="non-negative integers"):
        FourierDistortion({m: power})


def test_missing_parameters_name_the_order():
    distortion, e_params = make((2, 4))
    del e_params[4]
    with pytest.raises(ValueError, match="no entry for m = 4"):
        distortion(tensor([0.1]), tensor([0.5]), e_params)
