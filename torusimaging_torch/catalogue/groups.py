"""Which stars belong to which subsample; a star may belong to several, or to none."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import astropy.units as u
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.conditions import columns_of, read_column, select

__all__ = [
    "MAX_GROUPS",
    "Conditions",
    "Groups",
    "Values",
    "Windows",
    "named",
    "same_units",
    "sliding_windows",
]

Array = NDArray[Any]
Members = Iterator[tuple[int, Array]]
"""The number of a group with the places, in a chunk, of those of its stars that are there."""

MAX_GROUPS = 100_000
"""The largest number of groups."""


@runtime_checkable
class Groups(Protocol):
    """What all kinds of groups have."""

    @property
    def columns(self) -> list[str]:
        """The columns to read."""

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The names of the groups."""

    def describe(self) -> dict[str, Any]:
        """Return columns for a table of the groups, each with shape (G,)."""

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each group in a chunk."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Intervals of a column, which may overlap: lower <= value < upper.

    Attributes
    ----------
    column
        The column's name.
    lower, upper
        The ends of the intervals with shape (G,), Quantities if the column has a unit.
    """

    column: str
    lower: Any
    upper: Any

    def __post_init__(self) -> None:
        """Check the intervals."""
        lower, upper = np.atleast_1d(self.lower), np.atleast_1d(self.upper)
        if lower.ndim != 1 or lower.shape != upper.shape or not np.all(lower < upper):
            raise ValueError(
                "lower and upper must be one-dimensional with the same length, and lower below "
                f"upper, got {self.lower} and {self.upper}"
            )
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return [self.column]

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The names of the groups, such as "R_g = 5 to 7 kpc"."""
        unit = f" {self.lower.unit}" if isinstance(self.lower, u.Quantity) else ""
        ends = zip(*(getattr(x, "value", x) for x in (self.lower, self.upper)), strict=True)
        return tuple(f"{self.column} = {a:.10g} to {b:.10g}{unit}" for a, b in ends)

    def describe(self) -> dict[str, Any]:
        """Return columns for a table of the groups, each with shape (G,)."""
        name = self.column
        center = 0.5 * (self.lower + self.upper)
        return {name: center, f"{name}_lower": self.lower, f"{name}_upper": self.upper}

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each group in a chunk.

        Raises
        ------
        astropy.units.UnitConversionError
            If the unit of the column does not fit that of the intervals.
        """
        values, lower, upper = same_units(read_column(table, self.column), self)
        for group, (a, b) in enumerate(zip(lower, upper, strict=True)):
            yield group, np.flatnonzero((values >= a) & (values < b))


def same_units(values: Any, windows: Windows) -> tuple[Array, Array, Array]:
    """Return bare values, lower and upper ends, in the unit of the values."""
    ends = windows.lower, windows.upper
    if isinstance(values, u.Quantity) and isinstance(ends[0], u.Quantity):
        try:
            lower, upper = (end.to_value(values.unit) for end in ends)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"column {windows.column!r} has the unit '{values.unit}', its windows have "
                f"'{ends[0].unit}'"
            ) from None
        return values.value, lower, upper
    if isinstance(values, u.Quantity) or isinstance(ends[0], u.Quantity):
        which = "the column has" if isinstance(values, u.Quantity) else "the windows have"
        raise u.UnitConversionError(
            f"of column {windows.column!r} and its windows only {which} a unit; give both one"
        )
    return values, ends[0], ends[1]


def sliding_windows(column: str, start: Any, stop: Any, step: Any, width: Any) -> Windows:
    """Return windows of one width whose centres run from start to stop, both included.

    Parameters
    ----------
    column
        The column's name.
    start, stop, step, width
        The first and the last centre, the distance between centres and the width of a window;
        Quantities if the column has a unit. The last centre is the last step not beyond stop.

    Raises
    ------
    ValueError
        If step or width are not positive, or stop is below start.

    Examples
    --------
    >>> import astropy.units as u
    >>> from torusimaging_torch.catalogue import sliding_windows
    >>> sliding_windows("R", 6 * u.kpc, 7 * u.kpc, 0.5 * u.kpc, 2 * u.kpc).names
    ('R = 5 to 7 kpc', 'R = 5.5 to 7.5 kpc', 'R = 6 to 8 kpc')
    """
    unit = getattr(width, "unit", None)
    numbers = {"start": start, "stop": stop, "step": step, "width": width}
    if unit is not None:
        numbers = {name: u.Quantity(value, unit).value for name, value in numbers.items()}
    if not (numbers["step"] > 0 and numbers["width"] > 0 and numbers["stop"] >= numbers["start"]):
        raise ValueError(
            "step and width must be positive and stop not below start, got "
            + ", ".join(f"{name} {value}" for name, value in numbers.items())
        )
    n = int(np.floor((numbers["stop"] - numbers["start"]) / numbers["step"] + 1e-9)) + 1
    if n > MAX_GROUPS:
        raise ValueError(f"step {numbers['step']} makes {n} windows: at most {MAX_GROUPS} are read")
    center = numbers["start"] + numbers["step"] * np.arange(n)
    # Ends are rounded so that neighbours that share an end share the very number.
    lower, upper = (np.round(center + sign * numbers["width"] / 2, 12) for sign in (-1, 1))
    return Windows(column, *(end if unit is None else end * unit for end in (lower, upper)))


@dataclass(frozen=True, eq=False)
class Conditions:
    """Groups by conditions on columns, or by masks.

    Attributes
    ----------
    tests
        For each group's name a condition such as "R > 3 kpc and FE_H > -1", read as in
        `torusimaging_torch.catalogue.conditions`, or an array of booleans, one for each star of a
        catalogue in memory.
    """

    tests: Mapping[Hashable, Any]

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        texts = [test for test in self.tests.values() if isinstance(test, str)]
        return sorted(set().union(*map(columns_of, texts)))

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The names of the groups."""
        return tuple(self.tests)

    def describe(self) -> dict[str, Any]:
        """Return columns for a table of the groups: none besides the name."""
        return {}

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each group in a chunk."""
        for group, test in enumerate(self.tests.values()):
            if isinstance(test, str):
                yield group, np.flatnonzero(select(table, test))
            else:
                yield group, np.flatnonzero(test[first_row : first_row + len(table)])


@dataclass(frozen=True, eq=False)
class Values:
    """One group for each value of a column: stars with the same value belong together.

    Attributes
    ----------
    column
        The column's name.
    values
        The distinct values, sorted, with shape (G,).
    """

    column: str
    values: Array

    @classmethod
    def of(cls, source: StarSource, column: str) -> Values:
        """Read the distinct values of a column; nan is none.

        Raises
        ------
        ValueError
            If there are too many of them to be names of groups.
        """
        found: Array | None = None
        for _, table in source.chunks([column]):
            values = named(table, column)
            values = np.unique(values[values == values])  # nan is not itself
            found = values if found is None else np.union1d(found, values)
            if len(found) > MAX_GROUPS:
                raise ValueError(
                    f"column {column!r} has more than {MAX_GROUPS} values; to group stars by "
                    "intervals of it use sliding_windows"
                )
        return cls(column, np.empty(0) if found is None else found)

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return [self.column]

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The names of the groups, which are the values."""
        return tuple(self.values.tolist())

    def describe(self) -> dict[str, Any]:
        """Return columns for a table of the groups."""
        return {self.column: self.values}

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each group in a chunk."""
        values = named(table, self.column)
        place = np.searchsorted(self.values, values).clip(max=len(self.values) - 1)
        rows = np.flatnonzero(self.values[place] == values)
        order = rows[np.argsort(place[rows], kind="stable")]
        ends = np.cumsum(np.bincount(place[rows], minlength=len(self.values)))
        for group, (end, n) in enumerate(zip(ends, np.diff(ends, prepend=0), strict=True)):
            if n:
                yield group, order[end - n : end]


def named(table: Table, column: str) -> Array:
    """Return the values of a column by which stars are grouped, without a unit; texts as texts."""
    values = read_column(table, column)
    bare = np.asarray(getattr(values, "value", values))
    return bare.astype(str) if bare.dtype.kind == "O" else bare
