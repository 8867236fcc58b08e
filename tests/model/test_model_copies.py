"""Copies of the model, and its numbers in other types and on other devices."""

from __future__ import annotations

import copy
import pickle

import astropy.units as u
import numpy as np
import pytest
import torch
from model_inputs import OWN, PC, POS, QUANTITIES, VEL, own_model, tensor

from disks import bounds_of, draw, make_model, start_of, truth
from torusimaging_torch.numerics.params import iter_leaves


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "saved"])
@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_copies_keep_everything(how, convention, tmp_path):
    model = make_model(e_spline="quadratic", convention=convention, units=PC)
    if how == "pickle":
        copied = pickle.loads(pickle.dumps(model))
    elif how == "deepcopy":
        copied = copy.deepcopy(model)
    else:
        torch.save(model, tmp_path / "model.pt")
        copied = torch.load(tmp_path / "model.pt", weights_only=False)
    assert copied.elliptical_angle_convention == convention
    assert copied.units["length"] == u.pc
    assert copied.e_signs == model.e_signs
    assert (copied.e_spline, copied.label_spline) == ("quadratic", "quadratic")
    data = draw(make_model(convention=convention), "gaussian")
    expected = model.objective_gaussian(truth(), **data)
    assert copied.objective_gaussian(truth(), **data) == expected


def test_models_of_plain_functions_pickle():
    copied = pickle.loads(pickle.dumps(own_model(elliptical_angle_convention="vp")))
    expected = own_model(elliptical_angle_convention="vp").get_label(POS, VEL, OWN)
    assert torch.equal(copied.get_label(POS, VEL, OWN), expected)


def test_state_dict_round_trip():
    model, other = make_model(), make_model()
    other.torus.label_func.spline.knots.mul_(2)
    state = model.state_dict()
    assert any("knots" in key for key in state)
    other.load_state_dict(state)
    torch.testing.assert_close(other.label_knots, model.label_knots)


def test_float32():
    model = make_model()
    expected = model.get_label(POS, VEL, truth())
    density = model.get_density(POS, truth())
    model.to(torch.float32)
    got = model.get_label(POS, VEL, truth())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    assert model.get_density(POS, truth()).value.dtype == np.float32
    np.testing.assert_allclose(model.get_density(POS, truth()).value, density.value, rtol=1e-2)
    data = draw(model, "gaussian")
    assert model.objective_gaussian(truth(), **data).dtype == torch.float32
    assert model.check_e_funcs(truth()["e_params"], 0.35)[0]


def test_fits_in_float32():
    model = make_model().to(torch.float32)
    start = start_of("gaussian") | {"e_params": truth()["e_params"]}
    bounds = bounds_of("gaussian")
    data = draw(make_model(), "gaussian")
    result = model.optimize(start, "gaussian", bounds, tol=1e-2, **data)
    assert result.params["ln_Omega0"].dtype == torch.float32
    best = make_model().optimize(start, "gaussian", bounds, **data)
    assert result.state.fun_val == pytest.approx(best.state.fun_val, abs=1e-3)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_torchs_default_type_does_not_matter(default):
    before = torch.get_default_dtype()
    data = draw(make_model(), "gaussian", n=8)
    expected = make_model().objective_gaussian(truth(), **data)
    torch.set_default_dtype(default)
    try:
        model = make_model()
        assert model.objective_gaussian(truth(), **data) == expected
        result = model.optimize(truth(), "gaussian", bounds_of("gaussian"), max_iter=500, **data)
        own = own_model().get_acceleration(POS, OWN)
        dynamics_ = [getattr(model, name)(POS, truth()) for name in QUANTITIES]
        module = model.as_module(truth(), bounds_of("gaussian"))
        label = module(tensor(POS.value), tensor(VEL.to_value(u.kpc / u.Myr)))
    finally:
        torch.set_default_dtype(before)
    assert result.state.success
    assert all(leaf.dtype == torch.float64 for _, leaf in iter_leaves(result.params))
    assert all(x.dtype == np.float64 for x in [own, *dynamics_])
    assert label.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    model = make_model()
    expected = model.get_label(POS, VEL, truth())
    density = model.get_density(POS, truth())
    data = draw(model, "gaussian")
    best = model.optimize(start_of("gaussian"), "gaussian", bounds_of("gaussian"), **data)
    model.to("cuda")
    assert model.get_label(POS, VEL, truth()).device.type == "cuda"
    torch.testing.assert_close(model.get_label(POS, VEL, truth()).cpu(), expected)
    np.testing.assert_allclose(model.get_density(POS, truth()).value, density.value, rtol=1e-10)
    result = model.optimize(start_of("gaussian"), "gaussian", bounds_of("gaussian"), **data)
    assert result.state.fun_val == pytest.approx(best.state.fun_val, abs=1e-8)
