"""Errors of potentials: the bound, samples and draws say the same of the force."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from numpy.testing import assert_allclose

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.analysis.errors import checked_bound, sampled_errors
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.results import FitResult, derived_quantities
from torusimaging_torch.simulate import milky_way_disk

BINS = {"pos": np.linspace(-1.5, 1.5, 31) * u.kpc, "vel": np.linspace(-70, 70, 31) * u.km / u.s}
HEIGHTS = np.array([0.3, 0.5, 0.9]) * u.kpc


@pytest.fixture(scope="module")
def fitted():
    stars = milky_way_disk(20_000, seed=3)
    where = stars["z"], stars["v_z"], stars["label"]
    binned = get_binned_label(*where, BINS, label_err=stars["label_err"])
    model, bounds, start = TorusImaging1DPotential.auto_init(binned)
    params, state = model.optimize(start, "gaussian", bounds, data=binned)
    return (model, params, bounds, "gaussian", binned), state


def result_of(fitted, covariance) -> FitResult:
    (model, params, bounds, objective, _), state = fitted
    return FitResult(model, params, bounds, state, objective, {}, covariance)


def test_the_bound_of_a_potential_holds_for_its_force(fitted):
    arguments, _ = fitted
    bound, found = checked_bound(*arguments)
    assert found["good"]
    assert found["khat"] < 1.2
    result = result_of(fitted, bound)
    table, draws = result.profiles(HEIGHTS), result.draw(400)
    accelerations = np.array(
        [
            result.model.get_acceleration(HEIGHTS, {k: _at(x, i) for k, x in draws.items()}).value
            for i in range(400)
        ]
    )
    low, middle, high = np.percentile(accelerations, [16, 50, 84], axis=0)
    error = table["acceleration_err"].to_value(u.kpc / u.Myr**2)
    assert_allclose((high - low) / 2, error, rtol=0.45)  # it was four times as large as slopes
    shift = (middle - table["acceleration"].to_value(u.kpc / u.Myr**2)) / error
    assert (np.abs(shift) < 0.5).all()


def _at(leaf, i):
    return {k: _at(x, i) for k, x in leaf.items()} if isinstance(leaf, dict) else leaf[i]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the sampler has not converged:RuntimeWarning")
def test_samples_of_a_potential_say_what_the_bound_says(fitted):
    arguments, _ = fitted
    bound, _ = checked_bound(*arguments)
    covariance, samples = sampled_errors(*arguments, 600, lambda text: None, progress=False)
    sampled, linear = result_of(fitted, covariance), result_of(fitted, bound)
    by_samples = sampled.profiles(HEIGHTS, samples)
    for name in ("acceleration_err", "surface_density_err", "density_err"):
        kept = sampled.profiles(HEIGHTS)[name]
        assert_allclose(kept / by_samples[name], 1, rtol=0, atol=0.35)
        assert_allclose(kept / linear.profiles(HEIGHTS)[name], 1, rtol=0, atol=0.4)
    assert_allclose(sampled.measured("Omega0")[1] / linear.measured("Omega0")[1], 1, rtol=0.4)
    table = derived_quantities(sampled, samples=samples)
    expected = derived_quantities(linear)
    assert_allclose(table["error"] / expected["error"], 1, rtol=0, atol=0.4)
    assert (np.abs(table["value"] - expected["value"]) < 0.6 * expected["error"]).all()
