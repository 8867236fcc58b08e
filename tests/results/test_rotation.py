"""Rotation curves of fits of radial motion."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.results import FitResult, rotation_curve

L_Z = 1840 * u.kpc * u.km / u.s
R = np.linspace(7, 9, 5) * u.kpc
PARAMS = {
    "pos0": 8.0,
    "vel0": 0.0,
    "ln_Omega0": -3.2,
    "e_params": {},
    "label_params": {"label_vals": [0.0, 1.0]},
}


def result(convention="vp", covariance=None):
    """Return a fit of a harmonic effective potential, with no distortion."""
    model = TorusImaging1DSpline([0, 1], {}, {}, elliptical_angle_convention=convention)
    state = OptState(True, 0.0, 1, 1, 0, "converged", 0.0, (), 0)
    params = model.border.params(PARAMS)
    return FitResult(model, params, {}, state, "gaussian", {}, covariance)


def truth():
    """Return dPhi/dR and v_c in closed form: a = -Omega0^2 (R - pos0)."""
    a = -((np.exp(-3.2) / u.Myr) ** 2) * (R - 8 * u.kpc)
    force = (L_Z**2 / R**3 - a).to(u.kpc / u.Myr**2)
    return force, np.sqrt(R * force).to(u.km / u.s)


def test_force_and_velocity_in_closed_form():
    fit = result()
    table, (force, v_c) = rotation_curve(fit, R, L_Z), truth()
    assert_allclose(table["dPhi_dR"], force, rtol=1e-12)
    assert_allclose(table["v_c"], v_c, rtol=1e-12)
    assert "v_c_err" not in table.colnames
    assert u.Quantity(table.meta["R_g"]) == 8 * u.kpc == fit.model.get_guiding_radius(fit.params)
    centre = fit.model.get_circular_velocity(8 * u.kpc, fit.params, L_Z)
    assert_allclose(centre, L_Z / (8 * u.kpc), rtol=1e-12)
    assert_allclose(fit.model.get_circular_velocity(R.value, fit.params, L_Z), v_c, rtol=1e-12)


def test_errors_are_those_of_draws():
    names = list(result().to_table()["name"])
    sigma = np.zeros(len(names))
    sigma[names.index("ln_Omega0")], sigma[names.index("pos0")] = 0.02, 0.01
    table = rotation_curve(result(covariance=np.diag(sigma**2)), R, L_Z)
    rng = np.random.default_rng(0)
    ln_Omega0 = -3.2 + 0.02 * rng.normal(size=(20_000, 1))
    pos0 = 8 + 0.01 * rng.normal(size=(20_000, 1))
    a = -np.exp(2 * ln_Omega0) * (R.value - pos0) * u.kpc / u.Myr**2
    v_c = np.sqrt(R * (L_Z**2 / R**3 - a)).to(u.km / u.s)
    assert_allclose(table["v_c_err"], v_c.std(0), rtol=0.03)
    assert_allclose(table["dPhi_dR_err"], a.std(0), rtol=0.03)


def test_a_force_outwards_has_no_circular_velocity():
    fit = result()
    slow = 1 * u.kpc * u.km / u.s
    v_c = fit.model.get_circular_velocity([7, 9] * u.kpc, fit.params, slow)
    assert np.isnan(v_c[0])
    assert v_c[1] > 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="elliptical_angle_convention='vp', got 'pv'"):
        rotation_curve(result("pv"), R, L_Z)
    with pytest.raises(u.UnitConversionError, match="L_z must be an angular momentum"):
        rotation_curve(result(), R, 230 * u.km / u.s)
