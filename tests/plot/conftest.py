"""A model, its pixels and matplotlib without a display, for all tests of figures."""

from __future__ import annotations

import astropy.units as u
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import KMS, R_MAX, to_numpy

from torusimaging_torch.model_spline import TorusImaging1DSpline


@pytest.fixture(autouse=True)
def _off_screen(monkeypatch):
    mpl.use("Agg")
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("show() was called"))
    yield
    plt.close("all")


@pytest.fixture
def model():
    return TorusImaging1DSpline(
        label_knots=np.linspace(0, R_MAX, 5),
        e_knots={2: np.linspace(0, R_MAX, 6), 4: np.linspace(0, R_MAX, 4)},
        e_signs={2: 1, 4: -1},
    )


@pytest.fixture
def params():
    return {
        "pos0": 0.02,
        "vel0": -0.001,
        "ln_Omega0": np.log(0.08),
        "e_params": {2: {"vals": np.full(5, -1.5)}, 4: {"vals": np.full(3, -4.0)}},
        "label_params": {"label_vals": np.array([0.05, 0.6, 0.7, 0.6, 0.5])},
    }


@pytest.fixture
def binned(model, params):
    """15 velocities and 12 positions with noise, blank in a corner and in the middle."""
    pos, vel = np.meshgrid(np.linspace(-0.8, 0.8, 12) * u.kpc, np.linspace(-60, 60, 15) * KMS)
    rng = np.random.default_rng(1)
    label = to_numpy(model.get_label(pos, vel, params)) + 0.01 * rng.normal(size=pos.shape)
    label[:3, :2] = np.nan
    label[7, 5] = np.nan
    label[0, -1] = -np.inf  # the logarithm of no stars
    return {"pos": pos, "vel": vel, "label": label, "label_err": np.full(pos.shape, 0.02)}
