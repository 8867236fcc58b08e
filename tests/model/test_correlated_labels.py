"""Several labels of the same stars: the covariance of their means, and what a fit makes of it."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.data import (
    JointSubsamples,
    bin_many,
    get_binned_counts,
    get_binned_label,
)
from torusimaging_torch.inference.crossed import conditional_errors
from torusimaging_torch.simulate import milky_way_disk

BINS = {"pos": np.linspace(-1.5, 1.5, 31) * u.kpc, "vel": np.linspace(-90, 90, 31) * u.km / u.s}
GAUSSIAN = {"mg_fe": "gaussian", "fe_h": "gaussian"}
KNOTS = {
    "label_knots": {"mg_fe": 5, "fe_h": 5},
    "e_knots": {2: 5},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}
classes = pytest.mark.parametrize(
    ("cls", "settings"),
    [(TorusImaging1DSpline, KNOTS), (TorusImaging1DPotential, {"n_components": 5})],
    ids=["torus", "potential"],
)


@pytest.fixture(scope="module")
def stars():
    """Return stars whose second label is -2 times the first and as much noise of its own."""
    table = milky_way_disk(60_000, R=8.3 * u.kpc, seed=11)
    rng = np.random.default_rng(3)
    table["fe_h"] = -2 * table["label"] + 0.04 * rng.normal(size=len(table))
    table["fe_h"][rng.uniform(size=len(table)) < 0.02] = np.nan
    return table


def binned(stars, **more):
    """Return both labels in pixels."""
    labels = {"mg_fe": stars["label"], "fe_h": stars["fe_h"]}
    return get_binned_label(
        stars["z"], stars["v_z"], labels, BINS, label_err={"mg_fe": 0.05, "fe_h": None}, **more
    )


@pytest.fixture(scope="module")
def data(stars):
    with pytest.warns(UserWarning, match="left out"):
        return binned(stars)


@pytest.mark.slow
def test_covariance_of_means_is_that_of_many_samples():
    rng = np.random.default_rng(0)
    n, n_samples = 7, 4000
    errors = np.array([0.3, 0.5, 0.2, 0.9, 0.4, 0.3, 0.6])
    pos, vel = np.zeros(n), np.zeros(n)
    K = np.array([[0.04, -0.03], [-0.03, 0.09]])  # intrinsic
    means, told = [], []
    some = np.arange(n) < 5  # that have the second label
    for _ in range(n_samples):
        own = rng.multivariate_normal([3.0, -1.0], K, size=n)
        first = own[:, 0] + errors * rng.normal(size=n)
        second = np.where(some, own[:, 1], np.nan)
        with pytest.warns(UserWarning, match="left out"):
            both = get_binned_label(
                pos,
                vel,
                {"a": first, "b": second},
                ([-1, 1], [-1, 1]),
                label_err={"a": errors, "b": None},
                s={"a": 0.2, "b": 0.3},
            )
        means.append([both[name]["label"].item() for name in ("a", "b")])
        told.append(both["a"]["label_covariance"]["b"].item())
        assert both["b"]["label_covariance"]["a"].item() == told[-1]
    true = np.cov(np.transpose(means))[0, 1]
    scatter = np.sqrt(np.var(np.transpose(means), axis=1).prod() / n_samples)
    assert abs(np.mean(told) - true) < 4 * (scatter + np.std(told) / np.sqrt(n_samples))
    assert abs(true) > 10 * scatter


def test_covariance_has_units_and_is_zero_of_independent_labels(stars):
    some = stars[:2000]
    age, fe_h = (1 + some["label"]) * u.Gyr, some["label"] * u.dex
    where = some["z"], some["v_z"]
    both = get_binned_label(*where, {"age": age, "fe_h": fe_h}, BINS)
    assert both["age"]["label_covariance"]["fe_h"].unit == u.Gyr * u.dex
    bare = get_binned_label(*where, {"age": age.value, "fe_h": fe_h.value}, BINS)
    assert_allclose(
        both["age"]["label_covariance"]["fe_h"].value, bare["age"]["label_covariance"]["fe_h"]
    )
    apart = get_binned_label(*where, {"age": age, "fe_h": fe_h}, BINS, independent=True)
    assert "label_covariance" in apart["age"]
    assert (apart["age"]["label_covariance"]["fe_h"] == 0).all()


def test_a_copy_of_a_label_has_no_correlation_beyond_one(stars):
    """Stars of very unequal errors, of which half count for half in one of the labels."""
    some, rng = stars[:20_000], np.random.default_rng(7)
    error = np.exp(rng.normal(-4, 1, len(some)))
    label = np.asarray(some["label"]) + error * rng.normal(size=len(some))
    weights = {"a": np.ones(len(some)), "b": rng.choice([0.5, 1.0], len(some))}
    both = get_binned_label(
        some["z"],
        some["v_z"],
        {"a": label, "b": -3 * label},
        BINS,
        label_err={"a": error, "b": 3 * error},
        s={"a": 0.04, "b": 0.12},
        weights=weights,
    )
    a, b = both["a"], both["b"]
    correlation = a["label_covariance"]["b"] / a["label_err"] / b["label_err"]
    assert np.nanmin(correlation) >= -1 - 1e-12
    crowded = a["counts"] >= 20
    assert crowded.sum() > 200
    # A sum over the weights w of u w beside one of u: the root of their mean.
    assert np.median(correlation[crowded]) == pytest.approx(-np.sqrt(0.75), abs=0.02)


@classes
def test_likelihood_is_that_of_a_normal_distribution(data, cls, settings):
    model, _, start = cls.auto_init(data, **settings)
    posterior, _ = model.posterior_at(start, data, GAUSSIAN)
    names = list(data)
    predicted = [
        model.part(name)
        .get_label(
            data[name]["pos"],
            data[name]["vel"],
            {**start, "label_params": start["label_params"][name]},
        )
        .numpy()
        for name in names
    ]
    total = 0.0
    for place in np.ndindex(predicted[0].shape):
        values = np.array([data[name]["label"][place] for name in names])
        use = np.isfinite(values)
        if not use.any():
            continue
        errors = [data[name]["label_err"][place] for name in names]
        covariance = np.diag(np.square(errors))
        covariance[0, 1] = covariance[1, 0] = data["mg_fe"]["label_covariance"]["fe_h"][place]
        covariance, residual = covariance[use][:, use], (values - [p[place] for p in predicted])
        normal = multivariate_normal(np.zeros(use.sum()), covariance)
        total += normal.logpdf(residual[use]) - normal.logpdf(np.zeros(use.sum()))
    found = float(posterior.ln_likelihood(model.border.params(start)))
    assert found == pytest.approx(total, rel=1e-9)
    assert posterior.evaluated_by == "numba"


@classes
def test_derivatives(data, cls, settings):
    model, _, start = cls.auto_init(data, **settings)
    few = {}
    for name, one in data.items():
        few[name] = {k: one[k][..., 13:17, 12:18] for k in ("pos", "vel", "label", "label_err")}
        few[name]["label_covariance"] = {
            k: v[..., 13:17, 12:18] for k, v in one["label_covariance"].items()
        }
    posterior, x = model.posterior_at(start, few, GAUSSIAN)
    auto, _ = model.posterior_at(start, few, GAUSSIAN, "autograd")
    for name in ("value_and_gradient", "hessian", "data_information", "penalty_hessian"):
        found, expected = getattr(posterior, name)(x), getattr(auto, name)(x)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    x.requires_grad_()
    assert gradcheck(posterior, (x,), eps=1e-5, rtol=1e-4, atol=1e-4, fast_mode=True)
    assert gradgradcheck(posterior, (x,), eps=1e-5, rtol=1e-3, atol=1e-3, fast_mode=True)
    # A residual is linear in the label: the information is the Hessian where residuals vanish.
    exact = {
        name: one
        | {
            "label": model.part(name)
            .get_label(
                one["pos"],
                one["vel"],
                {**start, "label_params": start["label_params"][name]},
            )
            .numpy()
        }
        for name, one in few.items()
    }
    without, x = model.posterior_at(start, exact, GAUSSIAN)
    torch.testing.assert_close(
        without.data_information(x), -without.data_hessian(x), rtol=1e-8, atol=1e-6
    )


@classes
@pytest.mark.parametrize("who", ["numba", "torch"])
def test_some_problems_of_a_batch(data, cls, settings, who):
    model, _, start = cls.auto_init(data, **settings)

    def batched(values):
        some = values[13:17, 12:18].reshape(-1)
        return np.stack([some, some[::-1], some])

    few = {
        name: {k: batched(one[k]) for k in ("pos", "vel", "label", "label_err")}
        | {"label_covariance": {k: batched(v) for k, v in one["label_covariance"].items()}}
        for name, one in data.items()
    }
    params = model.border.samples([start] * 3)
    params["pos0"] = params["pos0"] + torch.tensor([0.0, 0.01, -0.02])
    posterior, x = model.posterior_at(params, few, GAUSSIAN, who)
    auto, _ = model.posterior_at(params, few, GAUSSIAN, "autograd")
    assert posterior.evaluated_by == who
    rows = torch.tensor([2, 0])
    for own, index in ((x, None), (x[rows], rows)):
        for found, expected in zip(
            posterior.value_and_gradient(own, index),
            auto.value_and_gradient(own, index),
            strict=True,
        ):
            size = float(expected.abs().max())
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * size)
        found, expected = (p.evaluation.hessian(own, index) for p in (posterior, auto))
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10 * size)
        found, expected = (p.evaluation.value(own, index) for p in (posterior, auto))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    twice = torch.stack([x, x.flip(0)])
    torch.testing.assert_close(posterior(twice), auto(twice), rtol=1e-9, atol=0)


@classes
@pytest.mark.parametrize("who", ["numba", "torch"])
def test_many_vectors_of_the_same_pixels(data, cls, settings, who):
    model, _, start = cls.auto_init(data, **settings)
    posterior, x = model.posterior_at(start, data, GAUSSIAN, who)
    auto, _ = model.posterior_at(start, data, GAUSSIAN, "autograd")
    some = x + 1e-3 * torch.arange(3, dtype=x.dtype).unsqueeze(-1)
    for found, expected in zip(
        posterior.value_and_gradient(some), auto.value_and_gradient(some), strict=True
    ):
        size = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * size)


@classes
def test_every_error_knows_of_the_covariance(data, cls, settings):
    """The likelihood is Gaussian in both labels, so all kinds of errors are about the same."""
    model, bounds, start = cls.auto_init(data, **settings)
    params, _ = model.optimize(start, GAUSSIAN, bounds, data=data)
    errors = {
        kind: model.get_crlb(params, data, GAUSSIAN, bounds=bounds, hessian=kind).diagonal().sqrt()
        for kind in ("full", "expected", "data", "sandwich")
    }
    for kind, tolerance in (("expected", 0.1), ("sandwich", 0.25)):
        # The last two parameters are pos0 and vel0.
        assert_allclose(errors[kind][-2:], errors["full"][-2:], rtol=tolerance)
    assert errors["data"][-2:].isfinite().all()
    check = model.check_laplace(params, data, GAUSSIAN, bounds=bounds, size=400)
    # Sheets that stand for each other have no Gaussian.
    assert check.khat < (1.1 if cls is TorusImaging1DPotential else 0.7)


@pytest.mark.slow
def test_samples_know_of_the_covariance(data):
    model, bounds, start = TorusImaging1DPotential.auto_init(data, n_components=3)
    params, _ = model.optimize(start, GAUSSIAN, bounds, data=data)
    error = model.get_crlb_uncertainties(params, data, GAUSSIAN, bounds=bounds)["pos0"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # few draws
        samples = model.sample(
            data, params, bounds, objective=GAUSSIAN, num_samples=40, num_warmup=30
        )
    pull = (samples.params["pos0"].mean() - params["pos0"]) / error
    assert abs(pull) < 1
    assert float(samples.params["pos0"].std() / error) == pytest.approx(1, abs=0.6)


@classes
def test_a_label_and_a_noisier_copy_say_no_more_than_the_label(stars, data, cls, settings):
    with pytest.warns(UserWarning, match="left out"):
        apart = binned(stars, independent=True)
    own = {**settings, "label_knots": 5}
    errors = {}
    for how, both in (("one", data["mg_fe"]), ("both", data), ("apart", apart)):
        model, bounds, start = cls.auto_init(both, **(own if how == "one" else settings))
        objective = "gaussian" if how == "one" else GAUSSIAN
        where = both if how == "one" else {"data": both}
        params, state = model.optimize(start, objective, bounds, **where)
        assert state.success
        covariance = model.get_crlb(params, both, objective=objective, bounds=bounds)
        # The last two parameters are pos0 and vel0.
        errors[how] = covariance.diagonal()[-2:].sqrt().numpy()
    assert_allclose(errors["both"], errors["one"], rtol=0.03)
    assert (errors["apart"] < 0.85 * errors["one"]).all()


@pytest.mark.slow
def test_a_batch_is_what_fits_one_by_one_are(stars):
    rng = np.random.default_rng(1)
    table = {
        "z": stars["z"],
        "v_z": stars["v_z"],
        "mg_fe": np.asarray(stars["label"]),
        "fe_h": np.asarray(stars["fe_h"]),
        "half": rng.integers(0, 2, len(stars)),
    }
    label = {"mg_fe": "mg_fe", "fe_h": "fe_h", "counts": None}
    with pytest.warns(UserWarning, match="left out"):
        sums = bin_many(table, ["half"], BINS, pos="z", vel="v_z", label=label)
    subsamples = JointSubsamples(sums)
    assert len(subsamples) == 2
    assert list(subsamples[0]) == list(label)
    first = table["half"] == 0
    where = [table[name][first] for name in ("z", "v_z")]
    with pytest.warns(UserWarning, match="left out"):
        alone = get_binned_label(*where, {k: table[k][first] for k in ("mg_fe", "fe_h")}, BINS)
    alone["counts"] = get_binned_counts(*where, BINS)
    for name, one in subsamples[0].items():
        for key, values in one.items():
            if key == "label_covariance":
                for other, covariance in values.items():
                    assert_allclose(covariance, alone[name][key][other], rtol=1e-9)
            elif key != "label" or name != "counts":
                assert_allclose(values, alone[name][key], rtol=1e-12)
    objective = {**GAUSSIAN, "counts": "poisson"}
    result = fit_many(subsamples, objective=objective, model="potential", n_components=5)
    assert result.success.all()
    assert result.names == subsamples.names
    for i, data in enumerate(subsamples):
        model, bounds, start = TorusImaging1DPotential.auto_init(data, n_components=5)
        params, state = model.optimize(start, objective, bounds, data=data, tol=1e-13)
        assert float(result.fun_val[i]) == pytest.approx(state.fun_val, rel=1e-9)
        for name in ("pos0", "vel0"):
            assert_allclose(result.params[name][i], params[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("zero", [None, ("a", "c")], ids=["all", "one is zero"])
def test_three_labels_and_labels_that_are_missing(zero):
    rng = np.random.default_rng(5)
    root = rng.normal(size=(3, 3))
    covariance = root @ root.T + np.eye(3)
    names = ("a", "b", "c")
    places = {(names[i], names[j]): (i, j) for i in range(3) for j in range(i + 1, 3)}
    if zero is not None:  # labels that a third one links
        covariance[places[zero]] = covariance[places[zero][::-1]] = 0.0
        assert np.linalg.eigvalsh(covariance)[0] > 0.01
    sigma = np.sqrt(np.diag(covariance))
    errors = {n: torch.tensor([s, s]) for n, s in zip(names, sigma, strict=True)}
    errors["c"][1] = torch.nan
    given = {
        pair: torch.full((2,), covariance[place]) for pair, place in places.items() if pair != zero
    }
    own, precision = conditional_errors(errors, given)
    for pixel, n in ((0, 3), (1, 2)):
        inverse = np.linalg.inv(covariance[:n, :n])
        for name in names[:n]:
            i = names.index(name)
            assert float(own[name][pixel]) == pytest.approx(inverse[i, i] ** -0.5)
        for pair, (i, j) in places.items():
            if max(i, j) < n:
                assert float(precision[pair][pixel]) == pytest.approx(inverse[i, j])
    assert own["c"][1].isnan()


def test_a_covariance_that_no_labels_have_is_made_smaller():
    one = torch.ones(1, dtype=torch.float64)
    own, precision = conditional_errors({"a": one, "b": one}, {("a", "b"): 1.5 * one})
    expected = np.linalg.inv([[1, 0.999], [0.999, 1]])
    assert float(own["a"]) == pytest.approx(expected[0, 0] ** -0.5)
    assert float(precision["a", "b"]) == pytest.approx(expected[0, 1])


def test_covariances_of_other_pixels_are_refused(data):
    model, _, start = TorusImaging1DPotential.auto_init(data, n_components=4)
    moved = {**data, "fe_h": data["fe_h"] | {"pos": data["fe_h"]["pos"] + 1 * u.pc}}
    with pytest.raises(ValueError, match="must be of the same pixels"):
        model.posterior_at(start, moved, GAUSSIAN)
    few = data["mg_fe"] | {"label_covariance": {"fe_h": np.zeros(3) + 1e-4}}
    with pytest.raises(ValueError, match="one label, error and covariance in each"):
        model.posterior_at(start, {**data, "mg_fe": few}, GAUSSIAN)
    weighted = data["mg_fe"] | {"weight": np.ones(data["mg_fe"]["label"].shape)}
    with pytest.raises(ValueError, match="cannot have weights of pixels"):
        model.posterior_at(start, {**data, "mg_fe": weighted}, GAUSSIAN)
    units = data["mg_fe"] | {"label_covariance": {"fe_h": 1e-4 * u.kpc}}
    with pytest.raises(u.UnitConversionError, match="product"):
        model.posterior_at(start, {**data, "mg_fe": units}, GAUSSIAN)
