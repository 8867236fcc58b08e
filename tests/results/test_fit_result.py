"""One fit: its tables, profiles, errors and draws, and what it refuses."""

from __future__ import annotations

import functools
import re

import astropy.units as u
import numpy as np
import pytest
import torch
from gala.units import galactic

from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline
from torusimaging_torch.likelihoods.penalty import regularization_func_default
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.results import FitResult

PENALTY = {
    "label_l2_sigma": 1 / 3,
    "label_smooth_sigma": 0.1,
    "e_l2_sigmas": {2: 1.0, 4: 1e-5},
    "e_smooth_sigmas": {2: 0.5, 4: 0.7},
    "dacc_strength": 1e2,
}
STATE = OptState(
    True, 0.1 + 0.2, 12, 15, Status.CONVERGED, 'all\'s well: "yes"', 1e-11, ("pos0",), 7
)


def make_result(dtype=torch.float64, **changes):
    rng = np.random.default_rng(3)
    options = {"units": galactic, "elliptical_angle_convention": "vp", "e_spline": "cubic"}
    options |= changes.pop("options", {})
    knots = {2: np.linspace(0, 1 / 3, 4), 4: np.linspace(0, 0.3, 3)}
    penalty = changes.pop("penalty", functools.partial(regularization_func_default, **PENALTY))
    model = TorusImaging1DSpline(
        np.linspace(0, 0.1 + 0.2, 3), knots, {2: 1.0, 4: -1.0}, penalty, **options
    ).to(dtype)
    params = {
        "pos0": torch.tensor(rng.normal(0, 0.02)),
        "vel0": torch.tensor(rng.normal(0, 0.002)),
        "ln_Omega0": torch.tensor(-2.4 + rng.normal(0, 0.1)),
        "e_params": {
            m: {"vals": torch.tensor(rng.normal(-2, 1, len(k) - 1))} for m, k in knots.items()
        },
        "label_params": {"label_vals": torch.tensor(rng.normal(0.5, 0.1, 3))},
    }
    params = Layout.of(params).unflatten(Layout.of(params).flatten(params).to(dtype))
    bounds = {"pos0": (-1.0, 1.0) * u.kpc, "vel0": (-100, 100) * u.km / u.s}
    bounds["e_params"] = {2: {"vals": (np.full(3, -16.0), np.full(3, 10.0))}}
    given = {"bounds": bounds, "state": STATE, "objective": "gaussian"}
    return FitResult(model, params, **(given | changes))


def test_table_has_a_row_for_each_parameter():
    table = make_result().to_table()
    assert list(table["name"]) == Layout.of(make_result().params).names
    assert list(table.colnames) == ["name", "value", "error", "lower", "upper", "at_bound", "unit"]
    row = {name: table[table["name"] == name][0] for name in ("pos0", "vel0", "ln_Omega0")}
    assert [row[name]["unit"] for name in row] == ["kpc", "kpc / Myr", ""]
    assert [bool(row[name]["at_bound"]) for name in row] == [True, False, False]
    assert np.isnan(table["error"]).all()


def test_covariance_gives_errors_and_round_trips(tmp_path):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(11, 11)) * 1e-3
    covariance = root @ root.T
    covariance[3] = covariance[:, 3] = np.nan
    result = make_result(covariance=torch.from_numpy(covariance).requires_grad_())
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    np.testing.assert_array_equal(again.covariance, covariance)
    np.testing.assert_array_equal(again.to_table()["error"], np.sqrt(np.diag(covariance)))
    omega, error = again.measured("Omega0")
    assert float(error / omega) == pytest.approx(np.sqrt(covariance[8, 8]))


def test_profiles_are_the_models_own():
    result = make_result()
    pos = [0.1, 0.4, 3.0] * u.kpc
    table = result.profiles(pos)
    for name in ("acceleration", "density", "surface_density", "potential"):
        expected = getattr(result.model, f"get_{name}")(pos, result.params)
        # The model's own quadrature of the potential does not know where splines bend.
        tolerance = 1e-5 if name == "potential" else 1e-13
        assert u.allclose(table[name], expected, rtol=tolerance, atol=0 * expected.unit)
    assert table["density"].unit == u.Msun / u.pc**3
    assert u.allclose(table["height"], pos - result.params["pos0"].item() * u.kpc)
    assert list(table["extrapolated"]) == [False, False, True]
    with pytest.raises(u.UnitConversionError, match="pos must be a length"):
        result.profiles([1, 2] * u.km / u.s)


def test_what_a_file_cannot_hold_is_refused():
    result = make_result()
    batch = {**result.params, "pos0": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"batch with shape \(2,\)"):
        FitResult(result.model, batch, None, STATE, "gaussian")
    model = TorusImaging1D(result.model.label_func, result.model.e_funcs)
    with pytest.raises(TypeError, match="TorusImaging1DSpline"):
        FitResult(model, result.params, None, STATE, "gaussian")
    with pytest.raises(TypeError, match="state"):
        FitResult(result.model, result.params, None, {}, "gaussian")
    with pytest.raises(TypeError, match=r"provenance must be .*got ndarray.*covariance=\.\.\."):
        FitResult(result.model, result.params, None, STATE, "gaussian", np.eye(11))
    with pytest.raises(ValueError, match="covariance must have shape"):
        make_result(covariance=np.eye(3))


def test_draws_scatter_as_the_covariance_says():
    covariance = np.diag(np.full(11, 1e-4))
    covariance[3] = covariance[:, 3] = np.nan
    result = make_result(covariance=covariance)
    layout = Layout.of(result.params)
    draws = layout.flatten(result.draw(2000, seed=1)) - layout.flatten(result.params)
    assert draws.std(0)[:3].tolist() == pytest.approx([1e-2] * 3, rel=0.1)
    assert draws[:, 3].isnan().all()
    with pytest.raises(ValueError, match="no covariance"):
        make_result().draw(3)


def with_slope(value, variance):
    """Return a fit whose first log slope of e_2 has this value, and this variance."""
    result = make_result(covariance=np.diag(np.full(11, 1e-6)))
    result.params["e_params"][2]["vals"][0] = value
    result.covariance[0] = result.covariance[:, 0] = 0 if np.isfinite(variance) else np.nan
    result.covariance[0, 0] = variance
    return result


def test_what_is_not_determined_spoils_what_it_has_a_say_in():
    table = with_slope(-2.0, np.nan).profiles([0.0, 0.1, 0.5] * u.kpc)
    # At the midplane nothing but the frequency counts, and midplane and velocity do not.
    assert np.isnan(table["acceleration_err"]).tolist() == [True] * 3
    pos0 = make_result(covariance=np.diag(np.full(11, 1e-6)))
    pos0.covariance[9] = pos0.covariance[:, 9] = np.nan
    assert np.isnan(pos0.profiles([0.1] * u.kpc)["acceleration_err"]).all()
    assert np.isnan(pos0.measured("pos0")[1])
    assert pos0.measured("Omega0")[1] > 0


def test_a_slope_that_is_none_spoils_nothing():
    result, known = with_slope(-15.9, np.nan), with_slope(-15.9, 0.0)
    assert result.vanished == ("e_params[2].vals[0]",)
    pos = [0.1, 0.5] * u.kpc
    error, expected = (one.profiles(pos)["acceleration_err"] for one in (result, known))
    assert u.allclose(error, expected, rtol=1e-12)
    assert (error > 0).all()
    assert (result.draw(50)["e_params"][2]["vals"][:, 0] == -15.9).all()


def test_draws_of_a_slope_lost_in_its_error_stay_slopes():
    # As a log it is known to 20 e-folds: half of such draws are larger than any orbit allows.
    vals = with_slope(-6.0, 20.0**2).draw(2000, seed=1)["e_params"][2]["vals"][:, 0]
    assert -16 <= vals.min() < vals.max() < -6 + np.log(1 + 20 * 4.5)
    slopes = vals.exp() / np.exp(-6.0)
    # Above where it vanishes the slope is a Gaussian with 20 times its size as the width.
    expected = 1 + 20 * torch.tensor([0.0, 0.841621, 1.644854])
    found = slopes.quantile(torch.tensor([0.5, 0.8, 0.95]).double())
    torch.testing.assert_close(found, expected.double(), rtol=0.1, atol=0.5)


def test_interval_is_that_of_the_error_or_of_samples():
    result = make_result(covariance=np.diag(np.full(11, 1e-4)))
    low, middle, high = result.interval("pos0")
    assert (high - low).to_value(u.kpc) == pytest.approx(0.02)
    assert middle == result.quantity("pos0")

    class Drawn:
        params = result.draw(4000, seed=2)

    for name in ("pos0", "vel0", "Omega0"):
        expected, found = result.interval(name), result.interval(name, Drawn())
        assert u.allclose(found, expected, atol=0.1 * (expected[2] - expected[0]))


def test_shown_it_says_what_was_found():
    text = repr(make_result())
    assert text.startswith(
        "FitResult: gaussian fit of 11 parameters, converged after 12 iterations"
    )
    assert "Omega0 = 0.09" in text
    assert "held back by bounds: pos0" in text
    shown = make_result()._repr_html_()
    assert "<table" in shown
    assert max(len(number) for number in re.findall(r"<td>(-?[\d.e+-]+)</td>", shown)) < 12
