"""Roots against closed forms and SciPy; their derivatives by gradcheck and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck

from torusimaging_torch.numerics.roots import increasing_root

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def w_exp_w(x: Tensor) -> Tensor:
    return x * x.exp()


def cubic(x: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """Increasing for positive a and b."""
    return a * x + b * x**3


class Counted:
    def __init__(self, fun) -> None:
        self.fun, self.calls = fun, 0

    def __call__(self, *args: Tensor) -> Tensor:
        self.calls += 1
        return self.fun(*args)


def test_lambert_w() -> None:
    target = torch.logspace(-12, 3, 200, dtype=torch.float64)
    root = increasing_root(w_exp_w, target, 0.0, 10.0)
    np.testing.assert_allclose(root, scipy.special.lambertw(target.numpy()).real, rtol=1e-15)


@pytest.mark.parametrize("degree", [1, 2, 3, 5, 9])
def test_powers(degree: int) -> None:
    expected = torch.linspace(0.01, 3, 50, dtype=torch.float64)
    root = increasing_root(lambda x: x**degree, expected**degree, 0.0, 4.0)
    np.testing.assert_allclose(root, expected, rtol=4e-16)


def test_cubic_equals_brentq() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, target = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    target = 20 * (target - 0.5)
    root = increasing_root(cubic, target, -30.0, 20.0, args=(a, b))
    for i in range(40):

        def residual(x: float, i: int = i) -> float:
            return cubic(x, a[i].item(), b[i].item()) - target[i].item()

        expected = scipy.optimize.brentq(residual, -30, 20, xtol=1e-15, rtol=4 * 2.3e-16)
        np.testing.assert_allclose(root[i], expected, rtol=1e-14)


def test_roots_at_the_bounds() -> None:
    root = increasing_root(lambda x: x**2, double(1.0, 9.0), 1.0, 3.0)
    np.testing.assert_allclose(root, [1, 3], rtol=1e-15)
    same = increasing_root(lambda x: x**2, double(4.0), 2.0, 2.0)
    assert same == 2


def test_infinite_values_at_the_bounds() -> None:
    target = double(-30.0, -1.0, 0.0, 5.0)
    root = increasing_root(torch.logit, target, 0.0, 1.0)
    np.testing.assert_allclose(root, scipy.special.expit(target.numpy()), rtol=1e-14)


@pytest.mark.parametrize("centre", [0.3, -1e-3, 1e5])
def test_kink_and_steep_step(centre: float) -> None:
    """Newton alone cycles or runs off on these; the bracket holds it."""
    width = 1 + abs(centre)

    def kinked(x: Tensor) -> Tensor:
        return torch.where(x < centre, 1e-3, 1e3) * (x - centre)

    def step(x: Tensor) -> Tensor:
        return torch.atan(1e3 * (x - centre)) + 1e-9 * (x - centre)

    for fun in (kinked, step, lambda x: (x - centre).sign() * (x - centre).abs().sqrt()):
        root = increasing_root(fun, double(0.0), centre - width, centre + 2 * width)
        np.testing.assert_allclose(root, centre, rtol=1e-14, atol=1e-15)


def test_nearly_flat_function() -> None:
    """The slope at the root is 1e-8 of that at the bounds; the value's rounding limits x."""

    def fun(x: Tensor) -> Tensor:
        return (x - 1) ** 3 + 1e-8 * (x - 1)

    target = fun(double(1.0, 1.00001, 1.1, 0.5))
    root = increasing_root(fun, target, -1.0, 4.0)
    np.testing.assert_allclose(root, [1, 1.00001, 1.1, 0.5], rtol=1e-15, atol=1e-9)


def test_triple_root() -> None:
    root = increasing_root(lambda x: (x - 1) ** 3, double(0.0), 0.0, 3.0)
    np.testing.assert_allclose(root, 1, atol=1e-5)


def test_rounding_errors_do_not_throw_it_off() -> None:
    """Cancellation makes the residual noise over 1e-11 in x: no jump from there counts."""

    def fun(x: Tensor) -> Tensor:
        return (x + 1e5) ** 2 - 1e10 - 2e5 * x + 1e-3 * x

    root = increasing_root(fun, double(*np.linspace(0.3, 2, 30)), 0.0, 2000.0)
    target = np.linspace(0.3, 2, 30)
    expected = (-1e-3 + np.sqrt(1e-6 + 4 * target)) / 2
    np.testing.assert_allclose(root, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("fun", "target", "lower", "upper"),
    [
        (w_exp_w, torch.logspace(-3, 2, 50), 0.0, 5.0),
        (lambda x: cubic(x, 0.3, 2.0), torch.linspace(-5, 5, 51), -3.0, 3.0),
        (lambda x: x + 0.3 * x.sin(), torch.linspace(0, 6, 50), 0.0, 7.0),
        (lambda x: x * (1 + 0.2 * (x / (1 + x))), torch.linspace(0, 1, 50), 0.0, 2.0),
        (torch.tanh, torch.linspace(-0.9, 0.9, 50), -2.0, 3.0),
        (lambda x: x**9, torch.linspace(0, 1, 50), 0.0, 2.0),
        (lambda x: x - 0.99 * x.sin(), torch.linspace(0, 6.28, 50), 0.0, 6.3),
    ],
)
def test_few_evaluations(fun, target: Tensor, lower: float, upper: float) -> None:
    counted = Counted(fun)
    root = increasing_root(counted, target.double(), lower, upper)
    assert counted.calls <= 15
    np.testing.assert_allclose(fun(root), target, rtol=1e-14, atol=1e-15)


def test_derivatives_of_lambert_w_to_third_order() -> None:
    """W' = W/(t (1 + W)), W'' = -W^2 (2 + W)/(t^2 (1 + W)^3), and W''' from e^-3W polynomials."""
    target = torch.logspace(-2, 2, 20, dtype=torch.float64, requires_grad=True)
    w = increasing_root(w_exp_w, target, 0.0, 10.0)
    (first,) = grad(w.sum(), target, create_graph=True)
    (second,) = grad(first.sum(), target, create_graph=True)
    (third,) = grad(second.sum(), target)
    w, t = w.detach(), target.detach()
    torch.testing.assert_close(first, w / (t * (1 + w)), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        second, -(w**2) * (2 + w) / (t**2 * (1 + w) ** 3), rtol=1e-12, atol=0
    )
    expected = (-3 * w).exp() * (2 * w**2 + 8 * w + 9) / (1 + w) ** 5
    torch.testing.assert_close(third, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 7])
def test_order(order: int) -> None:
    """For the square root the n-th derivative is known; here all up to the order are right."""
    target = double(0.7, 2.3).requires_grad_()
    derivative = increasing_root(lambda x: x**2, target, 0.0, 3.0, order=order)
    expected, power = 1.0, 0.5
    for _ in range(order):
        (derivative,) = grad(derivative.sum(), target, create_graph=True)
        expected, power = expected * power, power - 1
        np.testing.assert_allclose(
            derivative.detach(), expected * target.detach() ** power, rtol=1e-11
        )


@pytest.mark.parametrize("given_slope", [False, True])
def test_gradients_by_target_and_arguments(given_slope: bool) -> None:
    fprime = (lambda x, a, b: a + 3 * b * x**2) if given_slope else None

    def root(target: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return increasing_root(cubic, target, -5.0, 5.0, args=(a, b), fprime=fprime)

    target = double(-3.0, 0.0, 0.4, 2.0).requires_grad_()
    a = torch.tensor([[0.5], [2.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(root, (target, a, b))
    assert gradgradcheck(root, (target, a, b))
    # Third order: the second derivatives are right as functions, too.
    assert gradgradcheck(lambda t: grad(root(t, a, b).sum(), t, create_graph=True)[0], (target,))


def test_gradients_by_tensors_closed_over() -> None:
    target = double(0.3, 1.0, 2.5)

    def root(amplitude: Tensor) -> Tensor:
        return increasing_root(lambda x: x + amplitude * x.sin(), target, 0.0, 6.0)

    amplitude = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(root, (amplitude,))
    assert gradgradcheck(root, (amplitude,))


def test_gradients_by_parameters_of_a_module() -> None:
    class Growing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_slopes = torch.nn.Parameter(double(0.0, -1.0, 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return (self.log_slopes.exp() * torch.stack([x, x**3, x.exp()], -1)).sum(-1)

    fun, target = Growing(), double(2.0, 4.0)
    increasing_root(fun, target, -3.0, 3.0).sum().backward()
    found = fun.log_slopes.grad.clone()
    numeric = []
    for k in range(3):
        shifted = []
        for shift in (-1e-5, 1e-5):
            with torch.no_grad():
                fun.log_slopes[k] += shift
                shifted.append(increasing_root(fun, target, -3.0, 3.0).sum().item())
                fun.log_slopes[k] -= shift
        numeric.append((shifted[1] - shifted[0]) / 2e-5)
    np.testing.assert_allclose(found, numeric, rtol=1e-8)


def test_value_does_not_depend_on_gradients() -> None:
    target = torch.linspace(0.1, 5, 30, dtype=torch.float64)
    plain = increasing_root(w_exp_w, target, 0.0, 3.0)
    assert not plain.requires_grad
    tracked = increasing_root(w_exp_w, target.clone().requires_grad_(), 0.0, 3.0)
    assert tracked.requires_grad
    assert torch.equal(plain, tracked.detach())
    with torch.no_grad():
        silent = increasing_root(w_exp_w, target.clone().requires_grad_(), 0.0, 3.0)
    assert not silent.requires_grad


def test_no_root_is_nan_for_that_element_alone() -> None:
    target = double(-1.0, 2.0, 1e9, torch.nan, 5.0).requires_grad_()
    upper = double(3.0, 3.0, 3.0, 3.0, torch.nan)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    root = increasing_root(lambda x: scale * w_exp_w(x), target, 0.0, upper)
    assert root.isnan().tolist() == [True, False, True, True, True]

    alone = increasing_root(lambda x: scale * w_exp_w(x), target[1:2], 0.0, 3.0)
    torch.testing.assert_close(root[1], alone[0], rtol=1e-14, atol=0)
    expected = grad(alone.sum(), (scale, target))
    found = grad(root.nan_to_num().sum(), (scale, target), create_graph=True)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)
    (curvature,) = grad(found[0], scale)
    assert curvature.isfinite()


@pytest.mark.parametrize(
    ("lower", "upper"), [(3.0, 1.0), (-math.inf, 3.0), (0.0, math.inf), (math.nan, math.nan)]
)
def test_bounds_that_are_none_give_nan(lower: float, upper: float) -> None:
    root = increasing_root(lambda x: x, double(2.0).requires_grad_(), lower, upper)
    assert root.isnan().all()


def test_neighbours_do_not_matter() -> None:
    target = torch.logspace(-5, 3, 65, dtype=torch.float64)
    together = increasing_root(w_exp_w, target, 0.0, 10.0)
    for i in range(0, 65, 8):
        alone = increasing_root(w_exp_w, target[i], 0.0, 10.0)
        torch.testing.assert_close(alone, together[i], rtol=4e-16, atol=0)


@pytest.mark.parametrize(
    ("target", "lower", "arg"),
    [
        ((), (), ()),
        ((4,), (), ()),
        ((2, 1), (3,), ()),
        ((3,), (), (2, 1)),
        ((), (), (2, 3)),
        ((0,), (), ()),
    ],
)
def test_shapes_broadcast(target, lower, arg) -> None:
    a = torch.full(arg, 2.0, dtype=torch.float64, requires_grad=True)
    root = increasing_root(
        cubic, torch.full(target, 3.0).double(), torch.zeros(lower).double(), 5.0, args=(a, 1.0)
    )
    assert root.shape == torch.broadcast_shapes(target, lower, arg)
    np.testing.assert_allclose(root.detach(), np.ones(root.shape), rtol=1e-15)
    root.sum().backward()
    assert a.grad.shape == arg


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_follow_the_target(device: str, dtype: torch.dtype) -> None:
    target = torch.linspace(0.1, 9, 30, device=device, dtype=dtype).requires_grad_()
    counted = Counted(w_exp_w)
    root = increasing_root(counted, target, 0.0, 4.0)
    assert counted.calls <= 20
    assert root.dtype == dtype
    assert root.device == target.device
    expected = scipy.special.lambertw(target.detach().cpu().double().numpy()).real
    np.testing.assert_allclose(root.detach().cpu(), expected, rtol=4 * torch.finfo(dtype).eps)
    root.sum().backward()
    assert target.grad.dtype == dtype


def test_tolerance_and_iteration_limit_save_evaluations() -> None:
    target = torch.linspace(0.1, 9, 30, dtype=torch.float64)
    calls = []
    for options in ({}, {"xtol": 1e-3}, {"max_iter": 2}):
        counted = Counted(w_exp_w)
        increasing_root(counted, target, 0.0, 4.0, **options)
        calls.append(counted.calls)
    assert calls[0] > calls[1] > calls[2] == 4


def test_infinite_derivative_is_not_nan() -> None:
    target = double(0.0, 8.0).requires_grad_()
    root = increasing_root(lambda x: x**3, target, -1.0, 5.0)
    (slope,) = grad(root.sum(), target)
    assert slope[0] > 1e10
    np.testing.assert_allclose(slope[1], 1 / 12, rtol=1e-14)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="target must be a floating-point tensor"):
        increasing_root(torch.exp, torch.tensor(1), 0.0, 1.0)
    with pytest.raises(TypeError, match="target must be a floating-point tensor"):
        increasing_root(torch.exp, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        increasing_root(torch.exp, torch.tensor(1.0), 0.0, 1.0, order=0)
