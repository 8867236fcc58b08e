"""Profiles with their errors as bands."""

from __future__ import annotations

from astropy.table import QTable
from gala.units import UnitSystem
from matplotlib.figure import Figure, SubFigure

from torusimaging_torch.plot.canvas import Array, AxesLike, coordinate, make_axes
from torusimaging_torch.plot.profiles import (
    PROFILES,
    Truth,
    curve_of,
    draw_with_bands,
    name_curves,
    true_profile,
)

__all__ = ["plot_profiles"]


def plot_profiles(
    table: QTable,
    truth: Truth | None = None,
    *,
    usys: UnitSystem | None = None,
    pos_label: str = "$z$",
    acc_label: str = "$a_z$",
    model_label: str = "model",
    truth_label: str = "truth",
    axes: AxesLike = None,
    pyplot: bool = True,
) -> tuple[Figure | SubFigure, Array]:
    """Draw acceleration, density and surface density with bands of 68 % and 95 %.

    Parameters
    ----------
    table
        What `torusimaging_torch.results.profiles` returns: of samples, with percentiles, or with a
        covariance, with standard errors.
    truth
        As in `plot_acceleration_density`: any object with methods ``acceleration(pos)``,
        ``density(pos)`` and ``surface_density(pos)``; a gala potential as
        ``VerticalPotential(gala_potential, R)``.
    usys
        Unit system of the axes; the top of this module's documentation says the default.
    pos_label, acc_label
        Symbols of position and acceleration.
    model_label, truth_label
        What the legend says.
    axes
        Three axes to draw in.
    pyplot
        If no axes are given: whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (3,): acceleration, density, surface density.

    Raises
    ------
    ValueError
        If the table has neither percentiles nor errors, or the number of axes is wrong.
    TypeError
        If the truth lacks one of the three methods.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_profiles
    >>> figure, axes = plot_profiles(result.profiles([0.1, 0.5] * u.kpc))
    >>> figure.savefig(f"{folder}/plot_profiles.png")
    """
    fig, axs = make_axes(axes, (3,), (10.2, 3.3), pyplot)
    x, x_name = coordinate(table["pos"], pos_label, "length", usys)
    symbols = {**PROFILES, "acceleration": acc_label}
    for ax, (kind, symbol) in zip(axs, symbols.items(), strict=True):
        median, bands = curve_of(table, kind)
        y, y_name = coordinate(median, symbol, kind, usys)
        edges = [
            (coordinate(low, symbol, kind, usys)[0], coordinate(high, symbol, kind, usys)[0])
            for low, high in bands
        ]
        draw_with_bands(ax, x, y, edges, model_label)
        if truth is not None:
            true = coordinate(true_profile(truth, kind, table["pos"]), symbol, kind, usys)[0]
            ax.plot(x, true, "k--", lw=1.2, label=truth_label)
        if kind != "acceleration" and edges[0][0].min() >= 0:
            ax.set_ylim(bottom=0, auto=True)  # a second curve may be higher
        ax.set(xlabel=x_name, ylabel=y_name, xlim=(x[0], x[-1]))
    name_curves(axs[0], bool(bands))
    return fig, axs
