"""Covariance matrices as ellipses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from torusimaging_torch.numerics.ranges import positive
from torusimaging_torch.plot.canvas import Array, bare, new_figure

__all__ = ["plot_cov_corner", "plot_cov_ellipse"]


def plot_cov_ellipse(
    mean: npt.ArrayLike,
    cov: npt.ArrayLike,
    nstd: float = 1,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Ellipse:
    """Draw the ellipse of a two-dimensional Gaussian at ``nstd`` standard deviations.

    Its half axes are ``nstd`` times the square roots of the eigenvalues of the covariance: at one
    standard deviation it holds 39 % of the probability, at two 86 %.

    Parameters
    ----------
    mean, cov
        Mean with shape (2,) and covariance with shape (2, 2).
    nstd
        Number of standard deviations.
    ax
        Axes to draw in; pyplot's current axes by default.
    **kwargs
        For `matplotlib.patches.Ellipse`.

    Raises
    ------
    ValueError
        If the shapes are wrong or the covariance has a negative eigenvalue.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_cov_ellipse
    >>> ellipse = plot_cov_ellipse([0, 0], covariance[-2:, -2:], nstd=2)
    """
    mean, cov = bare(mean, "mean"), bare(cov, "cov")
    if not (np.ndim(positive(nstd, "nstd")) == 0 and np.isfinite(nstd)):
        raise ValueError(f"nstd must be one finite number, got {nstd}")
    if mean.shape != (2,) or cov.shape != (2, 2):
        raise ValueError(
            f"mean and cov must have shapes (2,) and (2, 2), got {mean.shape} and {cov.shape}"
        )
    variances, directions = np.linalg.eigh(cov)
    if not variances[0] >= -1e-12 * variances[1]:  # also true for nan
        raise ValueError(f"cov must have no negative eigenvalue, got {variances}")
    width, height = 2 * nstd * np.sqrt(np.maximum(variances[::-1], 0))
    angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    ellipse = Ellipse((mean[0], mean[1]), width, height, angle=angle, **kwargs)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.gca()
    ax.add_patch(ellipse)
    return ellipse


def plot_cov_corner(
    cov: npt.ArrayLike,
    mean: npt.ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    subplots_kw: Mapping[str, Any] | None = None,
    ellipse_kw: Mapping[str, Any] | None = None,
    *,
    nstd: Sequence[float] = (1, 2),
    pyplot: bool = True,
) -> tuple[Figure, Array]:
    """Draw a covariance matrix as a corner of ellipses with marginal Gaussians on the diagonal.

    Parameters
    ----------
    cov
        Covariance matrix with shape (P, P). A parameter without a finite, positive variance or
        without a finite mean is undetermined: its panels say so.
    mean
        With shape (P,); zeros by default.
    labels
        Names of the P parameters.
    subplots_kw
        For `matplotlib.figure.Figure.subplots`; ``figsize`` goes to the figure.
    ellipse_kw
        For `matplotlib.patches.Ellipse`.
    nstd
        Standard deviations at which ellipses are drawn.
    pyplot
        Whether the new figure is registered with pyplot.

    Returns
    -------
    figure, axes
        The axes with shape (P, P); those above the diagonal are invisible.

    Raises
    ------
    ValueError
        If the shapes do not agree.

    Examples
    --------
    >>> from torusimaging_torch.plot import plot_cov_corner
    >>> figure, axes = plot_cov_corner(covariance[-3:, -3:], labels=["ln_Omega0", "pos0", "vel0"])
    >>> figure.savefig(f"{folder}/plot_cov_corner.png")
    """
    cov, mean, names = _check_shapes(cov, mean, labels)
    size = len(cov)
    options = {"figsize": (1.5 * size + 0.6, 1.5 * size + 0.4), **(subplots_kw or {})}
    fig = new_figure(options.pop("figsize"), pyplot)
    axs = fig.subplots(size, size, **{"sharex": "col", **options, "squeeze": False})
    style = {"fill": False, "ec": "C0", "lw": 1.3, **(ellipse_kw or {})}
    sigma = np.sqrt(np.maximum(np.diag(cov), 0))
    # Nobody can draw what is lost in the mean's last digit.
    known = np.isfinite(mean) & np.isfinite(sigma) & (mean + 1e-3 * sigma != mean)
    for row, column in np.ndindex(size, size):
        ax = axs[row, column]
        ax.set_visible(column <= row)
        if column > row:
            continue
        if not (known[row] and known[column]):
            _mark_undetermined(ax, bool(known[column]))
        elif column == row:
            _draw_marginal(
                ax, float(mean[row]), float(cov[row, row]) ** 0.5, max(nstd), style["ec"]
            )
        else:
            pair = [column, row]
            _draw_pair(ax, mean[pair], cov[np.ix_(pair, pair)], nstd, style)
        _label_panel(ax, names, row, column)
    fig.align_labels()
    return fig, axs


def _check_shapes(
    cov: npt.ArrayLike, mean: npt.ArrayLike | None, labels: Sequence[str] | None
) -> tuple[Array, Array, list[str]]:
    cov = np.atleast_1d(bare(cov, "cov"))
    size = len(cov)
    mean = np.zeros(size) if mean is None else bare(mean, "mean")
    names = [""] * size if labels is None else list(labels)
    if cov.shape != (size, size) or mean.shape != (size,) or len(names) != size:
        raise ValueError(
            "cov, mean and labels must have shapes (P, P), (P,) and length P, got "
            f"{cov.shape}, {mean.shape} and {len(names)}"
        )
    return cov, mean, names


def _draw_marginal(ax: Axes, mean: float, sigma: float, nstd: float, color: object) -> None:
    reach = 1.25 * nstd
    t = np.linspace(-reach, reach, 128)
    ax.plot(mean + t * sigma, np.exp(-0.5 * t**2), color=color)
    ax.set(xlim=(mean - reach * sigma, mean + reach * sigma), ylim=(0, 1.1))


def _draw_pair(
    ax: Axes, mean: Array, cov: Array, nstd: Sequence[float], style: Mapping[str, Any]
) -> None:
    for number in nstd:
        plot_cov_ellipse(mean, cov, number, ax, **style)
    half = 1.25 * max(nstd) * np.sqrt(np.diag(cov))
    ax.set(xlim=mean[0] + half[0] * np.array([-1, 1]), ylim=mean[1] + half[1] * np.array([-1, 1]))


def _mark_undetermined(ax: Axes, column_known: bool) -> None:
    ax.text(0.5, 0.5, "undetermined", transform=ax.transAxes, ha="center", va="center",
            color="0.5", fontsize="small")  # fmt: skip
    ax.set_yticks([])
    if not column_known:  # otherwise the panels above have a say in the shared axis
        ax.set_xticks([])


def _label_panel(ax: Axes, names: Sequence[str], row: int, column: int) -> None:
    last = row == len(names) - 1
    if ax.get_xticks().size:
        ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.tick_params(axis="x", rotation=45, labelbottom=last)
    if last:
        ax.set_xlabel(names[column])
    if row == column:
        ax.set_yticks([])  # a density: its height carries no information
        return
    if ax.get_yticks().size:
        ax.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
    ax.tick_params(axis="y", labelleft=column == 0)
    if column == 0:
        ax.set_ylabel(names[row])
