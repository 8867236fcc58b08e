"""What cross-validation says of each candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from torusimaging_torch.cross_validation.one_standard_error import Selection, write_setting
from torusimaging_torch.plot.canvas import MINUS, Array, AxesLike, make_axes

__all__ = ["plot_selection"]

_SYMBOLS = {
    "label_knots": "label knots",
    "e_knots": "$e_m$ knots",
    "label_l2_sigma": r"$\sigma_l$",
    "label_smooth_sigma": r"$\tau_l$",
    "e_l2_sigmas": r"$\sigma_m$",
    "e_smooth_sigmas": r"$\tau_m$",
    "dacc_strength": "wall",
    "e_spline": "$e_m$ spline",
    "label_spline": "label spline",
    "label_knots_spacing_power": "power of label knots",
    "e_knots_spacing_power": "power of $e_m$ knots",
}
_MARKERS, _LINES = "osD^v<>ph", ("-", "--", ":", "-.")
# Nats of the grey band.
_NARROWEST = 0.1
_SCALES = {
    "label_l2_sigma": r"scale of the label's values, $\sigma_l$",
    "label_smooth_sigma": r"scale of the label's changes of slope, $\tau_l$",
    "e_l2_sigmas": r"scale of the values of $e_m$, $\sigma_m$",
    "e_smooth_sigmas": r"scale of the changes of log slope of $e_m$, $\tau_m$",
    "dacc_strength": "height of the wall against negative densities",
}
# Neighbouring lines are set apart by this fraction of the distance between candidates, and all of
# them together by no more than the second.
_APART, _WIDTH = 0.05, 0.3
# Values that span more than this factor are drawn on a logarithmic axis.
_LOG_SPAN = 8.0


def plot_selection(
    selection: Selection,
    x: str | None = None,
    *,
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Axes]:
    """Draw the scores of all candidates, as differences from the best one in pairs.

    What is drawn is the log-likelihood of all held-out pixels, in nats, below that of the best
    candidate. Error bars are one standard error of this difference: a candidate whose bar reaches
    the line at zero is as good as the best one, and its marker is filled. (So is one closer than
    0.1 nats, whatever its error.) A star marks the best, a ring the chosen candidate; a cross at
    the lower edge one without a score, since a fit failed. The grey band is as wide as the largest
    error among those as good as the best one; below it the axis is logarithmic where candidates
    are very far.

    Parameters
    ----------
    selection
        What `torusimaging_torch.cross_validation.select` returns.
    x
        The setting on the horizontal axis; by default a scale of the penalty, or what has most
        values. Lines connect candidates that differ in this setting alone; colours stand for a
        second setting, lines and markers for all others.
    axes
        Axes to draw in.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The figure and its axes.

    Raises
    ------
    ValueError
        If ``x`` was not varied, or no candidate has a score.

    Examples
    --------
    >>> from torusimaging_torch.cross_validation import select
    >>> from torusimaging_torch.plot import plot_selection
    >>> rest = {"model": "potential", "n_folds": 2, "progress": False}
    >>> found = select(data, {"n_components": [2, 3]}, **rest)
    >>> figure, axes = plot_selection(found)
    """
    if selection.best_index is None:
        raise ValueError("selection has no candidate with a score: there is nothing to draw")
    columns = _columns(selection)
    x = _default_x(columns) if x is None else x
    if x not in columns:
        raise ValueError(f"x must be one of the settings that vary, {sorted(columns)}, got {x!r}")
    fig, axs = make_axes(axes, (1,), (6.4, 3.8), pyplot)
    ax = axs[0]
    hue, style = _split(columns, x)
    place, step = _draw_x_axis(ax, columns[x])
    ax.set_xlabel(_SCALES.get(x, _SYMBOLS.get(x, x)))
    lines = list(dict.fromkeys(zip(style, hue, strict=True)))
    colors = {value: f"C{i}" for i, value in enumerate(dict.fromkeys(hue))}
    looks = {value: i for i, value in enumerate(dict.fromkeys(style))}
    total = selection.total_weight
    y, error = -selection.delta * total, selection.delta_err * total
    band = _draw_y_axis(ax, y, error, selection.within)
    apart = min(_APART, _WIDTH / len(lines))
    for i, (one_style, one_hue) in enumerate(lines):
        rows = [r for r, key in enumerate(zip(style, hue, strict=True)) if key == lines[i]]
        rows.sort(key=lambda r: place[r])
        at = _moved(place[rows], (i - (len(lines) - 1) / 2) * apart * step, ax)
        look = looks[one_style]
        _draw_line(ax, at, rows, y, error, selection, colors[one_hue], look)
        _draw_marks(ax, at, rows, y, selection)
    ax.axhspan(-band, 0, color="0.92", lw=0, zorder=0)
    ax.axhline(0, color="0.4", lw=0.8, zorder=1)
    _draw_legend(ax, columns, x, colors, looks)
    return fig, ax


def _columns(selection: Selection) -> dict[str, list[Any]]:
    """Return the values of each setting that varies: numbers where possible, else texts."""
    names = dict.fromkeys(name for c in selection.candidates for name in c.varied)
    columns = {}
    for name in names:
        values = [_simplify(c.settings.get(name)) for c in selection.candidates]
        if not all(isinstance(value, float) for value in values):
            values = [v if isinstance(v, str) else f"{v:g}" for v in values]
        if len(set(values)) > 1 or len(names) == 1:
            columns[name] = values
    return columns or {name: [""] * len(selection) for name in list(names)[:1]}


def _simplify(value: Any) -> float | str:
    """Return one number if a setting is one, or the same one for all orders m."""
    if isinstance(value, dict) and len(set(map(str, value.values()))) == 1:
        value = next(iter(value.values()))
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return float(value) if number else write_setting(value)


def _default_x(columns: dict[str, list[Any]]) -> str:
    def rank(name: str) -> tuple[bool, bool, int]:
        numbers = isinstance(columns[name][0], float)
        return numbers, "sigma" in name or name == "dacc_strength", len(set(columns[name]))

    return max(columns, key=rank)


def _split(columns: dict[str, list[Any]], x: str) -> tuple[list[str], list[str]]:
    """Return what colours, and what lines and markers stand for, candidate by candidate."""
    others = sorted((n for n in columns if n != x), key=lambda n: -len(set(columns[n])))
    n = len(columns[x])
    hue = [_text(v) for v in columns[others[0]]] if others else [""] * n
    rest = [[f"{_SYMBOLS.get(o, o)} {_text(v)}" for v in columns[o]] for o in others[1:]]
    style = [", ".join(values) for values in zip(*rest, strict=True)] if rest else [""] * n
    return hue, style


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _draw_x_axis(ax: Axes, values: list[Any]) -> tuple[Array, float]:
    """Set up the axis; return where each candidate lies, and a step, in decades on a log axis."""
    if not isinstance(values[0], float):
        ticks = list(dict.fromkeys(values))
        ax.set_xticks(range(len(ticks)), ticks)
        ax.set_xlim(-0.5, len(ticks) - 0.5)
        return np.array([ticks.index(v) for v in values], dtype=float), 1.0
    place = np.array(values)
    found = np.unique(place[np.isfinite(place)])
    log = bool(found[0] > 0 and found[-1] / found[0] > _LOG_SPAN)
    if log:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(found.tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(found, [f"{v:g}" for v in found])
    steps = np.diff(np.log10(found) if log else found)
    return place, float(steps.min()) if len(steps) else 1.0


def _moved(place: Array, shift: float, ax: Axes) -> Array:
    return place * 10**shift if ax.get_xscale() == "log" else place + shift


def _draw_y_axis(ax: Axes, y: Array, error: Array, within: Array) -> float:
    """Set up the axis; return the width of the band of those as good as the best one."""
    band = float(np.max(error[within], initial=_NARROWEST))
    deepest = float(np.nanmin(y - error, initial=-band))
    if deepest < -10 * band:
        ax.set_yscale("symlog", linthresh=band, linscale=1.0)
        decades = np.arange(np.ceil(np.log10(band)), np.log10(-deepest) + 1)
        ax.yaxis.set_major_locator(FixedLocator([0.0, *(-(10.0**decades))]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", MINUS)))
    ax.set_ylim(1.6 * min(deepest, -band), 0.6 * band)
    ax.set_ylabel(r"$\Delta \ln L$ of held-out pixels [nats]")
    return band


def _draw_line(
    ax: Axes,
    at: Array,
    rows: list[int],
    y: Array,
    error: Array,
    selection: Selection,
    color: str,
    look: int,
) -> None:
    line, marker = _LINES[look % len(_LINES)], _MARKERS[look % len(_MARKERS)]
    ax.plot(at, y[rows], ls=line, lw=1.0, color=color, alpha=0.6)
    ax.errorbar(at, y[rows], error[rows], fmt="none", ecolor=color, elinewidth=1.0)
    fill = np.where(selection.within[rows], color, "white")
    ax.scatter(at, y[rows], s=24, marker=marker, c=fill, edgecolors=color, linewidths=1.0, zorder=3)
    lost = at[~np.isfinite(y[rows])]
    if len(lost):
        ax.plot(
            lost, np.full(len(lost), 0.03), "x", color=color, transform=ax.get_xaxis_transform()
        )


def _draw_marks(ax: Axes, at: Array, rows: list[int], y: Array, selection: Selection) -> None:
    for place, row in zip(at, rows, strict=True):
        if row == selection.chosen_index:
            ax.scatter(place, y[row], s=150, facecolors="none", edgecolors="k", linewidths=1.3,
                       zorder=4, label="chosen")  # fmt: skip
        if row == selection.best_index:
            ax.scatter(place, y[row], s=110, marker="*", c="k", zorder=5, label="best")


def _draw_legend(
    ax: Axes, columns: dict[str, list[Any]], x: str, colors: dict[str, str], looks: dict[str, int]
) -> None:
    others = sorted((n for n in columns if n != x), key=lambda n: -len(set(columns[n])))
    for value, color in colors.items():
        if others:
            name = _SYMBOLS.get(others[0], others[0])
            ax.plot([], [], "-", color=color, lw=2, label=f"{name} {value}")
    for value, look in looks.items():
        if len(others) > 1:
            ax.plot([], [], ls=_LINES[look % len(_LINES)], marker=_MARKERS[look % len(_MARKERS)],
                    color="0.4", ms=5, lw=1.0, label=value)  # fmt: skip
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
