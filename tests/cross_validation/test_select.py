"""Knots and penalty by cross-validation: scores, what is chosen, and what is refused."""

from __future__ import annotations

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.random import SeedSequence
from scipy import stats
from selections import COUNTS, GRID, MODEL, SETTINGS, folds_of, run

import disks
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.cross_validation import selection as calls
from torusimaging_torch.likelihoods.penalty import PenaltyOfMany, regularization_func_default
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import map_leaves
from torusimaging_torch.plot import plot_selection
from torusimaging_torch.tensors import params_to_tensors


def by_hand(data, objective, fold, settings) -> np.ndarray:
    """Return the log-likelihoods of held-out pixels below a perfect fit's, from SciPy."""
    model, bounds, init = TorusImaging1DSpline.auto_init(fold.train, **settings)
    params, state = model.optimize(init, objective, bounds, tol=1e-13, **fold.train)
    assert state.success
    held = {k: v.reshape(-1)[fold.index] for k, v in data.items()}
    with torch.no_grad():
        label = model.get_label(held["pos"], held["vel"], params).numpy()
    if objective == "gaussian":
        return -0.5 * ((held["label"] - label) / held["label_err"]) ** 2
    n = held["counts"]
    return stats.poisson.logpmf(n, np.exp(label)) - stats.poisson.logpmf(n, n)


@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
def test_score_is_that_of_a_plain_loop(objective, data, counts):
    weight = np.linspace(0.2, 1.8, 100).reshape(10, 10)
    data = data | {"weight": weight} if objective == "gaussian" else counts
    changes = {} if objective == "gaussian" else COUNTS
    knots = [0.0, 0.2, disks.EXTENT]
    changes = changes | {"label_knots": knots, "e_knots": {2: knots}, "tol": 1e-13}
    found = run(data, {"e_smooth_sigmas": [0.5]}, **changes)
    folds = folds_of(data, objective, 2, seed=SeedSequence(0, spawn_key=(0,)))
    settings = found.candidates[0].settings
    terms = np.concatenate([by_hand(data, objective, fold, settings) for fold in folds])
    index = np.concatenate([fold.index for fold in folds])
    w = weight.reshape(-1)[index] if objective == "gaussian" else np.ones(len(index))
    assert found.score[0] == pytest.approx(np.average(terms, weights=w), rel=1e-7)
    others = ~np.eye(len(w), dtype=bool)
    left = [np.average(terms[one], weights=w[one]) for one in others]
    jackknife = math.sqrt((len(w) - 1) * np.var(left))
    assert found.score_err[0] == pytest.approx(jackknife, rel=0.03)


def test_candidates_do_not_depend_on_their_company(data, selection):
    alone = run(data, {"e_smooth_sigmas": [0.5]})
    assert alone.score[0] == pytest.approx(selection.score[1], rel=1e-6)
    again = run(data, [{"e_smooth_sigmas": 0.5}, {"e_smooth_sigmas": 0.1}])
    np.testing.assert_allclose(again.score[::-1], selection.score, rtol=1e-6)


def test_data_sets_share_a_choice(data, selection):
    other = disks.draw(MODEL, "gaussian", seed=1, n=11)
    both = run([data, other])
    assert both.n_fits == 4
    assert both.n_pixels == 97 + 121
    alone = run({"nothing": other, "same": other}, {"e_smooth_sigmas": [0.1, 0.5]})
    assert alone.n_pixels == 242
    # The first data set has the same folds in any company.
    rest = (both.score * both.n_pixels - selection.score * 97) / 121
    assert (rest < 0).all()
    assert rest[0] == pytest.approx(selection.score[0], abs=0.3)


def test_an_executor_and_a_store_give_the_same(data, selection, tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    with ThreadPoolExecutor(2) as executor:
        stored = run(data, executor=executor, store=tmp_path)
    np.testing.assert_allclose(stored.score, selection.score, rtol=1e-6)
    parts = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = run(data, store=tmp_path)
    assert again.score.tolist() == stored.score.tolist()
    assert parts == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    with pytest.raises(ValueError, match="settings"):
        run(data, {"e_smooth_sigmas": [0.2, 0.5]}, store=tmp_path)


def test_a_candidate_that_fails_has_no_score_and_is_not_chosen(data, monkeypatch):
    real = calls.fit_many

    def flawed(*args, **kwargs):
        result = real(*args, **kwargs)
        # One fold of the first candidate.
        result.values["status"][1] = Status.MAX_ITER
        return result

    monkeypatch.setattr(calls, "fit_many", flawed)
    with pytest.warns(RuntimeWarning, match="1 of 2 candidates have fits"):
        found = run(data)
    assert np.isnan([found.score[0], found.delta[0], found.delta_err[0]]).all()
    assert found.fits_converged.tolist() == [1, 2]
    assert found.table["failed"].tolist() == [True, False]
    assert (found.best_index, found.chosen_index) == (1, 1)


def test_if_all_fail_there_is_no_choice(data):
    with pytest.warns(RuntimeWarning, match="2 of 2 candidates"):
        found = run(data, max_iter=1)
    assert np.isnan(found.score).all()
    assert found.table["failed"].all()
    assert not found.table["chosen"].any()
    for name in ("best", "chosen"):
        with pytest.raises(ValueError, match=r"none of the 2 candidates .* max_iter"):
            getattr(found, name)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_selection(found)


def test_few_knots_are_found():
    """Truth with three knots in the label and in e_2; more are of no use, two are too few."""
    extent = np.linspace(0, disks.EXTENT, 3)
    model = TorusImaging1DSpline(extent, {2: extent}, {2: 1.0})
    params = disks.truth() | {
        "e_params": {2: {"vals": [-1.0, -1.0]}},
        "label_params": {"label_vals": [0.05, 2.0, 0.3]},
    }
    data = disks.draw(model, "gaussian", seed=3, n=14, params=params)
    found = run(data, {"label_knots": [2, 3, 8], "e_knots": [{2: 2}, {2: 8}]}, n_folds=4)
    assert found.fits_converged.tolist() == [4] * 6
    assert found.chosen["label_knots"] == 3
    assert found.chosen["e_knots"] == {2: 2}
    too_few = [c.settings["label_knots"] == 2 for c in found.candidates]
    assert not found.within[too_few].any()
    assert (found.delta[too_few] > 3 * found.delta_err[too_few]).all()


def test_chosen_settings_are_those_of_auto_init(data, selection):
    assert selection.chosen["e_smooth_sigmas"] in ({2: 0.1}, {2: 0.5})
    model, bounds, init = TorusImaging1DSpline.auto_init(data, **selection.chosen)
    _, state = model.optimize(init, "gaussian", bounds, **data)
    assert state.success
    assert selection.chosen.keys() >= SETTINGS.keys()


@pytest.mark.parametrize("folds", ["pixels", "thinning"])
def test_star_counts(folds, counts):
    found = run(counts, {"label_knots": [2, 4]}, folds=folds, **COUNTS)
    assert found.fits_converged.tolist() == [2, 2]
    assert found.chosen["label_knots"] == 4
    assert found.score[0] < found.score[1] - 0.1
    with torch.no_grad():
        label = MODEL.get_label(counts["pos"], counts["vel"], disks.truth_of("poisson")).numpy()
    own = SeedSequence(0, spawn_key=(0,))
    terms = []
    for fold in folds_of(counts, "poisson", 2, folds, own):
        n, rate = fold.test.observed[0].numpy(), np.exp(label.reshape(-1)[fold.index])
        rate *= 0.5 if folds == "thinning" else 1.0
        terms.append(stats.poisson.logpmf(n, rate) - stats.poisson.logpmf(n, n))
    # No fit predicts better than the truth, but for chance.
    oracle = np.concatenate(terms).mean()
    assert oracle - 0.2 < found.score[1] < oracle + 0.02


def test_table_is_written_and_selection_pickles(selection, tmp_path):
    table = selection.table
    assert table["e_smooth_sigmas"].tolist() == ["2: 0.1", "2: 0.5"]
    assert table.meta["settings"]["label_knots"] == 3
    assert table.meta["n_folds"] == 2
    table.write(tmp_path / "selection.ecsv")
    again = pickle.loads(pickle.dumps(selection))
    assert again.score.tolist() == selection.score.tolist()
    assert again.chosen == selection.chosen
    assert len(again) == 2


def test_the_penalty_of_many_is_that_of_each():
    models = [disks.make_model(e_spline=kind) for kind in ("cubic", "quadratic")]
    keywords = [
        {
            "label_l2_sigma": a,
            "label_smooth_sigma": 0.5,
            "e_l2_sigmas": {2: a, 4: 2.0},
            "e_smooth_sigmas": {2: 0.3, 4: b},
            "dacc_strength": c,
        }
        for a, b, c in [(1.0, 0.1, 0.0), (0.2, 3.0, 100.0), (7.0, 0.5, 1.0)]
    ]
    one = params_to_tensors(disks.truth())
    many = PenaltyOfMany.stack(keywords)
    for model in models:
        each = torch.stack([regularization_func_default(model, one, **k) for k in keywords])
        batch = map_leaves(lambda x: x.expand(3, *x.shape), one)
        torch.testing.assert_close(many(model, batch), each)
        swapped = many.subset([2, 0])(model, map_leaves(lambda x: x[:2], batch))
        torch.testing.assert_close(swapped, each[[2, 0]])
    with pytest.raises(ValueError, match="same arguments"):
        PenaltyOfMany.stack([{"a": 1.0}, {"b": 1.0}])


@pytest.mark.parametrize(
    ("grid", "changes", "error", "message"),
    [
        ({"label_knots": []}, {}, ValueError, r"grid\['label_knots'\] must have at least one"),
        ({"label_knots": 4}, {}, TypeError, r"grid\['label_knots'\] must be a list"),
        ({"e_knots": {2: 4}}, {}, TypeError, r"grid\['e_knots'\] must be a list"),
        ({"e_spline": "cubic"}, {}, TypeError, r"grid\['e_spline'\] must be a list"),
        ({"e_spline": ["linear"]}, {}, ValueError, "linear"),
        ({"label_knots": [1]}, {}, ValueError, "label_knots must be at least 2"),
        ({"e_knots": [{2: 1}]}, {}, ValueError, r"e_knots\[2\] must be at least 2"),
        ({"e_knots": [5]}, {}, TypeError, "e_knots must be a dictionary"),
        ({"label_l2": [1.0]}, {}, TypeError, "label_l2"),
        ({"label_l2_sigma": [0.0]}, {}, ValueError, "label_l2_sigma must be positive"),
        ({"e_smooth_sigmas": [{4: 1.0}]}, {}, ValueError, r"e_smooth_sigmas .* lacks \[2\]"),
        ({"e_knots_spacing_power": [0.0]}, {}, ValueError, "e_knots_spacing_power must be"),
        ({"max_iter": [10]}, {}, TypeError, r"\['max_iter'\] are not settings of a model"),
        ([], {}, ValueError, "grid must have at least one"),
        (["label_knots"], {}, TypeError, "grid must be a dictionary, or a list"),
        (GRID, {"e_smooth_sigmas": 0.1}, TypeError, r"\['e_smooth_sigmas'\] are in the grid"),
        (GRID, {"n_folds": 1}, ValueError, "n_folds"),
        (GRID, {"n_folds": 98}, ValueError, "data set 0: n_folds = 98 .* got 97"),
        (GRID, {"folds": "stars"}, ValueError, "folds"),
        (GRID, {"folds": "thinning"}, ValueError, "objective='poisson'"),
        (GRID, {"objective": "student"}, ValueError, "objective"),
        (GRID, {"names": ["a"]}, TypeError, r"\['names'\] have no meaning"),
    ],
)
def test_bad_arguments_are_named(grid, changes, error, message, data):
    with pytest.raises(error, match=message):
        run(data, grid, **changes)


def test_there_must_be_data():
    with pytest.raises(ValueError, match="at least one"):
        run([])


def test_no_other_warning(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(data)
