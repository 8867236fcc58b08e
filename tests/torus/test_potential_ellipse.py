"""The potential in place of the ellipse: density, force and plane, by SciPy and by autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.torus.acceleration import acceleration, acceleration_gradient, potential
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.torus.sech_squared import potential_ratio, ratios, surface_ratio
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

G = 4.498502151469554e-12
HEIGHTS = (0.1, 0.3, 1.2)
LN_RHO = (15.0, 18.5, 17.8, 16.0)
OMEGA = 0.08


def tensor(x, **kwargs):
    return torch.tensor(x, dtype=torch.float64, **kwargs)


def transform():
    return PotentialEllipse(tensor(HEIGHTS), tensor(OMEGA), G)


def frame(pos0=0.02, vel0=-0.001, ln_rho=LN_RHO):
    return tensor(pos0), tensor(vel0), tensor(ln_rho)


def torus(e_funcs=None):
    label = SplineLabelFunction(tensor([0.0, 0.2, 0.4]))
    return OrbitalTorus(label, e_funcs or {}, transform=transform())


def params(**changes):
    pos0, vel0, ln_rho = frame()
    label = {"label_vals": tensor([0.1, 0.5, 0.7])}
    return {"pos0": pos0, "vel0": vel0, "ln_rho": ln_rho, "label_params": label} | changes


def rho(z):
    w = np.exp(LN_RHO)
    return w[0] + sum(v / np.cosh(z / h) ** 2 for v, h in zip(w[1:], HEIGHTS, strict=True))


S = (0.0, 1e-9, 1e-3, 0.0999, 0.1001, 0.5, 0.999, 1.001, 3.0, 40.0, 800.0)


@pytest.mark.parametrize("s", [*S, *(-x for x in S)])
def test_ratios_against_long_arithmetic(s):
    import mpmath

    with mpmath.workdps(50):
        x = mpmath.mpf(s)
        L = 2 * mpmath.log(mpmath.cosh(x)) / x**2 if s else mpmath.mpf(1)
        M = mpmath.tanh(x) / x if s else mpmath.mpf(1)
        dL = 2 * (M - L) / x if s else mpmath.mpf(0)
        dM = (mpmath.sech(x) ** 2 - M) / x if s else mpmath.mpf(0)
        expected = [float(value) for value in (L, M, dL, dM)]
    found = [float(value) for value in ratios(tensor(s))]
    # M - L is a thousandth of either at 0.1: there their slopes have lost as many digits.
    assert found[:2] == pytest.approx(expected[:2], rel=1e-14)
    assert found[2:] == pytest.approx(expected[2:], rel=1e-12, abs=1e-300)
    assert float(potential_ratio(tensor(s))) == pytest.approx(found[0], rel=1e-14)
    assert float(surface_ratio(tensor(s))) == pytest.approx(found[1], rel=1e-14)


@pytest.mark.parametrize("function", [potential_ratio, surface_ratio])
def test_ratios_to_second_order(function):
    s = tensor([-2.0, -0.7, -0.05, 0.0, 1e-8, 0.06, 0.3, 1.5], requires_grad=True)
    assert gradcheck(function, (s,))
    assert gradgradcheck(function, (s,))
    (slope,) = torch.autograd.grad(function(s).sum(), s)
    torch.testing.assert_close(slope, ratios(s.detach())[2 if function is potential_ratio else 3])


def test_force_and_potential_are_integrals_of_the_density():
    model, p = torus(), params(pos0=tensor(0.0))
    for z in (-1.7, -0.3, 0.004, 0.05, 0.4, 1.1, 3.0):
        inside = quad(rho, 0, z, epsabs=0, epsrel=1e-12, limit=200)[0]
        force = -4 * math.pi * G * inside
        assert float(acceleration(model, tensor(z), p)) == pytest.approx(force, rel=1e-12)
        slope = -4 * math.pi * G * rho(z)
        assert float(acceleration_gradient(model, tensor(z), p)) == pytest.approx(slope, rel=1e-12)
        work = quad(lambda x, z=z: 4 * math.pi * G * rho(x) * (z - x), 0, z, epsrel=1e-12)[0]
        assert float(potential(model, tensor(z), p)) == pytest.approx(work, rel=1e-11)


def test_orbits_are_circles():
    model = transform()
    energy = 0.002
    z = torch.linspace(-0.3, 0.3, 41).double()
    p = params(pos0=tensor(0.0), vel0=tensor(0.0))
    phi = potential(torus(), z, p)
    vel = (2 * (energy - phi)).sqrt()
    r_e, _ = model(z, vel, *model.frame(p))
    torch.testing.assert_close(
        r_e, torch.full_like(z, math.sqrt(2 * energy / OMEGA)), rtol=1e-13, atol=0
    )


def test_a_constant_density_is_an_ellipse():
    from torusimaging_torch.torus.elliptical import EllipticalTransform

    ln_rho = tensor([math.log(OMEGA**2 / (4 * math.pi * G)), -700.0, -700.0, -700.0])
    pos, vel = tensor([-1.0, 0.0, 0.02, 0.5]), tensor([0.01, 0.02, -0.001, -0.05])
    found = transform()(pos, vel, *frame(ln_rho=ln_rho.tolist()))
    expected = EllipticalTransform()(pos, vel, *frame()[:2], tensor(math.log(OMEGA)))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-15)


def test_the_way_back():
    pos, vel = tensor([-3.0, -0.4, 0.02, 0.020001, 0.7]), tensor([0.1, -0.001, 0.0, 0.01, -0.05])
    r_e, theta_e = transform()(pos, vel, *frame())
    back = transform().inverse(r_e, theta_e, *frame())
    torch.testing.assert_close(back, (pos, vel), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", ["plane", "polar", "forward", "place"])
def test_derivatives_to_second_order(method):
    first = tensor([-0.4, 0.02, 0.05, 0.9], requires_grad=True)
    second = tensor([0.01, 0.02, 0.003, 0.03], requires_grad=True)
    inputs = (first, second, *(x.requires_grad_() for x in frame()))
    function = getattr(transform(), method)
    assert gradcheck(function, inputs, rtol=1e-4)
    assert gradgradcheck(function, inputs, rtol=1e-3, atol=1e-4)


def test_gradients_are_finite_in_the_origin():
    inputs = tuple(x.requires_grad_() for x in frame())
    pos = torch.stack([inputs[0].detach(), tensor(0.3)])
    vel = torch.stack([inputs[1].detach(), tensor(0.0)])
    r_e, cos = transform().polar(pos, vel, *inputs)
    assert (r_e[0].item(), cos[0].item()) == (0.0, 1.0)
    for gradient in torch.autograd.grad((r_e + cos).sum(), inputs):
        assert gradient.isfinite().all()


def test_a_batch_is_its_problems():
    model, pos = transform(), tensor([[0.1, 0.5, -0.7], [0.2, -0.4, 0.0]])
    vel = tensor([[0.01, 0.0, -0.03], [0.02, 0.02, 0.0]])
    ln_rho = torch.stack([tensor(LN_RHO), tensor(LN_RHO) - 0.3])
    batch = tensor([0.0, 0.02]), tensor([0.001, 0.0]), ln_rho
    found = model(pos, vel, *batch)
    axis = model.axis(pos, *batch)
    for i in range(2):
        one = tuple(x[i] for x in batch)
        torch.testing.assert_close([x[i] for x in found], list(model(pos[i], vel[i], *one)))
        torch.testing.assert_close(
            [x[i] for x in axis], list(model.axis(pos[i], *one)), rtol=1e-13, atol=1e-15
        )


def test_the_hybrids_force_is_that_of_its_contours():
    knots = tensor([0.0, 0.15, 0.3, 0.5])
    model = torus({2: SplineEFunction(knots, 1.0), 4: SplineEFunction(knots, -1.0)})
    vals = {2: {"vals": tensor([-1.0, -1.2, -0.8])}, 4: {"vals": tensor([-2.5, -3.0, -2.0])}}
    p = params(e_params=vals)
    pos = tensor([0.1, 0.4, -0.6, 0.9])
    v = tensor(1e-5).expand(4).clone().requires_grad_()
    q = pos.clone().requires_grad_()
    # Along a contour v dv = a dq, in the limit of no velocity.
    r = model.radius(q, p["vel0"] + v, p)
    by_q, by_v = torch.autograd.grad(r.sum(), (q, v))
    torch.testing.assert_close(
        acceleration(model, pos, p), -v.detach() * by_q / by_v, rtol=1e-6, atol=0
    )
    step = 1e-6
    change = acceleration(model, pos + step, p) - acceleration(model, pos - step, p)
    gradient = acceleration_gradient(model, pos, p)
    torch.testing.assert_close(gradient, change / (2 * step), rtol=1e-6, atol=0)


def test_heights_must_be_positive():
    with pytest.raises(ValueError, match="heights must be positive, got"):
        PotentialEllipse(tensor([0.1, 0.0]), tensor(OMEGA), G)


def test_a_missing_parameter_is_named():
    p = params()
    del p["ln_rho"]
    with pytest.raises(ValueError, match="params has no ln_rho"):
        torus()(tensor(0.1), tensor(0.0), p)
