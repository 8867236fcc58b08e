"""The border of units: conversion, refusal that names the argument, and bare arrays."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.constants import G
from astropy.table import Column, MaskedColumn, QTable, Table
from gala.units import UnitSystem, dimensionless, galactic, solarsystem

from torusimaging_torch.tensors import bounds_to_tensors, data_to_tensors, params_to_tensors
from torusimaging_torch.units import (
    as_unit_system,
    gravitational_constant,
    label_values,
    to_quantity,
    to_tensor,
    unit_of,
)

PC = UnitSystem(u.pc, u.Gyr, u.Msun, u.radian)


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("length", u.pc),
        ("velocity", u.km / u.s),
        ("time", u.Gyr),
        ("angle", u.deg),
        ("frequency", u.rad / u.Gyr),
        ("action", u.kpc * u.km / u.s),
        ("elliptical radius", u.pc * (u.rad / u.Gyr) ** 0.5),
        ("acceleration", u.km / u.s / u.Myr),
        ("acceleration gradient", u.Gyr**-2),
        ("potential", u.km**2 / u.s**2),
        ("density", u.Msun / u.pc**3),
        ("surface density", u.Msun / u.pc**2),
        (None, u.percent),
    ],
)
@pytest.mark.parametrize("units", [galactic, PC, solarsystem], ids=["galactic", "pc", "au"])
def test_every_kind_converts_and_returns(kind, example, units):
    value = np.array([0.5, 2.0]) * example
    tensor = to_tensor(value, "x", kind, units)
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), value.to_value(unit_of(kind, units)), rtol=1e-14)
    back = to_quantity(tensor, kind, units).to(example)
    np.testing.assert_allclose(back.value, value.value, rtol=1e-14)


@pytest.mark.parametrize(
    ("kind", "wrong"), [("length", u.km / u.s), ("velocity", u.kpc), (None, u.kpc)]
)
def test_wrong_dimension_names_the_argument(kind, wrong):
    with pytest.raises(u.UnitConversionError, match="my_argument"):
        to_tensor(1.0 * wrong, "my_argument", kind)


def test_frequencies_come_with_or_without_radian():
    with_angle = to_tensor(3 * u.rad / u.Gyr, "Omega", "frequency")
    assert with_angle == to_tensor(3 / u.Gyr, "Omega", "frequency") == pytest.approx(3e-3)


def test_bare_values_are_in_model_units():
    for value in (1.5, np.float32(1.5), torch.tensor(1.5), np.array(1.5), 3 * 0.5):
        assert to_tensor(value, "pos", "length", PC) == 1.5
    assert to_tensor([1, 2], "pos", "length").tolist() == [1.0, 2.0]
    assert to_tensor(7, "pos", "length").shape == ()


def test_gravitational_constant():
    expected = G.to_value(u.kpc**3 / u.Myr**2 / u.Msun)
    assert gravitational_constant(galactic) == pytest.approx(expected, rel=1e-6)
    assert gravitational_constant(PC) == pytest.approx(
        G.to_value(u.pc**3 / u.Gyr**2 / u.Msun), rel=1e-6
    )


def test_tensors_keep_their_graph_and_change_their_type():
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    to_tensor(x, "x", None).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert to_tensor(x, "x", None, dtype=torch.float32).dtype == torch.float32


def test_the_callers_array_is_copied():
    array = np.zeros(3)
    to_tensor(array, "x", None).add_(1)
    assert array.tolist() == [0, 0, 0]
    tensor = torch.zeros(3, dtype=torch.float64)
    quantity = to_quantity(tensor, "length")
    quantity[0] = 1 * u.kpc
    assert tensor.tolist() == [0, 0, 0]


@pytest.mark.parametrize("array", [np.arange(6.0)[::2], np.asfortranarray(np.eye(3)), ">f8", ">f4"])
def test_strided_and_byte_swapped_arrays(array):
    array = np.array([1.0, 2.0], dtype=array) if isinstance(array, str) else array
    np.testing.assert_array_equal(to_tensor(array, "x", None).numpy(), array.astype(float))


def test_table_columns_carry_their_unit():
    table = Table({"v": Column([1.0, 2.0], unit=u.km / u.s), "z": Column([1.0, 2.0])})
    expected = (np.array([1.0, 2.0]) * u.km / u.s).to_value(u.kpc / u.Myr)
    np.testing.assert_allclose(to_tensor(table["v"], "vel", "velocity").numpy(), expected)
    np.testing.assert_allclose(to_tensor(QTable(table)["v"], "vel", "velocity").numpy(), expected)
    assert to_tensor(table["z"], "pos", "length").tolist() == [1.0, 2.0]
    with pytest.raises(u.UnitConversionError, match="pos"):
        to_tensor(table["v"], "pos", "length")


def test_masked_entries_are_nan():
    column = MaskedColumn([1.0, 2.0], mask=[False, True], unit=u.pc)
    got = to_tensor(column, "pos", "length")
    assert got[0] == pytest.approx(1e-3)
    assert got[1].isnan()
    masked = np.ma.array([1.0, 2.0], mask=[True, False])
    assert to_tensor(masked, "pos", "length").isnan().tolist() == [True, False]


@pytest.mark.parametrize("value", ["text", None, {"a": 1}, [[1], [1, 2]]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="x must be numbers"):
        to_tensor(value, "x", None)


def test_to_quantity_detaches():
    x = torch.ones(2, requires_grad=True)
    assert to_quantity(x, "density").unit == u.Msun / u.kpc**3


def test_unit_systems_from_a_sequence():
    assert as_unit_system(galactic) is galactic
    assert as_unit_system([u.pc, u.Gyr, u.Msun, u.radian])["length"] == u.pc
    with pytest.raises((ValueError, TypeError)):
        as_unit_system("nonsense")


def test_dimensionless_system_has_no_hidden_scales():
    assert unit_of("velocity", dimensionless) == u.dimensionless_unscaled


def test_labels_lose_a_common_unit():
    label, err, unit = label_values([1.0, 2.0] * u.Gyr, [100.0, 200.0] * u.Myr)
    assert unit == u.Gyr
    np.testing.assert_allclose(label, [1, 2])
    np.testing.assert_allclose(err, [0.1, 0.2])


def test_labels_in_dex():
    label, err, unit = label_values([0.1, 0.2] * u.dex, [0.01, 0.02] * u.dex)
    assert unit == u.dex
    np.testing.assert_allclose(label, [0.1, 0.2])
    np.testing.assert_allclose(err, [0.01, 0.02])
    table = Table({"label": Column([0.1], unit=u.dex), "label_err": Column([0.01], unit=u.dex)})
    label, err, unit = label_values(table["label"], table["label_err"])
    assert (label[0], err[0], unit) == (0.1, 0.01, u.dex)


@pytest.mark.parametrize("label", [[1.0] * u.Gyr, [1.0]])
def test_label_errors_in_another_unit_are_refused(label):
    with pytest.raises(u.UnitConversionError, match="label_err"):
        label_values(label, [0.1] * u.kpc)


def test_bare_label_errors_are_in_the_labels_unit():
    _, err, _ = label_values([1.0] * u.Gyr, [0.1])
    assert err == [0.1]


def test_params_convert_positions_and_velocities():
    p = params_to_tensors(
        {
            "pos0": 20 * u.pc,
            "vel0": np.array(-7.0) * u.km / u.s,
            "ln_Omega0": -2.5,
            "e_params": {2: {"vals": [1.0, 2.0]}},
            "label_params": {"label_vals": np.ones(3)},
        }
    )
    assert p["pos0"] == pytest.approx(0.02)
    assert p["vel0"] == pytest.approx((-7 * u.km / u.s).to_value(u.kpc / u.Myr))
    assert p["e_params"][2]["vals"].tolist() == [1.0, 2.0]
    with pytest.raises(u.UnitConversionError, match="vel0"):
        params_to_tensors({"vel0": 7 * u.km})
    with pytest.raises(TypeError, match="params must be a dictionary"):
        params_to_tensors([1, 2])


def test_bounds_as_pairs_or_as_two_dictionaries():
    pairs = {
        "pos0": (-100, 100) * u.pc,
        "vel0": (-7 * u.km / u.s, 7 * u.km / u.s),
        "e_params": {2: {"vals": (np.full(2, -16.0), np.full(2, 10.0))}},
    }
    lower, upper = bounds_to_tensors(pairs)
    two = (
        {"pos0": -0.1, "vel0": -7 * u.km / u.s, "e_params": {2: {"vals": [-16, -16]}}},
        {"pos0": 0.1, "vel0": 7 * u.km / u.s, "e_params": {2: {"vals": [10, 10]}}},
    )
    for got, expected in zip((lower, upper), bounds_to_tensors(two), strict=True):
        assert got["pos0"].item() == pytest.approx(expected["pos0"].item())
        assert torch.equal(got["vel0"], expected["vel0"])
        assert torch.equal(got["e_params"][2]["vals"], expected["e_params"][2]["vals"])


def test_bounds_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="a bound must be a pair"):
        bounds_to_tensors({"pos0": 1.0})
    with pytest.raises(ValueError, match="a bound must be a pair"):
        bounds_to_tensors({"pos0": (1.0, 2.0, 3.0)})
    with pytest.raises(TypeError, match="bounds must be a dictionary"):
        bounds_to_tensors(3.0)
    with pytest.raises(u.UnitConversionError, match="pos0"):
        bounds_to_tensors({"pos0": (-1, 1) * u.km / u.s})


def test_data_are_checked_by_name():
    data = {"pos": [1.0] * u.kpc, "vel": [1.0] * u.km / u.s, "counts": [3]}
    got = data_to_tensors(data, ("counts",))
    assert list(got) == ["pos", "vel", "counts"]
    with pytest.raises(TypeError, match=r"missing \['label', 'label_err'\]"):
        data_to_tensors(data, ("label", "label_err"))
    with pytest.raises(TypeError, match=r"unknown \['labels'\]"):
        data_to_tensors(data | {"labels": [1.0]}, ("counts",))
    with pytest.raises(u.UnitConversionError, match="vel"):
        data_to_tensors(data | {"vel": [1.0] * u.kpc}, ("counts",))
    assert "weight" in data_to_tensors(data | {"weight": [2.0]}, ("counts",))
    assert "weight" not in data_to_tensors(data | {"weight": None}, ("counts",))
