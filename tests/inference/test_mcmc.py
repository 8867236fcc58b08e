"""The sampler against posteriors that are known, and what it says about itself."""

from __future__ import annotations

import random
import re
import warnings

import numpy as np
import pytest
import torch
from gala.units import galactic
from scipy import stats
from test_fisher import BOUNDS, make_data, make_model, problem
from toys import Gaussian, assert_quantiles, unbounded, worst_error

from torusimaging_torch.inference import nuts as mcmc
from torusimaging_torch.inference.convergence import ess_bulk, ess_tail, rhat
from torusimaging_torch.inference.nuts import nuts
from torusimaging_torch.model.samples import Samples
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout


@pytest.fixture(scope="module")
def gaussian():
    scale = torch.tensor([1e-3, 1.0, 30.0, 0.1], dtype=torch.float64)
    root = torch.randn(4, 6, generator=torch.Generator().manual_seed(4)).double()
    covariance = root @ root.mT / 6 * scale * scale[:, None]
    mean = torch.tensor([1.0, -2.0, 100.0, 0.0], dtype=torch.float64)
    posterior = Gaussian(mean, covariance.inverse())
    chains = nuts(posterior, unbounded(4), mean + scale, num_samples=400, num_warmup=150, seed=2)
    return posterior, covariance, chains


@pytest.mark.slow
def test_gaussian_has_its_means_variances_and_quantiles(gaussian):
    posterior, covariance, chains = gaussian
    z = (chains.x[0] - posterior.mean) / covariance.diagonal().sqrt()
    error = ess_bulk(chains.x).rsqrt()
    assert (z.mean(0).abs() < 4 * error).all()
    assert ((z.var(0) - 1).abs() < 4 * 2**0.5 * ess_tail(chains.x).rsqrt()).all()
    for q in (0.025, 0.16, 0.84, 0.975):
        share = (z < stats.norm.ppf(q)).double().mean(0)
        assert ((share - q).abs() < 4 * (q * (1 - q)) ** 0.5 * ess_tail(chains.x).rsqrt()).all()


@pytest.mark.slow
def test_log_density_belongs_to_the_samples(gaussian):
    posterior, _, chains = gaussian
    torch.testing.assert_close(chains.log_density, posterior(chains.x), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_round_coordinates_need_few_gradients(gaussian):
    _, _, chains = gaussian
    assert chains.n_gradients.item() / 400 < 8
    assert chains.step_size.item() > 0.4
    assert not chains.divergences.any()
    assert 0.6 < chains.acceptance.item() < 0.98
    assert rhat(chains.x).max() < 1.02


@pytest.mark.slow
def test_truncated_gaussians_on_their_bounds():
    """Three at once, which know nothing of one another: below, on both sides, above."""
    inf = torch.inf
    low, high, mean = torch.tensor([[0, 0, -inf], [inf, 1.5, 2], [-1, 0.3, 2.5]]).double()
    posterior = Gaussian(mean, torch.eye(3).double())
    start = torch.ones(3).double()
    chains = nuts(posterior, Box(low, high), start, num_samples=500, num_warmup=100, seed=3)
    truth = stats.truncnorm(low - mean, high - mean, loc=mean)
    x = chains.x[0].numpy()
    assert ((x > low.numpy()) & (x < high.numpy())).all()
    error = worst_error(chains)
    assert (abs(x.mean(0) - truth.mean()) < 4 * error * truth.std()).all()
    assert_quantiles(x, truth, error)


class TruncatedSlopes(Gaussian):
    """Slopes that are Gaussians above zero; the parameters are their logarithms."""

    def __init__(self, mean):
        super().__init__(mean, torch.eye(len(mean)).double())
        self.logarithmic = torch.ones(len(mean), dtype=torch.bool)

    def __call__(self, x):
        return super().__call__(x.exp()) + x.sum(-1)  # dx in place of d ln x

    def data_information(self, x):
        scale = x.exp()
        return super().data_information(x) * scale.unsqueeze(-1) * scale.unsqueeze(-2)


@pytest.mark.slow
def test_logarithms_of_slopes_that_may_vanish():
    mean = torch.tensor([-0.5, 0.5, 2.0]).double()
    start = torch.full((3,), 0.1, dtype=torch.float64)
    posterior = TruncatedSlopes(mean)
    chains = nuts(posterior, unbounded(3), start, num_samples=600, num_warmup=150, seed=4)
    slope = chains.x[0].exp().numpy()
    truth = stats.truncnorm(-mean, np.inf, loc=mean)
    error = worst_error(chains)
    assert (abs(slope.mean(0) - truth.mean()) < 4 * error * truth.std()).all()
    assert_quantiles(slope, truth, error)
    assert not chains.divergences.any()


class LostSlopes(TruncatedSlopes):
    """Slopes known to be no larger than one, with a prior that is flat in their logarithms."""

    def __call__(self, x):
        return super().__call__(x) - x.sum(-1)


@pytest.mark.slow
def test_slopes_that_are_lost_in_their_errors():
    """The posterior is a plateau twelve e-folds wide, which ends where the slope is seen."""
    box = Box(torch.tensor([-16.0]).double(), torch.tensor([10.0]).double())
    posterior, start = LostSlopes(torch.zeros(1).double()), torch.tensor([-13.0]).double()
    chains = nuts(posterior, box, start, num_samples=300, num_warmup=120, seed=5)
    x = np.linspace(-16, 3, 20_001)
    share = np.cumsum(np.exp(-0.5 * np.exp(2 * x)))
    error = worst_error(chains)
    for q in (0.16, 0.5, 0.84):
        edge = x[np.searchsorted(share, q * share[-1])]
        below = float((chains.x[0] < edge).double().mean())
        assert abs(below - q) < 4 * error * (q * (1 - q)) ** 0.5
    # In coordinates that are linear from the start on it would be 2: the plateau's end is far away.
    assert ess_bulk(chains.x).min() > 20


@pytest.mark.slow
def test_what_equal_bounds_hold_stays_and_does_not_disturb():
    precision = torch.tensor([[2.0, 0.9], [0.9, 1.0]]).double()
    posterior = Gaussian(torch.zeros(2).double(), precision)
    edge = torch.tensor([torch.inf, 1.0]).double()
    box = Box(torch.tensor([-torch.inf, 1.0]).double(), edge)
    chains = nuts(posterior, box, torch.tensor([0.0, 1.0]).double(), num_samples=400, num_warmup=80)
    assert (chains.x[..., 1] == 1.0).all()
    # The conditional distribution of the first: mean -0.9/2, precision 2.
    error = ess_bulk(chains.x)[0].rsqrt()
    assert abs(chains.x[0, :, 0].mean() + 0.45) < 4 * error * 0.5**0.5
    torch.testing.assert_close(chains.x[0, :, 0].std(), precision[0, 0].rsqrt(), rtol=0.2, atol=0)
    torch.testing.assert_close(chains.log_density, posterior(chains.x))


def test_seed_decides_and_global_random_states_stay():
    posterior = Gaussian(torch.zeros(2).double(), torch.eye(2).double())

    def run(seed):
        kwargs = {"num_samples": 20, "num_warmup": 30, "num_chains": 2, "seed": seed}
        return nuts(posterior, unbounded(2), torch.zeros(2).double(), **kwargs).x

    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    first = run(1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2][1]).all()  # noqa: NPY002
    torch.manual_seed(99)
    assert torch.equal(run(1), first)
    assert not torch.equal(run(2), first)
    assert not torch.equal(first[0], first[1])


def test_a_batch_and_a_start_without_density_are_refused():
    posterior = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    with pytest.raises(ValueError, match="one problem at a time"):
        nuts(posterior, unbounded(2), torch.zeros(3, 2).double())
    with pytest.raises(ValueError, match="at least 4, got 3"):
        nuts(posterior, unbounded(2), torch.zeros(2).double(), num_samples=3)
    with pytest.raises(ValueError, match="not finite at the start"):
        nuts(posterior, unbounded(2), torch.full((2,), torch.inf).double())


# -- on the model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled():
    model = make_model(spline="cubic")
    data = make_data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # thirty samples are not enough, see below
        state, samples = model.mcmc_run_label(
            data, problem.make_params(), BOUNDS, rng_seed=1, num_steps=30, num_warmup=30
        )
    return model, data, state, samples


def test_upstreams_method_returns_aligned_states_and_dictionaries(sampled):
    model, data, state, samples = sampled
    assert len(samples) == 30
    assert samples[0]["pos0"].ndim == 0
    for i in (0, 17, 29):
        expected = model.ln_gaussian_likelihood(samples[i], **data) - model.regularization_func(
            model, samples[i]
        )
        assert state.logdensity[i] == pytest.approx(float(expected), rel=1e-10)
        torch.testing.assert_close(
            state.position["e_params"][4]["vals"][i], samples[i]["e_params"][4]["vals"]
        )
    assert float(state.position["e_params"][2]["vals"].min()) > -6


def test_samples_as_array_table_and_summary(sampled):
    _, _, state, _ = sampled
    samples = state.samples
    assert samples.to_array().shape == (30, 13)
    pair = samples.to_array(["pos0", "e_params[2].vals[1]"])
    assert (pair[:, 0] == state.position["pos0"].numpy()).all()
    assert (pair[:, 1] == state.position["e_params"][2]["vals"][:, 1].numpy()).all()
    with pytest.raises(ValueError, match=r"no parameter is called \['pos1'\]"):
        samples.to_array(["pos1"])
    table = samples.to_table()
    assert len(table) == 30
    assert str(table["vel0"].unit) == "kpc / Myr"
    assert (table["log_density"] == state.logdensity.numpy()).all()
    assert list(samples.summary()["parameter"]) == samples.names


def test_a_short_run_says_that_it_has_not_converged(sampled):
    model, data, state, _ = sampled
    assert not state.samples.converged
    assert any("effective sample size" in text for text in state.samples.problems)
    first = r"Samples: 30 of 13 parameters, 1 chain.s., not converged \(.*effective sample size"
    assert re.match(first, repr(state.samples))
    with pytest.warns(RuntimeWarning, match="has not converged .*effective sample size"):
        model.sample(data, problem.make_params(), BOUNDS, num_samples=10, num_warmup=10)


def test_samples_go_to_arviz(sampled):
    pytest.importorskip("arviz")
    samples = sampled[2].samples
    found = samples.to_arviz()
    assert found.posterior["e_params[2].vals"].shape == (1, 30, 4)
    assert (found.sample_stats["lp"].values[0] == samples.log_density.numpy()).all()


@pytest.mark.filterwarnings("ignore:::corner")
def test_samples_go_to_corner(sampled):
    corner = pytest.importorskip("corner")
    names = ["pos0", "ln_Omega0"]
    values = sampled[2].samples.to_array(names)
    figure = corner.corner(values, labels=names, quiet=True)
    assert len(figure.axes) == 4
    assert figure.axes[3].get_xlabel() == "ln_Omega0"


@pytest.mark.slow
def test_chains_in_parallel_are_those_one_after_another(monkeypatch):
    run_in = []
    run = mcmc._run

    def watched(potential, starts, *args, **kwargs):
        found = run(potential, starts, *args, **kwargs)
        run_in.append((len(starts), potential.calls))
        return found

    monkeypatch.setattr(mcmc, "_run", watched)
    model, data = make_model(spline="cubic"), make_data()
    kwargs = {"num_samples": 5, "num_warmup": 4, "num_chains": 2, "seed": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # five samples are not enough
        one_by_one, side_by_side = (
            model.sample(data, problem.make_params(), BOUNDS, mp_context=context, **kwargs)
            for context in (None, "spawn")
        )
    for name in ("x", "log_density", "n_gradients", "step_size"):
        assert torch.equal(getattr(one_by_one.chains, name), getattr(side_by_side.chains, name))
    assert not torch.equal(one_by_one.chains.x[0], one_by_one.chains.x[1])
    # The second time, this process saw no gradient of the two chains.
    assert [calls > 0 for size, calls in run_in if size == 2] == [True, False]


# -- convergence -----------------------------------------------------------------------------------


def autoregressive(rho, shape, seed=0):
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = [noise[:, 0]]
    for i in range(1, shape[1]):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * noise[:, i])
    return torch.stack(x, 1)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_effective_sample_size_of_an_autoregressive_process(rho):
    draws = autoregressive(rho, (4, 4000, 3))
    expected = 16_000 * (1 - rho) / (1 + rho)
    assert ess_bulk(draws).numpy() == pytest.approx(expected, rel=0.2)
    assert (ess_tail(draws) > 0.5 * expected).all()
    assert rhat(draws).max() < 1.02


def test_rhat_sees_chains_that_differ_in_mean_or_in_width():
    draws = autoregressive(0.0, (4, 500, 2))
    draws[0, :, 0] += 1
    draws[0, :, 1] *= 3
    assert (rhat(draws) > 1.03).all()


def test_chains_that_are_stuck_have_not_converged():
    draws = autoregressive(0.0, (4, 500, 3))
    draws[..., 0] = 0.3  # held by equal bounds
    draws[..., 1] = draws[:, :1, 1]
    draws[0, :, 2] = draws[0, 0, 2]
    held, all_stuck, one_stuck = rhat(draws)
    assert held.isnan()
    assert all_stuck.isinf()
    assert one_stuck > 1.05
    free = autoregressive(0.0, (4, 500, 1))
    together = torch.cat([draws[..., :1], free], -1)
    torch.testing.assert_close(ess_bulk(together)[1:], ess_bulk(free))
    torch.testing.assert_close(ess_tail(together)[1:], ess_tail(free))
    chains = mcmc.Chains(draws[..., :1], draws[..., 0], *torch.zeros(4, 4), 0)
    samples = Samples(chains, Layout((("x",),), (1,)), galactic)
    assert "4 of 4 chains never moved" in samples.problems


def test_convergence_equals_that_of_arviz():
    arviz = pytest.importorskip("arviz")
    draws = autoregressive(0.7, (3, 500, 2), seed=5)
    for i in range(2):
        chains = draws[..., i].numpy()
        assert float(ess_bulk(draws)[i]) == pytest.approx(arviz.ess(chains), rel=0.05)
        tail = arviz.ess(chains, method="tail", prob=(0.05, 0.95))
        assert float(ess_tail(draws)[i]) == pytest.approx(tail, rel=0.1)
        assert float(rhat(draws)[i]) == pytest.approx(arviz.rhat(chains), abs=2e-3)
