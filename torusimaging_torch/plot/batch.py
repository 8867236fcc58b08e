"""Acceleration and surface density of many groups, against what tells the groups apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import astropy.units as u
import numpy as np
from astropy.table import QTable
from gala.units import UnitSystem
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from torusimaging_torch.plot.canvas import Array, AxesLike, axis_label, coordinate, make_axes
from torusimaging_torch.plot.profiles import Truth
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.summary import BANDS, group_columns, summarize

__all__ = ["plot_batch"]

_SHADES = (0.18, 0.38)
_N_TRUTH = 61


Handle: TypeAlias = tuple[Line2D | tuple[Patch, ...], str]
"""A symbol of the legend, or several on top of each other, and what it says of them."""


def plot_batch(
    result: BatchResult,
    x: str | None = None,
    *,
    height: u.Quantity | None = None,
    truth: Any = None,
    usys: UnitSystem | None = None,
    x_label: str | None = None,
    acc_label: str = "a_z",
    truth_label: str = "truth",
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw surface density and acceleration at one height, group by group, with their bands.

    Fits that did not converge are left out, and groups whose fit rests on a bound, unless all do:
    both are counted in the legend. Bands hold 68 % and 95 % of
    the bootstraps, or are those of the jackknife, or of the Cramer-Rao bound if stars were not
    resampled; see `torusimaging_torch.results.summarize`. Points beyond the last knot of
    their fit are open.

    Parameters
    ----------
    result
        The fits of groups, as `torusimaging_torch.batch.fit_many` returns them of what
        `torusimaging_torch.data.bin_many` has binned.
    x
        The column against which to draw, such as "R_g"; by default the first with windows. If
        groups differ in others as well, each of their values has its own colour.
    height
        Above the midplane; by default 1.1 kpc, or as far as all fits reach.
    truth
        A gala potential, if x is the distance from its centre; or a function of x that returns an
        object with methods ``acceleration(pos)`` and ``surface_density(pos)``.
    usys
        Unit system of the vertical axes; `torusimaging_torch.plot` says the default.
    x_label
        What x is called; by default its name.
    acc_label
        Symbol of the acceleration, in TeX without dollars.
    truth_label
        What the legend says.
    axes
        Two axes to draw in.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (2,): surface density, acceleration.

    Raises
    ------
    ValueError
        If there is nothing to draw against, no fit converged, or the number of axes is wrong.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_batch
    >>> from dataclasses import replace
    >>> numbered = replace(batch, columns={"n": np.arange(2)})
    >>> figure, axes = plot_batch(numbered, "n", height=0.5 * u.kpc)
    >>> figure.savefig(f"{folder}/plot_batch.png")
    """
    table = _without_bounds(summarize(result, height))
    x = _choose_x(result, x)
    fig, axs = make_axes(axes, (2, 1) if axes is None else (2,), (5.2, 5.6), pyplot, sharex=True)
    axs = axs.reshape(2)
    place = u.Quantity(table.meta["HEIGHT"])
    at = rf"{place.value:g}\,{place.unit.to_string('latex_inline').strip('$')}"
    symbols = {
        "surface_density": rf"$\Sigma(|z| = {at})$",
        "acceleration": rf"${acc_label}(z = {at})$",
    }
    handles: list[Handle] = []
    series = _series(table, result, x)
    for i, (name, some) in enumerate(series.items()):
        handles += _draw_series(axs, some, x, symbols, usys, f"C{i}", name)
    if truth is not None:
        handles += _draw_truth(axs, table, x, place, truth, usys, truth_label)
    for ax, (kind, symbol) in zip(axs, symbols.items(), strict=True):
        ax.set_ylabel(coordinate(table[kind], symbol, kind.replace("_", " "), usys)[1])
    unit = table[x].unit if isinstance(table[x], u.Quantity) else None
    axs[-1].set_xlabel(axis_label(_tex(x) if x_label is None else x_label, unit))
    handles += _notes(table, result, "C0" if len(series) == 1 else "0.4")
    axs[0].legend(
        *zip(*handles, strict=True),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=2,
        frameon=False,
        borderaxespad=0,
        fontsize="small",
        columnspacing=1.5,
    )
    return fig, axs


def _without_bounds(table: QTable) -> QTable:
    """Hide the numbers of groups that rest on a bound: they mean nothing, and may be enormous."""
    hidden = np.asarray(table["on_bound"])
    table.meta["HIDDEN"] = 0 if hidden.all() else int(hidden.sum())
    if not hidden.all():
        kinds = ("acceleration", "surface_density")
        for name in filter(lambda name: name.startswith(kinds), table.colnames):
            table[name][hidden] = np.nan
    return table


def _tex(name: str) -> str:
    """Return a column's name as a symbol if it looks like one: R_g with its index below."""
    head, _, index = name.partition("_")
    if len(head) == 1 and index.isalnum():
        return rf"${head}_\mathrm{{{index}}}$"
    return f"${name}$" if len(name) == 1 else name


def _choose_x(result: BatchResult, x: str | None) -> str:
    names = group_columns(result)
    windows = [name for name in names if {f"{name}_lower", f"{name}_upper"} <= set(names)]
    numbers = [name for name in names if result.columns[name].dtype.kind in "iuf"]
    if x is None and (windows or numbers):
        return (windows or numbers)[0]
    if x not in numbers:
        raise ValueError(
            f"x must be a column of numbers that groups have, one of {numbers}, got {x!r}"
        )
    return x


def _series(table: QTable, result: BatchResult, x: str) -> dict[str, QTable]:
    """Return the groups by all that distinguishes them but x, in order of x."""
    skip = {x} | {f"{name}_{end}" for name in table.colnames for end in ("lower", "upper")}
    others = [name for name in [*group_columns(result), "label"] if name in table.colnames]
    others = [name for name in others if name not in skip]
    found: dict[str, list[int]] = {}
    for i, row in enumerate(table):
        found.setdefault(", ".join(f"{name} = {row[name]}" for name in others), []).append(i)
    series = {}
    for name, rows in found.items():
        some = table[rows]
        some.sort(x)
        series[name] = some
    return series


def _draw_series(
    axs: Array,
    table: QTable,
    x: str,
    symbols: dict[str, str],
    usys: UnitSystem | None,
    color: str,
    name: str,
) -> list[Handle]:
    at = np.asarray(getattr(table[x], "value", table[x]), dtype=float)
    for ax, kind in zip(axs, symbols, strict=True):
        y, edges = (
            coordinate(values, "", kind.replace("_", " "), usys)[0]
            for values in (
                table[kind],
                u.Quantity([table[f"{kind}_p{percent:g}"] for percent in BANDS]),
            )
        )
        edges = np.where(np.isfinite(y), edges, np.nan)
        _draw_bands(ax, at, edges, color)
        inside = np.asarray(table["inside"])
        ax.plot(at, y, color=color, lw=1.2, zorder=3)
        for mask, face in ((inside, color), (~inside, "white")):
            ax.plot(at[mask], y[mask], "o", ms=4, color=color, mfc=face, zorder=4)
    line = Line2D([], [], color=color, marker="o", ms=4, lw=1.2)
    return [(line, name or _name_windows(table, x))]


def _draw_bands(ax: Axes, x: Array, edges: Array, color: str) -> None:
    """Draw bands, and bars at points without a neighbour, where a band has no width."""
    for (low, high), shade, width in zip(
        ((edges[0], edges[3]), (edges[1], edges[2])), _SHADES, (1.0, 2.5), strict=True
    ):
        ax.fill_between(x, low, high, color=color, alpha=shade, lw=0, zorder=1)
        seen = np.isfinite(low)
        alone = seen & ~np.append(seen[1:], False) & ~np.append(False, seen[:-1])
        ax.vlines(x[alone], low[alone], high[alone], color=color, lw=width, zorder=2)


def _draw_truth(
    axs: Array,
    table: QTable,
    x: str,
    height: u.Quantity,
    truth: Any,
    usys: UnitSystem | None,
    label: str,
) -> list[Handle]:
    at = np.linspace(table[x].min(), table[x].max(), _N_TRUTH)
    potential = _potential_at(truth)
    there = [potential(place) for place in at]
    style: dict[str, Any] = {"color": "k", "ls": "--", "lw": 1.2, "zorder": 5}
    for ax, kind in zip(axs, ("surface_density", "acceleration"), strict=True):
        values = u.Quantity([getattr(one, kind)(height) for one in there])
        y = coordinate(values, "", kind.replace("_", " "), usys)[0]
        ax.plot(getattr(at, "value", at), y, **style)
    return [(Line2D([], [], **style), label)]


def _potential_at(truth: Any) -> Callable[[u.Quantity], Truth]:
    if hasattr(truth, "acceleration"):  # a gala potential, which can be called as well
        from torusimaging_torch.simulate.potentials import VerticalPotential

        return lambda place: VerticalPotential(truth, place)
    return truth


def _notes(table: QTable, result: BatchResult, color: str) -> list[Handle]:
    """Return what the legend says of bands, and of what is not to be seen."""
    handles: list[Handle] = []
    outer, inner = (
        bool(np.isfinite(table[f"acceleration_p{percent:g}"].value).any()) for percent in BANDS[:2]
    )
    if inner:
        handles.append(_band_handle(table, color, outer))
    if not np.all(table["inside"]):
        style: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 4, "mec": "0.3", "mfc": "w"}
        handles.append((Line2D([], [], **style), "beyond the edge of the data"))
    if hidden := table.meta["HIDDEN"]:
        note = f"{hidden} of {len(table)} groups left out: on a bound"
        handles.append((Line2D([], [], ls="none"), note))
    if failed := int(table["n_failed"].sum()):
        note = f"{failed} of {len(result)} fits left out: not converged"
        handles.append((Line2D([], [], ls="none"), note))
    return handles


def _band_handle(table: QTable, color: str, outer: bool) -> Handle:
    kind, n = table.meta["BANDS"], int(table["n_fits"].max()) - 1
    source = {
        "bootstrap": f"{n} bootstraps",
        "jackknife": f"{n} jackknife blocks",
        "crlb": "Cram\u00e9r\u2013Rao bound",
    }[kind]
    if not outer:
        return (Patch(color=color, alpha=_SHADES[1], lw=0),), f"68 % ({source})"
    # The inner band lies on the outer one.
    shades = 1 - (1 - _SHADES[0]) * (1 - _SHADES[1]), _SHADES[0]
    patches = tuple(Patch(color=color, alpha=shade, lw=0) for shade in shades)
    return patches, f"68 %, 95 % ({source})"


def _name_windows(table: QTable, x: str) -> str:
    """Return what a point is: the stars of a window, if all are as wide."""
    if f"{x}_lower" not in table.colnames:
        return "all stars of a group"
    width = table[f"{x}_upper"] - table[f"{x}_lower"]
    bare, unit = getattr(width, "value", width), getattr(width, "unit", "")
    if np.ptp(bare) > 1e-9 * bare.max():
        return "stars of a window"
    return f"stars in windows of {bare[0]:.4g} {unit}".rstrip()
