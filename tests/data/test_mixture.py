"""Mixtures with outliers against SciPy's optimum, and against samples without any."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import norm

from torusimaging_torch.data.mixture import Mixture, fit_mixture


def draw(n, eps, s_out, s=0.04, seed=0):
    rng = np.random.default_rng(seed)
    error = rng.lognormal(np.log(0.05), 0.3, n)
    bad = rng.uniform(size=n) < eps
    return rng.normal(0, np.sqrt(error**2 + s**2 + bad * s_out**2)), error**2, bad


def test_the_probability_is_the_share_of_the_narrow_one():
    residual, variance, _ = draw(50, 0.3, 0.5)
    good = 0.7 * norm.pdf(residual, 0, np.sqrt(variance + 0.04**2))
    wide = 0.3 * norm.pdf(residual, 0, np.sqrt(variance + 0.04**2 + 0.5**2))
    found = Mixture(0.3, 0.5, 0.04).probability(residual, variance)
    assert_allclose(found, good / (good + wide), rtol=1e-12)
    assert_allclose(Mixture(0.0, 0.5, 0.04).probability(residual, variance), 1.0)


@pytest.mark.parametrize(("eps", "s_out"), [(0.05, 0.5), (0.2, 0.3), (0.01, 2.0)])
def test_the_optimum_is_scipys(eps, s_out):
    residual, variance, _ = draw(20_000, eps, s_out)

    def minus_ln_likelihood(x):
        share, wide, s = x
        densities = (
            share * norm.pdf(residual, 0, np.sqrt(variance + s**2 + wide**2)),
            (1 - share) * norm.pdf(residual, 0, np.sqrt(variance + s**2)),
        )
        return -np.log(sum(densities)).sum()

    start = eps, s_out, 0.04
    limits = [(1e-4, 0.9), (0.05, 5), (1e-3, 1)]
    best = minimize(minus_ln_likelihood, start, method="Nelder-Mead", bounds=limits, tol=1e-9)
    found = fit_mixture(residual, variance)
    assert_allclose(found, best.x, rtol=0.02)
    assert minus_ln_likelihood(found) < best.fun + 0.01
    assert_allclose(found, (eps, s_out, 0.04), rtol=0.15)


def test_outliers_are_told_from_the_others():
    residual, variance, bad = draw(20_000, 0.05, 0.5)
    p = fit_mixture(residual, variance).probability(residual, variance)
    # As many as there are, and those that are far off without a doubt.
    assert (1 - p).sum() == pytest.approx(bad.sum(), rel=0.05)
    assert p[np.abs(residual) > 0.5].max() < 1e-3
    assert p[~bad].mean() > 0.98


def test_good_stars_have_no_outliers():
    residual, variance, _ = draw(20_000, 0.0, 0.0)
    found = fit_mixture(residual, variance)
    assert found.eps < 0.002
    assert found.s == pytest.approx(0.04, rel=0.03)
    assert found.probability(residual, variance).mean() > 0.998


def test_labels_without_errors_and_without_scatter():
    residual, _, _ = draw(20_000, 0.05, 0.5)
    assert fit_mixture(residual, np.zeros(20_000)).eps == pytest.approx(0.05, rel=0.2)
    with pytest.raises(ValueError, match="no scatter"):
        fit_mixture(np.zeros(10), np.ones(10))
