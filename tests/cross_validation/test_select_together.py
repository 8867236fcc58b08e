"""Cross-validation of data sets that are fitted together, and of a selection function."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from scipy.stats import norm, poisson

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.cross_validation import select
from torusimaging_torch.data import get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.simulate import milky_way_disk

BOTH = {"mg_fe": "gaussian", "counts": "poisson"}
BINS = {"pos": np.linspace(-1.2, 1.2, 17) * u.kpc, "vel": np.linspace(-70, 70, 17) * u.km / u.s}
RUN = {"n_folds": 2, "progress": False, "model": "potential", "n_components": 4}


@pytest.fixture(scope="module")
def data():
    stars = milky_way_disk(20_000, R=8.3 * u.kpc, seed=1)
    where = stars["z"], stars["v_z"]
    label = get_binned_label(*where, stars["label"], BINS, label_err=stars["label_err"])
    return {"mg_fe": label, "counts": with_selection(get_binned_counts(*where, BINS), None, 0.05)}


def test_the_score_is_that_of_the_pixels_held_out(data):
    """Fit the other half by hand, and compare what it predicts."""
    found = select(data, {"label_knots": [{"mg_fe": 4, "counts": 5}]}, objective=BOTH, **RUN)
    parts = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,))).permutation(
        np.arange(256) % 2
    )
    total, n = 0.0, 0
    for part in range(2):
        held = (parts == part).reshape(16, 16)
        train = {
            name: {**one, "label": np.where(held, np.nan, one["label"])}
            for name, one in data.items()
        }
        train["counts"]["counts"] = np.where(held, np.nan, data["counts"]["counts"])
        model, bounds, start = TorusImaging1DPotential.auto_init(
            train, {"mg_fe": 4, "counts": 5}, n_components=4
        )
        params, _ = model.optimize(start, BOTH, bounds, data=train, tol=1e-9)
        p = model.border.params(params)
        label, error = (data["mg_fe"][k][held] for k in ("label", "label_err"))
        where = data["mg_fe"]["pos"][held], data["mg_fe"]["vel"][held]
        own = {**p, "label_params": p["label_params"]["mg_fe"]}
        predicted = model.part("mg_fe").get_label(*where, own).numpy()
        good = np.isfinite(label)
        total += (norm.logpdf(label, predicted, error) - norm.logpdf(0, 0, error))[good].sum()
        counts = data["counts"]["counts"][held]
        own = {**p, "label_params": p["label_params"]["counts"]}
        terms = data["counts"]["selection_terms"][:, held]
        ln_rate = model.part("counts").get_label(*where, own).numpy()
        ln_rate = ln_rate + np.log(data["counts"]["exposure"][held])
        ln_rate = ln_rate + p["selection_params"]["counts"]["vals"].numpy() @ terms
        best = poisson.logpmf(counts, np.maximum(counts, 1e-300))
        total += (poisson.logpmf(counts, np.exp(ln_rate)) - best).sum()
        n += good.sum() + held.sum()
    assert found.n_pixels == n
    assert found.score[0] == pytest.approx(total / n, rel=1e-4)


def test_too_stiff_a_model_is_not_chosen(data):
    found = select(
        data,
        {"n_components": [1, 4]},
        objective=BOTH,
        **{k: RUN[k] for k in RUN if k != "n_components"},
    )
    assert found.score[1] > found.score[0]
    assert found.best["n_components"] == 4


def test_other_names_are_refused(data):
    with pytest.raises(ValueError, match=r"expected \['counts', 'mg_fe'\], got \['fe_h'\]"):
        select([{"fe_h": data["mg_fe"]}], {"label_knots": [4]}, objective=BOTH, **RUN)
