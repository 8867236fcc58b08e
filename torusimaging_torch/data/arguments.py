"""What users pass as stars, labels and bins, read into plain arrays; nothing is lost silently.

Each reader returns, besides its arrays, sentences on the stars that had to be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from gala.units import UnitSystem, galactic
from numpy.typing import NDArray

from torusimaging_torch.data.pixels import Grid, PixelStars
from torusimaging_torch.units import label_values, to_tensor

__all__ = ["bare", "by_name", "read_grid", "read_label", "read_pixels", "read_scatter"]

Array = NDArray[Any]


def bare(value: Any, name: str, kind: str | None, units: UnitSystem = galactic) -> Array:
    """Return a Quantity, column, array or tensor as an array in model units.

    Parameters
    ----------
    value, name, kind, units
        As for `torusimaging_torch.units.to_tensor`.
    """
    return np.asarray(to_tensor(value, name, kind, units, device="cpu").detach())


def _read_edges(value: Any, name: str, kind: str, units: UnitSystem) -> Array:
    edges = bare(value, name, kind, units)
    if edges.ndim != 1 or len(edges) < 2:
        raise ValueError(
            f"{name} must hold at least two pixel edges, such as "
            f"np.linspace(-1.2, 1.2, 81) * u.kpc, got shape {edges.shape}"
        )
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
        raise ValueError(f"{name} must be finite and strictly increasing, got {value}")
    return edges


def read_grid(bins: Any, units: UnitSystem) -> Grid:
    """Read pixel edges from a dictionary with keys "pos" and "vel" or a tuple (pos, vel).

    Raises
    ------
    ValueError
        If bins are neither, or the edges are not finite, increasing and one-dimensional.
    astropy.units.UnitConversionError
        If the edges have the wrong dimension.
    """
    if isinstance(bins, Mapping) and {"pos", "vel"} <= set(bins):
        bins = bins["pos"], bins["vel"]
    if isinstance(bins, str) or not isinstance(bins, Sequence) or len(bins) != 2:
        raise ValueError(
            "bins must be a dictionary with keys 'pos' and 'vel', or a tuple (pos, vel), of pixel "
            f"edges, got {bins!r}"
        )
    return Grid(
        _read_edges(bins[0], "bins['pos']", "length", units),
        _read_edges(bins[1], "bins['vel']", "velocity", units),
    )


def _report(bad: Array, reason: str) -> list[str]:
    return [f"{np.count_nonzero(bad)} with {reason}"] if bad.any() else []


def read_pixels(pos: Any, vel: Any, grid: Grid, units: UnitSystem) -> tuple[Array, list[str]]:
    """Find the flat pixel of each star with shape (N,), -1 for stars off the grid.

    Raises
    ------
    ValueError
        If pos and vel are not one-dimensional with the same length.
    astropy.units.UnitConversionError
        If one has the wrong dimension.
    """
    pos, vel = bare(pos, "pos", "length", units), bare(vel, "vel", "velocity", units)
    if pos.ndim != 1 or pos.shape != vel.shape or not pos.size:
        raise ValueError(
            "pos and vel must be one-dimensional with one value per star, got shapes "
            f"{pos.shape} and {vel.shape}"
        )
    good = np.isfinite(pos) & np.isfinite(vel)
    return grid.pixel_of(pos, vel), _report(~good, "pos or vel not finite")


def by_name(value: Any, label: Any, argument: str) -> Mapping[Any, Any]:
    """Give each label of a dictionary its own value of an argument; a lone label is named None.

    Raises
    ------
    ValueError
        If label is a dictionary and the value neither None nor one with the same keys.
    """
    if not isinstance(label, Mapping):
        return {None: value}
    if value is None:
        return dict.fromkeys(label)
    if not isinstance(value, Mapping) or set(value) != set(label):
        got = list(value) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(
            f"{argument} must be None or a dictionary with the keys of label, {list(label)}, "
            f"got {got}"
        )
    return value


def _read_errors(label_err: Any, name: str, shape: tuple[int, ...]) -> Array:
    error = bare(label_err, name, None)
    if error.shape not in ((), shape):
        raise ValueError(
            f"{name} must be one number or one per star, got shape {error.shape} for "
            f"{shape[0]} stars"
        )
    if not error.any():
        raise ValueError(f"{name} is 0 for all stars; pass None if the errors are not known")
    return np.broadcast_to(error, shape)


def read_label(
    label: Any, label_err: Any, key: str, pixel: Array, n_pixels: int
) -> tuple[PixelStars, u.UnitBase | None, list[str]]:
    """Read one label of the stars on the grid.

    Parameters
    ----------
    label, label_err
        One value per star; errors may also be one number, or None, read as errors of 0.
    key
        What to append to "label" in messages, such as "['FE_H']".
    pixel, n_pixels
        From `read_pixels`, and the grid's number of pixels.

    Returns
    -------
    stars, unit, left_out
        Stars with a finite label and, where errors are given, a finite positive error; the label's
        unit or None; what was left out.

    Raises
    ------
    ValueError
        If lengths do not match, or all errors are 0.
    astropy.units.UnitConversionError
        If the errors' unit does not fit the label's.
    """
    label, label_err, unit = label_values(label, label_err)
    label = bare(label, "label" + key, None)
    if label.shape != pixel.shape:
        raise ValueError(
            f"label{key} must have one value per star, got shape {label.shape} for "
            f"{len(pixel)} stars"
        )
    error = np.broadcast_to(0.0, label.shape)
    tests = {f"label{key} not finite": np.isfinite(label)}
    if label_err is not None:
        error = _read_errors(label_err, "label_err" + key, label.shape)
        tests[f"label_err{key} not finite or not positive"] = np.isfinite(error) & (error > 0)
    keep, left_out = pixel >= 0, []
    for reason, good in tests.items():
        left_out += _report(keep & ~good, reason)
        keep &= good
    stars = PixelStars(pixel[keep], label[keep], error[keep] ** 2, n_pixels)
    return stars, unit, left_out


def read_scatter(s: Any, unit: u.UnitBase | None, key: str) -> float:
    """Read an intrinsic scatter in the label's unit.

    Raises
    ------
    ValueError
        If it is not one number, finite and not negative.
    astropy.units.UnitConversionError
        If it has another dimension than the label.
    """
    if isinstance(s, u.Quantity) and unit is not None:
        try:
            s = s.to_value(unit)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"s{key} must have the unit of label ('{unit}'), got '{s.unit}'"
            ) from None
    value = bare(s, "s" + key, None)
    if value.shape != () or not (np.isfinite(value) and value >= 0):
        raise ValueError(f"s{key} must be one number, finite and not negative, got {s}")
    return float(value)
