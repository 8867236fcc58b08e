"""What is known beforehand: priors and held parameters, wherever a model takes data."""

from __future__ import annotations

import math
import warnings
from functools import cache

import astropy.units as u
import numpy as np
import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Cauchy,
    Independent,
    Laplace,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.results import BatchResult, FitResult

PENALTY = {
    "label_l2_sigma": 3.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}
KINDS = ("torus", "potential")
CENTRE = torch.tensor([0.0, 0.01], dtype=torch.float64)
models = pytest.mark.parametrize("kind", KINDS)


@cache
def binned(seed=0, pos0=0.02):
    """Labels that grow with the radius of an oscillator, with errors that leave pos0 open."""
    rng = np.random.default_rng(seed)
    pos, vel = np.meshgrid(np.linspace(-1, 1, 14), np.linspace(-0.07, 0.07, 14))
    truth = 0.1 + 0.9 * np.sqrt(0.08 * (pos - pos0) ** 2 + vel**2 / 0.08)
    return {"pos": pos, "vel": vel, "label": rng.normal(truth, 0.05), "label_err": 0.05 + 0 * pos}


def init(kind, data=None, **known):
    data = binned() if data is None else data
    if kind == "potential":
        return TorusImaging1DPotential.auto_init(data, 4, 4, **known)
    return TorusImaging1DSpline.auto_init(data, 4, {2: 4}, **PENALTY, **known)


@cache
def free(kind):
    model, bounds, start = init(kind)
    return model, bounds, model.optimize(start, "gaussian", bounds, **binned()).params


def index(model, params, name):
    return model.posterior_at(params, binned())[0].layout.names.index(name)


@models
def test_a_normal_prior_adds_its_parabola_and_its_precision(kind):
    model, _, params = free(kind)
    priors = {"pos0": (30 * u.pc, 10 * u.pc), "label_params.label_vals": ([0.1, 0.9, 0.9, 0.9], 2)}
    plain, x = model.posterior_at(params, binned())
    known, _ = model.posterior_at(params, binned(), priors=priors)
    y = x + 0.01
    label = known.layout.unflatten(y)["label_params"]["label_vals"]
    expected = ((known.layout.unflatten(y)["pos0"] - 0.03) / 0.01) ** 2 / 2
    expected = expected + ((label - torch.tensor([0.1, 0.9, 0.9, 0.9])) / 2).square().sum() / 2
    torch.testing.assert_close(plain(y) - known(y), expected, rtol=1e-6, atol=1e-9)
    assert known.evaluated_by == plain.evaluated_by
    more = model.get_crlb(params, binned(), inv=True, priors=priors)
    more = more - model.get_crlb(params, binned(), inv=True)
    at = known.layout.names.index("pos0")
    assert math.isclose(more[at, at], 1e4, rel_tol=1e-9)
    data = model.get_crlb(params, binned(), inv=True, hessian="data", priors=priors)
    torch.testing.assert_close(data, model.get_crlb(params, binned(), inv=True, hessian="data"))


@models
def test_a_fit_with_a_prior_is_the_weighted_mean(kind):
    model, bounds, params = free(kind)
    at = index(model, params, "pos0")
    variance = model.get_crlb(params, binned(), bounds=bounds)[at, at]
    sigma, mean = float(variance.sqrt()), float(params["pos0"]) + float(variance.sqrt())
    known = {"pos0": (mean, sigma)}
    best, state = model.optimize(params, "gaussian", bounds, priors=known, **binned())
    assert state.success
    # Equal weights of the data and of the prior, one standard error apart.
    assert abs(best["pos0"] - params["pos0"] - sigma / 2) < 0.03 * sigma
    error = model.get_crlb_uncertainties(best, binned(), bounds=bounds, priors=known)["pos0"]
    assert abs(error - sigma / 2**0.5) < 0.05 * sigma


@models
def test_ways_to_give_a_prior_are_the_same(kind):
    model, _, params = free(kind)
    leaf = "ln_rho" if kind == "potential" else "e_params"
    size = {"ln_rho": 5, "e_params": 3}[leaf]
    path = {"ln_rho": "ln_rho", "e_params": "e_params.2.vals"}[leaf]
    nested = {"ln_rho": (1.0, 2.0)} if leaf == "ln_rho" else {"e_params": {2: {"vals": (1.0, 2.0)}}}
    distribution = Normal(torch.ones(size), 2 * torch.ones(size))
    forms = [
        nested,
        {path: (1.0, 2.0)},
        {path: distribution},
        {path: Independent(distribution, 1)},
        {path: (np.ones(size), 2 * np.ones(size))},
    ]
    if leaf == "e_params":
        forms.append({"e_params[2].vals": (1.0, 2.0)})
    values = [model.posterior_at(params, binned(), priors=f) for f in forms]
    values = torch.stack([posterior(x + 0.01) for posterior, x in values])
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-12, atol=0)


@models
@pytest.mark.parametrize("prior", [Cauchy(*CENTRE), StudentT(torch.tensor(3.0).double(), *CENTRE)])
def test_other_densities_count_as_they_are(kind, prior):
    model, bounds, params = free(kind)
    plain, x = model.posterior_at(params, binned())
    known, _ = model.posterior_at(params, binned(), priors={"pos0": prior})
    torch.testing.assert_close(known(x) - plain(x), prior.log_prob(params["pos0"]))
    best, state = model.optimize(params, "gaussian", bounds, priors={"pos0": prior}, **binned())
    assert state.success
    assert abs(best["pos0"]) < abs(params["pos0"])


@models
def test_densities_go_where_the_model_goes(kind):
    narrow = torch.full((4,), 0.3, dtype=torch.float64)
    priors = {
        ("label_params", "label_vals"): Independent(Laplace(0 * narrow, narrow), 1),
        "pos0": TransformedDistribution(Cauchy(narrow[0], narrow[0]), [AffineTransform(0.0, 0.1)]),
    }
    model, _, start = init(kind, priors=priors)
    expected, x = model.posterior_at(start, binned())
    single, y = model.float().posterior_at(start, binned())
    assert single(y).dtype == torch.float32
    torch.testing.assert_close(single(y).double(), expected(x), rtol=1e-4, atol=1e-2)
    assert priors["pos0"].base_dist.loc.dtype == torch.float64


@models
def test_bounds_end_where_a_density_does(kind):
    low = float(free(kind)[2]["pos0"]) + 0.01
    model, bounds, start = init(kind, priors={"pos0": Uniform(low, low + 0.1)})
    np.testing.assert_allclose([float(x) for x in bounds["pos0"]], [low, low + 0.1], rtol=1e-6)
    best, state = model.optimize(start, "gaussian", bounds, **binned())
    assert state.at_bound == ("pos0",)
    assert math.isclose(best["pos0"], low, rel_tol=1e-3)


@models
def test_auto_init_keeps_what_is_known_and_counts_it_once(kind):
    priors = {"pos0": (0.1, 0.01)}
    model, bounds, start = init(kind, priors=priors)
    once = model.optimize(start, "gaussian", bounds, **binned()).params
    twice = model.optimize(start, "gaussian", bounds, priors=priors, **binned()).params
    assert abs(once["pos0"] - 0.1) < abs(free(kind)[2]["pos0"] - 0.1)
    torch.testing.assert_close(once["pos0"], twice["pos0"], rtol=1e-6, atol=1e-9)
    wide = model.optimize(start, "gaussian", bounds, priors={"pos0": (0.1, 100.0)}, **binned())
    torch.testing.assert_close(wide.params["pos0"], free(kind)[2]["pos0"], rtol=0, atol=2e-3)


@models
def test_what_is_held_is_known(kind):
    model, bounds, start = init(kind, hold={"pos0": 0.5 * u.pc, "vel0": 0 * u.km / u.s})
    best, state = model.optimize(start, "gaussian", bounds, **binned())
    assert (best["pos0"], best["vel0"]) == (0.0005, 0.0)
    assert not {"pos0", "vel0"} & set(state.at_bound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        covariance = model.get_crlb(best, binned(), bounds=bounds)
    names = model.posterior_at(best, binned())[0].layout.names
    still = torch.tensor([name in ("pos0", "vel0") for name in names])
    assert (covariance[still] == 0).all()
    information = model.get_crlb(best, binned(), inv=True)[~still][:, ~still]
    torch.testing.assert_close(
        covariance[~still][:, ~still], information.inverse(), rtol=1e-6, atol=1e-9
    )
    check = model.check_laplace(best, binned(), bounds=bounds, size=100)
    assert math.isfinite(check.khat)
    assert (check.x[:, still] == torch.tensor([0.0005, 0.0], dtype=torch.float64)).all()


@models
def test_hold_by_argument_and_by_name(kind):
    model, bounds, params = free(kind)
    held = {"pos0": 10 * u.pc, "label_params.label_vals": [0.1, 0.8, 0.9, 0.9]}
    best, state = model.optimize(params, "gaussian", bounds, hold=held, **binned())
    assert state.success
    assert best["pos0"] == 0.01
    assert best["label_params"]["label_vals"].tolist() == [0.1, 0.8, 0.9, 0.9]
    named, _ = model.optimize(best, "gaussian", bounds, hold=list(held), **binned())
    for (_, one), (_, other) in zip(iter_leaves(best), iter_leaves(named), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    errors = model.get_crlb_uncertainties(best, binned(), hold=held)
    assert errors["pos0"] == 0
    assert (errors["label_params"]["label_vals"] == 0).all()
    samples = model.get_crlb_error_samples(best, binned(), size=5, seed=1, hold=["pos0"])
    assert all(s["pos0"] == 0.01 for s in samples)


@pytest.mark.slow
@models
def test_samples_know_what_is_known(kind):
    model, bounds, params = free(kind)
    at = index(model, params, "pos0")
    sigma = float(model.get_crlb(params, binned(), bounds=bounds)[at, at].sqrt())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = model.sample(
            binned(),
            params,
            bounds,
            priors={"pos0": (0.05, sigma / 100)},
            hold={"vel0": 0.0},
            num_samples=30,
            num_warmup=40,
        )
    assert (samples.params["vel0"] == 0).all()
    assert abs(samples.params["pos0"].mean() - 0.05) < sigma / 10
    assert samples.params["pos0"].std() < sigma / 30


@models
def test_a_batch_has_priors_of_its_own(kind):
    datas = [binned(seed) for seed in range(3)]
    mean, sigma = np.array([-0.1, 0.0, 0.1]), np.array([0.01, 0.02, 0.03])
    options = {"label_knots": 4, "e_knots": {2: 4}, **PENALTY}
    if kind == "potential":
        options = {"label_knots": 4, "n_components": 4, "model": "potential"}
    many = fit_many(
        datas,
        **options,
        priors={"pos0": (mean * u.kpc, sigma * u.kpc)},
        hold={"vel0": np.array([0.0, 1.0, 2.0]) * u.km / u.s},
        hessian="full",
        progress=False,
    )
    for i, data in enumerate(datas):
        known = {"priors": {"pos0": (mean[i], sigma[i])}, "hold": {"vel0": i * u.km / u.s}}
        model, bounds, start = init(kind, data, **known)
        best, _ = model.optimize(start, "gaussian", bounds, **data)
        errors = model.get_crlb_uncertainties(best, data, bounds=bounds)
        row = many[i].to_table()
        for name in ("pos0", "vel0"):
            one = row[row["name"] == name]
            assert math.isclose(one["value"][0], best[name], rel_tol=1e-4, abs_tol=1e-6)
            assert math.isclose(one["error"][0], errors[name], rel_tol=1e-3)
    assert not many.values["at_bound"].any(0)[list(many.layout.names).index("vel0")]
    with pytest.raises(RuntimeError, match="differ from fit to fit"):
        many[0].model.regularization_func(many[0].model, many[0].params)


@models
def test_files_keep_priors(kind, tmp_path):
    priors = {"pos0": (0.1, 0.01), "label_params.label_vals": ([0.1, 0.9, 0.9, 0.9], 2.0)}
    model, bounds, start = init(kind, priors=priors, hold={"vel0": 0.0})
    best, state = model.optimize(start, "gaussian", bounds, **binned())
    FitResult(model, best, bounds, state, "gaussian").write(tmp_path / "fit.ecsv")
    back = FitResult.read(tmp_path / "fit.ecsv")
    (one, x), (other, y) = (
        m.posterior_at(p, binned()) for m, p in ((model, best), (back.model, back.params))
    )
    assert torch.equal(x, y)
    torch.testing.assert_close(one(x), other(y), rtol=1e-12, atol=0)
    options = {"label_knots": 4, "e_knots": {2: 4}, **PENALTY}
    if kind == "potential":
        options = {"label_knots": 4, "n_components": 4, "model": "potential"}
    many = fit_many([binned()], **options, priors=priors, hold={"vel0": 0.0}, progress=False)
    many.write(tmp_path / "many.ecsv")
    row = BatchResult.read(tmp_path / "many.ecsv")[0]
    third, z = row.model.posterior_at(row.params, binned())
    torch.testing.assert_close(third(z), one(x), rtol=1e-6, atol=0)


@models
def test_several_data_sets_share_a_prior(kind):
    rng = np.random.default_rng(5)
    counts = rng.poisson(np.exp(4 - 8 * binned()["label"]))
    data = {
        "fe": binned(),
        "counts": {**{k: binned()[k] for k in ("pos", "vel")}, "counts": counts},
    }
    objective = {"fe": "gaussian", "counts": "poisson"}
    known = {"priors": {"pos0": (0.1, 0.001)}, "hold": {"vel0": 0.0}}
    model, bounds, start = init(kind, data, **known)
    best, state = model.optimize(start, objective, bounds, data=data)
    assert state.success
    assert abs(best["pos0"] - 0.1) < 0.005
    assert best["vel0"] == 0
    priors = {"label_params.counts.label_vals": (0.0, 1.0), "pos0": (0.1, 0.001)}
    plain, x = model.posterior_at(best, data, objective)
    more, _ = model.posterior_at(best, data, objective, priors=priors)
    expected = best["label_params"]["counts"]["label_vals"].square().sum() / 2
    torch.testing.assert_close(plain(x) - more(x), expected, rtol=1e-9, atol=1e-7)


BAD = {
    "no parameter is called pos": {"priors": {"pos": (0, 1)}},
    "no parameter is called pso0: .*'pos0'": {"priors": {"pso0": (0 * u.pc, 20 * u.pc)}},
    "pair \\(mean, standard deviation\\)": {"priors": {"pos0": 3.0}},
    "positive, finite standard": {"priors": {"pos0": (0.0, 0.0)}},
    "must be a length": {"priors": {"pos0": (0 * u.s, 1 * u.s)}},
    "must have shape \\(4,\\)": {"priors": {"label_params.label_vals": ([1.0, 2.0], 1.0)}},
    "must be a distribution with shape": {"priors": {"pos0": Laplace(torch.zeros(2), 1.0)}},
    "hold: no parameter is called vel": {"hold": {"vel": 0}},
    "must be finite": {"hold": {"vel0": math.nan}},
    "hold must be a dictionary": {"hold": 3},
}


@pytest.mark.parametrize("message", list(BAD))
def test_what_makes_no_sense_is_refused(message):
    model, bounds, params = free("torus")
    with pytest.raises((ValueError, TypeError), match=message):
        model.optimize(params, "gaussian", bounds, **BAD[message], **binned())


@pytest.mark.parametrize("known", [{"priors": {"pso0": (0, 20) * u.pc}}, {"hold": {"pso0": u.pc}}])
def test_many_fits_know_no_other_parameters(known):
    with pytest.raises(ValueError, match=r"no parameter is called pso0: .*'pos0', .*'vel0'"):
        fit_many([binned()], model="potential", progress=False, **known)
