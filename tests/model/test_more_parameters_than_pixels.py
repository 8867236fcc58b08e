"""Fits of more parameters than pixels: told, and refused where they are absurd."""

from __future__ import annotations

import pytest

import disks
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many

PENALTY = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}


def start_of(label_knots):
    data = disks.draw(disks.make_model(), "gaussian", seed=0, n=6)
    model, bounds, start = TorusImaging1DSpline.auto_init(data, label_knots, {2: 3}, **PENALTY)
    return model, bounds, start, data


def test_more_parameters_than_pixels_are_told():
    model, bounds, start, data = start_of(60)
    with (
        pytest.warns(RuntimeWarning, match="did not converge"),
        pytest.warns(RuntimeWarning, match="^65 parameters for 36 pixels: use fewer knots"),
    ):
        model.optimize(start, "gaussian", bounds, max_iter=2, **data)


def test_ten_times_as_many_are_refused():
    model, bounds, start, data = start_of(400)
    with pytest.raises(ValueError, match="^405 parameters for 36 pixels"):
        model.optimize(start, "gaussian", bounds, **data)


def test_a_batch_counts_them():
    data = disks.draw(disks.make_model(), "gaussian", seed=0, n=6)
    settings = {"e_knots": {2: 3}, "progress": False, **PENALTY}
    with pytest.warns(RuntimeWarning, match="^1 of 1 fits have fewer pixels than their 45 param"):
        result = fit_many([data], label_knots=40, **settings)
    assert result.success.all()
    with pytest.warns(RuntimeWarning, match="1 of 1 fits did not converge"):
        result = fit_many([data], label_knots=400, **settings)
    assert result.message[0].startswith("not started: 405 parameters for 36 pixels")


@pytest.mark.parametrize("label_knots", [501, 10_000_000])
def test_what_no_memory_holds_is_refused_at_once(label_knots):
    with pytest.raises(ValueError, match="label_knots must be at most 500 knots"):
        start_of(label_knots)
