"""Knots and penalty by cross-validation: folds, scores, the rule, and what it chooses."""

from __future__ import annotations

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from gala.units import galactic
from matplotlib.collections import PathCollection
from numpy.random import SeedSequence
from scipy import stats

import disks
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.cross_validation import select
from torusimaging_torch.cross_validation import selection as calls
from torusimaging_torch.cross_validation.candidates import make_candidates
from torusimaging_torch.cross_validation.folds import make_folds
from torusimaging_torch.cross_validation.one_standard_error import judge
from torusimaging_torch.likelihoods.penalty import PenaltyOfMany, regularization_func_default
from torusimaging_torch.numerics.lbfgs import Status
from torusimaging_torch.numerics.params import Layout, map_leaves
from torusimaging_torch.plot import plot_selection
from torusimaging_torch.units import params_to_tensors

PENALTY: dict[str, Any] = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5, "e_l2_sigmas": 1.0}
SETTINGS: dict[str, Any] = {
    **PENALTY,
    "label_knots": 3,
    "e_knots": {2: 3},
    "e_smooth_sigmas": {2: 0.5},
}
COUNTS = {"objective": "poisson", "label_l2_sigma": 50.0, "label_smooth_sigma": 20.0}
GRID = {"e_smooth_sigmas": [0.1, 0.5]}
MODEL = disks.make_model()


def run(data, grid=GRID, **changes):
    varied = grid if isinstance(grid, dict) else set().union(*grid)
    settings = {k: v for k, v in SETTINGS.items() if k not in varied}
    return select(data, grid, **({"n_folds": 2, "progress": False} | settings | changes))


def folds_of(data, objective="gaussian", n_folds=3, kind="pixels", seed=None):
    return make_folds(data, objective, n_folds, kind, seed or SeedSequence(0), galactic)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    data = disks.draw(MODEL, "gaussian", seed=0, n=10)
    data["label"][2, 3:6] = np.nan
    return data


@pytest.fixture(scope="module")
def counts() -> dict[str, Any]:
    return disks.draw(MODEL, "poisson", seed=0, n=10)


@pytest.fixture(scope="module")
def selection(data):
    return run(data)


@pytest.mark.parametrize("kind", ["pixels", "blocks"])
def test_folds_hold_out_each_usable_pixel_once(kind, data):
    folds = folds_of(data, kind=kind)
    held = np.concatenate([fold.index for fold in folds])
    assert sorted(held) == np.flatnonzero(np.isfinite(data["label"])).tolist()
    for fold in folds:
        blank = np.flatnonzero(np.isnan(fold.train["label"]) & np.isfinite(data["label"]))
        assert blank.tolist() == sorted(fold.index)
        assert fold.test.observed[0].tolist() == data["label"].reshape(-1)[fold.index].tolist()
    assert np.isfinite(data["label"]).sum() == 97
    if kind == "pixels":
        assert sorted(len(fold.index) for fold in folds) == [32, 32, 33]


def test_folds_are_those_of_the_seed(data):
    def index(seed):
        return [fold.index.tolist() for fold in folds_of(data, seed=SeedSequence(seed))]

    assert index(1) == index(1) != index(2)


def test_blocks_are_held_out_as_a_whole():
    data = disks.draw(MODEL, "gaussian", n=16)
    for fold in folds_of(data, n_folds=4, kind="blocks"):
        held = np.isnan(fold.train["label"]).reshape(8, 2, 8, 2).sum((1, 3))
        assert set(held.ravel()) == {0, 4}
        assert (held == 4).sum() == 16


def test_thinning_deals_out_all_stars(counts):
    counts = counts | {"counts": counts["counts"].copy()}
    counts["counts"][0, 0] = np.nan
    folds = folds_of(counts, "poisson", kind="thinning")
    parts = np.stack([fold.test.observed[0].numpy() for fold in folds])
    assert parts.sum(0).tolist() == counts["counts"].reshape(-1)[1:].tolist()
    for fold, part in zip(folds, parts, strict=True):
        rest = (counts["counts"] - fold.train["counts"]).reshape(-1)
        assert np.isnan(rest[0])
        assert rest[1:].tolist() == part.tolist()
        assert fold.shift == pytest.approx(-math.log(2))


def test_units_and_masks_survive_being_held_out(data):
    label = np.ma.masked_invalid(data["label"])
    for values in (label, data["label"] * u.Gyr):
        one = data | {"label": values}
        if isinstance(values, u.Quantity):
            one["label_err"] = data["label_err"] * u.Gyr
        for fold, expected in zip(folds_of(one), folds_of(data), strict=True):
            assert getattr(fold.train["label"], "unit", None) == getattr(values, "unit", None)
            bare = u.Quantity(fold.train["label"]).value
            np.testing.assert_array_equal(bare, expected.train["label"])


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


def candidates(**grid):
    settings = {k: v for k, v in SETTINGS.items() if k not in grid} | {"units": galactic}
    return make_candidates(grid, settings, "gaussian")


def scores(deltas, n=400, spread=1.0, seed=0) -> np.ndarray:
    """Return log-likelihoods whose differences from the first candidate have mean and spread."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(deltas), n))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, ddof=1, keepdims=True)
    common = 10 * rng.standard_normal(n)
    own = np.array(deltas)[:, None] + spread * noise
    own[0] = 0.0
    return common - own


def test_the_simplest_within_one_error_is_chosen():
    # One standard error of a difference is 1/20, though that of a score is ten times as large.
    many = candidates(label_knots=[6, 5, 4, 3])
    found = judge(many, scores([0, 0.02, 0.049, 0.051]), np.ones(400), np.full(4, 5), 5)
    np.testing.assert_allclose(found.delta, [0, 0.02, 0.049, 0.051], atol=1e-12)
    np.testing.assert_allclose(found.delta_err[1:], 0.05)
    assert found.score_err.min() > 0.4
    assert found.within.tolist() == [True, True, True, False]
    assert (found.best_index, found.chosen_index) == (0, 2)
    assert found.chosen["label_knots"] == 4
    assert found.best["label_knots"] == 6


def test_differences_that_say_nothing_are_within():
    many = candidates(label_knots=[4, 3])
    found = judge(many, scores([0, 2e-4], spread=1e-5), np.ones(400), np.full(2, 5), 5)
    assert found.chosen_index == 1
    found = judge(many, scores([0, 3e-4], spread=1e-5), np.ones(400), np.full(2, 5), 5)
    assert found.chosen_index == 0


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"e_smooth_sigmas": [0.5, 0.1, 2.0]}, 1),
        ({"dacc_strength": [1.0, 100.0, 0.0]}, 1),
        ({"e_knots": [{2: 4, 4: 3}, {2: 4}, {2: 5}]}, 1),
        ({"label_knots": [4, [0.0, 0.1, 0.3], 5]}, 1),
        # None is simpler: the best score decides.
        ({"e_spline": ["cubic", "quadratic", "cubic"]}, 0),
    ],
)
def test_simpler_is_fewer_parameters_then_a_stronger_penalty(grid, expected):
    many = candidates(**grid, e_l2_sigmas=[{2: 1.0, 4: 1.0}], **{
        k: [{2: 0.5, 4: 0.5}] for k in ["e_smooth_sigmas"] if k not in grid
    })  # fmt: skip
    found = judge(many, scores([0, 0.01, 0.01]), np.ones(400), np.full(3, 5), 5)
    assert found.within.all()
    assert found.chosen_index == expected


def test_number_of_parameters_is_the_models():
    for one in candidates(label_knots=[3, 5], e_knots=[{2: 4}, {1: 3, 2: 5}], e_smooth_sigmas=[1]):
        _, _, init = TorusImaging1DSpline.auto_init(disks.draw(MODEL, "gaussian"), **one.settings)
        assert one.n_params == Layout.of(init).size


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


def test_counts_that_are_weighted_are_not_dealt_out(counts):
    weighted = counts | {"counts": counts["counts"] * 0.5}
    with pytest.raises(ValueError, match="whole numbers"):
        run(weighted, objective="poisson", folds="thinning")


def synthetic(deltas, **grid):
    many = candidates(**grid)
    converged = np.where(np.isnan(deltas), 4, 5)
    return judge(many, scores(np.nan_to_num(deltas)), np.ones(400), converged, 5)


def test_figure_shows_each_candidate():
    grid = {"label_knots": [3, 6], "e_smooth_sigmas": [0.01, 0.1, 1.0]}
    found = synthetic([0, 0.01, np.nan, 3.0, 0.04, 0.2], **grid)
    fig, ax = plot_selection(found, pyplot=False)
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.01", "0.1", "1"]
    points = [
        c
        for c in ax.collections
        if isinstance(c, PathCollection) and not c.get_label()[0].isalpha()
    ]
    drawn = np.concatenate([np.ma.compressed(c.get_offsets()[:, 1]) for c in points])
    expected = -400 * found.delta[np.isfinite(found.delta)]
    np.testing.assert_allclose(np.sort(drawn), np.sort(expected), atol=1e-9)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert sorted(labels) == ["best", "chosen", "label knots 3", "label knots 6"]
    fig.draw_without_rendering()


@pytest.mark.parametrize(
    ("grid", "x"),
    [
        ({"e_spline": ["cubic", "quadratic"]}, None),
        ({"label_knots": [3]}, None),
        ({"label_knots": [3, 4], "e_knots": [{2: 3}, {2: 5}], "e_spline": ["cubic"]}, "e_knots"),
        ({"label_knots": [3, 4], "e_smooth_sigmas": [1, 2], "e_l2_sigmas": [1, 2]}, "label_knots"),
    ],
)
def test_any_grid_can_be_drawn(grid, x):
    n = math.prod(map(len, grid.values()))
    fig, ax = plt.subplots()
    same, _ = plot_selection(synthetic(np.linspace(0, 0.1, n), **grid), x, axes=ax)
    assert same is fig
    fig.draw_without_rendering()
    plt.close(fig)


def test_axis_must_be_a_setting_that_varies(selection):
    with pytest.raises(ValueError, match=r"one of the settings that vary, \['e_smooth_sigmas'\]"):
        plot_selection(selection, "label_knots")


def test_no_other_warning(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(data)
