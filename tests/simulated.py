"""Simulated stars that the tests of binning share."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binned_statistic_2d

KMS = (u.km / u.s).to(u.kpc / u.Myr)
OMEGA = 0.08
SCATTER = 0.04
BINS = {"pos": np.linspace(-1.2, 1.2, 81) * u.kpc, "vel": np.linspace(-70, 70, 81) * u.km / u.s}
EDGES = BINS["pos"].value, BINS["vel"].value * KMS

COARSE = {"pos": np.linspace(-1.2, 1.2, 21) * u.kpc, "vel": np.linspace(-70, 70, 19) * u.km / u.s}
WINDOWS = "R: 6..8 step 0.5 width 2 kpc"
COLUMNS = {"pos": "z", "vel": "v", "label": "fe", "label_err": "err"}


def mock(seed: int, n: int = 200_000, err_spread: float = 0.3) -> dict[str, np.ndarray]:
    """Stars in a harmonic oscillator, in model units; the label grows with the root of the action.

    Label errors are log-normal with median 0.05, as spread as those of a survey.
    """
    rng = np.random.default_rng(seed)
    omega = OMEGA
    pos = rng.normal(0.0, 0.4, n)
    vel = rng.normal(0.0, 0.4 * omega, n)
    truth = 0.02 + 0.9 * np.sqrt(0.5 * (omega * pos**2 + vel**2 / omega))
    label_err = rng.lognormal(np.log(0.05), err_spread, n)
    label = truth + rng.normal(0.0, SCATTER, n) + rng.normal(0.0, label_err)
    return {"pos": pos, "vel": vel, "truth": truth, "label": label, "label_err": label_err}


def per_pixel(stars, values, statistic, edges=EDGES):
    """SciPy's statistic with shape (n_vel, n_pos)."""
    return binned_statistic_2d(stars["pos"], stars["vel"], values, statistic, bins=edges)[0].T


def catalogue(n: int, seed: int = 0) -> QTable:
    rng = np.random.default_rng(seed)
    pos, vel = rng.normal(0, 0.4, n), rng.normal(0, 0.4 * OMEGA, n)
    truth = 0.02 + 0.9 * np.sqrt(0.5 * (OMEGA * pos**2 + vel**2 / OMEGA))
    err = rng.lognormal(np.log(0.05), 0.3, n)
    return QTable(
        {
            "id": np.arange(n),
            "R": rng.uniform(5, 9, n) * u.kpc,
            "z": pos * u.kpc,
            "v": (vel * u.kpc / u.Myr).to(u.km / u.s),
            "fe": truth + rng.normal(0, np.hypot(err, 0.04)),
            "err": err,
            "age": rng.normal(5, 2, n) * u.Gyr,
            "field": rng.choice(["north", "south", "bulge"], n),
        }
    )


def assert_same(binned, expected, rtol=1e-11):
    assert list(binned) == list(expected)
    assert_array_equal(binned["counts"], expected["counts"])
    for name, value in expected.items():
        assert getattr(binned[name], "unit", None) == getattr(value, "unit", None)
        assert np.shape(binned[name]) == np.shape(value)
        bare = (getattr(x, "value", x) for x in (binned[name], value))
        assert_allclose(*bare, rtol=rtol, atol=1e-15)


def in_window(stars, center):
    return (stars["R"] >= (center - 1) * u.kpc) & (stars["R"] < (center + 1) * u.kpc)
