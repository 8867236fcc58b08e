"""What every figure needs: a canvas to draw on, units on its axes, and honest colours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import astropy.units as u
import numpy as np
import numpy.typing as npt
import torch
from gala.units import UnitSystem
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure, SubFigure
from scipy.ndimage import gaussian_filter
from torch import nn

from torusimaging_torch.arrays import Array
from torusimaging_torch.orbits.contours import edge
from torusimaging_torch.units import as_unit_system, to_tensor, unit_of

if TYPE_CHECKING:
    from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = [
    "BLANK",
    "MINUS",
    "Array",
    "AxesLike",
    "axis_label",
    "bare",
    "check_figure_format",
    "colorbar",
    "coordinate",
    "device_of",
    "diverging_norm",
    "draw_pixels",
    "label_norm",
    "last_radius",
    "make_axes",
    "new_figure",
    "own_style",
    "plot_unit",
    "smooth",
]

AxesLike = Axes | npt.ArrayLike | None

# Pixels without data: a grey that none of the colour maps used here contains.
BLANK = "0.8"
MINUS = "\N{MINUS SIGN}"

# The units that papers on vertical dynamics print.
_PAPER_UNITS = {
    "length": u.kpc,
    "velocity": u.km / u.s,
    "acceleration": u.km / u.s / u.Myr,
    "density": u.Msun / u.pc**3,
    "surface density": u.Msun / u.pc**2,
}


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in matplotlib's own style, whatever a matplotlibrc says, and without LaTeX.

    Examples
    --------
    >>> import matplotlib
    >>> with own_style():
    ...     matplotlib.rcParams["text.usetex"]
    False
    """
    kept = {name: rcParams[name] for name in ("backend", "interactive", "toolbar")}
    plain = {name: value for name, value in rcParamsDefault.items() if name not in kept}
    with rc_context(plain):
        yield


def check_figure_format(path: str | os.PathLike[str]) -> None:
    """Raise a ValueError if the ending of a file's name is none that figures have."""
    ending = Path(path).suffix.lower().removeprefix(".")
    known = Figure().canvas.get_supported_filetypes()
    if ending not in known:
        raise ValueError(
            f"figures are files that end in one of {', '.join(sorted(known))}, got {str(path)!r}"
        )


def bare(values: object, name: str = "what is drawn") -> Array:
    """Return tensors, Quantities and masked arrays as plain float arrays, masked values as nan."""
    if isinstance(values, u.Quantity):
        values = values.value
    return to_tensor(values, name, None).detach().cpu().numpy()


def plot_unit(kind: str, usys: UnitSystem | None) -> u.UnitBase:
    """Return the unit in which a kind of number is drawn: the papers' own, or that of ``usys``."""
    if usys is None:
        return _PAPER_UNITS[kind]
    units = as_unit_system(usys)
    # gala's unit systems may prefer km/s for velocities: they know what they want to see printed.
    return units["velocity"] if kind == "velocity" else unit_of(kind, units)


def axis_label(symbol: str, unit: u.UnitBase | None) -> str:
    """Return ``symbol [unit]``, the symbol alone for a pure number."""
    if unit is None or unit == u.dimensionless_unscaled:
        return symbol
    return f"{symbol} [{unit.to_string('latex_inline')}]"


def coordinate(
    values: u.Quantity, symbol: str, kind: str, usys: UnitSystem | None
) -> tuple[Array, str]:
    """Return values in the unit in which they are drawn, and the label of their axis."""
    unit = plot_unit(kind, usys)
    return values.to_value(unit), axis_label(symbol, unit)


def new_figure(figsize: tuple[float, float], pyplot: bool) -> Figure:
    """Make an empty figure, registered with pyplot (for ``plt.show`` and notebooks) or free."""
    if not pyplot:
        return Figure(figsize=figsize, layout="constrained")
    import matplotlib.pyplot as plt  # only here: a program that saves files needs no pyplot

    return plt.figure(figsize=figsize, layout="constrained")


def make_axes(
    axes: AxesLike,
    shape: tuple[int, ...],
    figsize: tuple[float, float],
    pyplot: bool,
    **kwargs: Any,
) -> tuple[Figure | SubFigure, Array]:
    """Return a figure and its axes with the shape asked for: the caller's axes, or new ones.

    Raises
    ------
    ValueError
        If the caller's axes are not as many as needed.
    """
    if axes is None:
        fig = new_figure(figsize, pyplot)
        rows, columns = (1, *shape)[-2:]
        return fig, fig.subplots(rows, columns, squeeze=False, **kwargs).reshape(shape)
    given = np.asarray(axes, dtype=object)
    if given.size != np.prod(shape):
        raise ValueError(f"axes must be {np.prod(shape)} axes for this figure, got {given.size}")
    return cast("Figure | SubFigure", given.flat[0].get_figure()), given.reshape(shape)


def draw_pixels(
    ax: Axes, x: Array, y: Array, values: Array, norm: Normalize, cmap: str
) -> QuadMesh:
    """Draw pixels with centres (x, y); those without a finite value are left blank."""
    ax.set_facecolor(BLANK)
    values = np.ma.masked_invalid(values)
    # Rasterized, since thousands of vector cells make a heavy PDF with hairlines between them.
    return ax.pcolormesh(x, y, values, norm=norm, cmap=cmap, shading="nearest", rasterized=True)


def label_norm(values: Array) -> Normalize:
    """Return a colour scale from the 1st to the 99th percentile, robust against single pixels."""
    return Normalize(*np.nanpercentile(values, [1, 99]))


def diverging_norm(values: Array, limits: float | Sequence[float] | None) -> Normalize:
    """Return a colour scale with zero at its middle.

    Parameters
    ----------
    values
        What will be drawn; the 99th percentile of the absolute values is the default limit.
    limits
        One number for plus and minus, or (lower, upper).

    Raises
    ------
    ValueError
        If zero is not between the limits.
    """
    if limits is None:
        finite = np.abs(values[np.isfinite(values)])
        # The 1.0 is for a perfect model, or nothing to draw.
        limits = (float(np.percentile(finite, 99)) if finite.size else 0.0) or 1.0
    lower, upper = limits if isinstance(limits, Sequence) else (-limits, limits)
    if not lower < 0 < upper:
        raise ValueError(
            f"vlim_residual must be positive, or (lower, upper) around 0: got {limits}"
        )
    return TwoSlopeNorm(0, lower, upper)


def colorbar(mesh: QuadMesh, axes: Array, label: str, values: Array) -> None:
    """Add a colour bar beside the axes, with arrows where values lie beyond the scale."""
    below = bool(np.nanmin(values, initial=np.inf) < mesh.norm.vmin)
    above = bool(np.nanmax(values, initial=-np.inf) > mesh.norm.vmax)
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    fig = axes[0].get_figure()
    bar = fig.colorbar(mesh, ax=list(axes), label=label, extend=extend, aspect=30, pad=0.02)
    bar.ax.set_yscale("linear")  # TwoSlopeNorm would otherwise stretch the two halves alike


def smooth(values: Array, sigma: float) -> Array:
    """Smooth pixels by a Gaussian; blank pixels, and those beyond the edge, have no weight.

    Parameters
    ----------
    values
        With shape (N, M); nan is blank and stays so.
    sigma
        Standard deviation in pixels.
    """
    seen = np.isfinite(values)
    total = gaussian_filter(np.where(seen, values, 0.0), sigma, mode="constant")
    weight = gaussian_filter(seen.astype(float), sigma, mode="constant")
    return np.where(seen, total / np.where(seen, weight, 1.0), np.nan)


def last_radius(model: TorusImaging1D) -> float | None:
    """Return the elliptical radius where a model ends, if it does."""
    end = edge(model.torus)
    return None if end is None else float(bare(end).min())


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model's knots are on; the CPU for a model without any."""
    return next((buffer.device for buffer in model.buffers()), torch.device("cpu"))
