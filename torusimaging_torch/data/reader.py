"""Chunks of a catalogue as pixels, labels and groups, bare and checked, for passes over stars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table
from gala.units import UnitSystem
from numpy.typing import NDArray

from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.conditions import read_column
from torusimaging_torch.catalogue.groups import Groups
from torusimaging_torch.data.arguments import bare
from torusimaging_torch.data.pixels import Grid
from torusimaging_torch.data.progress import StarProgress
from torusimaging_torch.units import label_values

__all__ = ["COUNTS", "GroupReader", "LabelColumn", "StarChunk", "read_label_columns"]

Array = NDArray[Any]

COUNTS = "counts"
"""The name of what is binned where no label is: the number of stars."""


@dataclass
class LabelColumn:
    """Where a label and its errors are found.

    Attributes
    ----------
    label
        The label's column; None to count stars.
    error
        A column, one number for all stars, or None.
    unit
        The label's unit, known once a chunk has been read.
    largest
        The largest absolute label read so far.
    """

    label: str | None
    error: Any = None
    unit: u.UnitBase | None = None
    largest: float = 0.0

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return [name for name in (self.label, self.error) if isinstance(name, str)]


def read_label_columns(label: Any, label_err: Any) -> dict[str, LabelColumn]:
    """Read the arguments label and label_err: one name, several, a mapping, or None.

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
        return {COUNTS: LabelColumn(None)}
    if isinstance(label, str):
        label, label_err = {label: label}, {label: label_err}
    elif not isinstance(label, Mapping):
        label = {name: name for name in label}
    if label_err is None:
        label_err = dict.fromkeys(label)
    if not isinstance(label_err, Mapping) or set(label_err) != set(label):
        raise ValueError(
            "with several labels label_err must be a mapping with the same names, "
            f"{list(label)}, got {label_err!r}"
        )
    if not all(isinstance(name, str) for name in label.values()) or not label:
        raise TypeError(f"label must be one or more names of columns, got {label!r}")
    return {name: LabelColumn(label[name], label_err[name]) for name in label}


@dataclass(frozen=True)
class LabelValues:
    """One label of the stars of a chunk, bare.

    Attributes
    ----------
    value, variance
        Labels and squared errors with shape (N,); the variance is 0 where errors are not known.
    good
        Which stars are on the grid and can be used, with shape (N,).
    """

    value: Array
    variance: Array
    good: Array


@dataclass(frozen=True)
class StarChunk:
    """Stars of a chunk.

    Attributes
    ----------
    first_row, n
        The row of the first star, and the number of stars.
    pixel
        Flat pixel index with shape (N,), -1 off the grid.
    members
        For each group with stars on the grid here, its number and their places in the chunk.
    labels
        Values by the label's name; None where stars are counted.
    """

    first_row: int
    n: int
    pixel: Array
    members: list[tuple[int, Array]]
    labels: dict[str, LabelValues | None]

    def rows_of(self, name: str) -> Iterator[tuple[int, Array]]:
        """Iterate over groups with the places of the stars that one label can use."""
        values = self.labels[name]
        for group, rows in self.members:
            if values is not None:
                rows = rows[values.good[rows]]
            if len(rows):
                yield group, rows


@dataclass
class GroupReader:
    """Reads a catalogue, as often as need be.

    Attributes
    ----------
    source
        The catalogue.
    groups
        Which stars belong to which group.
    grid
        The pixels.
    units
        The unit system of the grid.
    pos, vel
        Names of the columns of position and velocity.
    labels
        What is binned, by name.
    progress
        Whether to tell on standard error how far each pass is.
    left_out
        How many stars the first pass could not use, by reason.
    """

    source: StarSource
    groups: Groups
    grid: Grid
    units: UnitSystem
    pos: str
    vel: str
    labels: dict[str, LabelColumn]
    progress: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    _passes: int = 0

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return len(self.groups.names)

    @property
    def _columns(self) -> list[str]:
        labels = [name for column in self.labels.values() for name in column.columns]
        return list(dict.fromkeys([self.pos, self.vel, *labels, *self.groups.columns]))

    def chunks(self) -> Iterator[StarChunk]:
        """Read all stars once."""
        tell = StarProgress(name=f"pass {self._passes + 1}", quiet=1.0)
        for first_row, table in self.source.chunks(self._columns):
            yield self._read(first_row, table)
            if self.progress:
                tell(first_row + len(table) - self.source.first_row, self.source.n_rows)
        self._passes += 1

    def read_units(self) -> None:
        """Read enough to know the units of the labels."""
        for _, table in self.source.chunks(self._columns):
            for column in self.labels.values():
                if column.label is not None:
                    column.unit = label_values(read_column(table, column.label))[2]
            break

    def _read(self, first_row: int, table: Table) -> StarChunk:
        pixel = self._pixel(table)
        members = [
            (group, rows) for group, rows in self._members(table, first_row, pixel) if len(rows)
        ]
        labels = {name: self._label(name, table, pixel) for name in self.labels}
        return StarChunk(first_row, len(table), pixel, members, labels)

    def _leave_out(self, bad: Array, reason: str) -> None:
        if self._passes == 0 and (n := int(np.count_nonzero(bad))):
            self.left_out[reason] += n

    def _pixel(self, table: Table) -> Array:
        pos = bare(read_column(table, self.pos), self.pos, "length", self.units)
        vel = bare(read_column(table, self.vel), self.vel, "velocity", self.units)
        if pos.ndim != 1 or vel.ndim != 1:
            raise ValueError(f"{self.pos} and {self.vel} must hold one number per star")
        self._leave_out(~(np.isfinite(pos) & np.isfinite(vel)), "pos or vel not finite")
        return self.grid.pixel_of(pos, vel).astype(np.int32)

    def _members(self, table: Table, first_row: int, pixel: Array) -> Iterator[tuple[int, Array]]:
        for group, rows in self.groups.members(table, first_row):
            yield group, rows[pixel[rows] >= 0]

    def _label(self, name: str, table: Table, pixel: Array) -> LabelValues | None:
        column = self.labels[name]
        if column.label is None:
            return None
        error = column.error
        if isinstance(error, str):
            error = read_column(table, error)
        value, error, unit = label_values(_in_unit(read_column(table, column.label), column), error)
        column.unit = unit
        value = bare(value, name, None)
        if value.shape != pixel.shape:
            raise ValueError(f"label {name!r} must hold one number per star")
        tests = {f"label {name!r} not finite": np.isfinite(value)}
        variance = np.broadcast_to(0.0, value.shape)
        if error is not None:
            error = bare(error, f"label_err of {name!r}", None)
            reason = f"label_err of {name!r} not finite or not positive"
            tests[reason] = np.broadcast_to(np.isfinite(error) & (error > 0), value.shape)
            variance = np.broadcast_to(error**2, value.shape)
        good = pixel >= 0
        for reason, passed in tests.items():
            self._leave_out(good & ~passed, reason)
            good &= passed
        used = value[good]
        column.largest = max(column.largest, used.max(initial=0.0), -used.min(initial=0.0))
        return LabelValues(value, variance, good)


def _in_unit(label: Any, column: LabelColumn) -> Any:
    """Return a label in the unit that the first chunk had: files of a catalogue may differ."""
    if column.unit is not None and isinstance(label, u.Quantity):
        return label.to(column.unit)
    return label
