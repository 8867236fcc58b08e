"""Numbers that stand for missing ones are told, wherever stars are read, and others are not."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable

from simulated import BINS, catalogue
from torusimaging_torch.analysis.actions import add_actions
from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.catalogue import prepare
from torusimaging_torch.catalogue.sentinels import Sentinels, find_sentinels
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.data import bin_many, get_binned_label
from torusimaging_torch.settings import Settings

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("value", [-9999, 99, -999, 999, -9.99, 99.99, 9999.99, 1e20, -1e30])
def test_sentinels_are_found_in_either_precision(value, dtype):
    column = RNG.normal(0, 1, 1000).astype(dtype)
    column[::10] = value
    column[5] = np.nan
    assert find_sentinels(column) == {value: 100}


def test_whole_numbers():
    column = np.concatenate([RNG.integers(-5, 5, 100), [-9999] * 7, [32767] * 3])
    assert find_sentinels(column) == {-9999.0: 7, 32767.0: 3}


@pytest.mark.parametrize(
    "values",
    [
        np.round(RNG.normal(0, 60, 200_000)),  # velocities to a km/s: 99 is one of them
        np.round(RNG.uniform(0, 1200, 200_000)),  # heights to a parsec
        np.round(RNG.normal(-5, 3, 100_000), 2),  # -9.99 among its neighbours
        np.array([0.1, 99.0, 0.3]),  # once is none
        np.full(5, np.nan),
        np.array([], dtype=float),
        np.array(["-9999", "-9999"]),
    ],
)
def test_what_is_no_sentinel(values):
    assert find_sentinels(values) == {}


def test_each_is_told_once():
    seen = Sentinels()
    for _ in range(2):
        seen.look("x", [-999.0, -999.0] * u.km)
    (line,) = seen.lines()
    assert line.startswith("x: -999 comes 4 times")
    seen.look("x", np.array([-999.0, -999.0]))
    assert seen.lines() == []


@pytest.fixture
def stars():
    table = catalogue(6000)
    table["fe"][:300] = -9999.0
    return table


def told(caught):
    return [str(w.message) for w in caught if "missing number" in str(w.message)]


def test_binning_tells_the_label_its_value_and_its_number(stars):
    inside = (np.abs(stars["z"]) <= 1.2 * u.kpc) & (np.abs(stars["v"]) <= 70 * u.km / u.s)
    expected = f"-9999 comes {inside[:300].sum()} times"
    with pytest.warns(UserWarning, match=f"label: {expected}") as caught:
        get_binned_label(stars["z"], stars["v"], stars["fe"], BINS, label_err=stars["err"])
    assert caught[0].filename == __file__
    columns = {"pos": "z", "vel": "v", "label": "fe", "label_err": "err"}
    with pytest.warns(UserWarning, match=rf"label\['fe'\]: {expected}"):
        bin_many(stars, None, BINS, **columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_binned_label(
            stars["z"][300:],
            stars["v"][300:],
            stars["fe"][300:],
            BINS,
            label_err=stars["err"][300:],
        )


def test_a_fit_tells_the_columns(stars):
    stars["z"][:400] = -999 * u.kpc
    stars["fe"] = np.where(np.arange(6000) % 20 == 0, 99.9, stars["fe"])
    settings = Settings(model="torus", uncertainty="none", n_bins=16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        analyse(read_stars(stars, "z", "v", "fe", "err"), settings)
    lines = told(caught)
    assert len(lines) == 2
    assert lines[0].startswith("z: -999 comes 400 times")
    assert lines[1].startswith("label['fe']: 99.9 comes 2")


def test_actions_tell(stars):
    labels = {"pos": stars["z"][300:], "vel": stars["v"][300:], "label": stars["fe"][300:]}
    fitted = read_stars(QTable(labels), "pos", "vel", "label")
    result = analyse(fitted, Settings(model="potential", uncertainty="none", n_bins=16)).result
    more = QTable({"z": [0.1, -9999, -9999, 0.2] * u.kpc, "v": [1, 2, 3, 4] * u.km / u.s})
    with pytest.warns(UserWarning, match="z: -9999 comes 2 times"):
        add_actions(result, more, "z", "v")


def test_preparing_tells():
    sky = {
        "ra": [10.0, 20.0, 30.0] * u.deg,
        "dec": [0.0, 10.0, 20.0] * u.deg,
        "distance": [1.0, 1.0, 1.0] * u.kpc,
        "pmra": [0.0, 1.0, 2.0] * u.mas / u.yr,
        "pmdec": [0.0, 1.0, 2.0] * u.mas / u.yr,
        "radial_velocity": [-9999.0, 20.0, -9999.0] * u.km / u.s,
    }
    with pytest.warns(UserWarning, match="radial_velocity: -9999 comes 2 times"):
        prepare(QTable(sky))
