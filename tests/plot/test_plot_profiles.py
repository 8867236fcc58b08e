"""Splines, accelerations and densities as drawn: read back from matplotlib objects."""

from __future__ import annotations

from types import SimpleNamespace

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawings import KMS, R_MAX, render
from gala.units import galactic

from torusimaging_torch import plot
from torusimaging_torch.simulate.potentials import HarmonicOscillator, IsothermalSheet


def test_spline_functions_and_their_knots(model, params):
    fig, axes = plot.plot_spline_functions(model, params, label_name="[Mg/Fe]")
    assert axes.shape == (2,)
    curves, label_lines = axes[0].get_lines(), axes[1].get_lines()
    assert len(curves) == 5  # curve and knots of each m, and the sum
    assert len(label_lines) == 2

    # constant log slopes make straight lines: e_m = sign exp(vals) r_e
    for line, slope in zip(curves, np.exp([-1.5, -1.5, -4, -4]) * [1, 1, -1, -1], strict=False):
        np.testing.assert_allclose(line.get_ydata(), slope * line.get_xdata(), atol=1e-14)
    np.testing.assert_allclose(curves[1].get_xdata(), np.linspace(0, R_MAX, 6))
    np.testing.assert_allclose(
        curves[4].get_ydata(), curves[0].get_ydata() + curves[2].get_ydata(), atol=1e-14
    )

    # slopes linear between knots, constant on the first interval: the trapezoid rule is exact
    slopes = np.array([0.6, 0.6, 0.7, 0.6, 0.5])
    at_knots = 0.05 + np.concatenate([[0], np.cumsum((slopes[1:] + slopes[:-1]) / 2)]) * R_MAX / 4
    np.testing.assert_allclose(label_lines[1].get_ydata(), at_knots, rtol=1e-12)
    x, y = label_lines[0].get_data()
    np.testing.assert_allclose(np.interp(np.linspace(0, R_MAX, 5), x, y), at_knots, rtol=1e-4)

    radius = (u.kpc / u.Myr**0.5).to_string("latex_inline")
    assert [ax.get_xlabel() for ax in axes] == [f"$r_e$ [{radius}]", f"$r$ [{radius}]"]
    assert axes[1].get_ylabel() == "[Mg/Fe]"
    render(fig)
    (top,) = axes[0].child_axes
    assert top.get_xlim()[1] == pytest.approx(axes[0].get_xlim()[1] / np.sqrt(0.08))


def test_acceleration_and_densities_in_the_units_of_papers(model, params):
    pos = np.linspace(-0.9, 0.9, 37) * u.kpc
    _, axes = plot.plot_acceleration_density(model, params, pos)
    assert axes.shape == (3,)
    expected = [
        (model.get_acceleration(pos, params), u.km / u.s / u.Myr, "$a_z$"),
        (model.get_density(pos, params), u.Msun / u.pc**3, r"$\rho$"),
        (model.get_surface_density(pos, params), u.Msun / u.pc**2, r"$\Sigma$"),
    ]
    for ax, (values, unit, symbol) in zip(axes, expected, strict=True):
        (line,) = ax.get_lines()
        np.testing.assert_allclose(line.get_xdata(), pos.value)
        np.testing.assert_allclose(line.get_ydata(), values.to_value(unit), rtol=1e-12)
        assert ax.get_ylabel() == f"{symbol} [{unit.to_string('latex_inline')}]"
        assert ax.get_xlabel() == "$z$ [$\\mathrm{kpc}$]"


def test_a_second_curve_is_not_cut_off(model, params):
    pos = np.linspace(0, 0.9, 10) * u.kpc
    _, axes = plot.plot_acceleration_density(model, params, pos)
    heavier = {**params, "ln_Omega0": params["ln_Omega0"] + 0.5}
    plot.plot_acceleration_density(model, heavier, pos, axes=axes)
    for ax in axes:
        assert ax.get_ylim()[0] <= ax.dataLim.ymin
        assert ax.get_ylim()[1] >= ax.dataLim.ymax


def test_profiles_in_another_unit_system(model, params):
    pos = np.linspace(0.1, 0.9, 5) * u.kpc
    _, axes = plot.plot_acceleration_density(model, params, pos, usys=galactic)
    values = model.get_density(pos, params).to_value(u.Msun / u.kpc**3)
    np.testing.assert_allclose(axes[1].get_lines()[0].get_ydata(), values, rtol=1e-12)
    assert "kpc^{-3}" in axes[1].get_ylabel()


def test_residual_against_a_truth(model, params):
    """Without distortion the model is a harmonic oscillator of frequency Omega0."""
    round_ = {**params, "pos0": 0.0, "e_params": {m: {"vals": np.full(k, -30.0)} for m, k in
                                                  ((2, 5), (4, 3))}}  # fmt: skip
    pos = np.linspace(-0.9, 0.9, 37) * u.kpc
    truth = HarmonicOscillator(0.1 / u.Myr)
    _, axes = plot.plot_acceleration_density(model, round_, pos, truth)
    assert axes.shape == (2, 3)
    for upper, lower in axes.T:
        assert [t.get_label() for t in upper.get_lines()] == ["model", "truth"]
        percent = lower.get_lines()[1].get_ydata()
        drawn_part = np.isfinite(percent)
        np.testing.assert_allclose(percent[drawn_part], 100 * (0.64 - 1), rtol=1e-6)
        low, high = lower.get_ylim()
        assert low == -high
        assert high > 36
    # a_z passes through zero: no ratio there, but everywhere else
    percent = axes[1, 0].get_lines()[1].get_ydata()
    np.testing.assert_array_equal(np.isnan(percent), np.abs(pos.value) <= 0.09)
    assert axes[1, 0].get_ylabel().endswith("[%]")


def test_residual_of_the_density_is_shown_where_the_density_is_low(model, params):
    pos = np.linspace(-0.5, 0.5, 21) * u.kpc
    truth = IsothermalSheet(20 * KMS, 0.1 * u.kpc)
    assert truth.density(pos).min() < 1e-3 * truth.density(pos).max()
    _, axes = plot.plot_acceleration_density(model, params, pos, truth)
    percent = axes[1, 1].get_lines()[1].get_ydata()
    expected = 100 * (model.get_density(pos, params) / truth.density(pos) - 1).to_value(u.one)
    np.testing.assert_allclose(percent, expected)


def test_positions_beyond_the_last_knot_are_shaded(model, params):
    edge = R_MAX / np.sqrt(0.08)
    grid = np.linspace(-1.5, 1.5, 601)
    _, axes = plot.plot_acceleration_density(model, params, grid)
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in axes[0].patches)
    expected = [(-1.5, 0.02 - edge), (0.02 + edge, 1.5)]
    np.testing.assert_allclose(spans, expected, atol=0.005)  # to one step of the grid
    _, axes = plot.plot_acceleration_density(model, params, np.linspace(-0.9, 0.9, 7) * u.kpc)
    assert not axes[0].patches


def test_what_cannot_be_drawn_is_refused(model, params):
    pos = np.linspace(0, 1, 5) * u.kpc
    with pytest.raises(TypeError, match="VerticalPotential"):
        plot.plot_acceleration_density(model, params, pos, SimpleNamespace())
    with pytest.raises(u.UnitConversionError, match="pos_grid"):
        plot.plot_acceleration_density(model, params, pos / u.s)
    batch = {**params, "pos0": np.zeros(3), "vel0": np.zeros(3), "ln_Omega0": np.zeros(3)}
    for call in (
        lambda: plot.plot_acceleration_density(model, batch, pos),
        lambda: plot.plot_spline_functions(model, batch),
    ):
        with pytest.raises(ValueError, match="one problem"):
            call()
    assert plt.get_fignums() == []  # refused before a figure was made
