"""What papers quote of a fit, and what the rotation curve adds to it."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from gala.potential import MilkyWayPotential2022

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.results import FitResult
from torusimaging_torch.results.derived import (
    curve_density,
    derived_quantities,
    rotation_density,
)

PARAMS = {
    "pos0": -20 * u.pc,
    "vel0": -7 * u.km / u.s,
    "ln_rho": [15.0, 18.0, 17.0],
    "label_params": {"label_vals": [0.1, 0.5, 0.7]},
}


def fit(covariance=None):
    model = TorusImaging1DPotential([0, 0.2, 0.4], [0.3, 1.0] * u.kpc, 0.07 * u.rad / u.Myr)
    state = OptState(True, 0.5, 10, 12, Status.CONVERGED, "converged", 0.0, (), 0)
    return FitResult(model, PARAMS, None, state, "gaussian", covariance=covariance)


def test_values_are_those_of_the_model():
    result = fit(1e-4 * np.eye(8))
    table = derived_quantities(result)
    value, error = (dict(zip(table["quantity"], table[c], strict=True)) for c in ("value", "error"))
    at = PARAMS["pos0"] + [0, 1.1] * u.kpc
    model = result.model
    sigma = model.get_surface_density(at, PARAMS).to_value(u.Msun / u.pc**2)
    assert value["Sigma"] == pytest.approx(sigma[1], rel=1e-12)
    rho = model.get_density(at, PARAMS).to_value(u.Msun / u.pc**3)
    assert value["rho_0"] == pytest.approx(rho[0], rel=1e-12)
    assert (value["z_sun"], value["w_sun"]) == pytest.approx((20, 7))
    assert error["z_sun"] == pytest.approx(10)
    # Of independent log densities: each weighs what it is of the sum.
    w = np.exp(PARAMS["ln_rho"])
    assert error["rho_0"] / value["rho_0"] == pytest.approx(1e-2 * np.sqrt((w**2).sum()) / w.sum())
    assert "Kuijken & Gilmore 1991" in table["published"][0]


def test_errors_that_are_not_known_are_nan():
    assert np.isnan(derived_quantities(fit())["error"]).all()


def test_the_term_of_the_rotation_curve_is_that_of_a_disk():
    potential, R = MilkyWayPotential2022(), 8.3
    speed = lambda x: potential.circular_velocity([x, 0, 0] * u.kpc)[0].to_value(u.km / u.s)  # noqa: E731
    v, slope = speed(R), (speed(R + 0.01) - speed(R - 0.01)) / 0.02
    unit = u.km / u.s / u.kpc
    A, B = 0.5 * (v / R - slope) * unit, -0.5 * (v / R + slope) * unit
    # Poisson's equation in three dimensions, in the midplane.
    position = [R, 0, 1e-4] * u.kpc
    full = potential.density(position)[0]
    zz = potential.hessian(position)[2, 2, 0]
    G = potential.G * u.kpc**3 / u.Msun / u.Myr**2
    flat = (zz / (4 * np.pi * G)).to(full.unit)
    found = rotation_density(A, B)
    assert found.to_value(full.unit) == pytest.approx((full - flat).value, rel=0.02)
    result = fit()
    plain, turned = derived_quantities(result), derived_quantities(result, oort=(A, B))
    added = turned["value"][0] - plain["value"][0]
    assert added == pytest.approx((2.2 * u.kpc * found).to_value(u.Msun / u.pc**2))


def test_a_rotation_curve_says_what_oorts_constants_of_it_say():
    v_c = lambda R: 230 * u.km / u.s - 1.7 * u.km / u.s / u.kpc * (R - 8.3 * u.kpc)  # noqa: E731
    v, slope = 230 / 8.3, -1.7
    unit = u.km / u.s / u.kpc
    term = rotation_density(0.5 * (v - slope) * unit, -0.5 * (v + slope) * unit)
    found = curve_density(v_c, 8.3 * u.kpc)
    assert found.to_value(term.unit) == pytest.approx(term.value, rel=1e-9)


def test_errors_of_the_rotation_curve_are_in_those_of_densities():
    result, unit = fit(1e-4 * np.eye(8)), u.km / u.s / u.kpc
    A, B, A_err, B_err = 15.3 * unit, -11.9 * unit, 0.4 * unit, 0.6 * unit
    table = derived_quantities(result, oort=((A, A_err), (B, B_err)))
    plain = derived_quantities(result, oort=(A, B))
    rng = np.random.default_rng(0)
    a, b = (x + e * rng.normal(size=100_000) for x, e in ((A, A_err), (B, B_err)))
    scatter = rotation_density(a, b).std().value
    expected = np.hypot(plain["error"][1], scatter)
    assert table["error"][1] == pytest.approx(expected, rel=0.01)
    expected = np.hypot(plain["error"][0], 2200 * scatter)
    assert table["error"][0] == pytest.approx(expected, rel=0.01)
    term = rotation_density(A, B)
    same = derived_quantities(result, rotation=(term, scatter * term.unit))
    assert same["value"][0] == pytest.approx(table["value"][0], rel=1e-12)
    with pytest.raises(ValueError, match="pass one of them"):
        derived_quantities(result, oort=(A, B), rotation=term)


def test_what_is_no_baryon_is_dark_matter():
    result, unit = fit(1e-4 * np.eye(8)), u.Msun / u.pc**2
    table = derived_quantities(result, baryons=(47 * unit, 3 * unit))
    row = {str(name): table[i] for i, name in enumerate(table["quantity"])}
    assert row["Sigma_dm"]["value"] == pytest.approx(row["Sigma"]["value"] - 47)
    assert row["Sigma_dm"]["error"] == pytest.approx(np.hypot(row["Sigma"]["error"], 3))
    assert row["rho_dm"]["value"] == pytest.approx(row["Sigma_dm"]["value"] / 2200)
    assert row["rho_dm"]["error"] == pytest.approx(row["Sigma_dm"]["error"] / 2200)
    assert "Bovy & Tremaine 2012" in row["rho_dm"]["published"]
