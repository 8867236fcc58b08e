"""Counts and mean labels against SciPy, NumPy and upstream's stored answers."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from gala.units import galactic
from numpy.testing import assert_allclose, assert_array_equal

from simulated import BINS, EDGES, SCATTER, mock, per_pixel
from torusimaging_torch.data import (
    estimate_Omega,
    get_binned_counts,
    get_binned_label,
    intrinsic_scatter,
)


@pytest.fixture(scope="module")
def stars() -> dict[str, np.ndarray]:
    return mock(0, 20_000)


def test_counts_equal_numpy(stars):
    binned = get_binned_counts(stars["pos"], stars["vel"], EDGES)
    expected = np.histogram2d(stars["pos"], stars["vel"], bins=EDGES)[0].T
    assert_array_equal(binned["counts"], expected)
    assert_array_equal(np.isnan(binned["label"]), expected == 0)
    assert_allclose(binned["label"][expected > 0], np.log(expected[expected > 0]), rtol=1e-15)
    assert (expected == 0).any()


def test_pixel_arrays_run_over_velocity_then_position():
    binned = get_binned_counts([0.5], [30.0], ([0.0, 1.0, 3.0], [0.0, 10.0, 20.0, 40.0]))
    assert_array_equal(binned["pos"].value, [[0.5, 2.0]] * 3)
    assert_array_equal(binned["vel"].value, [[5.0] * 2, [15.0] * 2, [30.0] * 2])
    assert_array_equal(binned["counts"], [[0, 0], [0, 0], [1, 0]])
    assert binned["pos"].unit == u.kpc
    assert binned["vel"].unit == u.kpc / u.Myr


@pytest.mark.parametrize("spacing", ["uniform", "non-uniform"])
def test_stars_on_edges_fall_where_numpy_puts_them(spacing):
    pos_edges, vel_edges = np.linspace(-1.2, 1.2, 25), np.linspace(-0.07, 0.07, 24)
    if spacing == "non-uniform":
        pos_edges, vel_edges = pos_edges**3, np.sort(np.random.default_rng(1).normal(size=24))
    near = [np.concatenate([e, np.nextafter(e, -9), np.nextafter(e, 9)]) for e in (pos_edges,) * 2]
    pos = near[0]
    vel = np.concatenate([vel_edges, np.nextafter(vel_edges, -9), np.nextafter(vel_edges, 9)])
    pos, vel = (a.ravel() for a in np.meshgrid(pos, vel))
    counts = get_binned_counts(pos, vel, (pos_edges, vel_edges))["counts"]
    assert_array_equal(counts, np.histogram2d(pos, vel, bins=(pos_edges, vel_edges))[0].T)


@pytest.mark.parametrize("n_edges", [11, 81])
def test_mean_and_error_equal_a_loop_over_pixels(stars, n_edges):
    edges = np.linspace(-1.2, 1.2, n_edges), np.linspace(-0.07, 0.07, n_edges) ** 3 / 0.07**2
    binned = get_binned_label(
        stars["pos"], stars["vel"], stars["label"], edges, label_err=stars["label_err"], s=SCATTER
    )
    weight = 1 / (stars["label_err"] ** 2 + SCATTER**2)
    total = per_pixel(stars, weight, "sum", edges)
    full = total > 0
    mean = per_pixel(stars, weight * stars["label"], "sum", edges)[full] / total[full]
    assert_array_equal(binned["counts"], per_pixel(stars, None, "count", edges))
    assert_allclose(binned["label"][full], mean, rtol=1e-12)
    assert_allclose(binned["label_err"][full], total[full] ** -0.5, rtol=1e-12)
    assert np.isnan(binned["label"][~full]).all()
    assert np.isnan(binned["label_err"][~full]).all()


def test_without_errors_means_are_plain_and_scatter_is_pooled(stars):
    edges = np.linspace(-1.2, 1.2, 31), np.linspace(-0.07, 0.07, 31)
    binned = get_binned_label(stars["pos"], stars["vel"], stars["label"], edges)
    counts = per_pixel(stars, None, "count", edges)
    full, two = counts > 0, counts > 1
    variance = per_pixel(stars, stars["label"], lambda x: np.var(x) * len(x), edges)
    s = np.sqrt(np.nansum(variance[two]) / (counts[two] - 1).sum())
    assert_allclose(
        binned["label"][full], per_pixel(stars, stars["label"], "mean", edges)[full], rtol=1e-11
    )
    assert_allclose(binned["label_err"][full], s / np.sqrt(counts[full]), rtol=1e-11)
    assert_allclose(intrinsic_scatter(stars["pos"], stars["vel"], stars["label"], edges), s)


def test_errors_may_be_one_number(stars):
    args = stars["pos"], stars["vel"], stars["label"], EDGES
    one = get_binned_label(*args, label_err=0.05)
    many = get_binned_label(*args, label_err=np.full(len(stars["pos"]), 0.05))
    assert_array_equal(one["label_err"], many["label_err"])


def upstream_means(stars, counts, s, edges=EDGES):
    """Weigh stars by 1/label_err^2 alone and add s^2/n to the error, as upstream does."""
    weight = stars["label_err"] ** -2
    total = per_pixel(stars, weight, "sum", edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = per_pixel(stars, weight * stars["label"], "sum", edges) / total
        return mean, np.sqrt(1 / total + s**2 / counts)


@pytest.mark.parametrize(("err_spread", "upstream_variance"), [(0.3, 1.16), (0.8, 1.8)])
def test_pulls_have_unit_variance(err_spread, upstream_variance):
    ours, theirs = [], []
    for seed in range(4):
        stars = mock(seed, err_spread=err_spread)
        binned = get_binned_label(
            stars["pos"], stars["vel"], stars["label"], EDGES, label_err=stars["label_err"]
        )
        full = binned["counts"] > 0
        truth = per_pixel(stars, stars["truth"], "mean")
        mean, error = upstream_means(stars, binned["counts"], SCATTER)
        ours.append(((binned["label"] - truth) / binned["label_err"])[full])
        theirs.append(((mean - truth) / error)[full])
    # About 24,000 pulls: their variance is known to 0.01.
    assert np.var(np.concatenate(ours)) == pytest.approx(1.0, abs=0.03)
    assert np.var(np.concatenate(theirs)) > upstream_variance - 0.04


def test_pulls_of_upstream_on_the_disk_mock(disk_mock):
    stars, stored = disk_mock
    truth = per_pixel(stars, stars["truth"], "mean")
    full = stored["counts"] > 0
    binned = get_binned_label(
        stars["pos"], stars["vel"], stars["label"], EDGES, label_err=stars["label_err"]
    )
    pull = ((binned["label"] - truth) / binned["label_err"])[full]
    upstream = ((stored["label"] - truth) / stored["label_err"])[full]
    assert_array_equal(binned["counts"], stored["counts"])
    assert np.var(upstream) == pytest.approx(1.16, abs=0.005)
    assert np.var(pull) == pytest.approx(1.02, abs=0.005)


def test_estimate_omega_on_a_harmonic_oscillator():
    stars = mock(0)
    place = stars["pos"] * u.kpc, stars["vel"] * u.kpc / u.Myr
    counts = get_binned_counts(*place, BINS)
    label = get_binned_label(*place, stars["label"] * u.dex, BINS)
    assert np.isnan(label["label"]).any()
    for binned in (counts, label):
        omega = estimate_Omega(binned)
        assert omega.unit == u.rad / u.Myr
        assert_allclose(omega.value, 0.08, rtol=0.15)
    kms = {**label, "vel": label["vel"].to(u.km / u.s)}
    assert_allclose(estimate_Omega(kms).value, omega.value)
    bare = {name: getattr(values, "value", values) for name, values in label.items()}
    assert_allclose(estimate_Omega(bare).value, omega.value)


def test_estimate_omega_without_a_centre_says_so():
    empty = {"pos": np.ones((9, 9)), "vel": np.ones((9, 9)), "label": np.full((9, 9), np.nan)}
    with pytest.raises(ValueError, match="no pixel near pos = 0, vel = 0 has a label"):
        estimate_Omega(empty)


def test_estimate_omega_of_upstream_binned_data(disk_mock):
    # What upstream 0.1 returns for this file.
    omega = estimate_Omega(disk_mock[1], units=galactic)
    assert_allclose(omega.to_value(u.rad / u.Myr), 0.059658209627665576, rtol=1e-12)


@pytest.fixture(scope="module")
def stored():
    path = Path(__file__).parents[1] / "reference" / "upstream_binned.npz"
    return dict(np.load(path))


def stored_args(stored):
    return stored["pos"], stored["vel"], (stored["pos_edges"], stored["vel_edges"])


def test_counts_equal_upstream(stored):
    binned = get_binned_counts(*stored_args(stored))
    for key in ("pos", "vel", "counts"):
        assert_allclose(getattr(binned[key], "value", binned[key]), stored[f"counts/{key}"])
    # Where upstream has the logarithm of zero, ours is masked.
    theirs = stored["counts/label"]
    assert_allclose(binned["label"], np.where(np.isfinite(theirs), theirs, np.nan), rtol=1e-14)


def test_labels_without_errors_equal_upstream(stored):
    pos, vel, bins = stored_args(stored)
    binned = get_binned_label(pos, vel, stored["label"], bins, s=0.06)
    for key in ("counts", "label", "label_err"):
        assert_allclose(binned[key], stored[f"scatter/{key}"], rtol=1e-12)
    assert_allclose(estimate_Omega(binned).value, stored["scatter/Omega"], rtol=1e-12)


def test_scatter_without_errors_is_near_upstream(stored):
    pos, vel, bins = stored_args(stored)
    s = intrinsic_scatter(pos, vel, stored["label"], bins, s_N_thresh=32)
    error = stored["estimated/label_err"] * np.sqrt(stored["estimated/counts"])
    # Upstream averages the plain standard deviations of the pixels, too low by sqrt(1 - 1/n).
    assert_allclose(s, np.nanmedian(error), rtol=0.03)


def test_labels_with_errors_differ_from_upstream_by_the_weights_alone(stored):
    pos, vel, bins = stored_args(stored)
    args = stored["label"], bins
    counts = stored["errors/counts"]
    binned = get_binned_label(pos, vel, *args, label_err=stored["label_err"], s=0.05)
    mean, error = upstream_means(stored, counts, 0.05, bins)
    assert_array_equal(binned["counts"], counts)
    full = counts > 0
    assert_allclose(mean[full], stored["errors/label"][full], rtol=1e-10)
    assert_allclose(error[full], stored["errors/label_err"][full], rtol=1e-10)
    one = counts == 1
    assert_allclose(binned["label"][one], mean[one], rtol=1e-10)
    assert_allclose(binned["label_err"][one], error[one], rtol=1e-10)
    assert np.abs(binned["label"] - mean)[counts > 1].max() > 0.01


@pytest.fixture(scope="module")
def disk_mock(shared_data):
    """Return the stars of the disk mock in model units, and the same binned by upstream."""
    table = QTable.read(shared_data / "disk_mock_stars.fits")
    stars = {
        "pos": table["z"].to_value(u.kpc).astype(float),
        "vel": table["v_z"].to_value(u.kpc / u.Myr).astype(float),
        "label": np.asarray(table["label"], dtype=float),
        "label_err": np.asarray(table["label_err"], dtype=float),
        "truth": 0.02 + 0.9 * np.sqrt(table["J"].to_value(u.kpc**2 / u.Myr)),
    }
    return stars, dict(np.load(shared_data / "disk_mock_upstream_binned.npz"))


def test_weights_of_stars_multiply_those_of_their_errors(stars):
    args = stars["pos"], stars["vel"], stars["label"], EDGES
    given = np.random.default_rng(1).uniform(0, 2, len(stars["pos"]))
    binned = get_binned_label(*args, label_err=stars["label_err"], s=SCATTER, weights=given)
    weight = given / (stars["label_err"] ** 2 + SCATTER**2)
    total = per_pixel(stars, weight, "sum")
    full = total > 0
    mean = per_pixel(stars, weight * stars["label"], "sum")[full] / total[full]
    assert_allclose(binned["label"][full], mean, rtol=1e-12)
    assert_allclose(binned["label_err"][full], total[full] ** -0.5, rtol=1e-12)
    assert_array_equal(binned["counts"], per_pixel(stars, None, "count"))


def test_a_star_without_weight_is_as_if_it_were_not_there(stars):
    args = stars["pos"], stars["vel"], stars["label"], EDGES
    keep = stars["pos"] > 0.1
    without = get_binned_label(*(x[keep] for x in args[:3]), EDGES, s=SCATTER)
    binned = get_binned_label(*args, s=SCATTER, weights=keep.astype(float))
    assert_allclose(binned["label"], without["label"], rtol=1e-12)
    assert_allclose(binned["label_err"], without["label_err"], rtol=1e-12)


def test_weights_that_make_no_sense(stars):
    args, n = (stars["pos"], stars["vel"], stars["label"], EDGES), len(stars["pos"])
    with pytest.raises(ValueError, match="need the scatter"):
        get_binned_label(*args, weights=np.ones(n))
    with pytest.raises(ValueError, match="weights must have one value per star"):
        get_binned_label(*args, weights=np.ones(3), s=SCATTER)
    bad = np.where(np.arange(n) < 7, -1.0, 1.0)
    with pytest.warns(UserWarning, match="7 with weights not finite or negative"):
        get_binned_label(*args, weights=bad, s=SCATTER)
