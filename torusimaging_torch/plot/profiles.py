"""Figures against position or radius: spline functions, acceleration and density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import astropy.units as u
import matplotlib as mpl
import numpy as np
import torch
from astropy.table import QTable
from gala.units import UnitSystem
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from torusimaging_torch.model.predictions import beyond_edge
from torusimaging_torch.numerics.params import Nested, Params, batch_shape
from torusimaging_torch.plot.canvas import (
    BLANK,
    Array,
    AxesLike,
    axis_label,
    bare,
    coordinate,
    device_of,
    make_axes,
)
from torusimaging_torch.results.arguments import positions
from torusimaging_torch.results.profile_table import profiles
from torusimaging_torch.tensors import params_to_tensors
from torusimaging_torch.units import Numbers, to_quantity, unit_of

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples
    from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = ["plot_acceleration_density", "plot_spline_functions"]


def _one_problem(model: TorusImaging1D, params: Params) -> Nested:
    tensors = params_to_tensors(params, model.units, device=device_of(model))
    if batch_shape(tensors) != ():
        raise ValueError(
            "params must be those of one problem to be drawn, got a batch with shape "
            f"{tuple(batch_shape(tensors))}: pick one of them"
        )
    return tensors


def plot_spline_functions(
    model: TorusImaging1D,
    params: Params,
    *,
    label_name: str = "label",
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw the functions e_m(r_e) with their sum, and the label function l(r), with their knots.

    Of a potential without harmonics it is the density of each sheet that is drawn, and their sum.

    The upper axis of the first panel translates r_e to the height at which an orbit turns, were it
    the ellipse of that radius: ``|q - pos0| = r_e / sqrt(Omega0)``.

    Parameters
    ----------
    model, params
        A spline model and its parameters, of one problem.
    label_name
        What the label is.
    axes
        Two axes to draw in.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (2,): e_m, label.

    Raises
    ------
    ValueError
        If the parameters are those of a batch, or the number of axes is wrong.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_spline_functions
    >>> figure, axes = plot_spline_functions(model, params)
    >>> figure.savefig(f"{folder}/plot_spline_functions.png")
    """
    tensors = _one_problem(model, params)
    fig, axs = make_axes(axes, (2,), (8.4, 3.6), pyplot)
    # A radian is a pure number to the reader of a figure.
    unit = unit_of("elliptical radius", model.units) / model.units["angle"] ** 0.5
    if model.e_knots:
        _draw_e_functions(axs[0], model, tensors)
        axs[0].set(xlabel=axis_label("$r_e$", unit), ylabel="$e_m$")
    else:
        _draw_sheets(axs[0], model, tensors)
    if "ln_Omega0" in tensors:
        _add_height_axis(axs[0], tensors, model.units)
    _draw_label_function(axs[1], model, tensors)
    axs[1].set(xlabel=axis_label("$r$", unit), ylabel=label_name)
    for ax in axs:
        ax.set_xlim(left=0)
    return fig, axs


def _draw_e_functions(ax: Axes, model: TorusImaging1D, tensors: Nested) -> None:
    last = max(float(knots.max()) for knots in model.e_knots.values())
    r_e = torch.linspace(0, last, 256, dtype=torch.float64, device=device_of(model))
    e_functions = model.torus.distortion.es(r_e, tensors["e_params"])
    for m, e in e_functions.items():
        (line,) = ax.plot(bare(r_e), bare(e), label=f"$m = {m}$")
        knots = torch.as_tensor(model.e_knots[m], device=device_of(model))
        at_knots = model.torus.distortion.es(knots, tensors["e_params"])[m]
        ax.plot(bare(knots), bare(at_knots), "o", ms=4, color=line.get_color())
    if len(e_functions) > 1:
        ax.plot(
            bare(r_e),
            sum(bare(e) for e in e_functions.values()),
            "k--",
            lw=1,
            label="sum",
        )
    ax.legend(frameon=False)


def _draw_sheets(ax: Axes, model: Any, tensors: Nested) -> None:
    """Draw the density of each isothermal sheet, of the constant, and of all together."""
    density, rho = unit_of("density", model.units), u.Msun / u.pc**3
    w = bare(tensors["ln_rho"].exp()) * density.to(rho)
    heights = bare(model.heights) * unit_of("length", model.units).to(u.kpc)
    z = np.linspace(0, 1.2 * heights.max() / 1.7, 256)
    sheets = w[1:, None] / np.cosh(z / heights[:, None]) ** 2
    for h, sheet in zip(heights, sheets, strict=True):
        ax.plot(z, sheet, lw=1, color=mpl.colormaps["viridis"](0.9 * h / heights.max()))
    ax.plot(z, np.full_like(z, w[0]), ":", lw=1, color="0.5", label="constant")
    total = w[0] + sheets.sum(0)
    ax.plot(z, total, "k--", lw=1, label="sum")
    ax.set(yscale="log", ylim=(1e-3 * total[0], 1.5 * total[0]))
    ax.set(xlabel=axis_label("$|z|$", u.kpc), ylabel=axis_label(r"$\rho$", rho))
    ax.legend(frameon=False)


def _draw_label_function(ax: Axes, model: TorusImaging1D, tensors: Nested) -> None:
    def label(r: Tensor) -> Array:
        return bare(model.label_func(r, **tensors["label_params"]))

    knots = torch.as_tensor(model.label_knots, device=device_of(model))
    r = torch.linspace(0, float(knots.max()), 256, dtype=torch.float64, device=knots.device)
    (line,) = ax.plot(bare(r), label(r))
    ax.plot(bare(knots), label(knots), "o", ms=4, color=line.get_color())


def _add_height_axis(ax: Axes, tensors: Nested, units: UnitSystem) -> None:
    scale = unit_of("length", units).to(u.kpc) / bare((0.5 * tensors["ln_Omega0"]).exp())
    top = ax.secondary_xaxis("top", functions=(lambda r_e: r_e * scale, lambda z: z / scale))
    top.set_xlabel(axis_label(r"$r_e / \sqrt{\Omega_0}$", u.kpc))


# Half widths of the bands of 95 % and 68 % in standard errors, and how dark they are.
BAND_SIGMAS = (1.96, 1.0)
_BAND_SHADES = (0.2, 0.4)
# The same in percentiles.
_BANDS = (("p2.5", "p97.5"), ("p16", "p84"))

Curve = tuple[u.Quantity, list[tuple[u.Quantity, u.Quantity]]]

PROFILES = {"acceleration": "$a_z$", "density": r"$\rho$", "surface density": r"$\Sigma$"}


class Truth(Protocol):
    """True profiles, such as those of a `torusimaging_torch.simulate.VerticalPotential`."""

    def acceleration(self, pos: u.Quantity, /) -> u.Quantity:
        """Return the acceleration at positions."""

    def density(self, pos: u.Quantity, /) -> u.Quantity:
        """Return the mass density there."""

    def surface_density(self, pos: u.Quantity, /) -> u.Quantity:
        """Return the surface density between them and their mirror images."""


def plot_acceleration_density(
    model: TorusImaging1D,
    params: Params,
    pos_grid: Numbers,
    truth: Truth | None = None,
    *,
    covariance: Numbers | None = None,
    samples: Samples | Params | Sequence[Params] | None = None,
    usys: UnitSystem | None = None,
    pos_label: str = "$z$",
    acc_label: str = "$a_z$",
    model_label: str = "model",
    truth_label: str | None = "truth",
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw acceleration, density and surface density against position.

    With a truth there is a second row of panels, residuals: model over truth minus one; those of
    acceleration and surface density, which pass through zero, are left out where the truth is below
    a tenth of its largest value.
    Positions beyond the last knot, where the model is an extrapolation, are shaded.

    Parameters
    ----------
    model, params
        A model and its parameters, of one problem.
    pos_grid
        Positions with shape (N,), increasing.
    truth
        Any object with methods ``acceleration(pos)``, ``density(pos)`` and
        ``surface_density(pos)`` that return Quantities, as those of
        `torusimaging_torch.simulate.potentials` have; a gala potential as
        ``VerticalPotential(gala_potential, R)``.
    covariance
        Covariance of the parameters with shape (P, P), as `get_crlb` returns it: for bands of
        68 % and 95 %, by linear propagation.
    samples
        Samples of the parameters, as `torusimaging_torch.results.profiles` takes
        them, in place of the covariance: curves are their medians, bands their percentiles.
    usys
        Unit system of the axes; the top of this module's documentation says the default.
    pos_label, acc_label
        Symbols of position and acceleration.
    model_label, truth_label
        What the legend says; without the latter the truth is not drawn, but compared with.
    axes
        Axes to draw in: 3, or 6 with a truth (first the upper row).
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (3,), or (2, 3) with a truth; the columns are acceleration, density and
        surface density.

    Raises
    ------
    ValueError
        If the parameters are those of a batch, the number of axes is wrong, or there are both a
        covariance and samples.
    TypeError
        If the truth lacks one of the three methods.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_acceleration_density
    >>> figure, axes = plot_acceleration_density(model, params, [0.1, 0.5] * u.kpc)
    >>> figure.savefig(f"{folder}/plot_acceleration_density.png")
    """
    tensors = _one_problem(model, params)
    if covariance is not None and samples is not None:
        raise ValueError("give a covariance or samples, not both: which should the bands show?")
    pos = to_quantity(positions(pos_grid, "pos_grid", model.units), "length", model.units)
    if len(pos) < 2 or not np.all(np.diff(pos) > 0):
        raise ValueError(f"pos_grid must be at least two positions, increasing, got {pos}")
    x, x_name = coordinate(pos, pos_label, "length", usys)
    inside = _inside_knots(model, tensors, pos)
    curves = _curves_with_bands(model, params, pos, covariance, samples)
    true_values = {kind: true_profile(truth, kind, pos) for kind in PROFILES if truth is not None}
    # Only what passes through zero has a ratio that means nothing there. A density that is wrong by
    # its whole value where it is low has to be seen.
    force = np.abs(true_values["acceleration"].value) if true_values else np.zeros(len(x))
    shown = force > 0.1 * force.max()
    fig, axs = _profile_axes(axes, truth is not None, pyplot)
    symbols = {**PROFILES, "acceleration": acc_label}
    for column, (kind, symbol) in zip(np.atleast_2d(axs).T, symbols.items(), strict=True):
        middle, bands = curves[kind]
        y, y_name = coordinate(middle, symbol, kind, usys)
        edges = [
            (coordinate(low, symbol, kind, usys)[0], coordinate(high, symbol, kind, usys)[0])
            for low, high in bands
        ]
        draw_with_bands(column[0], x, y, edges, model_label)
        column[0].set_ylabel(y_name)
        if truth is not None:
            true, _ = coordinate(true_values[kind], symbol, kind, usys)
            if truth_label is not None:
                column[0].plot(x, true, "k--", lw=1.2, label=truth_label)
            _draw_ratio(column[1], x, y, true, shown | (kind == "density"), inside)
        if kind != "acceleration" and column[0].dataLim.ymin >= 0:
            column[0].set_ylim(bottom=0, auto=True)  # a second curve may be higher
        for ax in column:
            _shade_outside(ax, x, inside)
        column[-1].set_xlabel(x_name)
    if truth is not None:
        axs[1, 0].set_ylabel("residual [%]")
    name_curves(axs.flat[0], bool(bands))
    return fig, axs


def _curves_with_bands(
    model: TorusImaging1D,
    params: Params,
    pos: u.Quantity,
    covariance: Numbers | None,
    samples: Samples | Params | Sequence[Params] | None,
) -> dict[str, Curve]:
    if samples is not None:
        table = profiles(model, samples, pos)
    elif covariance is not None:
        table = profiles(model, params, pos, covariance)
    else:
        plain = {kind: getattr(model, f"get_{column_name(kind)}") for kind in PROFILES}
        return {kind: (evaluate(pos, params), []) for kind, evaluate in plain.items()}
    return {kind: curve_of(table, kind) for kind in PROFILES}


def curve_of(table: QTable, kind: str) -> Curve:
    """Return the middle of a profile in a table, and its bands from the outer to the inner one."""
    name = column_name(kind)
    if f"{name}_err" in table.colnames:
        middle, error = table[name], table[f"{name}_err"]
        return middle, [(middle - n * error, middle + n * error) for n in BAND_SIGMAS]
    needed = [f"{name}_{end}" for band in _BANDS for end in band] + [f"{name}_p50"]
    missing = [column for column in needed if column not in table.colnames]
    if missing:
        raise ValueError(
            "table must be one of profiles(...) of samples, or with a covariance, so that it has "
            f"percentiles or errors: it lacks {', '.join(missing)}"
        )
    bands = [(table[f"{name}_{low}"], table[f"{name}_{high}"]) for low, high in _BANDS]
    return table[f"{name}_p50"], bands


def draw_with_bands(
    ax: Axes, x: Array, y: Array, edges: Sequence[tuple[Array, Array]], label: str
) -> None:
    """Draw a curve and, if there are any, its bands from the outer to the inner one."""
    (line,) = ax.plot(x, y, label=label)
    for (low, high), alpha in zip(edges, _BAND_SHADES[: len(edges)], strict=True):
        ax.fill_between(x, low, high, color=line.get_color(), alpha=alpha, lw=0)


def name_curves(ax: Axes, with_bands: bool) -> None:
    """Draw a legend that also says what the bands are."""
    ax.legend(frameon=False, title="bands: 68 %, 95 %" if with_bands else None)


def _profile_axes(
    axes: AxesLike, with_truth: bool, pyplot: bool
) -> tuple[Figure | SubFigure, Array]:
    if not with_truth:
        return make_axes(axes, (3,), (10.2, 3.3), pyplot)
    heights = {"height_ratios": [3, 1]}
    return make_axes(axes, (2, 3), (10.2, 4.4), pyplot, sharex="col", gridspec_kw=heights)


def column_name(kind: str) -> str:
    return kind.replace(" ", "_")


def true_profile(truth: Truth, kind: str, pos: u.Quantity) -> u.Quantity:
    if not callable(getattr(truth, column_name(kind), None)):
        raise TypeError(
            "truth must have methods acceleration(pos), density(pos) and surface_density(pos) (a "
            "gala potential: wrap it in torusimaging_torch.simulate.VerticalPotential), got "
            f"{type(truth).__name__} without {column_name(kind)}"
        )
    return getattr(truth, column_name(kind))(pos)


def _inside_knots(model: TorusImaging1D, tensors: Nested, pos: u.Quantity) -> Array:
    return ~beyond_edge(model, tensors, pos)


def _draw_ratio(
    ax: Axes, x: Array, values: Array, truth: Array, shown: Array, inside: Array
) -> None:
    percent = 100 * (values / np.where(shown & (truth != 0), truth, np.nan) - 1)
    # Of another model in the same axes.
    before = ax.get_ylim()[1] if ax.lines else 0.0
    ax.axhline(0, color="k", ls="--", lw=1)
    ax.plot(x, percent)
    # An extrapolation may run away: it must not set the scale.
    half = max(before, 1.15 * np.nanmax(np.abs(percent[inside]), initial=1.0))
    ax.set_ylim(-half, half)


def _shade_outside(ax: Axes, x: Array, inside: Array) -> None:
    ax.set_xlim(x[0], x[-1])
    first, last = (x[inside][0], x[inside][-1]) if inside.any() else (x[-1], x[-1])
    name: str | None = "beyond the data"
    for left, right in ((x[0], first), (last, x[-1])):
        if right > left:
            ax.axvspan(left, right, color=BLANK, alpha=0.5, lw=0, zorder=0, label=name)
            name = None
