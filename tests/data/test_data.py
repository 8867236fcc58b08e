"""Binning against SciPy, NumPy, explicit likelihoods and upstream's stored answers."""

from __future__ import annotations

import time
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Column, MaskedColumn, QTable
from gala.units import UnitSystem, galactic
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import null_space
from scipy.optimize import minimize_scalar
from scipy.stats import binned_statistic_2d, multivariate_normal

from torusimaging_torch.data import (
    estimate_Omega,
    get_binned_counts,
    get_binned_label,
    intrinsic_scatter,
)
from torusimaging_torch.data.pixels import PixelStars, pixel_sums

KMS = (u.km / u.s).to(u.kpc / u.Myr)
SCATTER = 0.04
BINS = {"pos": np.linspace(-1.2, 1.2, 81) * u.kpc, "vel": np.linspace(-70, 70, 81) * u.km / u.s}
EDGES = BINS["pos"].value, BINS["vel"].value * KMS


def mock(seed: int, n: int = 200_000, err_spread: float = 0.3) -> dict[str, np.ndarray]:
    """Stars in a harmonic oscillator, in model units; the label grows with the root of the action.

    Label errors are log-normal with median 0.05, as spread as those of a survey.
    """
    rng = np.random.default_rng(seed)
    omega = 0.08
    pos = rng.normal(0.0, 0.4, n)
    vel = rng.normal(0.0, 0.4 * omega, n)
    truth = 0.02 + 0.9 * np.sqrt(0.5 * (omega * pos**2 + vel**2 / omega))
    label_err = rng.lognormal(np.log(0.05), err_spread, n)
    label = truth + rng.normal(0.0, SCATTER, n) + rng.normal(0.0, label_err)
    return {"pos": pos, "vel": vel, "truth": truth, "label": label, "label_err": label_err}


@pytest.fixture(scope="module")
def stars() -> dict[str, np.ndarray]:
    return mock(0, 20_000)


def per_pixel(stars, values, statistic, edges=EDGES):
    """SciPy's statistic with shape (n_vel, n_pos)."""
    return binned_statistic_2d(stars["pos"], stars["vel"], values, statistic, bins=edges)[0].T


# --- counts ---------------------------------------------------------------------------------


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


# --- means ----------------------------------------------------------------------------------


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


def test_pixel_sums_add_up_over_blocks_and_parts():
    rng = np.random.default_rng(5)
    pixel, weight = rng.integers(0, 40, 300_000), rng.normal(size=300_000)
    (whole,) = pixel_sums(pixel, 40, lambda block: (weight[block],))
    halves = [
        pixel_sums(pixel[part], 40, lambda block, part=part: (weight[part][block],))[0]
        for part in (slice(0, 100_001), slice(100_001, None))
    ]
    assert_allclose(whole, [weight[pixel == k].sum() for k in range(40)], rtol=0, atol=1e-10)
    assert_allclose(whole, sum(halves), rtol=0, atol=1e-10)


# --- pulls ----------------------------------------------------------------------------------


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


# --- intrinsic scatter ------------------------------------------------------------------------


def restricted_likelihood_scatter(stars: PixelStars, min_stars: int = 2) -> float:
    """Maximize the likelihood of the contrasts within pixels, which do not depend on the means."""
    groups = []
    for pixel in np.unique(stars.pixel):
        mine = stars.pixel == pixel
        if mine.sum() >= min_stars:
            contrasts = null_space(np.ones((1, mine.sum())))
            groups.append((contrasts, contrasts.T @ stars.label[mine], stars.variance[mine]))

    def cost(s: float) -> float:
        return -sum(
            multivariate_normal.logpdf(y, cov=c.T @ np.diag(variance + s**2) @ c)
            for c, y, variance in groups
        )

    return float(minimize_scalar(cost, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("err_spread", [0.0, 0.5, 1.5])
def test_scatter_maximizes_the_explicit_restricted_likelihood(seed, err_spread):
    rng = np.random.default_rng(seed)
    pixel = np.repeat(np.arange(24), rng.integers(1, 9, 24))
    error = rng.lognormal(np.log(0.05), err_spread, len(pixel))
    label = rng.normal(size=24)[pixel] + rng.normal(0, np.hypot(error, 0.1))
    stars = PixelStars(pixel, label, error**2, 30)
    assert_allclose(stars.scatter(), restricted_likelihood_scatter(stars), rtol=2e-6)
    assert_allclose(stars.scatter(5), restricted_likelihood_scatter(stars, 5), rtol=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_scatter_of_few_stars_with_wild_errors_is_the_likelihood_maximum(seed):
    rng = np.random.default_rng(100 + seed)
    error = rng.lognormal(np.log(0.1), 2.0, 8)
    pixel = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    stars = PixelStars(pixel, rng.normal(0, np.hypot(error, 0.05)), error**2, 2)
    s, step = stars.scatter(), 1e-4
    use = np.ones(2, dtype=bool)
    slope_above = stars._slopes((s * (1 + step) + 1e-9) ** 2, use)[0]
    assert slope_above < 0
    if s > 0:
        assert stars._slopes((s * (1 - step)) ** 2, use)[0] > 0


def test_slopes_are_the_derivatives_of_the_explicit_likelihood():
    rng = np.random.default_rng(3)
    error = rng.lognormal(-3, 0.6, 6)
    stars = PixelStars(np.zeros(6, dtype=int), rng.normal(0, 0.1, 6), error**2, 1)
    contrasts = null_space(np.ones((1, 6)))

    def ln_likelihood(v: float) -> float:
        cov = contrasts.T @ np.diag(stars.variance + v) @ contrasts
        return float(multivariate_normal.logpdf(contrasts.T @ stars.label, cov=cov))

    v, h = 0.01, 1e-5
    score, observed, expected = stars._slopes(v, np.array([True]))
    low, middle, high = (ln_likelihood(v + k * h) for k in (-1, 0, 1))
    assert_allclose(score, (high - low) / (2 * h), rtol=1e-5)
    assert_allclose(observed, -(high - 2 * middle + low) / h**2, rtol=1e-3)
    # The expected information of a normal with covariance C is tr((C^-1 dC/dv)^2)/2, dC/dv = 1.
    precision = np.linalg.inv(contrasts.T @ np.diag(stars.variance + v) @ contrasts)
    assert_allclose(expected, 0.5 * np.trace(precision @ precision), rtol=1e-12)


def test_many_pixels_of_two_stars_do_not_bias_the_scatter():
    rng = np.random.default_rng(11)
    pixel = np.repeat(np.arange(20_000), 2)
    error = rng.lognormal(np.log(0.05), 0.3, 40_000)
    label = rng.normal(size=20_000)[pixel] + rng.normal(0, np.hypot(error, SCATTER))
    # 20,000 differences tell s to 1.3 %; best-fitting means would give s^2 far below zero.
    s = PixelStars(pixel, label, error**2, 20_000).scatter()
    assert_allclose(s, SCATTER, rtol=0.05)


def test_scatter_of_stars_that_scatter_less_than_their_errors_is_zero(stars):
    label = stars["truth"]
    args = stars["pos"], stars["vel"], label, EDGES
    assert intrinsic_scatter(*args, label_err=0.5) == 0.0
    binned = get_binned_label(*args, label_err=0.5)
    full = binned["counts"] > 0
    assert_allclose(binned["label_err"][full], 0.5 / np.sqrt(binned["counts"][full]))


def test_threshold_selects_the_pixels_that_tell_the_scatter(stars):
    edges = np.linspace(-1.2, 1.2, 21), np.linspace(-0.07, 0.07, 21)
    args = stars["pos"], stars["vel"], stars["label"], edges, stars["label_err"]
    counts = get_binned_counts(stars["pos"], stars["vel"], edges)["counts"]
    threshold = int(np.sort(counts.ravel())[-3])
    column = np.digitize(stars["pos"], edges[0]) - 1
    row = np.digitize(stars["vel"], edges[1]) - 1
    on_grid = (column >= 0) & (column < 20) & (row >= 0) & (row < 20)
    in_full = np.zeros(len(on_grid), dtype=bool)
    in_full[on_grid] = (counts > threshold)[row[on_grid], column[on_grid]]
    assert (counts > threshold).sum() == 2
    few = [stars[k][in_full] for k in ("pos", "vel", "label")]
    expected = intrinsic_scatter(*few, edges, stars["label_err"][in_full])
    assert_allclose(intrinsic_scatter(*args, s_N_thresh=threshold), expected, rtol=1e-6)
    assert intrinsic_scatter(*args) != pytest.approx(expected, rel=1e-4)


def test_scatter_without_enough_stars_says_what_to_do():
    bins = [0.0, 1.0], [0.0, 1.0]
    with pytest.raises(ValueError, match=r"at least 2 stars, got at most 1.*pass the scatter as s"):
        get_binned_label([0.5], [0.5], [1.0], bins)
    with pytest.raises(ValueError, match=r"at least 129 stars, got at most 2.*lower s_N_thresh"):
        get_binned_label([0.5] * 2, [0.5] * 2, [1.0, 2.0], bins, s_N_thresh=128)
    with pytest.raises(ValueError, match="got at most 0"):
        get_binned_label([5.0], [0.5], [1.0], bins)
    with pytest.raises(ValueError, match="no errors and its intrinsic scatter is 0"):
        get_binned_label([0.5] * 3, [0.5] * 3, [0.1] * 3, bins)


# --- units and columns --------------------------------------------------------------------------


def test_units_do_not_matter(stars):
    bare = get_binned_label(
        stars["pos"], stars["vel"], stars["label"], EDGES, label_err=stars["label_err"]
    )
    pos, vel = (stars["pos"] * u.kpc).to(u.pc), (stars["vel"] / KMS) * u.km / u.s
    bins = {"pos": BINS["pos"].to(u.pc), "vel": BINS["vel"]}
    dex = get_binned_label(
        pos, vel, stars["label"] * u.dex, bins, label_err=stars["label_err"] * u.dex
    )
    scaled = UnitSystem(u.pc, u.Gyr, u.Msun, u.rad)
    other = get_binned_label(pos, vel, stars["label"], bins, label_err=0.05, units=scaled)
    # A star within rounding of an edge may change pixels.
    assert np.abs(dex["counts"] - bare["counts"]).sum() <= 4
    same = dex["counts"] == bare["counts"]
    assert_allclose(dex["label"].value[same], bare["label"][same], rtol=1e-6)
    assert dex["label"].unit == dex["label_err"].unit == u.dex
    assert isinstance(bare["label"], np.ndarray)
    assert not isinstance(bare["label"], u.Quantity)
    assert other["pos"].unit == u.pc
    assert other["vel"].unit == u.pc / u.Gyr
    assert_allclose(other["vel"].to_value(u.kpc / u.Myr), bare["vel"].value)


def test_error_and_scatter_follow_the_label_unit():
    rng = np.random.default_rng(0)
    pos, vel, age = rng.random(100), rng.random(100), rng.normal(5, 1, 100)
    bins = [0.0, 0.5, 1.0], [0.0, 1.0]
    bare = get_binned_label(pos, vel, age, bins, label_err=0.3, s=1.0)
    gyr = get_binned_label(pos, vel, age * u.Gyr, bins, label_err=300 * u.Myr, s=1000 * u.Myr)
    assert_allclose(gyr["label_err"].to_value(u.Gyr), bare["label_err"])
    s = intrinsic_scatter(pos, vel, age * u.Gyr, bins, label_err=300 * u.Myr)
    assert_allclose(s.to_value(u.Gyr), intrinsic_scatter(pos, vel, age, bins, label_err=0.3))
    with pytest.raises(u.UnitConversionError, match="label_err"):
        get_binned_label(pos, vel, age * u.Gyr, bins, label_err=0.3 * u.kpc)
    with pytest.raises(u.UnitConversionError, match="s must have the unit of label"):
        get_binned_label(pos, vel, age * u.Gyr, bins, s=0.3 * u.kpc)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"pos": [0.1] * u.km / u.s}, "pos"),
        ({"vel": [0.1] * u.kpc}, "vel"),
        ({"bins": ([0, 1] * u.Myr, [0, 1] * u.km / u.s)}, r"bins\['pos'\]"),
        ({"bins": {"pos": [0, 1] * u.kpc, "vel": [0, 1] * u.kpc}}, r"bins\['vel'\]"),
    ],
)
def test_wrong_dimension_names_the_argument(change, name):
    args = {"pos": [0.1], "vel": [0.1], "bins": ([0, 1], [0, 1])} | change
    with pytest.raises(u.UnitConversionError, match=f"^{name} must be"):
        get_binned_counts(**args)
    with pytest.raises(u.UnitConversionError, match=f"^{name} must be"):
        get_binned_label(label=[1.0], s=1.0, **args)


def test_table_columns_keep_their_units_and_masks(stars):
    mask = np.arange(len(stars["pos"])) % 7 == 0
    kept = {name: values[~mask] for name, values in stars.items()}
    expected = get_binned_label(
        kept["pos"] * u.kpc, kept["vel"] / KMS * u.km / u.s, kept["label"], BINS, s=0.1
    )
    columns = (
        Column(stars["pos"], unit="kpc"),
        Column(stars["vel"] / KMS, unit="km/s"),
        MaskedColumn(np.where(mask, 99.0, stars["label"]), mask=mask, unit="dex"),
    )
    with pytest.warns(UserWarning, match="with label not finite"):
        binned = get_binned_label(*columns, BINS, s=0.1)
    assert binned["label"].unit == u.dex
    assert_allclose(binned["label"].value, expected["label"])
    masked_pos = MaskedColumn(stars["pos"], mask=mask, unit="kpc")
    with pytest.warns(UserWarning, match=f"{mask.sum()} with pos or vel not finite"):
        counts = get_binned_counts(masked_pos, columns[1], BINS)["counts"]
    assert_array_equal(counts, expected["counts"])


# --- stars that cannot be used, several labels ------------------------------------------------


def test_stars_left_out_are_told_once_and_counted():
    nan, inf = np.nan, np.inf
    pos = np.array([0.5, 0.5, nan, 0.5, 0.5, 0.5, 0.5, 9.0, inf])
    label = np.array([1.0, 3.0, 7.0, nan, 7.0, 7.0, 7.0, nan, 7.0])
    error = np.array([0.1, 0.1, 0.1, 0.1, 0.0, nan, -1.0, 0.1, 0.1])
    message = (
        "stars left out: 2 with pos or vel not finite; 1 with label not finite; "
        "3 with label_err not finite or not positive"
    )
    with pytest.warns(UserWarning, match=f"^{message}$") as caught:
        binned = get_binned_label(
            pos, np.full(9, 0.5), label, ([0, 1], [0, 1]), label_err=error, s=0.0
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert binned["counts"] == 2
    assert_allclose(binned["label"], 2.0)
    assert_allclose(binned["label_err"], 0.1 / np.sqrt(2))


def test_several_labels_equal_one_by_one(stars):
    age = 10 * stars["label"] * u.Gyr
    age[3] = np.nan * u.Gyr
    args = stars["pos"], stars["vel"]
    labels = {"FE_H": stars["label"], "age": age}
    errors = {"FE_H": stars["label_err"], "age": None}
    with pytest.warns(UserWarning, match=r"left out: 1 with label\['age'\] not finite$"):
        both = get_binned_label(*args, labels, BINS, label_err=errors)
    with pytest.warns(UserWarning, match="left out: 1 with label not finite$"):
        alone = get_binned_label(*args, age, BINS)
    fe_h = get_binned_label(*args, stars["label"], BINS, label_err=stars["label_err"])
    assert list(both) == ["FE_H", "age"]
    for one, name in ((fe_h, "FE_H"), (alone, "age")):
        assert set(one) == {"pos", "vel", "counts", "label", "label_err"} == set(both[name])
        for key in one:
            assert_array_equal(both[name][key], one[key])
    assert both["FE_H"]["pos"] is both["age"]["pos"]
    assert both["age"]["counts"].sum() == both["FE_H"]["counts"].sum() - 1
    with pytest.raises(ValueError, match=r"label_err must be None or a dictionary.*got ndarray"):
        get_binned_label(*args, labels, BINS, label_err=stars["label_err"])
    with pytest.raises(ValueError, match=r"s must be None or a dictionary.*got \['age'\]"):
        get_binned_label(*args, labels, BINS, s={"age": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": [0.1, 0.2]}, "pos and vel must be one-dimensional with one value per star"),
        ({"pos": [], "vel": []}, "one value per star, got shapes"),
        ({"pos": 0.1, "vel": 0.1}, "one value per star, got shapes"),
        ({"bins": 10}, "bins must be a dictionary .* got 10"),
        ({"bins": {"pos": [0, 1]}}, "bins must be a dictionary"),
        ({"bins": (10, 10)}, "at least two pixel edges"),
        ({"bins": ([0], [0, 1])}, r"bins\['pos'\] must hold at least two pixel edges"),
        ({"bins": ([0, 1], [0, 1, 1])}, r"bins\['vel'\] must be finite and strictly increasing"),
        ({"bins": ([1, 0], [0, 1])}, r"bins\['pos'\] must be finite and strictly increasing"),
        ({"bins": ([0, np.nan], [0, 1])}, r"bins\['pos'\] must be finite"),
        ({"label": [1.0, 2.0]}, "label must have one value per star"),
        ({"label_err": [1.0, 2.0]}, "label_err must be one number or one per star"),
        ({"label_err": 0.0}, "label_err is 0 for all stars; pass None"),
        ({"s": -1.0}, "s must be one number, finite and not negative"),
        ({"s": [1.0, 2.0]}, "s must be one number"),
    ],
)
def test_bad_input_is_named(change, message):
    args = {"pos": [0.1], "vel": [0.1], "label": [1.0], "bins": ([0, 1], [0, 1]), "s": 1.0}
    with pytest.raises(ValueError, match=message):
        get_binned_label(**args | change)


def test_other_moments_do_not_exist():
    with pytest.raises(NotImplementedError, match=r"'mean'.*'median'"):
        get_binned_label([0.1], [0.1], [1.0], ([0, 1], [0, 1]), "median")


# --- Omega ----------------------------------------------------------------------------------


def test_estimate_omega_on_a_harmonic_oscillator():
    stars = mock(0)
    counts = get_binned_counts(stars["pos"], stars["vel"], BINS)
    label = get_binned_label(stars["pos"], stars["vel"], stars["label"] * u.dex, BINS)
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


# --- upstream's stored answers, time ------------------------------------------------------------


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


def test_two_hundred_thousand_stars_take_a_fraction_of_a_second():
    stars = mock(0)
    times = []
    for _ in range(5):
        start = time.process_time()
        get_binned_label(
            stars["pos"], stars["vel"], stars["label"], EDGES, label_err=stars["label_err"]
        )
        times.append(time.process_time() - start)
    assert min(times) < 0.2
