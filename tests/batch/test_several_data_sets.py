"""Many subsamples of several data sets each, and star counts with a selection function."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
import torch

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.data import get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.results import BatchResult
from torusimaging_torch.simulate import milky_way_disk

OBJECTIVE = {"counts": "poisson", "mg_fe": "gaussian"}
PENALTY = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}
SETTINGS = {
    "potential": {"model": "potential", "n_components": 4},
    "torus": {"label_knots": 5, "e_knots": {2: 4}, **PENALTY},
}
kinds = pytest.mark.parametrize("kind", list(SETTINGS))


def seen(q):
    return np.exp(-np.abs(q.to_value(u.kpc)))


@pytest.fixture(scope="module")
def subsamples():
    made = []
    for seed, n_bins in ((1, 31), (2, 25), (3, 31)):
        stars = milky_way_disk(20_000, R=8.3 * u.kpc, seed=seed)
        bins = {
            "pos": np.linspace(-1.5, 1.5, n_bins) * u.kpc,
            "vel": np.linspace(-90, 90, n_bins) * u.km / u.s,
        }
        label = get_binned_label(
            stars["z"], stars["v_z"], stars["label"], bins, label_err=stars["label_err"]
        )
        rng = np.random.default_rng(seed)
        some = stars[rng.uniform(size=len(stars)) < seen(stars["z"])]
        counts = get_binned_counts(some["z"], some["v_z"], bins)
        made.append({"mg_fe": label, "counts": with_selection(counts, seen, 0.05)})
    return made


@pytest.fixture(scope="module", params=list(SETTINGS))
def fits(request, subsamples):
    settings = SETTINGS[request.param]
    many = fit_many(subsamples, objective=OBJECTIVE, progress=False, **settings)
    return request.param, many


@pytest.mark.slow
def test_each_is_what_it_is_alone(fits, subsamples):
    kind, many = fits
    assert bool(many.success.all())
    for i, data in enumerate(subsamples):
        settings = {k: v for k, v in SETTINGS[kind].items() if k != "model"}
        cls = TorusImaging1DPotential if kind == "potential" else TorusImaging1DSpline
        model, bounds, start = cls.auto_init(data, **settings)
        params, state = model.optimize(start, OBJECTIVE, bounds, data=data, tol=1e-13)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # some slopes rest on their bounds
            covariance = model.get_crlb(params, data, OBJECTIVE, bounds=bounds, hessian="expected")
        # A bound is approached without an end: the last of it is worth some 1e-6 nats.
        tolerance = 1e-8 if state.at_bound else 1e-10
        assert float(many.fun_val[i]) == pytest.approx(state.fun_val, abs=tolerance)
        single = dict(iter_leaves(model.border.params(params)))
        own = dict(iter_leaves(many[i].params))
        errors = dict(iter_leaves(many.layout.unflatten(covariance.diagonal().sqrt())))
        for path, value in single.items():
            # What the data leave open has no error.
            error = errors[path].nan_to_num(1.0)
            assert ((own[path] - value).abs() < 1e-4 * error + 1e-8).all(), path
        assert torch.allclose(many.covariance[i], covariance, rtol=1e-4, equal_nan=True)


def test_the_objective_of_a_result_is_that_of_the_fit(fits, subsamples):
    _, many = fits
    for i, data in enumerate(subsamples):
        one = many[i]
        posterior, vector = one.model.posterior_at(one.params, data, one.objective)
        found = float(posterior.objective(vector))
        assert found == pytest.approx(float(many.fun_val[i]), abs=1e-12)
        assert one.part("counts").objective == "poisson"


@pytest.mark.parametrize("ending", [".ecsv", ".fits", ".parquet", ".hdf5"])
def test_files_and_profiles(fits, tmp_path, ending):
    _, many = fits
    many.write(tmp_path / f"many{ending}")
    again = BatchResult.read(tmp_path / f"many{ending}")
    assert again.settings == many.settings
    for name, values in many.values.items():
        assert torch.equal(values.nan_to_num(-7.0), again.values[name].nan_to_num(-7.0)), name
    first, second = (x.profiles([0.2, 0.6] * u.kpc) for x in (many, again))
    assert (first["acceleration"] == second["acceleration"]).all()


def test_cubic_labels_with_knots_of_their_own(subsamples):
    labels = [data["mg_fe"] for data in subsamples]
    settings = {**PENALTY, "label_knots": 5, "e_knots": {2: 4}, "label_spline": "cubic"}
    many = fit_many(labels, progress=False, **settings)
    model, bounds, start = TorusImaging1DSpline.auto_init(labels[1], **settings)
    params, _ = model.optimize(start, "gaussian", bounds, tol=1e-13, **labels[1])
    error = many.errors["ln_Omega0"][1]
    assert abs(many.params["ln_Omega0"][1] - params["ln_Omega0"]) < 1e-4 * error


@pytest.mark.slow
def test_starts_and_stores(subsamples, tmp_path):
    settings = {**SETTINGS["potential"], "objective": OBJECTIVE, "progress": False}
    one = fit_many(subsamples, store=tmp_path / "store", shard_size=2, **settings)
    again = fit_many(subsamples, store=tmp_path / "store", shard_size=2, **settings)
    assert torch.equal(one.values["x"], again.values["x"])
    with pytest.raises(ValueError, match="other"):
        other = [{**data, "mg_fe": subsamples[0]["mg_fe"]} for data in subsamples]
        fit_many(other, store=tmp_path / "store", shard_size=2, **settings)
    several = fit_many(subsamples[:2], multistart=3, **settings)
    assert (several.fun_val <= one.fun_val[:2] + 1e-9).all()


def test_counts_alone_know_their_selection_function(subsamples):
    """Without it the force would be far off."""
    counts = [data["counts"] for data in subsamples[:2]]
    plain = [{k: data[k] for k in ("pos", "vel", "counts", "label")} for data in counts]
    settings = {"objective": "poisson", "model": "potential", "n_components": 4, "progress": False}
    found, wrong = (fit_many(data, **settings) for data in (counts, plain))
    for i, data in enumerate(counts):
        model, bounds, start = TorusImaging1DPotential.auto_init(data, n_components=4)
        params, _ = model.optimize(start, "poisson", bounds, **data)
        one = found[i].profiles([0.5] * u.kpc)["acceleration"]
        alone = model.get_acceleration([0.5] * u.kpc, params)
        assert u.allclose(one, alone, rtol=1e-5)
        assert not u.allclose(wrong[i].profiles([0.5] * u.kpc)["acceleration"], alone, rtol=0.1)
    assert found.params["selection_params"]["vals"].shape == (2, 3)


def test_knots_may_be_positions_for_all(subsamples):
    data, own = subsamples[:2], {"n_components": 4, "label_knots": np.linspace(0, 0.4, 5)}
    many = fit_many(data, objective=OBJECTIVE, progress=False, model="potential", **own)
    for i, one in enumerate(data):
        model, bounds, start = TorusImaging1DPotential.auto_init(one, **own)
        _, state = model.optimize(start, OBJECTIVE, bounds, data=one, tol=1e-13)
        assert float(many.fun_val[i]) == pytest.approx(state.fun_val, abs=1e-8)


@pytest.mark.parametrize("alone", [False, True])
def test_a_selection_function_that_is_off_is_told(subsamples, alone):
    """In the thinnest layer two stars of five are missing, and nobody says so."""
    stars = milky_way_disk(30_000, R=8.3 * u.kpc, seed=1)
    bins = {"pos": np.linspace(-1.5, 1.5, 25) * u.kpc, "vel": np.linspace(-90, 90, 25) * u.km / u.s}
    counts = get_binned_counts(stars["z"], stars["v_z"], bins)
    wrong = with_selection(counts, lambda q: np.where(np.abs(q) < 0.1 * u.kpc, 0.6, 1.0), 0.01)
    right = with_selection(counts, None, 0.01)
    sets = [right, wrong] if alone else [subsamples[0] | {"counts": x} for x in (right, wrong)]
    settings = {"model": "potential", "n_components": 4, "progress": False}
    with pytest.warns(RuntimeWarning, match="selection function of 1 of 2 fits is off"):
        fit_many(sets, objective="poisson" if alone else OBJECTIVE, **settings)
    objective, data = ("poisson", wrong) if alone else (OBJECTIVE, {"data": sets[1]})
    model, bounds, start = TorusImaging1DPotential.auto_init(sets[1], n_components=4)
    with pytest.warns(RuntimeWarning, match="selection function( of counts)? is off") as warned:
        model.optimize(start, objective, bounds, **data)
    assert warned[0].filename == __file__


def test_one_bad_data_set_does_not_stop_the_others(subsamples):
    empty = {**subsamples[0]["counts"], "exposure": np.zeros((30, 30))}
    bad = [subsamples[0] | {"counts": empty}, subsamples[0]]
    settings = {**SETTINGS["potential"], "objective": OBJECTIVE, "progress": False}
    with pytest.warns(RuntimeWarning, match="1 of 2 fits did not converge"):
        found = fit_many(bad, **settings)
    assert found.message[0] == "not started: no usable pixel of counts"
    assert found.success.tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["mg_fe"], "expected binned data of .*counts.*mg_fe"),
        (lambda data: {"mg_fe": data["mg_fe"]}, "subsample '1'.*expected binned data of"),
        (
            lambda data: data | {"counts": data["counts"] | {"selection_error": 0.1}},
            "with the same selection_error, got 3 with 0.05, 3 with 0.1",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(subsamples, change, message):
    settings = {**SETTINGS["potential"], "objective": OBJECTIVE, "progress": False}
    with pytest.raises(ValueError, match=message):
        fit_many([subsamples[0], change(subsamples[1])], **settings)
