"""Upstream's function families: its stored answers, the laws they obey, their derivatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch import TorusImaging1D
from torusimaging_torch import model_helpers as label_functions

STORED = np.load(Path(__file__).parents[1] / "reference" / "upstream_label_functions.npz")
NAMES = sorted(label_functions.__all__)
POINTS = {"monotonic_quadratic_spline": "x_eval"} | {
    name: "t" for name in NAMES if "logistic" in name
}


def stored_arguments(name: str) -> dict[str, torch.Tensor]:
    keys = [key for key in STORED if key.startswith(f"{name}/") and not key.endswith("/answer")]
    return {key.split("/")[1]: torch.from_numpy(STORED[key]) for key in keys}


def evaluate(name: str, arguments: dict[str, torch.Tensor]) -> torch.Tensor:
    return getattr(label_functions, name)(**arguments)


@pytest.mark.parametrize("name", NAMES)
def test_equals_upstream(name):
    answer = STORED[f"{name}/answer"]
    ours = evaluate(name, stored_arguments(name))
    scale = np.abs(answer).max()
    np.testing.assert_allclose(ours.numpy(), answer, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("name", [n for n in NAMES if "spline" not in n])
def test_parameters_may_be_plain_numbers(name):
    arguments = stored_arguments(name)
    points = POINTS.get(name, "x")
    numbers = {k: v if k == points else float(v[0]) for k, v in arguments.items()}
    expected = evaluate(name, arguments)[0]
    torch.testing.assert_close(evaluate(name, numbers), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name):
    arguments = stored_arguments(name)
    points = POINTS.get(name, "x")
    # A few points and two of the three parameter sets keep it quick.
    few = {k: (v[..., :3] if k == points else v[:2]) for k, v in arguments.items()}
    if "spline" in name:
        few = arguments | {points: arguments[points][:5]}
        knots = few.pop("x")
        names = list(few)

        def function(*values):
            return evaluate(name, {"x": knots, **dict(zip(names, values, strict=True))})
    else:
        names = list(few)

        def function(*values):
            return evaluate(name, dict(zip(names, values, strict=True)))

    values = [v.clone().requires_grad_() for v in few.values()]
    assert gradcheck(function, values)
    assert gradgradcheck(function, values)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 1.5, 2.5])
def test_tanh_starts_with_slope_one_in_its_units(alpha):
    x = torch.tensor([0.0, 1e-12], dtype=torch.float64, requires_grad=True)
    value = label_functions.custom_tanh_func(x, 3.0, alpha, 0.5)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    torch.testing.assert_close(slope.detach(), torch.full((2,), 6.0, dtype=torch.float64))
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert curvature[0] == 0


def test_tanh_gradient_by_all_parameters_is_finite_at_zero():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    A, alpha, x0, xval = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, 0.7, 0.5, 0.8)
    )
    value = label_functions.custom_tanh_func_alt(x, A, alpha, x0, xval)
    slopes = torch.autograd.grad(value.sum(), (x, A, alpha, x0, xval))
    expected = 2 / 0.5 / np.tanh((0.8 / 0.5) ** (1 / 0.7)) ** 0.7
    assert slopes[0].item() == pytest.approx(expected, rel=1e-14)
    assert all(slope.item() == 0 for slope in slopes[1:])  # it is 0 there for all of them


# The slope of 1 - (1 - t^p)^(1/p) at 0 is 0 for p > 1, 1 for p = 1, with p = alpha/(1 - alpha).
@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 2.0 / 0.8), (0.6, 0.0), (0.8, 0.0)])
def test_power_family_has_its_slope_at_zero(alpha, expected):
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    shape = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    value = label_functions.monotonic_poly_func(x, 2.0, shape, 0.8)
    slope, by_shape = torch.autograd.grad(value.sum(), (x, shape))
    assert slope.item() == pytest.approx(expected, abs=1e-14)
    assert by_shape.item() == 0


@pytest.mark.parametrize("B", [800.0, -800.0])
def test_logistic_reaches_its_asymptotes_with_finite_gradients(B):
    t = torch.tensor([-2.0, 2.0], dtype=torch.float64, requires_grad=True)
    value = label_functions.generalized_logistic_func(t, 0.0, -1.0, B, 1.0, 3.0, 0.5)
    expected = torch.tensor([-1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(value.detach(), expected if B > 0 else expected.flip(0))
    (slope,) = torch.autograd.grad(value.sum(), t)
    assert (slope == 0).all()


def test_values_that_define_the_alternatives():
    x = torch.tensor([0.0, 0.6], dtype=torch.float64)
    poly = label_functions.monotonic_poly_func_alt(x, 0.2, -0.4, 0.3, 1.1, xval=0.6)
    tanh = label_functions.custom_tanh_func_alt(x, 0.7, 0.4, 0.3, xval=0.6)
    logistic = label_functions.generalized_logistic_func_alt(x, 0.2, 0.9, 3.0, 0.5, 2.0, t1=0.6)
    for values, expected in ((poly, [0.2, -0.4]), (tanh, [0.0, 0.7]), (logistic, [0.0, 0.9])):
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", [n for n in NAMES if "spline" not in n])
def test_keeps_precision_and_works_in_forward_mode(name):
    arguments = {k: v.float() for k, v in stored_arguments(name).items()}
    points = POINTS.get(name, "x")
    x = arguments.pop(points)

    def function(x):
        return evaluate(name, {points: x, **arguments})

    value, slope = torch.func.jvp(function, (x,), (torch.ones_like(x),))
    assert value.dtype == slope.dtype == torch.float32
    leaf = x.clone().requires_grad_()
    backward = torch.autograd.grad(function(leaf).sum(), leaf)[0]
    torch.testing.assert_close(slope.sum(0), backward, rtol=1e-3, atol=1e-4)


def test_monotone_over_random_shapes():
    rng = np.random.default_rng(3)
    x = torch.linspace(0, 1, 200, dtype=torch.float64)
    shapes = torch.from_numpy(rng.uniform(0.05, 0.95, (30, 1)))
    for values in (
        label_functions.monotonic_poly_func(x, 1.0, shapes, 1.0),
        label_functions.custom_tanh_func(x, 1.0, shapes, 0.7),
        label_functions.generalized_logistic_func(x, 0.4, 0.0, 8.0, 1.0, 1.0, 2 * shapes),
    ):
        assert (values.diff(dim=-1) >= 0).all()


def test_serve_a_model_alone_and_in_a_batch():
    model = TorusImaging1D(
        label_functions.custom_tanh_func, {2: label_functions.generalized_logistic_func_alt}
    )

    def params(scale):
        e_params = {"t0": 0.2, "F1": 0.1 * scale, "B": 8.0, "C": 1.0, "nu": 1.0}
        one = {"pos0": 0.05, "vel0": 0.001, "ln_Omega0": -2.5, "e_params": {2: e_params}}
        return {**one, "label_params": {"A": 0.4 * scale, "alpha": 0.8, "x0": 0.3}}

    def stack(a, b):
        if isinstance(a, dict):
            return {key: stack(a[key], b[key]) for key in a}
        return torch.tensor([a, b], dtype=torch.float64)

    pos, vel = torch.linspace(-1, 1, 8, dtype=torch.float64) * torch.tensor([[1.0], [0.05]])
    alone = [model.get_label(pos, vel, params(scale)) for scale in (1.0, 0.5)]
    both = model.get_label(pos, vel, stack(params(1.0), params(0.5)))
    torch.testing.assert_close(both, torch.stack(alone), rtol=1e-14, atol=0)
    # Acceleration by central differences of itself: the functions' second derivatives arrive.
    step = 1e-5
    up, down = (model.get_acceleration(pos + h, params(1.0)).value for h in (step, -step))
    slope = model.get_acceleration_deriv(pos, params(1.0)).value
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6)
