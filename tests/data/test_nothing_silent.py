"""What would be taken for something else is refused, or said: masks, units, kinds of numbers."""

from __future__ import annotations

import warnings
from datetime import datetime

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked
from gala.units import UnitSystem

from simulated import BINS, mock
from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.units import to_tensor

STARS = mock(0, 8000)
POS, VEL = STARS["pos"] * u.kpc, STARS["vel"] * u.kpc / u.Myr
LABEL, ERR = STARS["label"], STARS["label_err"]
MASK = np.arange(len(POS)) % 4 == 0
MASKS = {
    "astropy": lambda x: Masked(x, mask=MASK),
    "numpy": lambda x: np.ma.array(getattr(x, "value", x), mask=MASK),
    "column": lambda x: MaskedColumn(
        getattr(x, "value", x), mask=MASK, unit=getattr(x, "unit", None)
    ),
}


def binned(**changes):
    stars = {"pos": POS, "vel": VEL, "label": LABEL, "label_err": ERR} | changes
    return get_binned_label(
        stars["pos"], stars["vel"], stars["label"], BINS, label_err=stars["label_err"]
    )


EXPECTED = get_binned_label(POS[~MASK], VEL[~MASK], LABEL[~MASK], BINS, label_err=ERR[~MASK])


@pytest.mark.parametrize("kind", ["astropy", "column"])
@pytest.mark.parametrize("name", ["pos", "vel", "label", "label_err"])
def test_masked_stars_do_not_count(kind, name):
    value = {"pos": POS, "vel": VEL, "label": LABEL, "label_err": ERR}[name]
    with pytest.warns(UserWarning, match="stars left out"):
        found = binned(**{name: MASKS[kind](value)})
    for key in ("counts", "label", "label_err"):
        np.testing.assert_array_equal(found[key], EXPECTED[key])


def test_masked_numbers_of_numpy_do_not_count():
    with pytest.warns(UserWarning, match="stars left out"):
        found = binned(label=MASKS["numpy"](LABEL))
    np.testing.assert_array_equal(found["label"], EXPECTED["label"])
    whole = Masked(np.arange(3), mask=[False, True, False])
    np.testing.assert_array_equal(to_tensor(whole, "x", None), [0, np.nan, 2])


@pytest.mark.filterwarnings("ignore:.* have no orbit within the fit:RuntimeWarning")
def test_masked_pixels_and_stars_are_left_out_by_models():
    data = binned()
    model, bounds, start = TorusImaging1DPotential.auto_init(data, n_components=3)
    out = np.zeros(data["label"].shape, dtype=bool)
    out[::2] = True
    gone = {**data, "label": np.where(out, np.nan, data["label"])}
    expected = model.optimize(start, "gaussian", bounds, **gone)
    for key in ("label", "pos"):
        masked = {**data, key: Masked(data[key], mask=out)}
        found = model.optimize(start, "gaussian", bounds, **masked)
        assert found.state.num_masked == expected.state.num_masked
        assert found.state.fun_val == expected.state.fun_val
    stars = model.compute_action_angle(Masked(POS[:8], mask=MASK[:8]), VEL[:8], expected.params)
    assert not stars["valid"][MASK[:8]].any()
    assert stars["valid"][~MASK[:8]].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"pos": STARS["pos"]},
        {"vel": STARS["vel"]},
        {"bins": {"pos": BINS["pos"].value, "vel": BINS["vel"]}},
    ],
)
def test_a_unit_on_one_side_alone_is_refused(changes):
    given = {"pos": POS, "vel": VEL, "bins": BINS} | changes
    with pytest.raises(ValueError, match="has a unit and .* has none"):
        get_binned_counts(**given)


def test_tensors_and_bare_numbers_are_in_model_units():
    units = {"pos": u.kpc, "vel": u.kpc / u.Myr}
    bare = {name: BINS[name].to_value(unit) for name, unit in units.items()}
    expected = get_binned_counts(POS, VEL, BINS)["counts"]
    numbers = STARS["pos"], STARS["vel"]
    np.testing.assert_array_equal(get_binned_counts(*numbers, bare)["counts"], expected)
    tensors = (torch.from_numpy(x) for x in numbers)
    np.testing.assert_array_equal(get_binned_counts(*tensors, BINS)["counts"], expected)


def test_stars_off_the_grid_are_told_where_they_are_most():
    with pytest.warns(RuntimeWarning, match="stars are off the grid: are positions"):
        get_binned_counts(1000 * POS, VEL, BINS)


class OfAnotherPackage(np.ndarray):
    units = "kpc"


def test_units_of_other_packages_are_refused():
    with pytest.raises(TypeError, match="units of another package.*give an astropy Quantity"):
        binned(pos=STARS["pos"].view(OfAnotherPackage))


COMPLEX, TEXTS = np.array([1 + 1j, 2]), np.array(["1.0", "2.0"])
HIDDEN = [True, False]


@pytest.mark.parametrize(
    "value",
    [
        COMPLEX,
        COMPLEX * u.kpc,
        COMPLEX.astype(object),
        torch.from_numpy(COMPLEX),
        np.ma.array(COMPLEX, mask=HIDDEN),
        Masked(COMPLEX, mask=HIDDEN),
        Masked(COMPLEX * u.kpc, mask=HIDDEN),
        Column(COMPLEX, unit="kpc"),
        MaskedColumn(COMPLEX, unit="kpc", mask=HIDDEN),
        TEXTS,
        TEXTS.astype(object),
        TEXTS.astype("S"),
        Column(TEXTS, unit="kpc"),
        Masked(TEXTS, mask=HIDDEN),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array([datetime(2020, 1, 1)], dtype=object),
        [1 * u.kpc, 2 * u.kpc],
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)
def test_what_is_no_real_number_is_refused(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="x must be numbers"):
            to_tensor(value, "x", "length")


@pytest.mark.parametrize(
    "value", [Masked(np.array([1, 2]), mask=HIDDEN), np.array([None, 2], dtype=object)]
)
def test_missing_numbers_are_nan_whatever_their_kind(value):
    assert to_tensor(value, "x", None).isnan().tolist() == HIDDEN


def test_unit_systems():
    degrees = UnitSystem(u.kpc, u.Myr, u.Msun, u.degree)
    with pytest.raises(ValueError, match="must have the radian as their angle, got 'deg'"):
        TorusImaging1DSpline([0, 1], {2: [0, 1]}, {2: 1.0}, units=degrees)
    with pytest.raises(TypeError, match="must be a gala UnitSystem, .* got 'galactic'"):
        TorusImaging1DSpline([0, 1], {2: [0, 1]}, {2: 1.0}, units="galactic")


def test_parameters_of_other_names_and_shapes_are_refused():
    model = TorusImaging1DSpline([0, 0.2, 0.4], {2: [0, 0.2, 0.4]}, {2: 1.0})
    params = {"pos0": 0.0, "vel0": 0.0, "ln_Omega0": -2.5, "e_params": {2: {"vals": [-1, -2]}}}
    params |= {"label_params": {"label_vals": [0.1, 0.5, 0.7]}}
    with pytest.raises(ValueError, match=r"params has unknown keys \['Omega0'\]"):
        model.get_acceleration(0.1 * u.kpc, {**params, "Omega0": 0.08})
    with pytest.raises(ValueError, match="label_vals.* must have 3 values"):
        model.get_label(0.1, 0.0, {**params, "label_params": {"label_vals": [0.1, 0.5]}})
    with pytest.raises(TypeError, match="e_knots must be a dictionary of knots by order m"):
        TorusImaging1DSpline.auto_init(binned(), 4, 8)
    potential = TorusImaging1DPotential([0, 0.4], [0.3, 1.0], 0.08)
    less = {"pos0": 0.0, "vel0": 0.0, "ln_rho": [17.0, 16.0]}
    with pytest.raises(ValueError, match="ln_rho must have 3 entries, .* got shape"):
        potential.get_acceleration(0.1, less)


def test_devices_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="device must be one of torch.* got 'gpu'"):
        fit_many([binned()], model="potential", device="gpu", progress=False)


def test_short_floats_of_torch_are_numbers():
    x = torch.linspace(-0.5, 0.5, 40, dtype=torch.bfloat16)
    bins = {"pos": np.linspace(-1, 1, 5), "vel": np.linspace(-1, 1, 5)}
    found = get_binned_counts(x, x, bins)
    assert np.asarray(found["counts"]).sum() == 40


def test_no_stars_are_told():
    with pytest.raises(ValueError, match="must be those of one star at least"):
        get_binned_counts(np.empty(0), np.empty(0), {"pos": [-1.0, 1.0], "vel": [-1.0, 1.0]})
