"""Simulated stars: moments against closed forms, reproducibility, selection, bad input."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from scipy import stats

from torusimaging_torch.simulate import milky_way_disk, simulate_stars
from torusimaging_torch.simulate.exact_orbits import exact_action_angle
from torusimaging_torch.simulate.potentials import HarmonicOscillator, IsothermalSheet, milky_way
from torusimaging_torch.simulate.stars import ExponentialActions, LognormalErrors, SqrtActionLabel

OMEGA = 0.08 * u.rad / u.Myr
OSCILLATOR = HarmonicOscillator(OMEGA)
J0 = 0.01 * u.kpc**2 / u.Myr
KM_S = u.km / u.s
COLUMNS = ["z", "v_z", "label", "label_err", "J", "theta", "T"]


def simulate(n=20_000, seed=3, **settings):
    return simulate_stars(OSCILLATOR, n, **({"df": J0, "seed": seed} | settings))


def test_columns_and_units():
    table = simulate(50)
    assert table.colnames == COLUMNS
    assert len(table) == 50
    units = {"z": "kpc", "v_z": "km/s", "J": "kpc2/Myr", "theta": "rad", "T": "Myr"}
    assert {name: table[name].unit for name in units} == {k: u.Unit(v) for k, v in units.items()}


def test_exponential_actions_make_an_oscillator_gaussian():
    table = simulate()
    width = np.sqrt(J0.value / OMEGA.value)
    assert stats.kstest(table["z"].value / width, "norm").pvalue > 1e-3
    speed = (width * u.kpc * OMEGA.value / u.Myr).to_value(KM_S)
    assert stats.kstest(table["v_z"].to_value(KM_S) / speed, "norm").pvalue > 1e-3
    assert stats.kstest(table["J"].value / J0.value, "expon").pvalue > 1e-3
    assert stats.kstest(table["theta"].value / (2 * np.pi), "uniform").pvalue > 1e-3


def test_two_components_have_the_right_fractions():
    df = ExponentialActions([0.01, 0.05] * u.kpc**2 / u.Myr, [3, 1])
    drawn = df(100_000, np.random.default_rng(1)).value
    expected = 0.75 * stats.expon(scale=0.01).cdf(0.03) + 0.25 * stats.expon(scale=0.05).cdf(0.03)
    assert abs(np.mean(drawn < 0.03) - expected) < 4 * np.sqrt(0.25 / 100_000)
    np.testing.assert_allclose(drawn.mean(), 0.02, rtol=0.02)


@pytest.mark.parametrize("potential", [IsothermalSheet(20 * KM_S, 0.3 * u.kpc), milky_way()])
def test_truth_columns_belong_to_the_phase_space(potential):
    pos0, vel0 = -20 * u.pc, 7 * KM_S
    table = simulate_stars(potential, 2000, pos0=pos0, vel0=vel0, seed=5)
    truth = exact_action_angle(table["z"] - pos0, table["v_z"] - vel0, potential)
    np.testing.assert_allclose(table["J"].value, truth["J"].value, rtol=1e-9)
    np.testing.assert_allclose(table["T"].value, truth["T"].value, rtol=1e-9)
    np.testing.assert_allclose(np.sin(table["theta"]), np.sin(truth["theta"]), atol=1e-7)
    np.testing.assert_allclose(np.cos(table["theta"]), np.cos(truth["theta"]), atol=1e-7)


def test_offsets_shift_the_stars_and_nothing_else():
    table, shifted = simulate(100), simulate(100, pos0=0.1 * u.kpc, vel0=-5 * KM_S)
    np.testing.assert_allclose((shifted["z"] - table["z"]).to_value("kpc"), 0.1, rtol=1e-12)
    np.testing.assert_allclose((shifted["v_z"] - table["v_z"]).to_value(KM_S), -5, rtol=1e-12)
    np.testing.assert_array_equal(shifted["label"], table["label"])


def test_labels_scatter_about_the_mean_as_told():
    table = simulate()
    mean = 0.02 + 0.9 * np.sqrt(table["J"].value)
    pulls = (table["label"] - mean) / np.hypot(0.04, table["label_err"])
    assert stats.kstest(pulls, "norm").pvalue > 1e-3
    errors = np.log(table["label_err"] / 0.05) / 0.3
    assert stats.kstest(errors, "norm").pvalue > 1e-3


def test_labels_without_noise_are_the_label_function():
    table = simulate(100, label=lambda J: J.value**2, label_scatter=0, label_err=0.0)
    np.testing.assert_array_equal(table["label"], table["J"].value ** 2)
    assert np.all(table["label_err"] == 0)


def test_labels_with_a_unit():
    table = simulate(
        4000,
        label=lambda J: np.full(J.shape, 5.0) * u.Gyr,
        label_scatter=0 * u.Gyr,
        label_err=300 * u.Myr,
    )
    assert table["label"].unit == table["label_err"].unit == u.Gyr
    np.testing.assert_allclose(table["label_err"].value, 0.3)
    np.testing.assert_allclose(np.std(table["label"]).value, 0.3, rtol=0.05)


def test_same_seed_same_stars():
    first, second, other = simulate(300), simulate(300), simulate(300, seed=4)
    for name in COLUMNS:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.any(first["z"] == other["z"])


def test_a_seed_from_the_system_is_recorded():
    table = simulate(20, seed=None)
    again = simulate(20, seed=table.meta["seed"])
    np.testing.assert_array_equal(table["z"], again["z"])
    assert simulate(20, seed=None).meta["seed"] != table.meta["seed"]


def test_selection_by_distance_returns_n_stars():
    table = simulate(5000, selection=200 * u.pc, pos0=0.1 * u.kpc)
    assert len(table) == 5000
    assert np.abs(table["z"]).max() < 0.2 * u.kpc
    width = np.sqrt(J0.value / OMEGA.value)
    inside = stats.norm(0.1, width).cdf(0.2) - stats.norm(0.1, width).cdf(-0.2)
    drawn = table.meta["n_drawn"]
    assert abs(5000 / drawn - inside) < 4 * np.sqrt(inside * (1 - inside) / drawn)
    truncated = stats.truncnorm((-0.2 - 0.1) / width, (0.2 - 0.1) / width, 0.1, width)
    assert stats.kstest(table["z"].value, truncated.cdf).pvalue > 1e-3


def test_selection_by_probability():
    # A Gaussian chance times the oscillator's Gaussian is Gaussian, and narrower.
    table = simulate(5000, selection=lambda pos: np.exp(-0.5 * (pos / (0.3 * u.kpc)) ** 2))
    width = (0.3**-2 + OMEGA.value / J0.value) ** -0.5
    assert stats.kstest(table["z"].value / width, "norm").pvalue > 1e-3


def test_any_distribution_of_actions():
    table = simulate(30, df=lambda n, rng: np.full(n, 5.0) * u.pc**2 / u.Myr)
    np.testing.assert_allclose(table["J"].to_value("kpc2/Myr"), 5e-6, rtol=1e-12)


@pytest.mark.parametrize("name", ["stars.fits", "stars.ecsv"])
def test_settings_survive_a_file(name, tmp_path):
    table = simulate(30, pos0=0.1 * u.kpc, label=SqrtActionLabel(), label_err=LognormalErrors())
    table.write(tmp_path / name)
    back = QTable.read(tmp_path / name)
    meta = {key.lower(): value for key, value in back.meta.items()}
    assert meta["seed"] == 3
    assert meta["pos0"] == "0.1 kpc"
    assert "HarmonicOscillator" in meta["model"]
    np.testing.assert_array_equal(back["z"], table["z"])


def test_milky_way_disk_is_the_shared_mock_anew(shared_data):
    mock, table = QTable.read(shared_data / "disk_mock_stars.fits"), milky_way_disk(seed=7)
    for name in COLUMNS:
        ours, theirs = np.asarray(table[name]), np.asarray(mock[name], dtype=np.float64)
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3, name


def test_milky_way_disk_looks_like_the_galaxy_at_the_sun():
    table = milky_way_disk(20_000, seed=2, pos0=-20 * u.pc)
    assert 22 < np.std(table["v_z"]).to_value(KM_S) < 24
    assert 0.45 < np.std(table["z"]).to_value("kpc") < 0.52
    assert "8.3 kpc" in table.meta["model"]
    fewer = milky_way_disk(100, R=6 * u.kpc)
    assert np.median(fewer["T"]) < np.median(table["T"])


BAD = {
    "n zero": ({"n": 0}, ValueError, "n must"),
    "n float": ({"n": 1.5}, ValueError, "n must"),
    "pos0 unit": ({"pos0": 1 * u.Myr}, u.UnitConversionError, "pos0"),
    "vel0 unit": ({"vel0": 1 * u.kpc}, u.UnitConversionError, "vel0"),
    "pos0 vector": ({"pos0": [1, 2] * u.kpc}, ValueError, "pos0"),
    "df unit": ({"df": 1 * u.kpc}, u.UnitConversionError, "df"),
    "df returns unit": ({"df": lambda n, rng: np.ones(n) * u.m}, u.UnitConversionError, "df"),
    "df sign": ({"df": lambda n, rng: -np.ones(n)}, ValueError, "df"),
    "df shape": ({"df": lambda n, rng: np.ones(2)}, ValueError, "df"),
    "df scale": ({"df": -J0}, ValueError, "df must be positive"),
    "df too large": ({"df": lambda n, rng: np.full(n, 1e9)}, ValueError, "J must be below"),
    "selection unit": ({"selection": 1 * u.Myr}, u.UnitConversionError, "selection"),
    "selection > 1": ({"selection": lambda z: 2 * np.ones(z.shape)}, ValueError, "selection"),
    "selection shape": ({"selection": lambda z: 1.0}, ValueError, "selection"),
    "selection empty": ({"selection": lambda z: np.zeros(z.shape)}, ValueError, "too few stars"),
    "scatter": ({"label_scatter": -1}, ValueError, "label_scatter"),
    "errors": ({"label_err": -1}, ValueError, "label_err"),
    "error unit": ({"label_err": 1 * u.Gyr}, u.UnitConversionError, "label_err"),
    "label shape": ({"label": lambda J: 1.0}, ValueError, "label"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    settings, error, match = BAD[case]
    with pytest.raises(error, match=match):
        simulate(**({"n": 20} | settings))


def test_a_gala_potential_must_be_wrapped():
    with pytest.raises(TypeError, match="VerticalPotential"):
        simulate_stars(milky_way().gala_potential, 10)
