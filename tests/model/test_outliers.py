"""Fits of stars of which some have wrong labels, against those of the others alone."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way, milky_way_disk

N, SHARE, SIZE = 60_000, 0.05, 0.5
BINS = {"pos": np.linspace(-1.5, 1.5, 41) * u.kpc, "vel": np.linspace(-90, 90, 41) * u.km / u.s}
TORUS = {
    "label_knots": 5,
    "e_knots": {2: 5},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}
POTENTIAL = {"n_components": 5}
kinds = pytest.mark.parametrize(
    ("cls", "settings"), [(TorusImaging1DSpline, TORUS), (TorusImaging1DPotential, POTENTIAL)]
)


@pytest.fixture(scope="module")
def sample():
    """Stars in dex, of which some are off, and which they are."""
    table, rng = milky_way_disk(N, R=8.3 * u.kpc, seed=5), np.random.default_rng(5)
    bad = rng.uniform(size=N) < SHARE
    label = np.asarray(table["label"]) + bad * rng.normal(0, SIZE, N)
    stars = {
        "pos": table["z"],
        "vel": table["v_z"],
        "label": label * u.dex,
        "label_err": np.asarray(table["label_err"]) * u.dex,
    }
    return stars, bad


def acceleration(model, params):
    return model.get_acceleration([0.3, 0.5, 0.8] * u.kpc + params["pos0"].item() * u.kpc, params)


def pulls(model, found, bounds, objective):
    """Return how many of its errors the force is off, at three heights."""
    bound = model.get_crlb(found.params, found.binned, objective, bounds=bounds)
    result = FitResult(model, found.params, bounds, found.state, objective, covariance=bound)
    heights = [0.3, 0.5, 0.8] * u.kpc
    table = result.profiles(heights + found.params["pos0"].item() * u.kpc)
    off = table["acceleration"] - milky_way(8.3 * u.kpc).acceleration(heights)
    return (off / table["acceleration_err"]).to_value("")


@kinds
def test_outliers_do_not_move_a_fit(sample, cls, settings):
    stars, bad = sample
    good = get_binned_label(**{name: x[~bad] for name, x in stars.items()}, bins=BINS)
    model, bounds, start = cls.auto_init(get_binned_label(**stars, bins=BINS), **settings)
    clean, _ = model.optimize(start, "gaussian", bounds, **good)
    found = model.fit_outliers(start, stars, BINS, bounds)
    assert found.state.success
    assert found.eps == pytest.approx(bad.mean(), rel=0.05)
    assert_allclose(found.s_out.to_value(u.dex), SIZE, rtol=0.05)
    assert_allclose(found.s.to_value(u.dex), 0.04, rtol=0.05)
    sigma = model.get_crlb_uncertainties(clean, good, bounds=bounds)["pos0"].item()
    assert abs(found.params["pos0"].item() - clean["pos0"].item()) < 0.7 * sigma
    a = acceleration(model, clean)
    assert_allclose(acceleration(model, found.params).value, a.value, rtol=0.03)
    on_grid = np.isfinite(found.probability)
    assert on_grid.mean() > 0.9
    assert (1 - found.probability[on_grid]).sum() == pytest.approx(bad[on_grid].sum(), rel=0.05)
    # The pixels are those of the last fit: their chi^2 is one per pixel, and errors follow.
    expected = model.get_label(found.binned["pos"], found.binned["vel"], found.params).numpy()
    residual = (found.binned["label"].value - expected) / found.binned["label_err"].value
    chi2 = np.nanmean(residual**2)
    assert chi2 == pytest.approx(1.0, abs=0.15)
    assert np.nansum(found.binned["counts"]) == on_grid.sum()


@pytest.mark.slow
def test_several_labels_have_their_own_and_counts_have_none(sample):
    stars, _ = sample
    table, rng = milky_way_disk(N, R=8.3 * u.kpc, seed=5), np.random.default_rng(6)
    wrong = rng.uniform(size=N) < 0.1
    named = {
        "pos": stars["pos"],
        "vel": stars["vel"],
        "label": {"a": stars["label"], "b": -3 * table["label"] + wrong * rng.normal(0, 3, N)},
        "label_err": {"a": stars["label_err"], "b": 3 * table["label_err"]},
    }
    counts = {"counts": get_binned_counts(stars["pos"], stars["vel"], BINS)}
    data = {**get_binned_label(**named, bins=BINS), **counts}
    model, bounds, start = TorusImaging1DPotential.auto_init(data, **POTENTIAL)
    found = model.fit_outliers(start, named, BINS, bounds, beside=counts, rounds=3)
    assert found.eps == pytest.approx({"a": 0.05, "b": 0.1}, rel=0.08)
    assert found.s_out["b"] == pytest.approx(3, rel=0.08)
    assert found.s_out["a"].unit == u.dex
    assert found.binned["counts"] is counts["counts"]
    objective = {"a": "gaussian", "b": "gaussian", "counts": "poisson"}
    # b is a copy of a, and known to be one: it adds little.
    assert np.all(np.abs(pulls(model, found, bounds, objective)) < 3)
    label, other = (found.binned[name] for name in "ab")
    correlation = label["label_covariance"]["b"] / label["label_err"] / other["label_err"]
    assert np.nanmedian(correlation.to_value("")) < -0.8


def test_what_makes_no_sense_is_refused(sample):
    stars, _ = sample
    binned = get_binned_label(**stars, bins=BINS)
    model, bounds, start = TorusImaging1DPotential.auto_init(binned, **POTENTIAL)
    with pytest.raises(ValueError, match="rounds"):
        model.fit_outliers(start, stars, BINS, bounds, rounds=0)
    with pytest.raises(ValueError, match="need names"):
        model.fit_outliers(start, stars, BINS, bounds, beside={"counts": {}})
    far = {**stars, "pos": stars["pos"] + 9 * u.kpc}
    with pytest.raises(ValueError, match="no star with a usable label"):
        model.fit_outliers(start, far, BINS, bounds)


def test_lists_and_tensors_are_stars_as_well(sample):
    stars, _ = sample
    few = {name: x[:3000] for name, x in stars.items()}
    few["label"], few["label_err"] = (few[name].value for name in ("label", "label_err"))
    model, bounds, start = TorusImaging1DPotential.auto_init(
        get_binned_label(**few, bins=BINS), n_components=3
    )
    found = model.fit_outliers(start, few, BINS, bounds, rounds=1)
    bare = {"pos": few["pos"].to_value(u.kpc), "vel": few["vel"].to_value(u.kpc / u.Myr)}
    edges = {"pos": BINS["pos"].to_value(u.kpc), "vel": BINS["vel"].to_value(u.kpc / u.Myr)}
    for kind in (list, torch.tensor):
        plain = {**few, **{name: kind(x) for name, x in bare.items()}}
        again = model.fit_outliers(start, plain, edges, bounds, rounds=1)
        assert_allclose(again.probability, found.probability, rtol=1e-6)
