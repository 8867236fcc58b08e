"""Stars to binned data: counts and mean labels on a grid in (position, velocity), with units."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from astropy.stats import median_absolute_deviation
from gala.units import UnitSystem, galactic
from numpy.typing import NDArray

from torusimaging_torch.data.arguments import (
    bare,
    by_name,
    read_grid,
    read_label,
    read_pixels,
    read_scatter,
)
from torusimaging_torch.data.pixels import Grid, PixelStars
from torusimaging_torch.units import as_unit_system, label_values, unit_of

__all__ = ["estimate_Omega", "get_binned_counts", "get_binned_label", "intrinsic_scatter"]

Array = NDArray[Any]

# The share of the pixels, in per cent, that upstream's guess of Omega0 takes for central and
# for those with the central label.
_CENTRAL_PERCENT = 15


def pixel_centers(grid: Grid, units: UnitSystem) -> dict[str, u.Quantity]:
    """Return "pos" and "vel" of the pixel centres, each with shape (n_vel, n_pos)."""
    pos, vel = grid.centers()
    return {"pos": pos * unit_of("length", units), "vel": vel * unit_of("velocity", units)}


def warn_left_out(reasons: list[str]) -> None:
    """Warn, at the line that called the caller, of stars that were left out."""
    if reasons:
        warnings.warn(f"stars left out: {'; '.join(reasons)}", UserWarning, stacklevel=3)


def get_binned_counts(
    pos: Any,
    vel: Any,
    bins: Mapping[str, Any] | Sequence[Any],
    units: UnitSystem = galactic,
) -> dict[str, Any]:
    """Count the stars in pixels of phase space.

    Parameters
    ----------
    pos, vel
        Position and velocity of the stars, each with shape (N,). Quantities are converted, bare
        arrays are in model units (kpc and kpc/Myr by default). Stars off the grid do not count;
        of those whose position or velocity is not finite a warning tells the number.
    bins
        Pixel edges: a dictionary with keys "pos" and "vel" or a tuple (pos, vel), with shapes
        (n_pos + 1,) and (n_vel + 1,), increasing, in any spacing. As in `numpy.histogram` a pixel
        holds its lower edges, and the last one its upper edge too.
    units
        The unit system of the result.

    Returns
    -------
    dict
        ``pos`` and ``vel`` of the pixel centres, ``counts``, and ``label``, the natural logarithm
        of the counts, nan in empty pixels; each with shape (n_vel, n_pos).

    Raises
    ------
    ValueError
        If the lengths of pos and vel differ, or bins are not increasing edges.
    astropy.units.UnitConversionError
        If a Quantity has the wrong dimension.
    """
    units = as_unit_system(units)
    grid = read_grid(bins, units)
    pixel, left_out = read_pixels(pos, vel, grid, units)
    warn_left_out(left_out)
    counts = np.bincount(pixel[pixel >= 0], minlength=grid.n_pixels).astype(float)
    return {**pixel_centers(grid, units), **on_grid(with_log_counts(counts), grid)}


def with_log_counts(counts: Array) -> dict[str, Array]:
    """Return counts, and as "label" their natural logarithm, nan where there are none."""
    label = np.log(counts, out=np.full_like(counts, np.nan), where=counts > 0)
    return {"counts": counts, "label": label}


def _estimate_scatter(stars: PixelStars, s_N_thresh: int | None, key: str) -> float:
    try:
        return stars.scatter(2 if s_N_thresh is None else s_N_thresh + 1)
    except (ValueError, RuntimeError) as error:
        raise type(error)(
            f"cannot determine the intrinsic scatter of label{key}: {error}; use larger pixels, "
            "lower s_N_thresh, or pass the scatter as s"
        ) from None


def _binned(stars: PixelStars, s: float, key: str) -> dict[str, Array]:
    # Labels equal to rounding do not tell how far off their mean may be.
    largest = max(stars.label.max(initial=0.0), -stars.label.min(initial=0.0))
    smallest = 8 * np.finfo(float).eps * largest
    if s <= smallest and not stars.variance.all():
        raise ValueError(
            f"label{key} has no errors and its intrinsic scatter is 0, so that its means would "
            "have no error: pass label_err or s"
        )
    mean, error = stars.mean(s)
    return {"counts": stars.counts(), "label": mean, "label_err": error}


def get_binned_label(
    pos: Any,
    vel: Any,
    label: Any,
    bins: Mapping[str, Any] | Sequence[Any],
    moment: str = "mean",
    label_err: Any = None,
    units: UnitSystem = galactic,
    s: Any = None,
    s_N_thresh: int | None = None,
) -> dict[str, Any]:
    """Average stellar labels in pixels of phase space.

    The labels of a pixel scatter about their mean by their errors and by an intrinsic scatter s, so
    the mean has weights w = 1/(label_err^2 + s^2) and the error 1/sqrt(sum w). Unless s is given it
    is estimated by `intrinsic_scatter`.

    Parameters
    ----------
    pos, vel, bins, units
        As for `get_binned_counts`.
    label
        Label of the stars with shape (N,), a bare array or a Quantity (dex, Gyr, ...); or a
        dictionary of several, which are then binned in one pass.
    moment
        Only "mean".
    label_err
        Errors of the labels with shape (N,), or one number; None if they are not known, and then
        the scatter is all there is and the error of a mean is s/sqrt(counts). With a dictionary of
        labels, a dictionary with the same keys (its values may be None).
    s
        Intrinsic scatter of the labels in a pixel, in the label's unit. With a dictionary of
        labels, a dictionary with the same keys (its values may be None).
    s_N_thresh
        If s is to be estimated, from pixels with more than this number of stars alone. By default
        from all pixels with two stars or more: the estimate has no bias in small pixels.

    Returns
    -------
    dict
        ``pos`` and ``vel`` of the pixel centres, ``counts`` of the stars used, mean ``label`` and
        its error ``label_err``, each with shape (n_vel, n_pos); labels are Quantities if they came
        as such. In empty pixels counts are 0 and label and label_err nan. For a dictionary of
        labels, a dictionary with such a dictionary for each; they share ``pos`` and ``vel``.

    Raises
    ------
    ValueError
        If shapes do not match, bins are not increasing edges, or s cannot be determined.
    astropy.units.UnitConversionError
        If a Quantity has the wrong dimension.
    NotImplementedError
        For other moments than the mean.

    Warns
    -----
    UserWarning
        Tells how many stars were left out because a number was not finite or an error was not
        positive. A star with one bad label still counts for the others.
    """
    if moment != "mean":
        raise NotImplementedError(f"moment must be 'mean', the only one there is, got {moment!r}")
    units = as_unit_system(units)
    grid = read_grid(bins, units)
    labels = by_name(label, label, "label")
    errors, scatters = by_name(label_err, label, "label_err"), by_name(s, label, "s")
    pixel, left_out = read_pixels(pos, vel, grid, units)
    centers = pixel_centers(grid, units)
    results = {}
    try:
        for name in labels:
            key = "" if name is None else f"[{name!r}]"
            stars, unit, reasons = read_label(labels[name], errors[name], key, pixel, grid.n_pixels)
            left_out += reasons
            scatter = (
                _estimate_scatter(stars, s_N_thresh, key)
                if scatters[name] is None
                else read_scatter(scatters[name], unit, key)
            )
            binned = _binned(stars, scatter, key)
            results[name] = {**centers, **on_grid(binned, grid, unit)}
    finally:
        warn_left_out(left_out)
    return results if isinstance(label, Mapping) else results[None]


def on_grid(
    binned: Mapping[str, Array], grid: Grid, unit: u.UnitBase | None = None
) -> dict[str, Any]:
    """Reshape arrays over pixels to (*B, n_vel, n_pos) and give labels their unit."""
    shaped: dict[str, Any] = {
        name: array.reshape(*array.shape[:-1], *grid.shape) for name, array in binned.items()
    }
    if unit is not None:
        for name in ("label", "label_err"):
            shaped[name] = u.Quantity(shaped[name], unit, subok=True)
    return shaped


def intrinsic_scatter(
    pos: Any,
    vel: Any,
    label: Any,
    bins: Mapping[str, Any] | Sequence[Any],
    label_err: Any = None,
    units: UnitSystem = galactic,
    s_N_thresh: int | None = None,
) -> Any:
    """Estimate the intrinsic scatter of a label about its pixel means, one number for all pixels.

    It is the maximum of the restricted likelihood of label ~ N(mean of the pixel, label_err^2 +
    s^2) with one free mean per pixel (Patterson & Thompson 1971, Biometrika 58, 545). Integrating
    the means out keeps the many pixels with few stars from biasing s low, which best-fitting means
    would do. The change of the mean label across a pixel is part of s.

    Parameters
    ----------
    pos, vel, label, bins, label_err, units, s_N_thresh
        As for `get_binned_label`, with one label.

    Returns
    -------
    float or Quantity
        The scatter in the label's unit; 0 if the labels scatter no more than their errors tell.

    Raises
    ------
    ValueError
        If no pixel has two stars, or more than s_N_thresh stars.
    """
    units = as_unit_system(units)
    grid = read_grid(bins, units)
    pixel, left_out = read_pixels(pos, vel, grid, units)
    stars, unit, reasons = read_label(label, label_err, "", pixel, grid.n_pixels)
    warn_left_out(left_out + reasons)
    s = _estimate_scatter(stars, s_N_thresh, "")
    return s if unit is None else u.Quantity(s, unit, subok=True)


def estimate_Omega(binned_data: Mapping[str, Any], units: UnitSystem = galactic) -> u.Quantity:
    """Guess the central frequency Omega0 from the shape of the contour around the centre.

    The pixels whose label is nearest to the central one fill an ellipse, and Omega0 is the ratio of
    its axes: the median absolute deviation of their velocities over that of their positions. This
    is upstream's guess, good for a start. On a disk it is a third too small (0.060 against 0.089
    rad/Myr on a mock of the solar neighbourhood), because orbits that reach far from the midplane
    are slower than the central ones.

    Parameters
    ----------
    binned_data
        What `get_binned_counts` or `get_binned_label` return; pixels without a label are masked.
    units
        The unit system of the result, and of pos and vel if these are bare arrays.

    Returns
    -------
    Quantity
        Omega0, an angle per time.

    Raises
    ------
    ValueError
        If there are too few pixels with a label near the centre.
    """
    units = as_unit_system(units)
    pos = bare(binned_data["pos"], "binned_data['pos']", "length", units)
    vel = bare(binned_data["vel"], "binned_data['vel']", "velocity", units)
    label = bare(label_values(binned_data["label"])[0], "binned_data['label']", None)
    full = np.isfinite(label)
    inner = full & _smallest(np.abs(pos)) & _smallest(np.abs(vel))
    if not inner.any():
        raise ValueError(
            "cannot estimate Omega0: no pixel near pos = 0, vel = 0 has a label; use larger pixels "
            "or centre pos and vel"
        )
    distance = np.where(full, np.abs(label - label[inner].mean()), np.nan)
    near = full & _smallest(distance)
    width, height = (median_absolute_deviation(x[near]) for x in (pos, vel))
    if not (width > 0 and height > 0):
        raise ValueError(
            f"cannot estimate Omega0: the {np.count_nonzero(near)} pixels with the central label "
            "have no extent in pos or vel; use more pixels"
        )
    return height / width * unit_of("frequency", units)


def _smallest(values: Array) -> Array:
    """Return which values are below the 15th percentile of those that are not nan."""
    return np.less(values, np.nanpercentile(values, _CENTRAL_PERCENT))
