"""The check of the Gaussian approximation, against SciPy and arviz, and where it is known."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_fisher import BOUNDS, make_data, make_model, problem

from torusimaging_torch.inference.fisher import cramer_rao_bound
from torusimaging_torch.inference.laplace import (
    LaplaceCheck,
    fit_generalized_pareto,
    laplace_check,
    smooth_weights,
)
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.straighten import StraightBox


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.7, 1.2])
def test_generalized_pareto_fit_finds_shape_and_scale(k):
    x = stats.genpareto(k, scale=3.0).rvs(20_000, random_state=1)
    found, sigma = fit_generalized_pareto(torch.tensor(x))
    # The error of the maximum-likelihood shape is (1 + k)/sqrt(n) (Smith 1987).
    assert float(found) == pytest.approx(k, abs=4 * (1 + k) / math.sqrt(20_000))
    assert float(sigma) == pytest.approx(3.0, rel=0.06)


def test_generalized_pareto_fit_is_close_to_maximum_likelihood():
    x = stats.genpareto(0.4, scale=0.5).rvs(3000, random_state=2)
    k, _, sigma = stats.genpareto.fit(x, floc=0)
    found = fit_generalized_pareto(torch.tensor(x))
    assert float(found[0]) == pytest.approx(k, abs=0.01)
    assert float(found[1]) == pytest.approx(sigma, rel=0.02)


def test_smoothed_weights_equal_those_of_arviz():
    arviz = pytest.importorskip("arviz")
    log_weights = np.random.default_rng(1).normal(size=2000) * 1.5
    weights, khat = smooth_weights(torch.tensor(log_weights))
    if hasattr(arviz, "psislw"):
        log_expected, k_expected = arviz.psislw(log_weights)
    else:  # since arviz 1, which takes log-likelihoods to leave out, not weights
        stats_of = importlib.import_module("arviz_stats.base").array_stats
        log_expected, k_expected = stats_of.psislw(-log_weights)
    assert khat == pytest.approx(float(k_expected), abs=1e-3)
    assert weights.numpy() == pytest.approx(np.exp(log_expected), rel=1e-2)


def known_bound(size=3):
    root = torch.randn(size, size + 2, generator=torch.Generator().manual_seed(1)).double()
    return cramer_rao_bound(root @ root.mT), root @ root.mT


def test_a_gaussian_posterior_is_its_own_approximation():
    bound, information = known_bound()

    def log_density(x):
        return -0.5 * torch.einsum("...i,ij,...j->...", x, information, x) + 12.0

    check = laplace_check(log_density, torch.zeros(3).double(), bound, 500)
    assert check.weights.numpy() == pytest.approx(1 / 500, rel=1e-6)


def test_light_and_heavy_tails_are_told_apart():
    bound = cramer_rao_bound(torch.eye(3).double())
    generator = torch.Generator().manual_seed(2)
    zero = torch.zeros(3).double()

    def narrower(x):
        return -0.5 * (x**2).sum(-1) * 1.5

    def wider(x):
        return -0.5 * (x**2).sum(-1) / 25

    narrow = laplace_check(narrower, zero, bound, 2000, generator)
    assert narrow.good
    assert narrow.khat < 0.3
    # Weights of a Gaussian with 25 times the variance have the tail index 1 - 1/25.
    wide = laplace_check(wider, zero, bound, 2000, generator)
    assert not wide.good
    assert wide.khat > 0.8


def test_weights_repair_a_skewed_posterior():
    bound = cramer_rao_bound(torch.tensor([[4.0]]).double())
    gamma = stats.gamma(4.0 * 4.0)  # not far from a Gaussian, shifted to its mode and scaled

    def log_density(x):
        y = 15.0 + 15**0.5 * 2 * x
        return torch.where(y > 0, 15 * y.clamp(min=1e-9).log() - y, -torch.inf).sum(-1)

    check = laplace_check(
        log_density, torch.zeros(1).double(), bound, 4000, torch.Generator().manual_seed(1)
    )
    assert check.good
    mean = float(check.weights @ check.x[:, 0])
    truth = (gamma.mean() - 15) / (2 * 15**0.5)
    assert mean == pytest.approx(truth, abs=4 * 0.5 / check.ess**0.5)
    resampled = check.resample(5000, torch.Generator().manual_seed(1))
    assert float(resampled.mean()) == pytest.approx(truth, abs=0.04)


def test_draws_outside_the_bounds_weigh_nothing():
    bound = cramer_rao_bound(torch.eye(1).double())

    def log_density(x):
        return torch.where(x > 0, -0.5 * x**2, -torch.inf).sum(-1)

    check = laplace_check(log_density, torch.zeros(1).double(), bound, 1000)
    assert (check.weights[check.x[:, 0] <= 0] == 0).all()
    assert float(check.weights.sum()) == pytest.approx(1.0)


def test_held_parameters_stay_and_do_not_count():
    bound = cramer_rao_bound(torch.eye(2).double(), torch.tensor([True, False]))

    def log_density(x):
        return -0.5 * x[..., 1] ** 2 + 1e3 * (x[..., 0] - 7)

    check = laplace_check(log_density, torch.tensor([7.0, 0.0]).double(), bound, 300)
    assert (check.x[:, 0] == 7).all()
    assert check.weights.numpy() == pytest.approx(1 / 300, rel=1e-6)


def test_straight_coordinates_follow_a_slope_that_is_known_to_a_third():
    """The slope is a Gaussian 3 sigma from zero, the parameter its logarithm."""

    def log_density(x):
        return (-0.5 * (x.exp() - 3) ** 2).sum(-1)

    mode, bound = (
        torch.tensor([3.0]).double().log(),
        cramer_rao_bound(torch.tensor([[9.0]]).double()),
    )
    plain = Box(torch.tensor([-2.0]).double(), torch.tensor([3.0]).double())
    bent = StraightBox(plain, plain.inv(mode), torch.tensor([True]), 3.0)
    grid = np.linspace(-2, 3, 20_001)
    density = np.exp(-0.5 * (np.exp(grid) - 3) ** 2)
    truth = np.average(grid, weights=density)
    width = np.sqrt(np.average((grid - truth) ** 2, weights=density))
    ess = []
    for box in (plain, bent):
        generator = torch.Generator().manual_seed(1)
        check = laplace_check(log_density, mode, bound, 4000, generator, box=box, chunk=64)
        ess.append(check.ess)
    mean = float(check.weights @ check.x[:, 0])
    assert mean == pytest.approx(truth, abs=4 * width / check.ess**0.5)
    assert check.good
    assert ess[1] > 1.2 * ess[0]
    assert (check.x > -2).all()


@pytest.mark.parametrize(
    ("khat", "good", "text"),
    [
        (0.3, True, "stands for the posterior (k-hat 0.30, 4 of 4 draws"),
        (0.6, True, "stands for the posterior roughly"),
        (0.8, False, "does not stand for the posterior, sample it (k-hat 0.80"),
    ],
)
def test_reading_follows_khat(khat, good, text):
    check = LaplaceCheck(torch.zeros(4, 2), torch.full((4,), 0.25), khat)
    assert check.good is good
    assert text in check.reading
    assert repr(check) == f"LaplaceCheck: {check.reading}"
    with pytest.raises(ValueError, match="layout"):
        check.to_params(3)


# -- on the model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    model, data = make_model(spline="cubic"), make_data()
    return model, data, model.optimize(problem.make_params(), "gaussian", BOUNDS, **data).params


def test_model_checks_its_bound(fitted):
    model, data, params = fitted
    check = model.check_laplace(params, data, bounds=BOUNDS, size=200, seed=3)
    again = model.check_laplace(params, data, bounds=BOUNDS, size=200, seed=3)
    assert torch.equal(check.x, again.x)
    # The draws lie within the bounds, and their weights are those of the posterior.
    log_slopes = check.layout.unflatten(check.x)["e_params"]
    assert all(
        float(e["vals"].min()) > -6 and float(e["vals"].max()) < 2 for e in log_slopes.values()
    )
    drawn = check.to_params(50, seed=1)
    assert drawn["pos0"].shape == (50,)
    assert drawn["e_params"][2]["vals"].shape == (50, 4)
    assert set(drawn["pos0"].tolist()) <= set(check.layout.unflatten(check.x)["pos0"].tolist())


def test_check_is_of_one_problem_with_enough_draws(fitted):
    model, data, params = fitted
    with pytest.raises(ValueError, match="at least 50, got 10"):
        model.check_laplace(params, data, size=10)
    batch = {**params, "pos0": params["pos0"].expand(2)}
    with pytest.raises(ValueError, match="one problem at a time"):
        model.check_laplace(batch, data)
