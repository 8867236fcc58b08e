"""Orbits in a model with a potential, against quadrature by SciPy."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
import torch
from potential_models import CORRECTION, KNOTS, MODELS, make, truth
from scipy.integrate import quad
from scipy.optimize import brentq


def quadrature(model, params, z_max):
    """Return action and period of an orbit that turns at z_max above pos0, by SciPy."""
    zero = {**params, "pos0": 0.0, "vel0": 0.0}

    def speed(z):
        phi = [
            model.get_potential(x * u.kpc, zero).to_value(u.kpc**2 / u.Myr**2) for x in (z_max, z)
        ]
        return math.sqrt(max(2 * (phi[0] - phi[1]), 0.0))

    # z = z_max sin t takes the root at the turning point away.
    def at(t, f):
        z = z_max * math.sin(t)
        return f(speed(z)) * z_max * math.cos(t)

    J = 4 / (2 * math.pi) * quad(lambda t: at(t, lambda v: v), 0, math.pi / 2, epsrel=1e-10)[0]
    T = 4 * quad(lambda t: at(t, lambda v: 1 / v), 0, math.pi / 2 - 1e-7, epsrel=1e-9)[0]
    return J, T


@pytest.mark.parametrize("method", ["exact", "table"])
@pytest.mark.parametrize("z_max", [0.05, 0.3, 1.0])
def test_actions_and_periods_are_those_of_the_potential(method, z_max):
    model, params = make(), truth()
    J, T = quadrature(model, params, z_max)
    found = model.compute_action_angle(
        z_max * u.kpc + params["pos0"], params["vel0"], params, method=method
    )
    rel = 1e-7 if method == "exact" else 1e-5
    assert found["J"].to_value(u.kpc**2 / u.Myr) == pytest.approx(J, rel=rel)
    assert found["T"].to_value(u.Myr) == pytest.approx(T, rel=max(rel, 1e-5))
    assert found["theta"].to_value(u.rad) == pytest.approx(math.pi / 2, abs=1e-6)


@MODELS
def test_orbits_come_back_and_keep_their_action(model, params):
    pos, vel = [0.1, 0.5, -0.3] * u.kpc, [20, -10, 5] * u.km / u.s
    there = model.compute_action_angle(pos, vel, params, method="exact")
    assert there["valid"].all()
    back = model.compute_phase_space(there["J"], there["theta"], params)
    np.testing.assert_allclose(back[0].to_value(u.kpc), pos.value, rtol=1e-7)
    np.testing.assert_allclose(back[1].to_value(u.km / u.s), vel.value, rtol=1e-6)


class HybridContour:
    """The contour of a hybrid that turns at a position above pos0, point by point, by SciPy."""

    def __init__(self, model, params, top):
        self.torus, self.p = model.torus, model.border.params(params)
        self.r = self.radius(top, 0.0)
        low = brentq(lambda z: self.radius(z, 0.0) - self.r, -1.0, 0.0)
        self.middle, self.half = (top + low) / 2, (top - low) / 2

    def radius(self, z, v):
        z = torch.tensor(z, dtype=torch.float64)
        return float(self.torus.radius(z, self.p["vel0"] + v, self.p))

    def speed(self, z):
        return brentq(lambda v: self.radius(z, v) - self.r, 0, 0.2, xtol=1e-16)

    def integral(self, f, end=math.pi / 2):
        """Integrate f(v) by the position upwards, which is middle + half sin(t), to t = end."""

        def at(t):
            return f(self.speed(self.middle + self.half * math.sin(t) * (1 - 1e-13)))

        low, high = -math.pi / 2 + 1e-6, min(end, math.pi / 2 - 1e-6)
        return quad(lambda t: at(t) * self.half * math.cos(t), low, high, epsrel=1e-8)[0]

    def time_to(self, z):
        return self.integral(lambda v: 1 / v, math.asin((z - self.middle) / self.half))


def test_the_hybrids_action_period_and_angle_are_those_of_its_contour():
    model, params = make(e_knots=KNOTS), truth(**CORRECTION)
    contour = HybridContour(model, params, 0.4)
    z = 0.25
    v = contour.speed(z) + float(contour.p["vel0"])
    found = model.compute_action_angle(z, v, params, method="exact")
    area, T = 2 * contour.integral(lambda v: v), 2 * contour.integral(lambda v: 1 / v)
    since = contour.time_to(z) - contour.time_to(float(contour.p["pos0"]))
    assert found["J"].to_value(u.kpc**2 / u.Myr) == pytest.approx(area / (2 * math.pi), rel=1e-5)
    assert found["T"].to_value(u.Myr) == pytest.approx(T, rel=1e-5)
    assert found["theta"].to_value(u.rad) == pytest.approx(2 * math.pi * since / T, abs=1e-5)
