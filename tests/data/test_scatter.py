"""The intrinsic scatter against explicit likelihoods."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import null_space
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

from simulated import EDGES, SCATTER, mock
from torusimaging_torch.data import (
    get_binned_counts,
    get_binned_label,
    intrinsic_scatter,
)
from torusimaging_torch.data.reader import Part
from torusimaging_torch.data.scatter import slopes, weighted_moments
from torusimaging_torch.data.sums import pixel_sums


@pytest.fixture(scope="module")
def stars() -> dict[str, np.ndarray]:
    return mock(0, 20_000)


def in_pixels(pixel, label, variance) -> Part:
    return Part(0, np.arange(len(pixel)), pixel, label, variance)


def scatter(stars: Part, n_pixels: int, min_stars: int = 2) -> float:
    """Return our scatter of stars in a row of pixels."""
    bins = np.arange(n_pixels + 1.0), [0.0, 1.0]
    args = stars.pixel + 0.5, np.full(len(stars.pixel), 0.5), stars.label, bins
    return intrinsic_scatter(*args, np.sqrt(stars.variance), s_N_thresh=min_stars - 1)


def slopes_at(v: float, stars: Part, n_pixels: int):
    """Return our slopes of the likelihood, from residuals about any means."""
    terms = partial(weighted_moments, stars, np.full(n_pixels, 0.02), v)
    return slopes(pixel_sums(stars.pixel, n_pixels, terms))


def restricted_likelihood_scatter(stars: Part, min_stars: int = 2) -> float:
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
    stars = in_pixels(pixel, label, error**2)
    for least in (2, 5):
        expected = restricted_likelihood_scatter(stars, least)
        assert_allclose(scatter(stars, 30, least), expected, rtol=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_scatter_of_few_stars_with_wild_errors_is_the_likelihood_maximum(seed):
    rng = np.random.default_rng(100 + seed)
    error = rng.lognormal(np.log(0.1), 2.0, 8)
    pixel = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    stars = in_pixels(pixel, rng.normal(0, np.hypot(error, 0.05)), error**2)
    s, step = scatter(stars, 2), 1e-4
    assert slopes_at((s * (1 + step) + 1e-9) ** 2, stars, 2)[0] < 0
    if s > 0:
        assert slopes_at((s * (1 - step)) ** 2, stars, 2)[0] > 0


def test_slopes_are_the_derivatives_of_the_explicit_likelihood():
    rng = np.random.default_rng(3)
    error = rng.lognormal(-3, 0.6, 6)
    stars = in_pixels(np.zeros(6, dtype=int), rng.normal(0, 0.1, 6), error**2)
    contrasts = null_space(np.ones((1, 6)))

    def ln_likelihood(v: float) -> float:
        cov = contrasts.T @ np.diag(stars.variance + v) @ contrasts
        return float(multivariate_normal.logpdf(contrasts.T @ stars.label, cov=cov))

    v, h = 0.01, 1e-5
    score, observed, expected = slopes_at(v, stars, 1)
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
    stars = in_pixels(pixel, label, error**2)
    assert_allclose(scatter(stars, 20_000), SCATTER, rtol=0.05)


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
    with pytest.raises(ValueError, match=r"at least 2 stars, got at most 1.*pass the scatter"):
        get_binned_label([0.5], [0.5], [1.0], bins)
    with pytest.raises(ValueError, match=r"at least 129 stars, got at most 2.*lower s_N_thresh"):
        get_binned_label([0.5] * 2, [0.5] * 2, [1.0, 2.0], bins, s_N_thresh=128)
    with pytest.raises(ValueError, match="got at most 0"):
        get_binned_label([5.0], [0.5], [1.0], bins)
    with pytest.raises(ValueError, match="no errors and its intrinsic scatter is 0"):
        get_binned_label([0.5] * 3, [0.5] * 3, [0.1] * 3, bins)
