"""Starts, bounds and knots from binned data, on disks of the model's own family."""

from __future__ import annotations

import sys
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.constants import G
from gala.units import UnitSystem, galactic

from disks import OMEGA0, draw, grid, make_model, truth, truth_of
from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model import start as initialize
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.tensors import data_to_tensors

PC = UnitSystem(u.pc, u.Gyr, u.Msun, u.radian)


def falling():
    return truth() | {"label_params": {"label_vals": [0.5, -0.9, -0.8, -0.6]}}


DISKS = {
    "rising": ("gaussian", truth()),
    "falling": ("gaussian", falling()),
    "counts": ("poisson", truth_of("poisson")),
}
disks = pytest.mark.parametrize("kind", list(DISKS))


def disk(kind, convention="pv"):
    objective, params = DISKS[kind]
    return draw(make_model(convention=convention), objective, params=params)


@disks
@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_low_order_fit_finds_centre_and_frequency(kind, convention):
    quick = initialize.low_order_fit(disk(kind, convention), galactic, convention)
    assert quick.success
    assert quick.pos0.item() == pytest.approx(0.02, abs=0.03)
    assert quick.vel0.item() == pytest.approx(-0.001, abs=0.003)
    assert quick.ln_Omega0.item() == pytest.approx(np.log(OMEGA0), abs=0.2)
    centre, slope = quick.label_range
    assert centre == pytest.approx({"rising": 0.05, "falling": 0.5, "counts": 6.0}[kind], abs=0.3)
    assert (slope > 0) == (kind == "rising")


@pytest.mark.parametrize("cls", [TorusImaging1DSpline, TorusImaging1DPotential])
def test_positions_that_are_not_counted_from_zero(cls):
    """Radii of orbits in the plane of a disk: the fit of the same pixels 8 kpc further out."""
    near = disk("rising")
    far = near | {"pos": near["pos"] + 8 * u.kpc}
    knots = {"label_knots": 4, "e_knots": {2: 4}, "regularization_func": False}
    known = {} if cls is TorusImaging1DPotential else knots
    centres = []
    for data in (near, far):
        model, bounds, start = cls.auto_init(data, **known)
        params, state = model.optimize(start, "gaussian", bounds, **data)
        assert state.success
        assert "pos0" not in state.at_bound
        centres.append(params["pos0"].item())
    assert centres[1] - centres[0] == pytest.approx(8, abs=1e-3)  # knots are rounded


def test_positions_of_a_batch_that_are_not_counted_from_zero():
    near = disk("rising")
    pixels = pixels_of("rising")
    pos = torch.stack((pixels.pos, pixels.pos + 8))
    both = replace(pixels, pos=pos)
    low, high = initialize.position_bounds(both, galactic)
    span = near["pos"].to_value(u.kpc)
    np.testing.assert_allclose(low, [-1, span.min() + 8])
    np.testing.assert_allclose(high, [1, span.max() + 8])


def test_extent_reaches_the_data_on_the_axes():
    data = disk("rising")
    quick = initialize.low_order_fit(data, galactic)
    root = np.exp(0.5 * quick.ln_Omega0.item())
    pos = data["pos"].to_value(u.kpc) - quick.pos0.item()
    vel = data["vel"].to_value(u.kpc / u.Myr) - quick.vel0.item()
    expected = max(np.abs(pos).max() * root, np.abs(vel).max() / root)
    # Rounded up to four digits, so that rounding errors of the fit do not move knots.
    assert expected <= float(quick.extent) <= expected * 1.001


def test_low_order_fit_in_other_units():
    one = initialize.low_order_fit(disk("rising"), galactic)
    other = initialize.low_order_fit(disk("rising"), PC)
    assert other.pos0.item() == pytest.approx(1e3 * one.pos0.item(), rel=1e-2)
    assert other.ln_Omega0.item() == pytest.approx(one.ln_Omega0.item() + np.log(1e3), abs=1e-3)
    expected = (float(one.extent) * (u.kpc**2 / u.Myr) ** 0.5).to_value((u.pc**2 / u.Gyr) ** 0.5)
    assert float(other.extent) == pytest.approx(expected, rel=1e-2)


def test_velocities_with_a_wrong_unit_are_noticed():
    data = disk("rising")
    wrong = data | {"vel": data["vel"].to_value(u.kpc / u.Myr) * u.km / u.s}
    with pytest.warns(RuntimeWarning, match="1 of 1 data sets .* 0.0075 to 2.4 rad/Myr: do pos"):
        TorusImaging1DPotential.auto_init(wrong)


def test_empty_pixels_are_left_out():
    data = disk("rising")
    data["label"][:3] = np.nan
    assert initialize.low_order_fit(data, galactic).success
    data["label"][:] = np.nan
    with pytest.raises(ValueError, match="no usable pixel"):
        initialize.low_order_fit(data, galactic)


def test_labels_of_counts():
    got = initialize.label_data(grid(2) | {"counts": np.array([[4.0, 0.0], [1.0, 9.0]])})
    np.testing.assert_allclose(got["label"], np.log([[4, np.nan], [1, 9]]))
    np.testing.assert_allclose(got["label_err"], [[0.5, np.nan], [1.0, 1 / 3]])


def test_data_without_labels_or_counts():
    with pytest.raises(KeyError, match="counts"):
        initialize.label_data(grid(2))


def test_upstream_extent_follows_its_rule():
    data = disk("rising")
    Omega = 0.05
    pos, vel = data["pos"].to_value(u.kpc).max(), data["vel"].to_value(u.kpc / u.Myr).max()
    home = sys.modules[initialize.upstream_extent.__module__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "estimate_Omega", lambda *args, **kwargs: Omega * u.rad / u.Myr)
        got = float(initialize.upstream_extent(data, galactic))
    assert got == pytest.approx(0.5 * (pos * np.sqrt(Omega) + vel / np.sqrt(Omega)), rel=1e-12)


def test_upstream_extent_of_bare_arrays_and_counts():
    data = disk("counts")
    with_units = float(initialize.upstream_extent(data, galactic))
    bare = {
        "pos": data["pos"].to_value(u.pc),
        "vel": data["vel"].to_value(u.pc / u.Gyr),
        "counts": data["counts"],
    }
    expected = (float(with_units) * (u.kpc**2 / u.Myr) ** 0.5).to_value((u.pc**2 / u.Gyr) ** 0.5)
    assert float(initialize.upstream_extent(bare, PC)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_knots_are_even_in_a_power_of_the_radius(power):
    knots = initialize.place_knots(5, 0.4, power, "label_knots", galactic)
    np.testing.assert_allclose(np.diff(knots.numpy() ** power), 0.4**power / 4, rtol=1e-10)
    assert knots[0] == 0
    assert knots[-1].item() == pytest.approx(0.4)


def test_knots_as_given():
    given = [0.0, 0.1, 0.4]
    assert initialize.place_knots(given, 9.0, 0.5, "k", galactic).tolist() == given
    quantity = given * (u.kpc**2 / u.Myr) ** 0.5
    np.testing.assert_allclose(
        initialize.place_knots(quantity, 9.0, 0.5, "k", PC).numpy(),
        quantity.to_value((u.pc**2 / u.Gyr) ** 0.5),
    )
    with pytest.raises(u.UnitConversionError, match="label_knots"):
        initialize.place_knots(given * u.kpc, 9.0, 0.5, "label_knots", galactic)


@pytest.mark.parametrize("number", [1, 0, -3, 2.5])
def test_numbers_of_knots_that_make_no_sense(number):
    with pytest.raises(ValueError, match=r"e_knots\[2\] must be at least 2 knots"):
        initialize.place_knots(number, 1.0, 1.0, "e_knots[2]", galactic)


def pixels_of(kind):
    likelihood = make_likelihood("gaussian")
    data = initialize.label_data(disk(kind))
    return Pixels.clean(likelihood, data_to_tensors(data, likelihood.observed))


@disks
def test_default_bounds_hold_the_truth(kind):
    quick = initialize.low_order_fit(disk(kind), galactic)
    bounds = initialize.default_bounds(quick, pixels_of(kind), 4, {2: 5, 4: 3}, galactic)
    truth_leaves = dict(iter_leaves(DISKS[kind][1]))
    for path, (low, high) in iter_leaves(bounds):
        assert np.all(low < np.asarray(truth_leaves[path])), path
        assert np.all(np.asarray(truth_leaves[path]) < high), path


def test_default_bounds_in_other_units():
    quick = initialize.low_order_fit(disk("rising"), PC)
    bounds = initialize.default_bounds(quick, pixels_of("rising"), 4, {2: 5}, PC)
    np.testing.assert_allclose(bounds["pos0"], [-1000, 1000])
    np.testing.assert_allclose(bounds["vel0"], ([-100, 100] * u.km / u.s).to_value(u.pc / u.Gyr))
    # Omega0^2 = 4 pi G rho for densities of 1e-3 and 100 Msun/pc^3.
    Omega = np.sqrt(4 * np.pi * G * [1e-3, 1e2] * u.Msun / u.pc**3).to_value(1 / u.Gyr)
    np.testing.assert_allclose(np.exp(bounds["ln_Omega0"]), Omega, rtol=1e-5)
    # A slope of one per kpc (rad/Myr)^(1/2) is a smaller number per pc (rad/Gyr)^(1/2).
    scale = ((u.kpc**2 / u.Myr) ** 0.5).to((u.pc**2 / u.Gyr) ** 0.5)
    low, high = bounds["e_params"][2]["vals"]
    np.testing.assert_allclose([low, high], np.outer([-16, 10], np.ones(4)) - np.log(scale))


def test_label_values_are_the_least_squares_solution():
    model = make_model()
    data = disk("rising")
    pixels = pixels_of("rising")
    p = model.border.params(truth())
    got = initialize.fit_label_values(model.torus, pixels, p, 4)
    r = model.torus.radius(pixels.pos, pixels.vel, p)
    columns = [model.label_func(r, row).numpy() for row in torch.eye(4).double()]
    weight = 1 / data["label_err"].reshape(-1)
    expected = np.linalg.lstsq(
        np.stack(columns, -1) * weight[:, None], data["label"].reshape(-1) * weight, rcond=None
    )[0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_pixels_weigh_in_the_start_as_in_the_fit():
    data = disk("rising")
    weight = np.random.default_rng(3).uniform(0.2, 5, data["label"].shape)
    weighted = data | {"weight": weight}
    # A Gaussian pixel of weight w is one whose error is smaller by sqrt(w).
    scaled = data | {"label_err": data["label_err"] / np.sqrt(weight)}
    knots = {"label_knots": 4, "e_knots": {2: 5}, "regularization_func": False}
    (_, bounds, p0), (_, expected_bounds, expected) = (
        TorusImaging1DSpline.auto_init(one, **knots) for one in (weighted, scaled)
    )
    for got, wanted in ((p0, expected), (bounds, expected_bounds)):
        wanted = dict(iter_leaves(wanted))
        for path, leaf in iter_leaves(got):
            np.testing.assert_allclose(leaf, wanted[path], rtol=1e-10, err_msg=str(path))


def test_pixels_without_weight_do_not_move_the_start():
    data = disk("rising")
    weight = np.ones(data["label"].shape)
    weight[:3] = 0.0
    left_out = np.where(weight > 0, data["label"], np.nan)
    wrong = np.where(weight > 0, data["label"], 1e3)
    knots = {"label_knots": 4, "e_knots": {2: 5}, "regularization_func": False}
    model, _, p0 = TorusImaging1DSpline.auto_init(
        data | {"label": wrong, "weight": weight}, **knots
    )
    other, _, expected = TorusImaging1DSpline.auto_init(data | {"label": left_out}, **knots)
    assert torch.equal(model.label_knots, other.label_knots)
    expected = dict(iter_leaves(expected))
    for path, leaf in iter_leaves(p0):
        np.testing.assert_array_equal(leaf, expected[path])


@disks
def test_start_lies_inside_its_bounds_and_predicts_the_labels(kind):
    model = make_model()
    quick = initialize.low_order_fit(disk(kind), galactic)
    pixels = pixels_of(kind)
    bounds = initialize.default_bounds(quick, pixels, 4, {2: 5, 4: 3}, galactic)
    lower, upper = model.unpack_bounds(bounds)
    params = initialize.start_params(model, quick, pixels, bounds)
    low, high = dict(iter_leaves(lower)), dict(iter_leaves(upper))
    for path, leaf in iter_leaves(params):
        assert ((leaf > low[path]) & (leaf < high[path])).all(), path
    label, err = pixels.observed
    chi = (model.torus(pixels.pos, pixels.vel, params) - label) / err
    nothing = (label - label.mean()) / err
    assert chi.square().mean() < 0.1 * nothing.square().mean()


def test_start_moves_inside_narrow_bounds():
    model = make_model()
    quick = initialize.low_order_fit(disk("rising"), galactic)
    narrow = {"pos0": (0.1, 0.2), "label_params": {"label_vals": (2.0, 3.0)}}
    params = initialize.start_params(model, quick, pixels_of("rising"), narrow)
    assert 0.1 < params["pos0"] < 0.2
    vals = params["label_params"]["label_vals"]
    assert ((vals > 2) & (vals < 3)).all()
