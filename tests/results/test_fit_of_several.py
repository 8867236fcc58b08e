"""The fit of several data sets as a result: its parts, its tables, its files."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.data import get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way_disk

OBJECTIVE = {"MG FE": "gaussian", "counts": "poisson"}
ENDINGS = [".ecsv", ".fits", ".parquet", ".hdf5"]


@pytest.fixture(scope="module")
def data():
    stars = milky_way_disk(20_000, R=8.3 * u.kpc, seed=5)
    bins = {
        "pos": np.linspace(-1.5, 1.5, 31) * u.kpc,
        "vel": np.linspace(-90, 90, 31) * u.km / u.s,
    }
    label = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins, label_err=stars["label_err"]
    )
    counts = get_binned_counts(stars["z"], stars["v_z"], bins)
    return {"MG FE": label, "counts": with_selection(counts, lambda q: 1 + 0 * q.value, 0.05)}


def fitted(model, bounds, start, data):
    params, state = model.optimize(start, OBJECTIVE, bounds, data=data)
    covariance = model.get_crlb(params, data, OBJECTIVE, bounds=bounds, hessian="expected")
    return FitResult(model, params, bounds, state, OBJECTIVE, {"file": "x"}, covariance)


@pytest.fixture(scope="module")
def results(data):
    penalty = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
    penalty |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}
    return {
        "potential": fitted(*TorusImaging1DPotential.auto_init(data, n_components=4), data),
        "torus": fitted(*TorusImaging1DSpline.auto_init(data, 5, {2: 4}, **penalty), data),
    }


@pytest.fixture(params=["potential", "torus"])
def result(request, results):
    return results[request.param]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_give_the_same_fit_back(result, data, tmp_path, ending):
    result.write(tmp_path / f"fit{ending}")
    again = FitResult.read(tmp_path / f"fit{ending}")
    assert again.objective == OBJECTIVE
    assert again.state == result.state
    mine, theirs = (dict(iter_leaves(r.model.border.params(r.params))) for r in (result, again))
    assert all(torch.equal(mine[path], theirs[path]) for path in mine)
    first, second = (
        r.model.posterior_at(r.params, data, OBJECTIVE)[0](
            r.model.posterior_at(r.params, data, OBJECTIVE)[1]
        )
        for r in (result, again)
    )
    assert first == second  # the penalty is the same, too
    assert np.array_equal(result.covariance, again.covariance, equal_nan=True)
    heights = [0.1, 0.5, 1.0] * u.kpc
    for name in ("acceleration", "acceleration_err", "density"):
        assert (result.profiles(heights)[name] == again.profiles(heights)[name]).all()


def test_a_part_is_the_fit_of_one_data_set(result, data):
    whole, part = result.to_table(), result.part("MG FE")
    own = part.to_table()
    assert part.objective == "gaussian"
    assert part.data_sets == ()
    # Errors, bounds and values are those of the whole, by other names.
    for row in own:
        name = row["name"].replace("label_params", "label_params.MG FE")
        same = whole[list(whole["name"]).index(name)]
        assert [row[c] for c in ("value", "lower", "upper", "at_bound")] == [
            same[c] for c in ("value", "lower", "upper", "at_bound")
        ]
        assert row["error"] == pytest.approx(same["error"], nan_ok=True)
    assert result.quantity("pos0") == part.quantity("pos0")
    label = result.model.part("MG FE").get_label(0.3 * u.kpc, 0 * u.km / u.s, part.params)
    assert label == part.model.get_label(0.3 * u.kpc, 0 * u.km / u.s, part.params)
    assert "gaussian MG FE and poisson counts fit" in repr(result)
    with pytest.raises(KeyError, match="no data set 'FE_H': the fit is of"):
        result.part("FE_H")
    with pytest.raises(KeyError, match="no data set"):
        part.part("MG FE")


def test_predictions_have_the_selection_function_in_them(result, data):
    part, counts = result.part("counts"), dict(data["counts"])
    counts["exposure"] = np.where(np.abs(counts["pos"]) > 1 * u.kpc, 0.0, 2.0)
    predicted = part.predict(counts)
    seen = counts["exposure"] > 0
    assert np.isnan(predicted[~seen]).all()
    s = part.model.border.params(part.params)["selection_params"]["vals"].numpy()
    label = part.model.get_label(counts["pos"], counts["vel"], part.params).numpy()
    by_hand = label + np.log(2) + (s[:, None, None] * counts["selection_terms"]).sum(0)
    assert predicted[seen] == pytest.approx(by_hand[seen], rel=1e-13)
