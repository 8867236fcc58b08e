"""What users pass as bins, labels, errors and scatters, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import astropy.units as u
import numpy as np
from gala.units import UnitSystem, galactic

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.grid import Grid
from torusimaging_torch.units import Bins, Numbers, to_tensor, with_unit

__all__ = [
    "COUNTS",
    "Label",
    "LabelColumns",
    "LabelErrors",
    "bare",
    "by_label",
    "by_name",
    "has_unit",
    "name_labels",
    "read_grid",
    "read_scatter",
]

LabelColumns: TypeAlias = str | Sequence[str] | Mapping[str, str | None]
"""The name of a label's column, several, or those by names of their own."""

LabelErrors: TypeAlias = str | Numbers | Mapping[str, str | Numbers | None] | None
"""The name of a column of errors or one error for all stars, or such by names of labels."""

COUNTS = "counts"
"""The name of what is binned where no label is: the number of stars."""

# What a scatter that is not zero may be: weights are its inverse square, and are added up.
_SIZES = (1e-140, 1e140)


def bare(value: object, name: str, kind: str | None, units: UnitSystem = galactic) -> Array:
    """Return a Quantity, column, array or tensor as an array in model units.

    Parameters
    ----------
    value, name, kind, units
        As for `torusimaging_torch.units.to_tensor`.
    """
    return np.asarray(to_tensor(value, name, kind, units, device="cpu").detach())


def _read_edges(value: object, name: str, kind: str, units: UnitSystem) -> Array:
    edges = bare(value, name, kind, units)
    if edges.ndim != 1 or len(edges) < 2:
        raise ValueError(
            f"{name} must hold at least two pixel edges, such as "
            f"np.linspace(-1.2, 1.2, 81) * u.kpc, got shape {edges.shape}"
        )
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
        raise ValueError(f"{name} must be finite and strictly increasing, got {value}")
    return edges


def read_grid(bins: Bins, units: UnitSystem) -> Grid:
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
        (has_unit(bins[0]), has_unit(bins[1])),
    )


def has_unit(value: object) -> bool:
    """Return whether numbers come with a unit."""
    return getattr(with_unit(value), "unit", None) is not None


@dataclass
class Label:
    """A label that is to be binned, and what becomes known of it while stars are read.

    Attributes
    ----------
    column
        The column of its values; None to count stars.
    error
        The column of its errors, one number for all stars, or None if they are not known.
    key
        What to append to "label" in messages, such as "['FE_H']".
    weight
        The column of the stars' weights, if they have any.
    unit
        The label's unit, known once stars have been read.
    largest
        The largest absolute value read so far.
    """

    column: str | None
    error: str | Numbers | None = None
    key: str = ""
    weight: str | None = None
    unit: u.UnitBase | None = None
    largest: float = 0.0

    @property
    def smallest_scatter(self) -> float:
        """The scatter below which labels are equal to rounding, and their mean has no error."""
        return float(8 * np.finfo(float).eps * self.largest)


def by_name(value: object, names: Iterable[str], argument: str) -> dict[str, Any]:
    """Give each label its own value of an argument; a lone label may have it without its name.

    Raises
    ------
    ValueError
        If there are several labels and the value is neither None nor has their names.
    """
    names = list(names)
    if isinstance(value, Mapping) and set(value) == set(names):
        return dict(value)
    if value is None or (len(names) == 1 and not isinstance(value, Mapping)):
        return dict.fromkeys(names, value)
    got = list(value) if isinstance(value, Mapping) else type(value).__name__
    raise ValueError(
        f"{argument} must be None or a dictionary with the keys of label, {names}, got {got}"
    )


def by_label(value: object, labels: Mapping[str, Label], argument: str) -> dict[str, Any]:
    """Give each label its own value of an argument, as `by_name` does, and star counts None."""
    names = [name for name, label in labels.items() if label.column is not None]
    return dict.fromkeys(labels) | by_name(value, names, argument)


def name_labels(label: LabelColumns | None, label_err: LabelErrors) -> dict[str, Label]:
    """Read names of columns given as label and label_err: one name, several, a mapping, or None.

    Raises
    ------
    ValueError
        If label_err does not fit label.
    TypeError
        If labels are not names of columns.
    """
    if label is None:
        if label_err is not None:
            raise ValueError("label_err has no meaning without a label")
        return {COUNTS: Label(None)}
    if isinstance(label, str):
        label = [label]
    if not isinstance(label, Mapping):
        label = {name: name for name in label}
    if not all(name is None or isinstance(name, str) for name in label.values()) or not label:
        raise TypeError(f"label must be one or more names of columns, got {label!r}")
    named = {name: Label(column, None, f"[{name!r}]") for name, column in label.items()}
    for name, error in by_label(label_err, named, "label_err").items():
        named[name].error = error
    return named


def read_scatter(s: Any, label: Label, n_groups: int) -> Array:
    """Read an intrinsic scatter: one number, or one for each group, in the label's unit.

    Returns
    -------
    ndarray
        With shape (G,); it may be nan for some of several groups.

    Raises
    ------
    ValueError
        If the scatter makes no sense, or neither it nor the label's errors are positive.
    astropy.units.UnitConversionError
        If it has another dimension than the label.
    """
    name = "s" + label.key
    if label.column is None:
        raise ValueError("s has no meaning without a label")
    if isinstance(s, u.Quantity) and label.unit is not None:
        try:
            s = s.to_value(label.unit)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"{name} must have the unit of label{label.key} ('{label.unit}'), got '{s.unit}'"
            ) from None
    value = bare(s, name, None)
    size = np.abs(value)  # of which weights are the inverse square
    bad = (value < 0) | (size > _SIZES[1]) | (np.isnan(value) & (value.ndim == 0))
    bad |= (size > 0) & (size < _SIZES[0])
    if value.shape not in ((), (n_groups,)) or np.any(bad):
        more = f", or one for each of {n_groups} groups" if n_groups > 1 else ""
        raise ValueError(f"{name} must be one number{more}, finite and not negative, got {s}")
    if label.error is None and np.any(value <= label.smallest_scatter):
        raise ValueError(
            f"{name} must be positive: label{label.key} has no errors, so its means would have none"
        )
    return np.broadcast_to(value, (n_groups,)).copy()
