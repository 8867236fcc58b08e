"""Stars as pixels, labels and groups, bare and checked, for passes over them.

Stars that cannot be used are counted by reason. One function reads the arrays of
`torusimaging_torch.data.get_binned_label` and the chunks of a catalogue.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Table
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.columns import read_column
from torusimaging_torch.catalogue.groups import Groups
from torusimaging_torch.catalogue.sentinels import Sentinels
from torusimaging_torch.data.arguments import Label, bare, has_unit
from torusimaging_torch.data.grid import Grid
from torusimaging_torch.units import Numbers, label_values

__all__ = ["Part", "StarChunk", "StarReader", "warn_left_out"]

_log = logging.getLogger(__name__)


class Part(NamedTuple):
    """The stars of one group in a chunk that one label can use.

    Attributes
    ----------
    group
        The group's number.
    rows
        The places of the stars in the chunk.
    pixel
        Their flat pixel index, in [0, n_pixels).
    label, variance
        Labels and squared errors, 0 where errors are not known; empty where stars are counted. All
        else has shape (N,).
    weight
        Weights of the stars; None if all count alike.
    """

    group: int
    rows: Array
    pixel: Array
    label: Array
    variance: Array
    weight: Array | None = None


class _Values(NamedTuple):
    """Labels, squared errors and weights of a chunk, and which of its stars can be used."""

    label: Array
    variance: Array
    good: Array
    weight: Array | None


@dataclass(frozen=True)
class StarChunk:
    """Stars of a chunk.

    Attributes
    ----------
    first_row
        The row of the first star.
    pixel
        Flat pixel index with shape (N,), -1 off the grid.
    members
        For each group its number and the places of its stars in the chunk.
    values
        Labels by name; None where stars are counted.
    """

    first_row: int
    pixel: Array
    members: list[tuple[int, Array]]
    values: Mapping[str, _Values | None]
    _parts: dict[str, list[Part]] = field(default_factory=dict)

    def parts(self, name: str) -> list[Part]:
        """Return the stars that one label can use, group by group; groups without any are not."""
        if name not in self._parts:
            values = self.values[name]
            good = self.pixel >= 0 if values is None else values.good
            found = [
                _part(group, rows[good[rows]], self.pixel, values) for group, rows in self.members
            ]
            self._parts[name] = [part for part in found if len(part.rows)]
        return self._parts[name]


def _part(group: int, rows: Array, pixel: Array, values: _Values | None) -> Part:
    if values is None:
        return Part(group, rows, pixel[rows], np.empty(0), np.empty(0))
    weight = None if values.weight is None else values.weight[rows]
    return Part(group, rows, pixel[rows], values.label[rows], values.variance[rows], weight)


# Beyond this fraction off the grid something else is wrong than a few fast stars.
_MOST, _FEW = 0.9, 10
_LARGEST = 1e150
# Nor is an error of whose weight, its inverse square, the third power is infinite.
_SMALLEST = 1e-50


@dataclass
class StarReader:
    """Reads stars, as often as need be; those that fit in one chunk once.

    Attributes
    ----------
    source
        A catalogue, or a mapping of names to arrays.
    kinds
        Which stars belong to which group; None for one group of all stars.
    grid
        The pixels.
    units
        The unit system of the grid.
    labels
        What is binned, by name.
    pos, vel
        Names of the columns of position and velocity.
    progress
        Whether to tell on standard error how far each pass is.
    left_out
        How many stars cannot be used, by reason.
    n_read, n_off
        Number of stars that were read, and of those off the grid.
    sentinels
        Numbers on the grid that look as if they stood for missing ones.
    """

    source: StarSource | Mapping[str, object]
    kinds: Groups | None
    grid: Grid
    units: UnitSystem
    labels: dict[str, Label]
    pos: str = "pos"
    vel: str = "vel"
    progress: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    n_read: int = 0
    n_off: int = 0
    sentinels: Sentinels = field(default_factory=Sentinels)
    _passes: int = 0
    _kept: StarChunk | None = None

    @property
    def groups(self) -> tuple[Hashable, ...]:
        """The names of the groups."""
        return ("all",) if self.kinds is None else self.kinds.names

    def chunks(self) -> Iterator[StarChunk]:
        """Go through all stars once."""
        if self._kept is not None:
            yield self._kept
            return
        text = f"pass {self._passes + 1}" if self.progress else ""
        for first_row, table in self._tables(text):
            chunk = self._read(first_row, table)
            if isinstance(self.source, Mapping) or len(table) == self.source.n_rows:
                self._kept = chunk
            yield chunk
        self._passes += 1

    def read_units(self) -> None:
        """Read enough to know the units of the labels."""
        table = next(iter(self._tables()))[1]
        for label in self.labels.values():
            if label.column is not None:
                label.unit = label_values(_column(table, label.column))[2]

    def _tables(self, progress: str = "") -> Iterable[tuple[int, Table | Mapping[str, object]]]:
        if isinstance(self.source, Mapping):
            return [(0, self.source)]
        labels = [name for label in self.labels.values() for name in (label.column, label.error)]
        groups = [] if self.kinds is None else self.kinds.columns
        names = dict.fromkeys([self.pos, self.vel, *labels, *groups])
        return self.source.chunks([name for name in names if isinstance(name, str)], progress)

    def _read(self, first_row: int, table: object) -> StarChunk:
        columns = _column(table, self.pos), _column(table, self.vel)
        pos = bare(columns[0], self.pos, "length", self.units)
        vel = bare(columns[1], self.vel, "velocity", self.units)
        self._check_units(*columns)
        if pos.shape == vel.shape == (0,):
            raise ValueError(f"{self.pos} and {self.vel} must be those of one star at least")
        if pos.ndim != 1 or pos.shape != vel.shape or not pos.size:
            raise ValueError(
                f"{self.pos} and {self.vel} must be one-dimensional with one value per star, got "
                f"shapes {pos.shape} and {vel.shape}"
            )
        self._leave_out(~(np.isfinite(pos) & np.isfinite(vel)), "pos or vel not finite")
        pixel = self.grid.pixel_of(pos, vel)
        if self._passes == 0:
            self.n_read, self.n_off = self.n_read + len(pixel), self.n_off + int((pixel < 0).sum())
            for name, column in zip((self.pos, self.vel), columns, strict=True):
                self._look(name, column, pixel >= 0)
        values = {name: self._values(label, table, pixel) for name, label in self.labels.items()}
        everyone = [(0, np.arange(len(pixel)))]
        members = everyone if self.kinds is None else list(self.kinds.members(table, first_row))
        return StarChunk(first_row, pixel, members, values)

    def _check_units(self, pos: Numbers, vel: Numbers) -> None:
        """Raise where stars have a unit and the pixels have none, or the other way round."""
        names = ((self.pos, "bins['pos']"), (self.vel, "bins['vel']"))
        for (name, edges), value, known in zip(names, (pos, vel), self.grid.has_units, strict=True):
            # Tensors are in model units always: they cannot say otherwise.
            if not isinstance(value, Tensor) and has_unit(value) != known:
                first, second = (name, edges) if not known else (edges, name)
                raise ValueError(
                    f"{first} has a unit and {second} has none, which would be taken for one of "
                    "the model's unit system: give both a unit, or neither"
                )

    def _look(self, name: str, column: object, used: Array) -> None:
        # Of the short floats of torch NumPy knows one.
        values = column.detach().cpu().double() if isinstance(column, Tensor) else column
        self.sentinels.look(name, np.asarray(getattr(values, "value", values))[used])

    def _leave_out(self, bad: Array, reason: str) -> None:
        if self._passes == 0 and (n := int(np.count_nonzero(bad))):
            self.left_out[reason] += n

    def _values(self, label: Label, table: object, pixel: Array) -> _Values | None:
        """Read a label; its stars have a finite label and, if any, a finite positive error."""
        if label.column is None:
            return None
        column, key = _column(table, label.column), label.key
        if label.unit is not None and isinstance(column, u.Quantity):
            column = column.to(label.unit)  # that of the first chunk: files of a catalogue differ
        error = _column(table, label.error) if isinstance(label.error, str) else label.error
        column, error, label.unit = label_values(column, error)
        value = _one_per_star(column, "label" + key, pixel.shape)
        # A number whose square is infinite is none to take a mean and a scatter of.
        tests = {f"label{key} not finite": np.abs(value) < _LARGEST}
        variance = np.broadcast_to(0.0, value.shape)
        if error is not None:
            error = _read_errors(error, f"label_err{key}", pixel.shape)
            if not error.any() and (error.ndim == 0 or isinstance(table, Mapping)):
                raise ValueError(f"label_err{key} is 0 for all stars; pass None if not known")
            reason = f"label_err{key} not finite or not positive"
            tests[reason] = (error > _SMALLEST) & (error < _LARGEST)
            with np.errstate(over="ignore"):
                variance = np.broadcast_to(error**2, value.shape)
        weight = None
        if label.weight is not None:
            weight = _one_per_star(_column(table, label.weight), f"weights{key}", pixel.shape)
            tests[f"weights{key} not finite or negative"] = np.isfinite(weight) & (weight >= 0)
        good = pixel >= 0
        for reason, passed in tests.items():
            self._leave_out(good & ~passed, reason)
            good &= passed
        if self._passes == 0:
            self._look(f"label{key}", value, good)
        used = value[good]
        label.largest = max(label.largest, used.max(initial=0.0), -used.min(initial=0.0))
        return _Values(value, variance, good, weight)


def _column(table: object, name: str) -> Any:
    return table[name] if isinstance(table, Mapping) else read_column(table, name)


def _read_errors(label_err: Numbers, name: str, shape: tuple[int, ...]) -> Array:
    error = bare(label_err, name, None)
    if error.shape not in ((), shape):
        raise ValueError(
            f"{name} must be one number or one per star, got shape {error.shape} for "
            f"{shape[0]} stars"
        )
    return error


def _one_per_star(values: object, name: str, shape: tuple[int, ...]) -> Array:
    found = bare(values, name, None)
    if found.shape != shape:
        raise ValueError(
            f"{name} must have one value per star, got shape {found.shape} for {shape[0]} stars"
        )
    return found


def warn_left_out(reader: StarReader) -> None:
    """Warn, at the line that called the caller, of stars left out and of those that should be."""
    _log.info("%d stars read, %d of them off the grid", reader.n_read, reader.n_off)
    if reader.n_off > _MOST * max(reader.n_read, _FEW):
        warnings.warn(
            f"{reader.n_off} of {reader.n_read} stars are off the grid: are positions and "
            "velocities in the units that they carry, and is the grid where the stars are?",
            RuntimeWarning,
            stacklevel=3,
        )
    reader.sentinels.warn(stacklevel=3)
    if reader.left_out:
        reasons = "; ".join(f"{n} with {reason}" for reason, n in reader.left_out.items())
        warnings.warn(f"stars left out: {reasons}", UserWarning, stacklevel=3)
