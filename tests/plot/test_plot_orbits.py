"""Orbits as drawn: read back from matplotlib objects."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
from matplotlib.figure import Figure

from torusimaging_torch import TorusImaging1DSpline, plot


@pytest.fixture
def model():
    return TorusImaging1DSpline(np.linspace(0, 0.5, 4), {2: np.linspace(0, 0.5, 5)}, {2: 1.0})


@pytest.fixture
def params():
    return {
        "pos0": 0.02,
        "vel0": -0.001,
        "ln_Omega0": math.log(0.08),
        "e_params": {2: {"vals": np.full(4, -1.0)}},
        "label_params": {"label_vals": np.array([0.0, 1.0, 1.0, 1.0])},
    }


@pytest.fixture
def binned(model, params):
    pos, vel = np.meshgrid(np.linspace(-1, 1, 21) * u.kpc, np.linspace(-60, 60, 25) * u.km / u.s)
    return {"pos": pos, "vel": vel, "label": model.get_label(pos, vel, params).numpy()}


@pytest.mark.parametrize("x_coord", ["vel", "pos"])
def test_orbits_have_the_actions_asked_for_and_stay_on_a_label(model, params, binned, x_coord):
    actions = [0.002, 0.01] * u.kpc**2 / u.Myr
    fig, axs = plot.plot_action_contours(
        binned, model, params, actions, x_coord=x_coord, pyplot=False
    )
    assert isinstance(fig, Figure)
    assert axs.shape == (1,)
    assert len(axs[0].lines) == 2
    for line, J in zip(axs[0].lines, actions, strict=True):
        x, y = line.get_data()
        vel, pos = (x, y) if x_coord == "vel" else (y, x)
        table = model.compute_action_angle(pos * u.kpc, vel * u.km / u.s, params)
        np.testing.assert_allclose((table["J"] / J).to_value(u.one), 1, rtol=1e-9)
    names = axs[0].get_xlabel(), axs[0].get_ylabel()
    assert ("km" in names[0]) == (x_coord == "vel")
    assert "$z$" in "".join(names)


def test_orbits_by_default_fill_the_data(model, params, binned):
    _, axs = plot.plot_action_contours(binned, model, params, pyplot=False)
    assert len(axs[0].lines) == 8
    reach = max(
        max(np.abs(line.get_xdata()).max() / 60, np.abs(line.get_ydata()).max())
        for line in axs[0].lines
    )
    assert 0.7 < reach < 1.01
    with pytest.raises(ValueError, match="x_coord"):
        plot.plot_action_contours(binned, model, params, x_coord="z", pyplot=False)


def test_frequency_curve_with_band_and_truth(model, params):
    samples = [params | {"ln_Omega0": params["ln_Omega0"] + d} for d in (-0.1, 0.0, 0.1)]
    J = np.linspace(0, 0.01, 5) * u.kpc**2 / u.Myr
    truth = {"J": [0.002, 0.001] * u.kpc**2 / u.Myr, "T": [90.0, 85.0] * u.Myr}
    _, axs = plot.plot_frequency_curve(
        model, samples, J, truth=truth, percentiles=(0, 100), pyplot=False
    )
    curve = model.compute_frequency_curve(params, J)
    Omega = curve["Omega"].to_value(u.rad / u.Gyr)
    np.testing.assert_allclose(axs[0].lines[1].get_ydata(), Omega)
    np.testing.assert_allclose(axs[1].lines[1].get_ydata(), curve["T"].to_value(u.Myr))
    np.testing.assert_allclose(axs[1].lines[0].get_ydata(), [85.0, 90.0])
    band = axs[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(
        [band.min(), band.max()], [Omega.min() * np.exp(-0.1), Omega[0] * np.exp(0.1)], rtol=0.05
    )
    _, axs = plot.plot_frequency_curve(model, params, pyplot=False)
    assert len(axs[0].lines) == 1
    assert not axs[0].collections
