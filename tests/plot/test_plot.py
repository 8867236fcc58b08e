"""Data, model and residual are drawn as asked for, and what all figures share."""

from __future__ import annotations

import astropy.units as u
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawings import KMS, R_MAX, render, to_numpy
from gala.units import UnitSystem
from matplotlib.figure import Figure

from torusimaging_torch import plot
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.simulate.potentials import HarmonicOscillator

PC_UNITS = UnitSystem(u.pc, u.Myr, u.Msun, u.rad)


def drawn(ax):
    """Return the values of the pixels in a panel, nan where blank."""
    (mesh,) = (c for c in ax.collections if isinstance(c, mpl.collections.QuadMesh))
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def mesh_of(ax):
    return next(c for c in ax.collections if isinstance(c, mpl.collections.QuadMesh))


def clean(label):
    return np.where(np.isfinite(label), label, np.nan)


def test_data_model_and_residual_are_what_was_asked_for(binned, model, params):
    start = {**params, "ln_Omega0": np.log(0.06)}
    fig, axes = plot.plot_data_model_residual(binned, model, params, start)

    assert axes.shape == (4,)
    assert len(fig.axes) == 6  # two colour bars
    titles = [ax.get_title() for ax in axes]
    assert titles == ["data", "initial model", "fitted model", "residual"]
    fit = to_numpy(model.get_label(binned["pos"], binned["vel"], params))
    initial = to_numpy(model.get_label(binned["pos"], binned["vel"], start))
    expected = [clean(binned["label"]), initial, fit, clean(binned["label"]) - fit]
    for ax, values in zip(axes, expected, strict=True):
        np.testing.assert_allclose(drawn(ax), values, rtol=1e-13, atol=1e-15)
    assert not np.allclose(initial, fit)


def test_without_a_start_there_are_three_panels(binned, model, params):
    fig, axes = plot.plot_data_model_residual(binned, model, params)
    assert [ax.get_title() for ax in axes] == ["data", "fitted model", "residual"]
    assert len(fig.axes) == 5


def test_old_name_is_the_same_function():
    assert plot.plot_data_models_residual is plot.plot_data_model_residual


def test_data_and_model_share_one_scale_and_the_residual_is_centred(binned, model, params):
    _, axes = plot.plot_data_model_residual(binned, model, params, params)
    limits = np.nanpercentile(clean(binned["label"]), [1, 99])
    for ax in axes[:3]:
        np.testing.assert_allclose(mesh_of(ax).get_clim(), limits)
        assert mesh_of(ax).get_cmap().name == "viridis"
    low, high = mesh_of(axes[3]).get_clim()
    assert low == -high
    assert high == pytest.approx(np.nanpercentile(np.abs(drawn(axes[3])), 99))
    assert mesh_of(axes[3]).norm(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("vlim", "limits"), [(0.05, (-0.05, 0.05)), ((-0.02, 0.06), (-0.02, 0.06))]
)
def test_residual_limits_can_be_chosen_and_zero_stays_in_the_middle(
    binned, model, params, vlim, limits
):
    _, axes = plot.plot_data_model_residual(binned, model, params, vlim_residual=vlim)
    assert mesh_of(axes[-1]).get_clim() == limits
    assert mesh_of(axes[-1]).norm(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize("x_coord", ["vel", "pos"])
def test_axes_carry_units_and_pixels_lie_where_they_should(binned, model, params, x_coord):
    _, axes = plot.plot_data_model_residual(binned, model, params, x_coord=x_coord)
    vel_name = f"$v_z$ [{KMS.to_string('latex_inline')}]"
    pos_name = f"$z$ [{u.kpc.to_string('latex_inline')}]"
    names = (vel_name, pos_name) if x_coord == "vel" else (pos_name, vel_name)
    assert all(ax.get_xlabel() == names[0] for ax in axes)
    assert axes[0].get_ylabel() == names[1]

    corners = mesh_of(axes[0]).get_coordinates()
    centres = (corners[1:, 1:] + corners[:-1, :-1]) / 2
    pos, vel = binned["pos"].to_value(u.kpc), binned["vel"].to_value(KMS)
    expected = np.stack((vel, pos) if x_coord == "vel" else (pos, vel), axis=-1)
    np.testing.assert_allclose(centres, expected, atol=1e-12)
    # and the panel shows each pixel whole
    np.testing.assert_allclose(axes[0].get_xlim(), (corners[..., 0].min(), corners[..., 0].max()))


def test_unit_system_and_names_can_be_chosen(binned, model, params):
    _, axes = plot.plot_data_model_residual(
        binned,
        model,
        params,
        usys=PC_UNITS,
        pos_label="$R$",
        vel_label="$v_R$",
        label_name="[Fe/H]",
    )
    assert axes[0].get_xlabel() == f"$v_R$ [{(u.pc / u.Myr).to_string('latex_inline')}]"
    assert axes[0].get_ylabel() == f"$R$ [{u.pc.to_string('latex_inline')}]"
    top = mesh_of(axes[0]).get_coordinates()[..., 1].max()
    assert top == pytest.approx(800 * (1 + 1 / 11))  # half a pixel beyond the last centre
    assert axes[0].figure.axes[3].get_ylabel() == "[Fe/H]"


def test_model_in_other_units_gives_the_same_figure(binned, model, params):
    other = TorusImaging1DSpline(
        label_knots=to_numpy(model.label_knots) * 1000,
        e_knots={m: to_numpy(knots) * 1000 for m, knots in model.e_knots.items()},
        e_signs={2: 1, 4: -1},
        units=PC_UNITS,
    )
    scaled = {**params, "pos0": 0.02 * u.kpc, "vel0": -0.001 * u.kpc / u.Myr}
    # slopes are per unit of radius: 1000 times smaller
    scaled["e_params"] = {
        m: {"vals": p["vals"] - np.log(1000)} for m, p in params["e_params"].items()
    }
    values = params["label_params"]["label_vals"] / np.array([1, 1000, 1000, 1000, 1000])
    scaled["label_params"] = {"label_vals": values}
    _, ours = plot.plot_data_model_residual(binned, model, params)
    _, theirs = plot.plot_data_model_residual(binned, other, scaled)
    np.testing.assert_allclose(drawn(theirs[1]), drawn(ours[1]), rtol=1e-10)
    assert theirs[0].get_xlim() == pytest.approx(ours[0].get_xlim())


def test_bare_arrays_are_in_model_units(binned, model, params):
    stripped = {
        **binned,
        "pos": binned["pos"].to_value(u.kpc),
        "vel": binned["vel"].to_value(u.kpc / u.Myr),
    }
    _, ours = plot.plot_data_model_residual(stripped, model, params)
    _, theirs = plot.plot_data_model_residual(binned, model, params)
    assert ours[0].get_xlim() == pytest.approx(theirs[0].get_xlim())
    np.testing.assert_allclose(drawn(ours[-1]), drawn(theirs[-1]), atol=1e-14)


def test_a_label_with_a_unit_names_it(binned, model, params):
    dex = {**binned, "label": binned["label"] * u.dex, "label_err": binned["label_err"] * u.dex}
    fig, axes = plot.plot_data_model_residual(dex, model, params, label_name="[Mg/Fe]")
    names = [ax.get_ylabel() for ax in fig.axes[3:]]
    assert all("dex" in name for name in names)
    _, axes = plot.plot_data_model_residual(
        dex, model, params, residual_normalization=dex["label_err"]
    )
    plain = plot.plot_data_model_residual(binned, model, params)[1]
    np.testing.assert_allclose(drawn(axes[-1]), drawn(plain[-1]) / 0.02, rtol=1e-12)


def test_blank_pixels_are_grey_not_a_colour(binned, model, params):
    fig, axes = plot.plot_data_model_residual(binned, model, params, smooth_residual=1.0)
    blank = ~np.isfinite(binned["label"])
    np.testing.assert_array_equal(np.isnan(drawn(axes[0])), blank)
    np.testing.assert_array_equal(np.isnan(drawn(axes[-1])), blank)  # smoothing keeps them blank
    assert not np.isnan(drawn(axes[1])).any()
    red, green, blue, _ = axes[0].get_facecolor()
    assert red == green == blue == 0.8
    fig.draw_without_rendering()
    faces = mesh_of(axes[0]).get_facecolor().reshape(*blank.shape, 4)
    assert (faces[blank][:, 3] == 0).all()  # transparent
    assert (faces[~blank][:, 3] == 1).all()


def test_smoothing_is_a_weighted_mean_of_the_pixels_that_have_data(binned, model, params):
    sigma = 1.3
    _, axes = plot.plot_data_model_residual(binned, model, params, smooth_residual=sigma)
    _, plain = plot.plot_data_model_residual(binned, model, params)
    raw = drawn(plain[-1])
    rows, columns = np.indices(raw.shape)
    good = np.isfinite(raw)
    for i, j in np.argwhere(good)[::7]:
        weight = np.exp(-0.5 * ((rows - i) ** 2 + (columns - j) ** 2) / sigma**2) * good
        expected = np.nansum(weight * np.where(good, raw, 0)) / weight.sum()
        assert drawn(axes[-1])[i, j] == pytest.approx(expected, abs=1e-5)


def test_normalized_residual(binned, model, params):
    _, plain = plot.plot_data_model_residual(binned, model, params)
    fig, axes = plot.plot_data_model_residual(
        binned, model, params, residual_normalization=binned["label_err"], residual_label="pull"
    )
    np.testing.assert_allclose(drawn(axes[-1]), drawn(plain[-1]) / 0.02, rtol=1e-12)
    assert axes[-1].get_title() == "normalized residual"
    assert fig.axes[-1].get_ylabel() == "pull"


def test_the_last_knot_is_outlined_where_pixels_lie_beyond(binned, model, params):
    def outlines(ax):
        return [c for c in ax.collections if isinstance(c, mpl.contour.ContourSet)]

    narrow = {**binned, "pos": 0.5 * binned["pos"]}
    _, inside = plot.plot_data_model_residual(narrow, model, params)
    assert not any(outlines(ax) for ax in inside)

    wide = {**binned, "pos": 2 * binned["pos"]}
    fig, axes = plot.plot_data_model_residual(wide, model, params)
    for ax in axes:
        (outline,) = outlines(ax)
        vel, pos = np.concatenate([path.vertices for path in outline.get_paths()]).T
        r_e, theta_e = model.compute_elliptical(pos * u.kpc, vel * KMS, params)
        tensors = torch.as_tensor(r_e.value), torch.as_tensor(theta_e.value)
        e_params = {m: {"vals": torch.tensor(p["vals"])} for m, p in params["e_params"].items()}
        r = to_numpy(model._get_r(*tensors, e_params))
        # on the outline the first of r_e and r has reached its last knot (linear between pixels)
        np.testing.assert_allclose(np.maximum(r_e.value, r), R_MAX, rtol=0.02)
    render(fig)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pos": np.ones((15, 12)) * u.km / u.s}, u.UnitConversionError, "pos"),
        ({"vel": np.ones((15, 12)) * u.kpc}, u.UnitConversionError, "vel"),
        ({"label": np.ones(180)}, ValueError, "two-dimensional"),
        ({"label": np.full((15, 12), np.nan)}, ValueError, "no pixel"),
    ],
)
def test_bad_pixels_are_refused(binned, model, params, change, error, words):
    with pytest.raises(error, match=words):
        plot.plot_data_model_residual({**binned, **change}, model, params)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x_coord": "velocity"}, "x_coord"),
        ({"vlim_residual": -1.0}, "vlim_residual"),
        ({"vlim_residual": (0.1, 0.2)}, "vlim_residual"),
        ({"axes": [Figure().subplots()]}, "3 axes"),
    ],
)
def test_bad_options_are_refused(binned, model, params, options, words):
    with pytest.raises(ValueError, match=words):
        plot.plot_data_model_residual(binned, model, params, **options)


def all_figures(binned, model, params, **kwargs):
    pos = np.linspace(-0.5, 0.5, 11) * u.kpc
    yield plot.plot_data_model_residual(binned, model, params, **kwargs)
    yield plot.plot_spline_functions(model, params, **kwargs)
    yield plot.plot_acceleration_density(model, params, pos, **kwargs)
    yield plot.plot_cov_corner(np.eye(3), **kwargs)


def test_pyplot_knows_the_figures_unless_told_not_to(binned, model, params):
    settings = dict(mpl.rcParams)
    mine = plt.figure()
    for fig, _ in all_figures(binned, model, params, pyplot=False):
        assert isinstance(fig, Figure)
        assert plt.get_fignums() == [mine.number]
        assert plt.gcf() is mine
        render(fig)
    for number, (fig, _) in enumerate(all_figures(binned, model, params), start=2):
        assert plt.gcf() is fig
        assert len(plt.get_fignums()) == number
    assert dict(mpl.rcParams) == settings


def test_figures_can_be_drawn_into_axes_of_the_caller(binned, model, params):
    fig = Figure(figsize=(10, 12), layout="constrained")
    top, middle, bottom = fig.subfigures(3, 1)
    pos = np.linspace(-0.5, 0.5, 11) * u.kpc
    truth = HarmonicOscillator(0.08 / u.Myr)
    calls = [
        (plot.plot_data_model_residual, (binned, model, params), top.subplots(1, 3)),
        (plot.plot_spline_functions, (model, params), middle.subplots(1, 2)),
        (plot.plot_acceleration_density, (model, params, pos, truth), bottom.subplots(2, 3)),
    ]
    for function, arguments, axes in calls:
        owner, returned = function(*arguments, axes=axes)
        assert owner is axes.flat[0].get_figure()
        assert returned.shape == axes.shape
        assert all(a is b for a, b in zip(returned.flat, axes.flat, strict=True))
        assert all(ax.has_data() for ax in axes.flat)
    assert plt.get_fignums() == []
    render(fig)
