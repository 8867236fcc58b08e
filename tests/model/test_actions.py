"""Actions, angles and periods against brute force, and their derivatives."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import chebval
from orbit_models import MODELS, OMEGA0, POS0, SCALE, VEL0, random_stars, smooth_model, spline_model
from scipy.integrate import quad
from scipy.optimize import brentq
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.orbits.actions import action_angle, phase_space

# -- brute force ----------------------------------------------------------------------------------


class Contour:
    """The contour through a star, in plain numbers: nothing in common with the package."""

    def __init__(self, convention, amplitudes, pos, vel):
        self.convention, self.amplitudes = convention, amplitudes
        self.x, self.y = (vel - VEL0) / OMEGA0**0.5, (pos - POS0) * OMEGA0**0.5
        self.level = self.r(self.x, self.y)

    def r(self, x, y):
        """Return r, for complex numbers too."""
        r_e = (x * x + y * y) ** 0.5
        cos = (x if self.convention == "pv" else y) / r_e
        factor = 1
        for m, a in self.amplitudes.items():
            factor = factor + a * r_e**2 / (r_e**2 + SCALE**2) * chebval(cos, [0] * m + [1])
        return r_e * factor

    def point(self, phi):
        """Return x and y at the angle phi from the velocity axis."""
        cos, sin = math.cos(phi), math.sin(phi)
        r_e = brentq(lambda s: self.r(s * cos, s * sin).real - self.level.real, 1e-9, 3, xtol=1e-15)
        return r_e * cos, r_e * sin

    def area_rate(self, phi):
        x, y = self.point(phi)
        return (x * x + y * y) / 2

    def time_rate(self, phi):
        """Return dt/dphi = dy/(Omega0 x) along the contour, from the gradient by complex steps."""
        x, y = self.point(phi)
        r_x, r_y = self.r(x + 1e-30j, y).imag, self.r(x, y + 1e-30j).imag
        # The tangent (-r_y, r_x) turns by (x r_x + y r_y)/r_e^2 as it goes.
        return r_x * (x * x + y * y) / (x * r_x + y * r_y) / (OMEGA0 * x)

    def integrate(self, rate, start, end):
        return quad(rate, start, end, epsabs=1e-13, epsrel=1e-12, limit=400)[0]

    def action(self):
        return self.integrate(self.area_rate, -math.pi, math.pi) / (2 * math.pi)

    def period_and_angle(self):
        quarters = [-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi]
        period = sum(self.integrate(self.time_rate, *ends) for ends in pairwise(quarters))
        phi = math.atan2(self.y, self.x) % (2 * math.pi)
        ends = [*(q for q in (0, math.pi / 2, math.pi, 3 * math.pi / 2) if q < phi), phi]
        time = sum(self.integrate(self.time_rate, *pair) for pair in pairwise(ends))
        return period, 2 * math.pi * time / period


BRUTE_FORCE = [
    ("pv", {2: 0.3, 4: -0.05}),
    ("vp", {2: -0.25, 6: 0.01}),
    ("vp", {1: 0.15, 3: -0.04}),
    ("vp", {0: 0.1, 1: -0.1, 2: 0.1, 3: 0.03}),
]


@pytest.mark.parametrize(("convention", "amplitudes"), BRUTE_FORCE)
def test_actions_angles_and_periods_equal_brute_force(convention, amplitudes):
    torus, params = smooth_model(convention, amplitudes)
    pos, vel = random_stars(6)
    result = action_angle(torus, pos, vel, params)
    assert result.valid.all()
    for i in range(len(pos)):
        contour = Contour(convention, amplitudes, pos[i].item(), vel[i].item())
        period, angle = contour.period_and_angle()
        np.testing.assert_allclose(result.J[i], contour.action(), rtol=1e-8)
        np.testing.assert_allclose(result.T[i], period, rtol=1e-8)
        np.testing.assert_allclose(result.theta[i], angle, atol=1e-8)


def test_odd_order_in_pv_has_an_area_but_no_period():
    amplitudes = {1: 0.2, 2: 0.1, 3: 0.05}
    torus, params = smooth_model("pv", amplitudes)
    pos, vel = random_stars(5)
    result = action_angle(torus, pos, vel, params)
    expected = [
        Contour("pv", amplitudes, q.item(), v.item()).action()
        for q, v in zip(pos, vel, strict=True)
    ]
    np.testing.assert_allclose(result.J, expected, rtol=1e-8)
    assert result.valid.all()
    assert result.T.isnan().all()
    assert result.theta.isnan().all()


@pytest.mark.parametrize("convention", ["pv", "vp"])
@pytest.mark.parametrize("orders", [(), (2,), (1, 2)])
def test_harmonic_oscillator(convention, orders):
    if convention == "pv" and 1 in orders:
        pytest.skip("no angles for odd orders in pv")
    torus, params = smooth_model(convention, dict.fromkeys(orders, 0.0))
    pos, vel = random_stars(200)
    J, theta, T, valid = action_angle(torus, pos, vel, params)
    dq, dv = pos - POS0, vel - VEL0
    torch.testing.assert_close(J, (dv**2 / OMEGA0 + OMEGA0 * dq**2) / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(T, torch.full_like(T, 2 * math.pi / OMEGA0), rtol=1e-10, atol=0)
    angle = torch.atan2(dq * OMEGA0, dv).remainder(2 * math.pi)
    torch.testing.assert_close(theta, angle, rtol=0, atol=1e-10)
    assert valid.all()


def test_pv_and_vp_agree_on_the_same_contours():
    """Seen from the other axis, cos(m theta) becomes (-1)^(m/2) cos(m theta)."""
    stars = random_stars(300)
    pv = action_angle(*_with_stars(spline_model("pv", {2: 1.0, 4: -1.0, 6: 1.0}), stars))
    vp = action_angle(*_with_stars(spline_model("vp", {2: -1.0, 4: -1.0, 6: -1.0}), stars))
    assert pv.valid.float().mean() > 0.8
    for name in ("J", "T", "theta"):
        torch.testing.assert_close(
            getattr(pv, name), getattr(vp, name), rtol=1e-10, atol=1e-10, equal_nan=True
        )


def _with_stars(model, stars):
    torus, params = model
    return torus, *stars, params


def test_convergence_is_spectral_between_knots_and_algebraic_across():
    pos, vel = random_stars(50, reach=0.7)

    def error(model, n_grid):
        exact = action_angle(*_with_stars(model, (pos, vel)), n_grid=512)
        coarse = action_angle(*_with_stars(model, (pos, vel)), n_grid=n_grid)
        return (coarse.T / exact.T - 1).abs().nan_to_num(0).max().item()

    smooth = smooth_model("pv", {2: 0.3, 4: -0.05})
    assert error(smooth, 4) > 1e-5
    assert error(smooth, 32) < 1e-12
    cubic = spline_model("pv", {2: 1.0, 4: -1.0})
    quadratic = spline_model("pv", {2: 1.0, 4: -1.0}, "quadratic")
    assert error(cubic, 32) < 1e-5
    assert error(cubic, 128) < error(cubic, 32) / 16
    assert error(quadratic, 32) < 1e-3
    assert error(quadratic, 128) < error(quadratic, 32) / 4


# -- derivatives ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["action_angle", "phase_space"])
@pytest.mark.parametrize(("convention", "signs"), [("pv", {2: 1.0}), ("vp", {1: 1.0, 2: -1.0})])
def test_derivatives_to_second_order(what, convention, signs):
    torus, params = spline_model(convention, signs)
    layout = Layout.of(params)
    pos, vel = random_stars(2, reach=0.5)
    n_grid = 4
    function = action_angle if what == "action_angle" else phase_space
    start = (pos, vel)
    if what == "phase_space":
        start = tuple(action_angle(torus, pos, vel, params, n_grid)[:2])

    def evaluate(first, second, vector):
        result = function(torus, first, second, layout.unflatten(vector), n_grid)
        # All of order one, so that one tolerance serves.
        units = (0.01, 1, 100) if what == "action_angle" else (1, 0.1)
        return tuple(value / unit for value, unit in zip(result[:3], units, strict=False))

    inputs = [x.detach().requires_grad_() for x in (*start, layout.flatten(params))]
    assert gradcheck(evaluate, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)
    assert gradgradcheck(evaluate, inputs, eps=1e-7, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["cubic", "quadratic"])
@pytest.mark.parametrize(("convention", "signs"), MODELS)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_exact_path_is_the_same_without_gradients(convention, signs, kind, batch):
    """Where no gradient is wanted, splines are looked up."""
    torus, params = spline_model(convention, signs, kind, batch=batch)
    stars = random_stars(200, batch, reach=1.2)
    for name, expected in action_angle(torus, *stars, params)._asdict().items():
        with torch.no_grad():
            value = getattr(action_angle(torus, *stars, params), name)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11, equal_nan=True)


# -- precision and nodes --------------------------------------------------------------------------


def test_single_precision():
    torus, params = spline_model("pv", {2: 1.0})
    pos, vel = random_stars(200, reach=0.5)
    double = action_angle(torus, pos, vel, params)
    layout = Layout.of(params)
    single = layout.unflatten(layout.flatten(params).float())
    result = action_angle(torus.float(), pos.float(), vel.float(), single)
    assert result.J.dtype == torch.float32
    torch.testing.assert_close(result.J.double(), double.J, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(result.T.double(), double.T, rtol=1e-4, atol=0)


def test_number_of_nodes_is_checked():
    torus, params = smooth_model("pv", {2: 0.1})
    with pytest.raises(ValueError, match="N_grid"):
        action_angle(torus, *random_stars(2), params, 0)
