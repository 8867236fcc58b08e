"""Figures of orbits: contours of the action over the data, frequency against action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from gala.units import UnitSystem
from matplotlib.figure import Figure, SubFigure

from torusimaging_torch.numerics.params import Params
from torusimaging_torch.plot.canvas import (
    Array,
    AxesLike,
    axis_label,
    bare,
    colorbar,
    coordinate,
    draw_pixels,
    label_norm,
    make_axes,
)
from torusimaging_torch.plot.pixels import Pixels
from torusimaging_torch.units import BinnedData, Numbers, to_quantity, to_tensor, unit_of

if TYPE_CHECKING:
    from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = ["plot_action_contours", "plot_frequency_curve"]

_PAPER_ACTION = u.kpc * u.km / u.s


def plot_action_contours(
    binned_data: BinnedData,
    model: TorusImaging1D,
    params: Params,
    actions: Numbers | None = None,
    *,
    usys: UnitSystem | None = None,
    pos_label: str = "$z$",
    vel_label: str = "$v_z$",
    x_coord: Literal["vel", "pos"] = "vel",
    label_name: str = "label",
    cmap: str = "viridis",
    color: str = "w",
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw binned data, and over it orbits: contours of the action.

    Parameters
    ----------
    binned_data
        Dictionary with "pos", "vel" and "label" on a two-dimensional grid of pixels.
    model, params
        A model and its parameters.
    actions
        Actions of the orbits with shape (n,). By default eight, evenly spaced in their root, up to
        the last that is closed within the data's extent and the model's knots.
    usys
        Unit system of the axes; kpc and km/s by default.
    pos_label, vel_label, label_name
        What the axes and the colours mean; units are appended.
    x_coord
        The coordinate on the x axis, "vel" or "pos".
    cmap, color
        Colour map of the labels, and colour of the orbits.
    axes
        One axes to draw in.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (1,).

    Raises
    ------
    ValueError
        If the pixels are not a two-dimensional grid, or ``x_coord`` is unknown.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_action_contours
    >>> figure, axes = plot_action_contours(data, model, params)
    >>> figure.savefig(f"{folder}/plot_action_contours.png")
    """
    if x_coord not in ("vel", "pos"):
        raise ValueError(f"x_coord must be 'vel' or 'pos', got {x_coord!r}")
    pixels = Pixels.of(binned_data, model.units, params)
    fig, axs = make_axes(axes, (1,), (4.6, 3.8), pyplot)

    def place(pos: u.Quantity, vel: u.Quantity) -> list[tuple[Array, str]]:
        both = [
            coordinate(vel, vel_label, "velocity", usys),
            coordinate(pos, pos_label, "length", usys),
        ]
        return both if x_coord == "vel" else both[::-1]

    (x, x_name), (y, y_name) = place(pixels.pos, pixels.vel)
    mesh = draw_pixels(axs[0], x, y, pixels.label, label_norm(pixels.label), cmap)
    colorbar(mesh, axs, axis_label(label_name, pixels.label_unit), pixels.label)
    for pos, vel in _orbits(pixels, model, params, actions):
        (orbit_x, _), (orbit_y, _) = place(pos, vel)
        axs[0].plot(orbit_x, orbit_y, color=color, lw=1)
    axs[0].set(xlabel=x_name, ylabel=y_name, xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    return fig, axs


def _orbits(
    pixels: Pixels, model: TorusImaging1D, params: Params, actions: Numbers | None
) -> list[tuple[u.Quantity, u.Quantity]]:
    """Return positions and velocities along each orbit."""
    unit = unit_of("action", model.units)
    if actions is None:
        J = _largest_action(pixels, model, params) * (np.arange(1, 9) / 8) ** 2
    else:
        J = to_quantity(to_tensor(actions, "actions", "action", model.units), "action", model.units)
    J = np.atleast_1d(u.Quantity(J, unit))
    theta = np.linspace(0, 2 * np.pi, 181) * u.rad
    pos, vel = model.compute_phase_space(J[:, None], theta, params)
    return list(zip(pos, vel, strict=True))


def _largest_action(pixels: Pixels, model: TorusImaging1D, params: Params) -> u.Quantity:
    """Return the action of the largest orbit that neither the data's edges nor the knots cut."""
    pos, vel = (
        np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]])
        for grid in (pixels.pos, pixels.vel)
    )
    J = model.action_angle_function(params, pos.size)(pos, vel)["J"]  # most leave the knots
    if np.isfinite(J).any():
        smallest = np.nanmin(J)
        return smallest * (1 - 1e-9)
    return model.compute_frequency_curve(params)["J"][-1]


def plot_frequency_curve(
    model: TorusImaging1D,
    params: Params | Sequence[Params],
    J: Numbers = None,
    *,
    truth: Mapping[str, u.Quantity] | None = None,
    percentiles: tuple[float, float] = (16, 84),
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw frequency and period against action, with a band if there are samples of parameters.

    Parameters
    ----------
    model, params
        A model, and its parameters or samples of them.
    J
        Actions; by default up to the last knot.
    truth
        "J" and "T" of orbits in a known potential, for comparison; a table of stars will do.
    percentiles
        Edges of the band.
    axes
        Two axes to draw in.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (2,): Omega and T against J, in kpc km/s.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_frequency_curve
    >>> figure, axes = plot_frequency_curve(model, params)
    >>> figure.savefig(f"{folder}/plot_frequency_curve.png")
    """
    curve = model.compute_frequency_curve(params, J, percentiles=percentiles)
    if curve["J"].ndim != 1:
        raise ValueError(f"J must have shape (N,), got {curve['J'].shape}")
    fig, axs = make_axes(axes, (2,), (7.6, 3.4), pyplot)
    columns = {"Omega": (r"$\Omega$", u.rad / u.Gyr), "T": ("$T$", u.Myr)}
    x = curve["J"].to_value(_PAPER_ACTION)
    low, high = (f"_p{q:g}" for q in percentiles)
    for ax, (name, (symbol, unit)) in zip(axs, columns.items(), strict=True):
        if truth is not None:
            ax.plot(*_true_curve(truth, name, unit, x), color="k", ls="--", label="truth")
        (line,) = ax.plot(x, curve[name].to_value(unit), label="model")
        if name + low in curve.colnames:
            edges = [curve[name + end].to_value(unit) for end in (low, high)]
            ax.fill_between(x, *edges, color=line.get_color(), alpha=0.3, lw=0)
        ax.set(xlabel=axis_label("$J$", _PAPER_ACTION), ylabel=axis_label(symbol, unit))
    if truth is not None:
        axs[0].legend(frameon=False)
    return fig, axs


def _true_curve(
    truth: Mapping[str, u.Quantity], name: str, unit: u.UnitBase, x: Array
) -> tuple[Array, Array]:
    J = bare(u.Quantity(truth["J"]).to(_PAPER_ACTION))
    T = u.Quantity(truth["T"])
    values = bare((2 * np.pi * u.rad / T if name == "Omega" else T).to(unit))
    order = np.argsort(J)
    J, values = J[order], values[order]
    shown = np.nanmax(x) >= J
    return J[shown], values[shown]
