"""Figures on the plane of position and velocity: data, model and what is left between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
import numpy.typing as npt
from gala.units import UnitSystem
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from torusimaging_torch.data.selection import selection_offset
from torusimaging_torch.numerics.params import Params
from torusimaging_torch.plot.canvas import (
    MINUS,
    Array,
    AxesLike,
    axis_label,
    bare,
    colorbar,
    coordinate,
    device_of,
    diverging_norm,
    draw_pixels,
    label_norm,
    last_radius,
    make_axes,
    smooth,
)
from torusimaging_torch.tensors import params_to_tensors
from torusimaging_torch.units import (
    BinnedData,
    label_values,
    of_one_data_set,
    to_quantity,
    to_tensor,
)

if TYPE_CHECKING:
    from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = ["Pixels", "plot_data_model_residual", "plot_data_models_residual"]


@dataclass(frozen=True)
class Pixels:
    """Binned data on its grid of pixels, each array with shape (n_vel, n_pos)."""

    pos: u.Quantity
    vel: u.Quantity
    label: Array
    label_unit: u.UnitBase | None

    @classmethod
    def of(cls, binned_data: BinnedData, units: UnitSystem, params: Params) -> Pixels:
        """Take the pixels from binned data, checking that they form a grid.

        Star counts are shown as if all stars were seen, by the selection function that came with
        them and the parameters of what may be wrong with it.
        """
        binned_data = of_one_data_set(binned_data)
        pos, vel = (
            to_quantity(to_tensor(binned_data[name], name, kind, units), kind, units)
            for name, kind in (("pos", "length"), ("vel", "velocity"))
        )
        values, _, unit = label_values(binned_data["label"])
        label = bare(values)
        if label.ndim != 2 or not pos.shape == vel.shape == label.shape:
            raise ValueError(
                "binned_data must hold pos, vel and label on one two-dimensional grid of pixels "
                "(blank pixels as nan, not taken out), got shapes "
                f"{pos.shape}, {vel.shape} and {label.shape}"
            )
        if not np.isfinite(label).any():
            raise ValueError("binned_data has no pixel with a finite label: nothing to draw")
        label = label - selection_offset(binned_data, params)
        return cls(pos, vel, np.where(np.isfinite(label), label, np.nan), unit)

    def model_label(self, model: TorusImaging1D, params: Params) -> Array:
        """Return what the model predicts in each pixel."""
        return bare(model.get_label(self.pos, self.vel, params))

    def residual(self, model_label: Array, normalization: object) -> tuple[Array, str]:
        """Return data minus model, and what to call it."""
        difference, name = self.label - model_label, f"data {MINUS} model"
        if normalization is None:
            return difference, axis_label(name, self.label_unit)
        unit = self.label_unit or u.dimensionless_unscaled
        _, divisor, _ = label_values(u.Quantity(self.label, unit), normalization)
        return difference / bare(divisor), f"({name}) / normalization"

    def reach(self, model: TorusImaging1D, params: Params) -> Array | None:
        """Return how far out each pixel is, 1 at the last knots; None for a model without knots."""
        last = last_radius(model)
        if last is None:
            return None
        device = device_of(model)
        tensors = params_to_tensors(params, model.units, device=device)
        r_e, theta_e = model.compute_elliptical(self.pos, self.vel, params)
        radius = to_tensor(r_e, "r_e", "elliptical radius", model.units, device=device)
        angle = to_tensor(theta_e, "theta_e", "angle", model.units, device=device)
        r = model.torus.distortion(radius, angle.cos(), tensors.get("e_params", {}))
        return np.maximum(bare(radius) / last, bare(r) / bare(model.label_knots).max())


def plot_data_model_residual(
    binned_data: BinnedData,
    model: TorusImaging1D,
    params_fit: Params,
    params_init: Params | None = None,
    smooth_residual: float | None = None,
    vlim_residual: float | Sequence[float] | None = None,
    residual_normalization: npt.ArrayLike | None = None,
    usys: UnitSystem | None = None,
    pos_label: str = "$z$",
    vel_label: str = "$v_z$",
    x_coord: Literal["vel", "pos"] = "vel",
    *,
    label_name: str = "label",
    residual_label: str | None = None,
    cmap: str = "viridis",
    cmap_residual: str = "RdBu_r",
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw binned data, the model (its start, too, if given) and data minus model.

    Data and models share one colour scale, the 1st to the 99th percentile of the data; the colours
    of the residual have zero at their middle. Pixels without a finite label are blank (grey) in the
    data and in the residual. Where pixels lie beyond the model's last knots, and the model is an
    extrapolation, a dashed line separates them from those inside.

    Parameters
    ----------
    binned_data
        Dictionary with "pos", "vel" and "label" on a two-dimensional grid of pixels, as the binning
        functions return it.
    model, params_fit
        A model, and the parameters to show.
    params_init
        Parameters for one more panel, "initial model".
    smooth_residual
        Standard deviation in pixels of a Gaussian that smooths the residual. Blank pixels have no
        weight and stay blank.
    vlim_residual
        Colour limits of the residual: one number for plus and minus, or a tuple of two. By default
        the 99th percentile of its absolute value.
    residual_normalization
        Divides the residual; for instance ``binned_data["label_err"]``.
    usys
        Unit system of the axes; kpc and km/s by default.
    pos_label, vel_label, label_name
        What the axes and the colours mean; units are appended.
    x_coord
        The coordinate on the x axis, "vel" or "pos".
    residual_label
        What stands beside the colours of the residual; by default what was computed.
    cmap, cmap_residual
        Colour maps of the labels and of the residual.
    axes
        Axes to draw in: 3, or 4 with ``params_init``.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (3,) or (4,).

    Raises
    ------
    ValueError
        If the pixels are not a two-dimensional grid, no label is finite, ``x_coord`` is unknown or
        the number of axes is wrong.
    astropy.units.UnitConversionError
        If positions or velocities have the wrong dimension.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_data_model_residual
    >>> fig, axes = plot_data_model_residual(data, model, params)
    >>> len(axes)
    3
    """
    pixels = Pixels.of(binned_data, model.units, params_fit)
    coordinates = {
        "vel": coordinate(pixels.vel, vel_label, "velocity", usys),
        "pos": coordinate(pixels.pos, pos_label, "length", usys),
    }
    if x_coord not in coordinates:
        raise ValueError(f"x_coord must be 'vel' or 'pos', got {x_coord!r}")
    x, x_name = coordinates.pop(x_coord)
    y, y_name = coordinates.popitem()[1]
    panels = {"data": pixels.label}
    if params_init is not None:
        panels["initial model"] = pixels.model_label(model, params_init)
    panels["fitted model"] = pixels.model_label(model, params_fit)
    n_axes = len(panels) + 1
    fig, axs = make_axes(axes, (n_axes,), (3.3 * n_axes, 3.3), pyplot, sharex=True, sharey=True)

    norm = label_norm(pixels.label)
    for ax, (title, values) in zip(axs, panels.items(), strict=False):
        mesh = draw_pixels(ax, x, y, values, norm, cmap)
        ax.set_title(title)
    shown = np.stack(list(panels.values()))
    colorbar(mesh, axs[:-1], axis_label(label_name, pixels.label_unit), shown)

    residual, text = pixels.residual(panels["fitted model"], residual_normalization)
    if smooth_residual is not None:
        residual = smooth(residual, smooth_residual)
    mesh = draw_pixels(
        axs[-1], x, y, residual, diverging_norm(residual, vlim_residual), cmap_residual
    )
    axs[-1].set_title("residual" if residual_normalization is None else "normalized residual")
    colorbar(mesh, axs[-1:], residual_label or text, residual)

    _outline_knots(axs, x, y, pixels.reach(model, params_fit))
    for ax in axs:
        ax.set_xlabel(x_name)
    axs[0].set_ylabel(y_name)
    return fig, axs


plot_data_models_residual = plot_data_model_residual
"""The same function under the older name that the JAX package gave it."""


def _outline_knots(axs: Array, x: Array, y: Array, reach: Array | None) -> None:
    if reach is None or not reach.max() > 1:
        return
    for ax in axs:
        ax.contour(x, y, reach, levels=[1.0], colors="k", linestyles="--", linewidths=1)
    handle = Line2D([], [], color="k", ls="--", lw=1, label="edge of the data")
    axs[-2].legend(handles=[handle], loc="upper right", fontsize="small")
