"""Several data sets on one torus, and star counts that went through a selection function."""

from __future__ import annotations

import warnings
from functools import partial

import astropy.units as u
import numpy as np
import pytest
import torch
from scipy.stats import norm, poisson
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.data import get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.parts import part_params
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.plot import plot_data_model_residual
from torusimaging_torch.results import profiles
from torusimaging_torch.simulate import milky_way, milky_way_disk

OBJECTIVE = {"mg_fe": "gaussian", "counts": "poisson"}
SETTINGS = {
    "torus": {
        "label_knots": 5,
        "e_knots": {2: 5},
        "label_l2_sigma": 1.0,
        "label_smooth_sigma": 0.5,
        "e_l2_sigmas": {2: 1.0},
        "e_smooth_sigmas": {2: 0.5},
    },
    "potential": {"n_components": 5},
}
CLASSES = {"torus": TorusImaging1DSpline, "potential": TorusImaging1DPotential}
kinds = pytest.mark.parametrize("kind", list(CLASSES))


def seen(q):
    """Return a selection function: fewer stars are seen far away, none beyond 1.4 kpc."""
    z = np.abs(q.to_value(u.kpc))
    return np.where(z > 1.4, 0.0, np.exp(-z))


@pytest.fixture(scope="module")
def stars():
    return milky_way_disk(60_000, R=8.3 * u.kpc, seed=5)


@pytest.fixture(scope="module")
def data(stars):
    bins = {
        "pos": np.linspace(-1.5, 1.5, 41) * u.kpc,
        "vel": np.linspace(-90, 90, 41) * u.km / u.s,
    }
    label = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins, label_err=stars["label_err"]
    )
    rng = np.random.default_rng(0)
    some = stars[rng.uniform(size=len(stars)) < seen(stars["z"])]
    counts = get_binned_counts(some["z"], some["v_z"], bins)
    return {"mg_fe": label, "counts": with_selection(counts, seen, 0.05)}


@pytest.fixture(scope="module")
def fits(data):
    found = {}
    for kind, cls in CLASSES.items():
        model, bounds, start = cls.auto_init(data, **SETTINGS[kind])
        fit = model.optimize(start, OBJECTIVE, bounds, data=data)
        found[kind] = model, bounds, start, fit
    return found


def clean(one, names):
    """Return flat arrays of the usable pixels of one data set, in model units."""
    units = {"pos": u.kpc, "vel": u.kpc / u.Myr}
    x = {
        k: u.Quantity(one[k]).to_value(units[k]) if k in units else np.asarray(one[k])
        for k in names
    }
    good = np.all([np.isfinite(v) for v in x.values()], axis=0)
    if "label_err" in x:
        good &= x["label_err"] > 0
    if "exposure" in one:
        good &= one["exposure"] > 0
    return {k: v[good] for k, v in x.items()}, good


@kinds
def test_the_likelihood_is_the_sum_of_theirs(fits, data, kind):
    model, _, _, (params, state) = fits[kind]
    assert state.success
    posterior, x = model.posterior_at(params, data, OBJECTIVE)
    label, _ = clean(data["mg_fe"], ("pos", "vel", "label", "label_err"))
    predicted = model.part("mg_fe").get_label(
        label["pos"], label["vel"], part_params(params, "mg_fe")
    )
    chi = norm.logpdf(label["label"], predicted.numpy(), label["label_err"])
    expected = (chi - norm.logpdf(0, 0, label["label_err"])).sum()
    counts, good = clean(data["counts"], ("pos", "vel", "counts"))
    own = part_params(params, "counts")
    ln_lambda = model.part("counts").get_label(counts["pos"], counts["vel"], own).numpy()
    ln_lambda = ln_lambda + np.log(data["counts"]["exposure"][good])
    q = counts["pos"] / 1.5
    terms = [np.abs(q), q**2, np.exp(-((counts["pos"] / 0.15) ** 2))]
    pixel = np.abs(data["counts"]["pos"].to_value(u.kpc)).max() / 1.5
    terms = [terms[0] / pixel, terms[1] / pixel**2, terms[2]]
    ln_lambda += sum(
        s * b for s, b in zip(own["selection_params"]["vals"].numpy(), terms, strict=True)
    )
    expected += poisson.logpmf(counts["counts"], np.exp(ln_lambda)).sum()
    assert float(posterior.ln_likelihood(model.border.params(params))) == pytest.approx(
        expected, rel=1e-9
    )
    assert float(posterior.pixels.n) == len(label["pos"]) + len(counts["pos"])
    assert float(posterior.objective(x)) == pytest.approx(state.fun_val, rel=1e-12)


@kinds
@pytest.mark.parametrize("who", ["torch", "numba"])
def test_formulas_equal_autograd(fits, data, kind, who):
    model, _, start, _ = fits[kind]
    posterior, x = model.posterior_at(start, data, OBJECTIVE, who)
    assert posterior.evaluated_by == who
    x = x + 0.05 * torch.randn(len(x), generator=torch.Generator().manual_seed(1)).to(x)
    auto, _ = model.posterior_at(start, data, OBJECTIVE, "autograd")
    for found, expected in zip(
        posterior.value_and_gradient(x), auto.value_and_gradient(x), strict=True
    ):
        torch.testing.assert_close(
            found, expected, rtol=1e-10, atol=1e-9 * float(expected.abs().max())
        )
    for name in ("data_information", "hessian", "penalty_hessian"):
        expected = getattr(auto, name)(x)
        size = float(expected.abs().max())
        torch.testing.assert_close(
            getattr(posterior, name)(x), expected, rtol=1e-8, atol=1e-10 * size
        )
    curvature = posterior.evaluation.curvature(x)
    size = float(curvature.information.abs().max())
    torch.testing.assert_close(
        curvature.information, posterior.information(x), rtol=1e-9, atol=1e-11 * size
    )
    through = torch.autograd.functional.hessian(posterior, x)
    torch.testing.assert_close(through, batched_hessian(auto, x), rtol=1e-8, atol=1e-10 * size)


def test_gradcheck_and_gradgradcheck(fits, data):
    model, _, start, _ = fits["potential"]
    few = {}
    for name, one in data.items():
        keys = [k for k in one if k != "selection_error"]
        few[name] = {k: one[k][..., 18:22, 17:23] for k in keys}
    few["counts"]["selection_error"] = 0.05
    posterior, x = model.posterior_at(start, few, OBJECTIVE)
    x.requires_grad_()
    assert gradcheck(posterior, (x,), eps=1e-5, rtol=1e-4, atol=1e-4, fast_mode=True)
    assert gradgradcheck(posterior, (x,), eps=1e-5, rtol=1e-3, atol=1e-3, fast_mode=True)


def test_counts_beside_labels_narrow_the_errors(fits, data):
    model, bounds, _, (params, _) = fits["potential"]
    one, limits, start = TorusImaging1DPotential.auto_init(data["mg_fe"], n_components=5)
    alone = one.optimize(start, "gaussian", limits, **data["mg_fe"]).params
    z = [0.2, 0.5, 0.8] * u.kpc
    both = model.get_crlb(params, data, objective=OBJECTIVE, bounds=bounds)
    label = one.get_crlb(alone, data["mg_fe"], bounds=limits)
    narrow = profiles(model, params, z, both)
    wide = profiles(one, alone, z, label)
    assert (narrow["acceleration_err"] < 0.95 * wide["acceleration_err"]).all()
    true = milky_way(8.3 * u.kpc).acceleration(z)
    miss = (narrow["acceleration"] - true) / narrow["acceleration_err"]
    assert (np.abs(miss.decompose()) < 4).all()


@pytest.mark.slow
@kinds
def test_errors_samples_and_check(fits, data, kind):
    model, bounds, _, (params, _) = fits[kind]
    for hessian in ("full", "expected", "sandwich"):
        covariance = model.get_crlb(
            params, data, objective=OBJECTIVE, bounds=bounds, hessian=hessian
        )
        assert covariance.shape == (Layout.of(params).size,) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # too few draws
        samples = model.sample(
            data, params, bounds, objective=OBJECTIVE, num_samples=10, num_warmup=10, seed=1
        )
    assert samples.params["label_params"]["counts"]["label_vals"].shape[0] == 10
    check = model.check_laplace(params, data, OBJECTIVE, bounds=bounds, size=50)
    assert np.isfinite(check.khat)


def test_one_data_set_keeps_its_form(data):
    model, bounds, start = TorusImaging1DPotential.auto_init(data["counts"], n_components=4)
    assert start["selection_params"]["vals"].shape == (3,)
    params, state = model.optimize(start, "poisson", bounds, **data["counts"])
    assert state.success
    assert params["selection_params"]["vals"].abs().max() < 0.15
    exact = with_selection({k: data["counts"][k] for k in ("pos", "vel", "counts")}, seen, 0)
    model, bounds, start = TorusImaging1DPotential.auto_init(exact, n_components=4)
    assert "selection_params" not in start
    assert model.optimize(start, "poisson", bounds, **exact).state.success


def test_a_wrong_selection_function_is_seen(stars):
    bins = {
        "pos": np.linspace(-1.5, 1.5, 41) * u.kpc,
        "vel": np.linspace(-90, 90, 41) * u.km / u.s,
    }
    label = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins, label_err=stars["label_err"]
    )
    rng = np.random.default_rng(0)
    some = stars[rng.uniform(size=len(stars)) < np.exp(-np.abs(stars["z"].to_value(u.kpc)))]
    counts = with_selection(get_binned_counts(some["z"], some["v_z"], bins), None, 0.02)
    both = {"mg_fe": label, "counts": counts}
    model, bounds, start = TorusImaging1DPotential.auto_init(both, n_components=5)
    with pytest.warns(RuntimeWarning, match="function of counts is off by more than 3 times"):
        model.optimize(start, OBJECTIVE, bounds, data=both)


def test_pixels_that_nobody_sees_are_left_out(data):
    exposure = data["counts"]["exposure"]
    assert (exposure == 0).any()
    model, _, start = TorusImaging1DPotential.auto_init(data["counts"], n_components=4)
    posterior, _ = model.posterior_at(start, data["counts"], "poisson")
    assert int(posterior.pixels.n) == int((exposure > 0).sum())


def test_what_does_not_fit_together_is_refused(fits, data):
    model, bounds, start, _ = fits["potential"]
    with pytest.raises(ValueError, match="objective must be of .*counts.*mg_fe.*, got"):
        model.optimize(start, {"mg_fe": "gaussian"}, bounds, data=data)
    with pytest.raises(ValueError, match=r"'counts' has no label_err: .*objective=.*'poisson'\}"):
        model.get_crlb(start, data)
    with pytest.raises(ValueError, match="data must be of"):
        model.optimize(start, "gaussian", bounds, data={"mg_fe": data["mg_fe"]})
    one, limits, first = TorusImaging1DPotential.auto_init(data["mg_fe"], n_components=4)
    with pytest.raises(ValueError, match="the model has one label function"):
        one.optimize(first, OBJECTIVE, limits, data=data)
    with pytest.raises(ValueError, match="objective is one of several data sets"):
        one.optimize(first, OBJECTIVE, limits, **data["mg_fe"])
    with pytest.raises(ValueError, match="ask one, as model.part"):
        model.get_label(0.1 * u.kpc, 0 * u.km / u.s, start)
    with pytest.raises(ValueError, match="make it of several"):
        one.part("mg_fe")


def test_labels_of_the_same_stars_are_warned_of(data):
    twice = {"mg_fe": data["mg_fe"], "fe_h": data["mg_fe"]}
    with pytest.warns(RuntimeWarning, match="of the same stars.*bin them together"):
        TorusImaging1DPotential.auto_init(twice, n_components=3)


def test_what_one_data_set_alone_can_have(fits, data):
    model, _, _, (params, _) = fits["potential"]
    part = model.part("mg_fe")
    figure, _ = plot_data_model_residual(
        data["mg_fe"], part, part_params(params, "mg_fe"), pyplot=False
    )
    assert figure.axes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (partial(with_selection, selection=lambda q: -np.ones(q.shape)), "must not be negative"),
        (partial(with_selection, selection=np.ones(3)), "must have the shape of the pixels"),
        (partial(with_selection, selection=lambda q: 0 * q.value), "zero in all pixels"),
        (partial(with_selection, selection_error=-1), "selection_error must be zero or positive"),
    ],
)
def test_selection_functions_are_checked(data, change, message):
    counts = {k: data["counts"][k] for k in ("pos", "vel", "counts")}
    with pytest.raises(ValueError, match=message):
        change(counts)
    with pytest.raises(ValueError, match="one of star counts"):
        with_selection({k: data["mg_fe"][k] for k in ("pos", "vel", "label")})
