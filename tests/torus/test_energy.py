"""The energy formula: against energies of contours, a root by SciPy, and orbits that are exact."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.torus.energy import energy_forces

KNOTS = {2: [0, 0.15, 0.3, 0.5], 4: [0, 0.2, 0.5]}
POS = [-0.6, -0.1, 0.05, 0.4, 0.9] * u.kpc


def make(convention="pv", e_knots=KNOTS):
    signs = {m: 1.0 if m == 2 and convention == "pv" else -1.0 for m in e_knots}
    model = TorusImaging1DSpline([0, 0.3], e_knots, signs, elliptical_angle_convention=convention)
    e_params = {
        m: {"vals": np.linspace(-1.0, -1.5, len(k) - 1) - m / 2} for m, k in e_knots.items()
    }
    params = {"pos0": 0.01, "vel0": 0.002, "ln_Omega0": -2.5, "e_params": e_params}
    return model, params | {"label_params": {"label_vals": [0.0, 1.0]}}


@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_it_is_the_slope_of_the_energy_where_contours_cross_the_midplane(convention):
    model, params = make(convention)
    p = model.border.params(params)

    def energy(z):
        """Return half the square of the speed in the midplane on the contour that turns at z."""
        pos, vel = torch.tensor([z, 0.01]).double(), p["vel0"]
        r = float(model.torus.radius(pos[:1], vel, p))

        def miss(v):
            return float(model.torus.radius(pos[1:] * 0 + p["pos0"], vel + v, p)) - r

        return 0.5 * brentq(miss, 0, 1, xtol=1e-15, rtol=1e-14) ** 2

    found = model.get_acceleration(POS, params, method="energy").to_value(u.kpc / u.Myr**2)
    step = 1e-4
    expected = [-(energy(z + step) - energy(z - step)) / (2 * step) for z in POS.value]
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_density_and_surface_density_follow():
    model, params = make()
    step = 1e-5 * u.kpc
    a = [model.get_acceleration(POS + s, params, method="energy") for s in (step, -step)]
    G = model.border.G * u.kpc**3 / u.Msun / u.Myr**2
    expected = -(a[0] - a[1]) / (2 * step) / (4 * math.pi * G)
    found = model.get_density(POS, params, method="energy")
    np.testing.assert_allclose(found.to_value(expected.unit), expected.value, rtol=1e-6)
    surface = model.get_surface_density(POS, params, method="energy")
    middle = np.abs(model.get_acceleration(POS, params, method="energy")) / (2 * math.pi * G)
    np.testing.assert_allclose(surface.to_value(middle.unit), middle.value, rtol=1e-12)


def test_both_formulas_agree_on_exact_orbits():
    heights = [0.2, 0.8] * u.kpc
    exact = TorusImaging1DPotential([0, 0.4], heights, 0.08 * u.rad / u.Myr)
    params = {"pos0": 0.0, "vel0": 0.0, "ln_rho": [15.0, 18.0, 17.0]}
    params |= {"label_params": {"label_vals": [0.0, 1.0]}}
    turning, energy = (exact.get_acceleration(POS, params, method=m) for m in ("turning", "energy"))
    np.testing.assert_array_equal(turning, energy)
    model, circles = make(e_knots={})
    turning, energy = (model.get_density(POS, circles, method=m) for m in ("turning", "energy"))
    np.testing.assert_allclose(turning.value, energy.value, rtol=1e-14)
    model, params = make()
    gap = model.get_acceleration(POS, params, method="energy") / model.get_acceleration(POS, params)
    assert np.abs(gap - 1).max() > 1e-3


def test_at_the_centre_it_is_the_limit():
    model, params = make()
    at = [0.01, 0.01 + 1e-7] * u.kpc
    density = model.get_density(at, params, method="energy")
    assert density[0].value == pytest.approx(density[1].value, rel=1e-5)
    assert model.get_acceleration(at, params, method="energy")[0].value == 0


def test_derivatives_to_second_order():
    model, params = make()
    p = model.border.params(params)
    pos = torch.tensor([-0.4, 0.05, 0.7], dtype=torch.float64, requires_grad=True)
    ln_Omega0 = p["ln_Omega0"].requires_grad_()

    def forces(pos, ln_Omega0):
        return energy_forces(model.torus, pos, {**p, "ln_Omega0": ln_Omega0})

    assert gradcheck(forces, (pos, ln_Omega0))
    assert gradgradcheck(forces, (pos, ln_Omega0), atol=1e-4)


def test_unknown_methods_are_refused():
    model, params = make()
    with pytest.raises(ValueError, match=r"method must be one of \('turning', 'energy'\), got 'x'"):
        model.get_density(POS, params, method="x")
