"""Signs of harmonics: tried where nothing tells them, and a harmonic that vanishes is said."""

from __future__ import annotations

import itertools
import warnings

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many

KNOTS = {
    "label_knots": 4,
    "e_knots": {1: 4, 2: 4},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {1: 1.0, 2: 1.0},
    "e_smooth_sigmas": {1: 0.5, 2: 0.5},
    "elliptical_angle_convention": "vp",
}
SIGNS = {1: -1.0, 2: 1.0}


@pytest.fixture(scope="module")
def data():
    """Return labels of a model with known signs, with noise."""
    knots = np.linspace(0, 0.4, 4)
    model = TorusImaging1DSpline(
        knots, dict.fromkeys(SIGNS, knots), SIGNS, elliptical_angle_convention="vp"
    )
    params = {
        "pos0": 8 * u.kpc,
        "vel0": 0 * u.km / u.s,
        "ln_Omega0": -3.2,
        "e_params": {m: {"vals": [-1.5, -1.5, -1.5]} for m in SIGNS},
        "label_params": {"label_vals": [0.3, -0.5, -0.5, -0.5]},
    }
    axes = np.linspace(7, 9, 30) * u.kpc, np.linspace(-60, 60, 30) * u.km / u.s
    pos, vel = np.meshgrid(*axes)
    rng = np.random.default_rng(0)
    label = model.get_label(pos, vel, params).numpy() + 0.002 * rng.normal(size=pos.shape)
    return {"pos": pos, "vel": vel, "label": label, "label_err": np.full(pos.shape, 0.002)}


def test_signs_of_the_truth_are_found(data):
    model, bounds, start = TorusImaging1DSpline.auto_init(data, **KNOTS)
    assert model.e_signs == SIGNS
    best = model.optimize(start, "gaussian", bounds, **data).state.fun_val
    for signs in itertools.product((1.0, -1.0), repeat=2):
        given = dict(zip(SIGNS, signs, strict=True))
        other, limits, begin = TorusImaging1DSpline.auto_init(data, e_signs=given, **KNOTS)
        assert other.e_signs == given
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            state = other.optimize(begin, "gaussian", limits, **data).state
        assert state.fun_val >= best - 1e-9


def test_signs_that_are_given_stay(data):
    model, *_ = TorusImaging1DSpline.auto_init(data, e_signs={2: -1.0}, **KNOTS)
    assert model.e_signs[2] == -1.0


def test_a_harmonic_that_vanishes_is_said(data):
    model, bounds, start = TorusImaging1DSpline.auto_init(data, e_signs={1: -1.0, 2: -1.0}, **KNOTS)
    match = r"e_2 is switched off: .* with the sign -1; try e_signs=\{2: 1\}"
    with pytest.warns(RuntimeWarning, match=match):
        state = model.optimize(start, "gaussian", bounds, **data).state
    assert state.success
    assert "without e_2, whose slopes vanished" in state.message


def test_a_batch_takes_the_signs_of_all(data):
    model, *_ = TorusImaging1DSpline.auto_init(data, **KNOTS)
    result = fit_many([data, data], e_signs=model.e_signs, **KNOTS)
    assert result.success.all()
    assert result.model.e_signs == SIGNS


def test_a_batch_says_which_harmonics_vanished(data):
    signs = {1: -1.0, 2: -1.0}
    match = r"e_2 is switched off in 2 of 2 fits: .* with the sign -1; try e_signs=\{2: 1\}"
    with pytest.warns(RuntimeWarning, match=match):
        result = fit_many([data, data], e_signs=signs, progress=False, **KNOTS)
    assert result.success.all()
    assert all(text.endswith("; without e_2, whose slopes vanished") for text in result.message)
