"""The spline model: its constructor, its penalty, and starts for a given model."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import astropy.units as u
import numpy as np
import pytest
import torch
from spline_models import E_KNOTS, auto, disk

from disks import EXTENT, make_model
from torusimaging_torch import model_spline
from torusimaging_torch.likelihoods.penalty import no_regularization
from torusimaging_torch.model_spline import TorusImaging1DSpline, regularization_func_default
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.numerics.splines import CubicSpline, QuadraticSpline

# -- constructor -----------------------------------------------------------------------------


def test_splines_are_chosen_by_name():
    model = make_model()
    assert isinstance(model.e_funcs[2].spline, CubicSpline)
    assert isinstance(model.label_func.spline, QuadraticSpline)
    other = make_model("quadratic", "cubic")
    assert isinstance(other.e_funcs[2].spline, QuadraticSpline)
    assert isinstance(other.label_func.spline, CubicSpline)
    with pytest.raises(ValueError, match="'quadratic' or 'cubic', got 'linear'"):
        make_model("linear")


@pytest.mark.parametrize("unit", [(u.kpc**2 / u.Myr) ** 0.5, (u.pc**2 / u.Gyr) ** 0.5])
def test_knots_with_units(unit):
    knots = (np.linspace(0, EXTENT, 4) * (u.kpc**2 * u.rad / u.Myr) ** 0.5).to(
        unit, equivalencies=u.dimensionless_angles()
    )
    model = TorusImaging1DSpline(knots, {2: knots}, {2: 1})
    np.testing.assert_allclose(model.label_knots.numpy(), np.linspace(0, EXTENT, 4), rtol=1e-12)
    np.testing.assert_allclose(model.e_knots[2].numpy(), np.linspace(0, EXTENT, 4), rtol=1e-12)


def test_bad_arguments_are_refused():
    knots = np.linspace(0, EXTENT, 4)
    with pytest.raises(ValueError, match=r"same orders m, got \[2\] and \[2, 4\]"):
        TorusImaging1DSpline(knots, {2: knots}, {2: 1, 4: 1})
    with pytest.raises(ValueError, match=r"e_signs\[2\] must be 1 or -1, got 0"):
        TorusImaging1DSpline(knots, {2: knots}, {2: 0})
    with pytest.raises(ValueError, match="strictly increasing"):
        TorusImaging1DSpline(knots[::-1], {2: knots}, {2: 1})
    with pytest.raises(u.UnitConversionError, match="label_knots"):
        TorusImaging1DSpline(knots * u.kpc, {2: knots}, {2: 1})
    with pytest.raises(u.UnitConversionError, match=r"e_knots\[2\]"):
        TorusImaging1DSpline(knots, {2: knots * u.kpc}, {2: 1})
    with pytest.raises(ValueError, match="'pv' or 'vp'"):
        TorusImaging1DSpline(knots, {2: knots}, {2: 1}, elliptical_angle_convention="xy")


def test_the_penalty_is_importable_here_so_that_partials_pickle():
    assert model_spline.regularization_func_default is regularization_func_default
    model, _, params = auto()
    assert isinstance(model.regularization_func, partial)
    copied = pickle.loads(pickle.dumps(model))
    data = disk("rising")
    expected = model.objective_gaussian(params, **data)
    assert copied.objective_gaussian(params, **data) == expected
    assert copy.deepcopy(model).objective_gaussian(params, **data) == expected


# -- regularization --------------------------------------------------------------------------


def flat(model, params):
    return 0.0


def scaled(model, params, scale, power=2):
    return scale * params["pos0"].abs() ** power


def test_no_regularization():
    assert auto(regularization_func=False)[0].regularization_func is no_regularization
    with pytest.raises(TypeError, match=r"\['label_l2_sigma'\] have no meaning"):
        auto(regularization_func=False, label_l2_sigma=1.0)


@pytest.mark.parametrize("function", [flat, partial(scaled, scale=2.0)])
def test_a_penalty_of_ones_own(function):
    data = disk("rising")
    model, bounds, start = auto(data=data, regularization_func=function)
    assert model.regularization_func is function
    assert model.optimize(start, "gaussian", bounds, **data).state.success


def test_arguments_of_a_penalty_of_ones_own():
    model, _, start = auto(regularization_func=scaled, scale=3.0)
    p = model.border.params(start)
    assert model.regularization_func(model, p) == 3 * p["pos0"] ** 2
    with pytest.raises(ValueError, match=r"needs \['scale'\]"):
        auto(regularization_func=scaled)
    with pytest.raises(TypeError, match=r"unknown arguments \['strength'\]"):
        auto(regularization_func=scaled, scale=1.0, strength=2.0)


def test_arguments_of_the_default_penalty():
    assert auto(dacc_strength=7.0)[0].regularization_func.keywords["dacc_strength"] == 7
    with pytest.raises(ValueError, match=r"needs \['label_l2_sigma', 'label_smooth_sigma'"):
        TorusImaging1DSpline.auto_init(disk("rising"), 4, E_KNOTS)
    with pytest.raises(TypeError, match=r"unknown arguments \['label_sigma'\]"):
        auto(label_sigma=1.0)


# -- starts for a given model ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["dictionary", "pair", "none"])
def test_estimate_init_params(form):
    data = disk("rising")
    model, bounds, start = auto(data=data)
    chosen = {"dictionary": bounds, "pair": model.unpack_bounds(bounds), "none": None}[form]
    got = model.estimate_init_params(data, chosen)
    if form != "none":
        for path, leaf in iter_leaves(got):
            torch.testing.assert_close(leaf, dict(iter_leaves(start))[path])
    assert model.optimize(got, "gaussian", chosen, **data).state.success
