"""All that a user calls, with model and data on every device: the answers are those of the CPU."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable

import pretended
from disks import bounds_of, draw, make_model, penalty, start_of
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.cross_validation import select
from torusimaging_torch.data import bin_many, get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.likelihoods.penalty import PenaltyOfMany
from torusimaging_torch.numerics import lbfgs
from torusimaging_torch.numerics.params import iter_leaves, map_leaves
from torusimaging_torch.numerics.replay import Replayed
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.results.profile_table import profiles
from torusimaging_torch.simulate import milky_way_disk

Z = np.linspace(-0.9, 0.9, 13)
SETTINGS = dict(label_knots=4, e_knots={2: 5, 4: 3}, **penalty().keywords)
STARS_Z, STARS_V = np.random.default_rng(1).normal(0, [[0.3], [0.02]], (2, 60))


@cache
def disk(objective: str = "gaussian") -> tuple[Any, dict[str, Any], Any]:
    """Return a model on the CPU, data, and its fit to them."""
    model = make_model()
    data = draw(model, objective, n=12)
    bare = {name: torch.as_tensor(getattr(x, "value", x)) for name, x in data.items()}
    bare["vel"] = torch.as_tensor(data["vel"].to_value(u.kpc / u.Myr))
    fit = model.optimize(start_of(objective), objective, bounds_of(objective), max_iter=60, **bare)
    return model, bare, fit


def everything(x: Any) -> list[np.ndarray]:
    """Return all the numbers in what a function returned, on the host."""
    if isinstance(x, dict):
        return [a for _, leaf in iter_leaves(x) for a in everything(leaf)]
    if isinstance(x, (tuple, list)):
        return [a for part in x for a in everything(part)]
    if isinstance(x, QTable):
        return [a for name in x.colnames for a in everything(x[name])]
    if isinstance(x, torch.Tensor):
        return [x.detach().cpu().double().numpy()]
    return [np.asarray(getattr(x, "value", x), dtype=float)]


def fit_result(model: Any, data: Any) -> FitResult:
    """Return the fit as a result, with its covariance where the model is."""
    _, _, (params, state) = disk()
    bounds = bounds_of("gaussian")
    covariance = model.get_crlb(params, data, bounds=bounds, hessian="expected")
    return FitResult(model, params, bounds, state, "gaussian", {}, covariance)


def trained(model: Any, data: Any) -> list[Any]:
    """Return the gradient of a layer's parameters."""
    module = model.as_module(disk()[2].params, bounds_of("gaussian"))
    module(data["pos"], data["vel"]).square().sum().backward()
    return [p.grad for p in module.parameters()]


def samples() -> Any:
    return map_leaves(lambda x: torch.stack([x, x, x]), disk()[2].params)


MODEL = {
    "label": lambda m, d, p: m.get_label(d["pos"], d["vel"], p),
    "elliptical": lambda m, d, p: m.compute_elliptical(d["pos"], d["vel"], p),
    "ln L": lambda m, d, p: m.ln_gaussian_likelihood(p, **d),
    "objective": lambda m, d, p: m.objective_gaussian(p, **d),
    "acceleration": lambda m, d, p: m.get_acceleration(Z, p),
    "its derivative": lambda m, d, p: m.get_acceleration_deriv(Z, p),
    "density": lambda m, d, p: m.get_density(Z, p),
    "surface density": lambda m, d, p: m.get_surface_density(Z, p),
    "potential": lambda m, d, p: m.get_potential(Z, p),
    "check_e_funcs": lambda m, d, p: m.check_e_funcs(p["e_params"], 0.2),
    "full bound": lambda m, d, p: m.get_crlb(p, d, bounds=bounds_of("gaussian")),
    "expected bound": lambda m, d, p: m.get_crlb(p, d, hessian="expected"),
    "sandwich": lambda m, d, p: m.get_crlb(p, d, hessian="sandwich"),
    "uncertainties": lambda m, d, p: m.get_crlb_uncertainties(p, d, bounds=bounds_of("gaussian")),
    "exact actions": lambda m, d, p: m.compute_action_angle(STARS_Z, STARS_V, p, method="exact"),
    "tabulated actions": lambda m, d, p: m.compute_action_angle(STARS_Z, STARS_V, p),
    "actions of samples": lambda m, d, p: m.compute_action_angle(STARS_Z, STARS_V, samples()),
    "orbit": lambda m, d, p: m.orbit(STARS_Z[:5], STARS_V[:5], p, np.linspace(0, 90, 4)),
    "phase space": lambda m, d, p: m.compute_phase_space([1e-3] * 9, np.linspace(0, 6, 9), p),
    "frequency curve": lambda m, d, p: m.compute_frequency_curve(p),
    "profiles of samples": lambda m, d, p: profiles(m, samples(), Z)["density_p50"],
    "estimate_init_params": lambda m, d, p: m.estimate_init_params(d, bounds_of("gaussian")),
    "as_module": lambda m, d, p: trained(m, d),
    "table of a fit": lambda m, d, p: fit_result(m, d).to_table()["error"],
    "profiles of a fit": lambda m, d, p: fit_result(m, d).profiles(Z)["density_err"],
    "fit": lambda m, d, p: (
        m.optimize(start_of("gaussian"), "gaussian", bounds_of("gaussian"), **d).state.fun_val
    ),
}


@pytest.mark.parametrize("name", MODEL)
def test_a_model_on_a_device_gives_what_it_gives_on_the_cpu(name, device):
    model, data, fit = disk()
    there = {key: x.to(device) for key, x in data.items()}
    expected = everything(MODEL[name](model, data, fit.params))
    found = everything(MODEL[name](copy.deepcopy(model).to(device), there, fit.params))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * np.nanmax(np.abs(b), initial=1.0))


@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
def test_a_model_starts_where_its_data_are(objective, device):
    _, data, _ = disk(objective)
    model, bounds, init = TorusImaging1DSpline.auto_init(
        {key: x.to(device) for key, x in data.items()}, **SETTINGS
    )
    expected = TorusImaging1DSpline.auto_init(data, **SETTINGS)
    assert model.get_label(data["pos"], data["vel"], init).device == init["pos0"].device
    assert init["pos0"].device.type == device.type
    np.testing.assert_allclose(everything(init)[0], everything(expected[2])[0], rtol=1e-6)
    assert model.optimize(init, objective, bounds, **data).state.success


@pytest.mark.parametrize("where", ["model", "data"])
def test_a_start_is_estimated_wherever_model_and_data_are(where, device):
    model, data, _ = disk()
    expected = everything(model.estimate_init_params(data, bounds_of("gaussian")))
    if where == "model":
        model = copy.deepcopy(model).to(device)
    else:
        data = {key: x.to(device) for key, x in data.items()}
    found = everything(model.estimate_init_params(data, bounds_of("gaussian")))
    np.testing.assert_allclose(np.hstack(found), np.hstack(expected), rtol=1e-6, atol=1e-9)


def test_knots_on_a_device_make_a_model_there(device):
    model, data, fit = disk()
    knots = {m: f.spline.knots.to(device) for m, f in model.e_funcs.items()}
    signs = {m: f.sign for m, f in model.e_funcs.items()}
    again = TorusImaging1DSpline(model.label_func.spline.knots.to(device), knots, signs)
    label = again.get_label(data["pos"], data["vel"], fit.params)
    assert label.device.type == device.type
    torch.testing.assert_close(label.cpu(), model.get_label(data["pos"], data["vel"], fit.params))


def test_a_fit_with_its_covariance_on_a_device_is_written_and_drawn_from(device, tmp_path):
    model, data, _ = disk()
    result = fit_result(copy.deepcopy(model).to(device), data)
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    assert np.array_equal(again.to_table()["error"], result.to_table()["error"], equal_nan=True)
    there, here = result.draw(2, seed=1)["pos0"], again.draw(2, seed=1)["pos0"]
    np.testing.assert_allclose(there.cpu(), here, rtol=1e-6)


def subsamples(objective: str = "gaussian") -> list[dict[str, Any]]:
    """Return three sets of data, one of them with fewer pixels."""
    model = make_model()
    many = [draw(model, objective, seed=seed, n=12) for seed in range(3)]
    many[2] = {key: x[:10] for key, x in many[2].items()}
    return many


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hessian": "full", "multistart": 2, "max_iter": 5},
        {"objective": "poisson", "max_iter": 12},
        {"dtype": torch.float32, "tol": 1e-4, "max_iter": 15},
    ],
    ids=["plain", "exact, several starts", "counts", "float32"],
)
@pytest.mark.filterwarnings("ignore:.*did not converge:RuntimeWarning")
def test_many_fits_on_a_device(options, device):
    many = subsamples(options.get("objective", "gaussian"))
    expected = fit_many(many, **SETTINGS, **options, progress=False)
    found = fit_many(many, **SETTINGS, **options, device=device, progress=False)
    if options.get("dtype") != torch.float32:
        assert found.status.tolist() == expected.status.tolist()
    torch.testing.assert_close(found.fun_val, expected.fun_val, rtol=1e-4, atol=1e-6)


def test_labels_with_a_covariance_on_a_device(device):
    _, data, _ = disk()
    covariance = -0.6 * data["label_err"] ** 2
    both = {"a": data | {"label_covariance": {"b": covariance}}, "b": data}
    there = {
        name: {key: map_leaves(lambda x: x.to(device), {"": x})[""] for key, x in one.items()}
        for name, one in both.items()
    }
    objective = dict.fromkeys(both, "gaussian")
    expected, found = [], []
    for numbers, where in ((expected, both), (found, there)):
        model, bounds, start = TorusImaging1DSpline.auto_init(where, **SETTINGS)
        params, state = model.optimize(start, objective, bounds, data=where, max_iter=40)
        crlb = model.get_crlb(params, where, objective, bounds=bounds, hessian="expected")
        numbers += [state.fun_val, *everything(crlb)]
    assert params["pos0"].device.type == device.type
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.nanmax(np.abs(b)))


def test_penalties_of_many_problems_move_with_their_model(device):
    arguments = dict(penalty().keywords)
    many = PenaltyOfMany.stack([arguments, arguments | {"label_l2_sigma": 2.0}])
    knots = {key: SETTINGS[key] for key in ("label_knots", "e_knots")}
    data = subsamples()[:2]
    result = fit_many(data, **knots, regularization_func=many, progress=False)
    flat = {key: np.stack([d[key].reshape(-1) for d in data]) for key in data[0]}
    expected = result.model.objective_gaussian(result.params, **flat)
    found = result.model.to(device).objective_gaussian(result.params, **flat)
    torch.testing.assert_close(found.cpu(), expected)


def test_data_on_a_device_are_cross_validated(device):
    _, data, _ = disk()
    there = {key: x.to(device) for key, x in data.items()}
    options = dict(SETTINGS, n_folds=2, seed=1, progress=False)
    del options["label_knots"]
    expected = select([data], {"label_knots": [4]}, **options)
    found = select([there], {"label_knots": [4]}, **options)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-6)


def test_stars_on_a_device_are_binned(device):
    stars = milky_way_disk(500, seed=1)
    bins = {"pos": np.linspace(-1.2, 1.2, 5) * u.kpc, "vel": np.linspace(-70, 70, 5) * u.km / u.s}
    z, v = stars["z"].to_value(u.kpc), stars["v_z"].to_value(u.kpc / u.Myr)
    columns = [torch.as_tensor(np.asarray(x)) for x in (z, v, stars["label"], stars["label_err"])]
    expected = everything(get_binned_label(*columns[:3], bins, label_err=columns[3]))
    z, v, label, err = (x.to(device) for x in columns)
    found = everything(get_binned_label(z, v, label, bins, label_err=err))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert get_binned_counts(z, v, bins)["counts"].sum() > 400
    names = {"pos": "z", "vel": "v_z", "label": "label", "label_err": "label_err", "s": 0.05}
    sums = [bin_many(stars, None, bins, **names, device=where) for where in (None, device)]
    np.testing.assert_allclose(sums[1][0]["label"], sums[0][0]["label"], rtol=1e-9)


@pytest.mark.filterwarnings("ignore:the sampler has not converged:RuntimeWarning")
def test_chains_run_on_a_device(device):
    model, data, fit = disk()
    options = {"num_samples": 4, "num_warmup": 20, "max_tree_depth": 2, "seed": 1}
    there = copy.deepcopy(model).to(device)
    chains = there.sample(data, fit.params, bounds_of("gaussian"), **options)
    assert np.isfinite(everything(chains.params)[2]).all()
    assert len(chains.to_table()) == 4


@pytest.mark.skipif(bool(pretended.missing()), reason="no pretended device")
def test_a_layer_never_makes_the_host_wait():
    model, data, fit = disk()
    there = pretended.device()
    module = model.as_module(fit.params, bounds_of("gaussian")).to(there)
    pos, vel = data["pos"].to(there), data["vel"].to(there)
    with pretended.traffic() as seen:
        module(pos, vel).sum().backward()
    assert seen["waits"] == seen["to_host"] == 0


def kinds_of_fits() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return binned data and settings of `fit_many`."""
    stars = milky_way_disk(20_000, seed=1)
    bins = {"pos": np.linspace(-1.2, 1.2, 13) * u.kpc, "vel": np.linspace(-70, 70, 13) * u.km / u.s}
    where = stars["z"], stars["v_z"]
    label = get_binned_label(*where, stars["label"], bins, label_err=stars["label_err"])
    counts = get_binned_counts(*where, bins)
    seen = with_selection(counts, None, 0.1)
    wide = SETTINGS | {"label_l2_sigma": 50.0, "label_smooth_sigma": 20.0}
    potential = {"model": "potential", "n_components": 3}
    both = {"fe": "gaussian", "counts": "poisson"}
    labels = {"fe": stars["label"], "mg": stars["label"] + 0.1 * stars["v_z"].value / 30}
    two = get_binned_label(*where, labels, bins, label_err=dict.fromkeys(labels, 0.1))
    return {
        "ellipses": (label, SETTINGS),
        "counts": (seen, wide | {"objective": "poisson"}),
        "prior": (label, SETTINGS | {"priors": {"vel0": (0.0, 0.01)}}),
        "potential": (label, potential),
        "both": ({"fe": label, "counts": seen}, potential | {"objective": both}),
        "covariance": (two, potential | {"objective": dict.fromkeys(labels, "gaussian")}),
    }


KINDS = ["ellipses", "counts", "prior", "potential", "both", "covariance"]


@pytest.mark.skipif(bool(pretended.missing()), reason="no pretended device")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_recorded_of_a_fit_waits_for_nothing(kind, monkeypatch):
    call, seen = Replayed.__call__, {}

    def watched(step, state):
        with pretended.traffic() as found:
            state = call(step, state)
        seen.setdefault(step, []).append(sum(found.values()))
        return state

    monkeypatch.setattr(Replayed, "__call__", watched)
    monkeypatch.setattr(lbfgs, "_as_it_is", None)  # every step is one to be recorded
    data, settings = kinds_of_fits()[kind]
    fit_many([data] * 2, **settings, device=pretended.device(), progress=False)
    assert len(seen) >= 4  # two rounds of the low-order fit, and two of the fit itself
    # The first call may wait: it is not recorded.
    assert sum(sum(found[1:]) for found in seen.values()) == 0
