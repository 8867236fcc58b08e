"""Fits of more parameters than pixels: told, and refused where they are absurd."""

from __future__ import annotations

import pytest

import disks
from torusimaging_torch import TorusImaging1DSpline

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


@pytest.mark.parametrize("label_knots", [501, 10_000_000])
def test_what_no_memory_holds_is_refused_at_once(label_knots):
    with pytest.raises(ValueError, match="label_knots must be at most 500 knots"):
        start_of(label_knots)
