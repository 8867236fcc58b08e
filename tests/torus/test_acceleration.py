"""Acceleration against contours traced with SciPy; density, surface density and potential."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.torus.acceleration import (
    acceleration,
    acceleration_gradient,
    density,
    potential,
    surface_density,
)
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

OMEGA0, POS0, VEL0 = 0.09, 0.03, -0.004
KNOTS = torch.linspace(0, 0.4, 5, dtype=torch.float64)
G = 4.5e-12
SIZES = {0: (0.4, -0.3), 1: (0.5, 0.3), 2: (0.6, -0.5), 3: (0.3, 0.2), 4: (-0.3, 0.2)}


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def cubic_e(x, a, b):
    return a * x + b * x**2


def params(e_params, batch=()):
    return {
        "pos0": torch.full(batch, POS0, dtype=torch.float64),
        "vel0": torch.full(batch, VEL0, dtype=torch.float64),
        "ln_Omega0": torch.full(batch, math.log(OMEGA0), dtype=torch.float64),
        "e_params": e_params,
        "label_params": {"label_vals": torch.ones((*batch, 5), dtype=torch.float64)},
    }


def smooth(orders, convention):
    """Return a model with polynomial e functions, and its parameters."""
    torus = OrbitalTorus(lambda r: r, dict.fromkeys(orders, cubic_e), convention)
    e_params = {m: {"a": tensor(SIZES[m][0]), "b": tensor(SIZES[m][1])} for m in orders}
    return torus, params(e_params)


def splined(orders, convention, kind="cubic", batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    vals = {
        m: {"vals": -1.5 + torch.rand((*batch, 4), generator=generator, dtype=torch.float64)}
        for m in orders
    }
    signs = {m: -1.0 if m % 4 == 0 else 1.0 for m in orders}
    e_funcs = {m: SplineEFunction(KNOTS, signs[m], kind) for m in orders}
    return OrbitalTorus(SplineLabelFunction(KNOTS), e_funcs, convention), params(vals, batch)


def radius_squared_velocity(orders, convention):
    """Return r(q, w) with w = (v - vel0)^2, in NumPy: odd powers of v do not occur."""

    def radius(q, w):
        x, y = math.sqrt(w / OMEGA0), (q - POS0) * math.sqrt(OMEGA0)
        r_e = math.hypot(x, y)
        theta = math.atan2(y, x) if convention == "pv" else math.atan2(x, y)
        e = sum((SIZES[m][0] * r_e + SIZES[m][1] * r_e**2) * math.cos(m * theta) for m in orders)
        return r_e * (1 + e)

    return radius


def traced_acceleration(radius, q):
    """Trace the contour through (q, 0) near the axis: a = v dv/dq = 1/(2 dq/dw) at w = 0."""
    offset = q - POS0
    largest = (0.3 * OMEGA0 * offset) ** 2
    w = largest * (1 - np.cos(np.pi * np.arange(9) / 8)) / 2
    target = radius(q, 0.0)
    traced = [
        brentq(lambda x, wi=wi: radius(x, wi) - target, POS0 + 0.7 * offset, q, xtol=1e-16)
        for wi in w[1:]
    ]
    series = np.polynomial.Polynomial.fit(w / largest, np.array([q, *traced]), 8).convert()
    return largest / (2 * series.coef[1])


CONTOURS = [
    ((), "pv"),
    ((0,), "pv"),
    ((2,), "pv"),
    ((2, 4), "pv"),
    ((0, 2, 4), "pv"),
    ((0,), "vp"),
    ((1,), "vp"),
    ((2,), "vp"),
    ((3,), "vp"),
    ((0, 1, 2, 3), "vp"),
    ((1, 4), "vp"),
]


@pytest.mark.parametrize(("orders", "convention"), CONTOURS, ids=str)
@pytest.mark.parametrize("side", [1, -1])
def test_acceleration_equals_that_of_traced_contours(orders, convention, side):
    torus, p = smooth(orders, convention)
    q = POS0 + side * np.array([0.05, 0.3, 0.8])
    radius = radius_squared_velocity(orders, convention)
    expected = [traced_acceleration(radius, x) for x in q]
    got = acceleration(torus, tensor(q), p)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    assert (got * side < 0).all()


def test_traced_contours_tell_sides_apart():
    """With odd harmonics in "vp" the two sides differ, or the test above would show little."""
    torus, p = smooth((1, 3), "vp")
    left, right = acceleration(torus, tensor([POS0 - 0.5, POS0 + 0.5]), p)
    assert abs(left + right) > 0.05 * abs(left)


@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
@pytest.mark.parametrize(
    ("orders", "convention"), [((2, 4), "pv"), ((1, 2), "vp")], ids=["pv", "vp"]
)
def test_acceleration_of_splines_equals_that_of_traced_contours(orders, convention, kind):
    torus, p = splined(orders, convention, kind)

    def radius(q, w):
        return torus.radius(tensor(q), tensor(VEL0 + math.sqrt(w)), p).item()

    # Between knots, which lie 0.33 kpc apart on the axis; the traced points stay there.
    q = POS0 + np.array([0.3, -0.6])
    expected = [traced_acceleration(radius, x) for x in q]
    got = acceleration(torus, tensor(q), p)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_odd_orders_say_nothing_in_pv():
    torus, p = smooth((1, 2, 3), "pv")
    even, q = smooth((2,), "pv")
    pos = tensor([-0.5, 0.3])
    assert torch.equal(acceleration(torus, pos, p), acceleration(even, pos, q))


MODELS = [
    ((2, 4), "pv", "cubic"),
    ((2, 4), "pv", "quadratic"),
    ((0, 1, 2, 3), "vp", "cubic"),
    ((0, 1, 2, 3), "pv", "cubic"),
]
models = pytest.mark.parametrize(("orders", "convention", "kind"), MODELS)


@models
def test_gradient_equals_autograd_and_differences(orders, convention, kind):
    torus, p = splined(orders, convention, kind)
    pos = tensor(np.linspace(-1.5, 1.6, 32)).requires_grad_()
    a = acceleration(torus, pos, p)
    (expected,) = torch.autograd.grad(a.sum(), pos)
    got = acceleration_gradient(torus, pos, p)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-15)
    step = 1e-5
    up, down = (acceleration(torus, pos.detach() + s, p) for s in (step, -step))
    torch.testing.assert_close(got.detach(), (up - down) / (2 * step), rtol=1e-4, atol=1e-9)


def test_gradient_of_plain_functions_equals_autograd():
    torus, p = smooth((0, 1, 2, 3), "vp")
    pos = tensor([-0.5, -0.1, 0.2, 0.9]).requires_grad_()
    (expected,) = torch.autograd.grad(acceleration(torus, pos, p).sum(), pos)
    torch.testing.assert_close(acceleration_gradient(torus, pos, p).detach(), expected)


@models
def test_gradcheck(orders, convention, kind):
    torus, p = splined(orders, convention, kind)
    pos = tensor([-0.5, 0.35]).requires_grad_()
    vals = [p["e_params"][m]["vals"].requires_grad_() for m in orders]
    scalars = [p[k].requires_grad_() for k in ("pos0", "ln_Omega0")]

    def fun(pos, pos0, ln_Omega0, *vals):
        own = {m: {"vals": v} for m, v in zip(orders, vals, strict=True)}
        q = {**p, "pos0": pos0, "ln_Omega0": ln_Omega0, "e_params": own}
        return 1e3 * acceleration(torus, pos, q), 1e3 * acceleration_gradient(torus, pos, q)

    assert gradcheck(fun, (pos, *scalars, *vals))
    assert gradgradcheck(fun, (pos, *scalars, *vals), atol=1e-4)


def test_at_the_centre():
    torus, p = splined((2, 4), "pv")
    centre = tensor([POS0]).requires_grad_()
    assert acceleration(torus, centre, p) == 0
    gradient = acceleration_gradient(torus, centre, p)
    assert gradient.item() == pytest.approx(-(OMEGA0**2), rel=1e-13)
    (second,) = torch.autograd.grad(gradient.sum(), centre)
    assert second.isfinite()
    assert potential(torus, centre, p) == 0


def test_harmonic_oscillator():
    """Without distortion everything is known in closed form."""
    torus, p = smooth((), "pv")
    pos = tensor([-0.7, 0.0, 0.4])
    offset = pos - POS0
    torch.testing.assert_close(acceleration(torus, pos, p), -(OMEGA0**2) * offset)
    torch.testing.assert_close(potential(torus, pos, p), 0.5 * OMEGA0**2 * offset**2)
    rho = torch.full_like(pos, OMEGA0**2 / (4 * math.pi * G))
    torch.testing.assert_close(density(torus, pos, p, G), rho)
    torch.testing.assert_close(
        surface_density(torus, pos, p, G), OMEGA0**2 * offset.abs() / (2 * math.pi * G)
    )


@models
def test_potential_is_minus_the_integral_of_the_acceleration(orders, convention, kind):
    torus, p = splined(orders, convention, kind)
    pos = tensor([-1.0, 0.1, 0.6])
    # The integrand has kinks at the knots, which SciPy is told about.
    knots = [POS0 + s * k / math.sqrt(OMEGA0) for k in KNOTS.tolist() for s in (1, -1)]
    expected = [
        -quad(
            lambda q: acceleration(torus, tensor([q]), p).item(),
            POS0,
            x,
            points=[k for k in knots if min(POS0, x) < k < max(POS0, x)] or None,
            epsabs=1e-14,
        )[0]
        for x in pos.tolist()
    ]
    rtol = 1e-6 if kind == "cubic" else 1e-5  # its acceleration has kinks at the knots
    np.testing.assert_allclose(potential(torus, pos, p).numpy(), expected, rtol=rtol)


@models
def test_force_is_minus_the_slope_of_the_potential(orders, convention, kind):
    torus, p = splined(orders, convention, kind)
    pos = tensor([-1.0, 0.1, 0.6])
    step = 1e-4
    up, down = (potential(torus, pos + s, p) for s in (step, -step))
    got = acceleration(torus, pos, p)
    rtol = 1e-4 if kind == "cubic" else 3e-3
    torch.testing.assert_close(-(up - down) / (2 * step), got, rtol=rtol, atol=1e-9)


def test_densities_follow_from_the_acceleration():
    torus, p = splined((2, 4), "pv")
    pos = tensor([-0.8, 0.2, 0.9])
    a, gradient = acceleration(torus, pos, p), acceleration_gradient(torus, pos, p)
    torch.testing.assert_close(density(torus, pos, p, G), -gradient / (4 * math.pi * G))
    torch.testing.assert_close(surface_density(torus, pos, p, G), a.abs() / (2 * math.pi * G))
    # Gauss: the surface density between -q and q is twice the integral of the density.
    edge = POS0 + 0.9
    integral = quad(
        lambda q: 2 * density(torus, tensor([q]), p, G).item(),
        POS0,
        edge,
        points=[POS0 + k / math.sqrt(OMEGA0) for k in KNOTS.tolist()[1:3]],
    )[0]
    expected = surface_density(torus, tensor([edge]), p, G).item()
    assert integral == pytest.approx(expected, rel=1e-7)


def density_steps(kind):
    """Return the jumps of the density across the inner knots, relative to the density."""
    torus, p = splined((2, 4), "pv", kind)
    at_knots = KNOTS[1:-1] / math.sqrt(OMEGA0) + POS0
    left, right = (density(torus, at_knots + side, p, G) for side in (-1e-9, 1e-9))
    return ((right - left) / right).abs()


def test_density_is_continuous_with_cubic_splines_and_steps_with_quadratic_ones():
    assert density_steps("cubic").max() < 1e-6
    assert density_steps("quadratic").min() > 1e-2


@models
@pytest.mark.parametrize("own_points", [True, False])
def test_batch_equals_loop(orders, convention, kind, own_points):
    torus, p = splined(orders, convention, kind, batch=(2, 3))
    generator = torch.Generator().manual_seed(1)
    shift = torch.rand((3, 2, 3), generator=generator, dtype=torch.float64) / 10
    p |= {k: p[k] + shift[i] for i, k in enumerate(("pos0", "vel0", "ln_Omega0"))}
    pos = torch.linspace(-1, 1, 42, dtype=torch.float64).reshape(2, 3, 7)
    pos = pos if own_points else pos[0, 0]
    quantities = [
        acceleration,
        acceleration_gradient,
        potential,
        lambda *args: density(*args, G),
        lambda *args: surface_density(*args, G),
    ]
    for quantity in quantities:
        many = quantity(torus, pos, p)
        assert many.shape == (2, 3, 7)
        for i in np.ndindex(2, 3):
            one = {k: p[k][i] for k in ("pos0", "vel0", "ln_Omega0")}
            one["e_params"] = {m: {"vals": v["vals"][i]} for m, v in p["e_params"].items()}
            expected = quantity(torus, pos[i] if own_points else pos, one)
            torch.testing.assert_close(many[i], expected, rtol=1e-11, atol=1e-18)


def test_points_of_any_shape():
    torus, p = splined((2,), "pv")
    pos = torch.linspace(-1, 1, 6, dtype=torch.float64)
    for quantity in (acceleration, acceleration_gradient, potential):
        flat = quantity(torus, pos, p)
        torch.testing.assert_close(quantity(torus, pos.reshape(2, 3), p).reshape(-1), flat)
        single = quantity(torus, pos[2], p)
        assert single.shape == ()
        torch.testing.assert_close(single, flat[2])
