"""Starts from which fits succeed without hand-set values, and the keywords of auto_init."""

from __future__ import annotations

import copy

import astropy.units as u
import numpy as np
import pytest
import torch
from gala.units import UnitSystem, galactic
from spline_models import DISKS, auto, disk

from disks import EXTENT, OMEGA0, draw, make_model, truth
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.tensors import bounds_to_tensors

PC = UnitSystem(u.pc, u.Gyr, u.Msun, u.radian)


def error_of_acceleration(model, params, convention="pv"):
    """Return the rms error of a(q) where there are data, relative to its rms."""
    q = np.linspace(-0.8, 0.8, 40) * u.kpc
    got = model.get_acceleration(q, params).to_value(u.kpc / u.Myr**2)
    expected = make_model(convention=convention).get_acceleration(q, truth()).value
    return np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2))


# -- a start from which the fit succeeds -----------------------------------------------------


@pytest.mark.parametrize("kind", list(DISKS))
@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_fits_succeed_with_nothing_set_by_hand(kind, convention):
    data = disk(kind, convention)
    model, bounds, start = auto(kind, convention, data)
    result = model.optimize(start, DISKS[kind][0], bounds, **data)
    assert result.state.success
    p = result.params
    assert p["pos0"].item() == pytest.approx(0.02, abs=0.05)
    assert p["vel0"].item() == pytest.approx(-0.001, abs=0.003)
    assert p["ln_Omega0"].item() == pytest.approx(np.log(OMEGA0), abs=0.25)
    objective = getattr(model, f"objective_{DISKS[kind][0]}")
    assert result.state.fun_val < objective(start, **data)


def test_acceleration_is_recovered_from_a_large_disk():
    data = draw(make_model(), "gaussian", n=40)
    model, bounds, start = auto(data=data, dacc_strength=0.0)
    result = model.optimize(start, "gaussian", bounds, **data)
    assert result.state.success
    assert error_of_acceleration(model, result.params) < 0.03


@pytest.mark.parametrize("kind", list(DISKS))
def test_the_start_lies_inside_the_bounds(kind):
    model, bounds, start = auto(kind)
    lower, upper = (dict(iter_leaves(b)) for b in model.unpack_bounds(bounds))
    for path, leaf in iter_leaves(start):
        assert ((lower[path] < leaf) & (leaf < upper[path])).all(), path
    label_vals = bounds["label_params"]["label_vals"]
    rises = np.all(np.asarray(label_vals[0])[..., 1:] == 0)
    falls = np.all(np.asarray(label_vals[1])[..., 1:] == 0)
    assert (rises, falls) == (kind == "rising", kind != "rising")


def test_labels_with_a_unit_and_other_units_of_the_grid():
    data = disk("rising")
    model, bounds, start = auto(data=data)
    other = {
        "pos": data["pos"].to(u.pc),
        "vel": data["vel"].to(u.kpc / u.Myr),
        "label": data["label"] * u.dex,
        "label_err": data["label_err"] * u.dex,
    }
    again, _, start_again = auto(data=other)
    torch.testing.assert_close(again.label_knots, model.label_knots)
    np.testing.assert_allclose(start_again["ln_Omega0"], start["ln_Omega0"], rtol=1e-6)
    bare = data | {"pos": data["pos"].value, "vel": data["vel"].to_value(u.kpc / u.Myr)}
    torch.testing.assert_close(auto(data=bare)[0].label_knots, model.label_knots)
    one = model.optimize(start, "gaussian", bounds, **data)
    two = model.optimize(start, "gaussian", bounds, **other)
    assert one.state.fun_val == pytest.approx(two.state.fun_val, rel=1e-9)


@pytest.mark.parametrize("knots", ["data", "upstream"])
def test_a_model_in_other_units(knots):
    """Scales of the penalty and softness of its wall are in model units, so without one."""
    data = disk("rising")
    results = []
    for units in (galactic, PC):
        model, bounds, start = auto(
            data=data, units=units, regularization_func=False, knots=knots, e_knots={2: 3}
        )
        assert model.units["length"] == units["length"]
        result = model.optimize(start, "gaussian", bounds, **data)
        assert result.state.success
        results.append((model, result))
    (one, first), (other, second) = results
    scale = (1.0 * (u.kpc**2 / u.Myr) ** 0.5).to_value((u.pc**2 / u.Gyr) ** 0.5)
    torch.testing.assert_close(other.label_knots, scale * one.label_knots, rtol=2e-3, atol=0)
    assert first.state.fun_val == pytest.approx(second.state.fun_val, abs=2e-3)
    q = [0.3, 0.6] * u.kpc
    a, b = one.get_acceleration(q, first.params), other.get_acceleration(q, second.params)
    np.testing.assert_allclose(a.value, b.to_value(a.unit), rtol=2e-2)


def test_given_knots_keep_their_units():
    unit = (u.pc**2 / u.Gyr) ** 0.5
    knots = np.linspace(0, EXTENT, 4) * (u.kpc**2 / u.Myr) ** 0.5
    for units in (galactic, PC):
        model, _, _ = auto(
            label_knots=knots, e_knots={2: knots}, units=units, regularization_func=False
        )
        ours = model.label_knots.numpy() * (units["length"] ** 2 / units["time"]) ** 0.5
        np.testing.assert_allclose(ours.to_value(unit), knots.to_value(unit), rtol=1e-12)
        np.testing.assert_allclose(model.e_knots[2].numpy(), model.label_knots.numpy())


# -- keywords --------------------------------------------------------------------------------


def test_spacing_powers():
    model, _, _ = auto(label_knots_spacing_power=0.5, e_knots_spacing_power=2.0)
    even = model.label_knots.numpy() ** 0.5
    np.testing.assert_allclose(np.diff(even), even[-1] / 3, rtol=1e-10)
    even = model.e_knots[2].numpy() ** 2
    np.testing.assert_allclose(np.diff(even), even[-1] / 4, rtol=1e-10)
    assert model.e_knots[2][-1] == pytest.approx(model.label_knots[-1].item(), rel=1e-12)


def test_the_last_knot_is_a_multiple_of_the_datas_extent():
    one, two = (auto(re_max_factor=f)[0] for f in (1.0, 1.3))
    torch.testing.assert_close(two.label_knots, 1.3 * one.label_knots)
    torch.testing.assert_close(two.e_knots[4], 1.3 * one.e_knots[4])


def test_knots_reach_the_data_and_upstreams_do_not():
    data = disk("rising")
    ends = {}
    for knots in ("data", "upstream"):
        model, _, start = auto(data=data, knots=knots)
        r_e, _ = model.compute_elliptical(data["pos"], data["vel"], start)
        on_axis = r_e.reshape(16, 16)[7:9].value.max()
        ends[knots] = model.label_knots[-1].item() / on_axis
    assert ends["data"] >= 0.99
    assert ends["upstream"] < ends["data"]
    with pytest.raises(ValueError, match="knots must be 'data' or 'upstream'"):
        auto(knots="mine")


def test_bounds_replace_the_default_ones_and_stay_the_callers():
    given = {
        "pos0": (-50, 70) * u.pc,
        "e_params": {4: {"vals": (-8.0, 2.0)}},
    }
    before = copy.deepcopy(given)
    _, default, _ = auto()
    _, bounds, start = auto(bounds=given)
    assert given["e_params"] == before["e_params"]
    assert (given["pos0"] == before["pos0"]).all()
    lower, upper = bounds_to_tensors(bounds)
    assert lower["pos0"].item() == pytest.approx(-0.05)
    assert upper["pos0"].item() == pytest.approx(0.07)
    assert lower["e_params"][4]["vals"] == -8
    np.testing.assert_array_equal(bounds["e_params"][2]["vals"], default["e_params"][2]["vals"])
    np.testing.assert_array_equal(bounds["ln_Omega0"], default["ln_Omega0"])
    assert (start["e_params"][4]["vals"] > -8).all()
    with pytest.raises(ValueError, match=r"unknown keys \['Omega'\]"):
        auto(bounds={"Omega": (0, 1)})
    with pytest.raises(ValueError, match=r"unknown keys \[6\]"):
        auto(bounds={"e_params": {6: {"vals": (0, 1)}}})


def test_narrow_bounds_far_from_the_quick_fit():
    data = disk("rising")
    model, bounds, start = auto(data=data, bounds={"pos0": (0.1, 0.2)})
    assert 0.1 < start["pos0"] < 0.2
    assert model.optimize(start, "gaussian", bounds, **data).state.success


@pytest.mark.parametrize(("convention", "signs"), [("pv", {2: 1, 4: -1}), ("vp", {2: -1, 4: -1})])
def test_signs(convention, signs):
    assert auto(convention=convention)[0].e_signs == signs
    assert auto(convention=convention, e_signs={4: 1})[0].e_signs == signs | {4: 1}


@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_any_set_of_orders(convention):
    data = disk("rising", convention)
    orders = dict.fromkeys((0, 1, 2, 3), 3)
    sigmas = {k: dict.fromkeys(orders, 0.5) for k in ("e_l2_sigmas", "e_smooth_sigmas")}
    model, bounds, start = auto(data=data, convention=convention, e_knots=orders, **sigmas)
    result = model.optimize(start, "gaussian", bounds, **data)
    assert result.state.success
    assert model.get_density([0.3] * u.kpc, result.params).value[0] > 0


def test_without_distortion():
    data = disk("rising")
    none = {"e_l2_sigmas": {}, "e_smooth_sigmas": {}}
    model, bounds, start = auto(data=data, e_knots={}, **none)
    result = model.optimize(start, "gaussian", bounds, **data)
    assert result.state.success
    assert model.check_e_funcs({}, 0.3)[0] is True


@pytest.mark.parametrize("e_spline", ["quadratic", "cubic"])
@pytest.mark.parametrize("label_spline", ["quadratic", "cubic"])
def test_every_pair_of_splines_is_fitted(e_spline, label_spline):
    data = disk("rising")
    model, bounds, start = auto(data=data, e_spline=e_spline, label_spline=label_spline)
    assert (model.e_spline, model.label_spline) == (e_spline, label_spline)
    assert model.optimize(start, "gaussian", bounds, **data).state.success


# -- data ------------------------------------------------------------------------------------


def test_the_data_are_not_touched():
    data = disk("rising")
    data["label"][0, :3] = np.nan
    before = copy.deepcopy(data)
    auto(data=data)
    for key, value in before.items():
        np.testing.assert_array_equal(data[key], value)


def test_data_of_the_wrong_dimension_name_the_argument():
    data = disk("rising")
    with pytest.raises(u.UnitConversionError, match="vel"):
        auto(data=data | {"vel": data["pos"]})
    with pytest.raises(ValueError, match="no usable pixel"):
        auto(data=data | {"label": np.full((16, 16), np.nan)})
    with pytest.raises(ValueError, match="e_knots\\[2\\] must be at least 2 knots"):
        auto(e_knots={2: 1, 4: 3})


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_torchs_default_type_does_not_matter(default):
    expected = auto()[2]
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = auto()[2]
    finally:
        torch.set_default_dtype(before)
    for path, leaf in iter_leaves(got):
        assert leaf.dtype == torch.float64
        assert torch.equal(leaf, dict(iter_leaves(expected))[path])
