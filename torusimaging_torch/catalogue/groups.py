"""Which stars belong to which subsample; a star may belong to several, or to none."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.columns import is_missing, kind_of, read_column
from torusimaging_torch.catalogue.conditions import columns_of, read_number, select
from torusimaging_torch.units import Numbers, to_tensor, with_unit

__all__ = [
    "Conditions",
    "Crossed",
    "Groups",
    "Selected",
    "Values",
    "Windows",
    "named",
    "same_units",
    "sliding_windows",
]

Members = Iterator[tuple[int, Array]]
"""The number of a group with the places, in a chunk, of those of its stars that are there."""

_MAX_GROUPS = 100_000


class Groups:
    """What all kinds of groups have.

    Attributes
    ----------
    columns
        The columns to read.
    names
        The names of the groups.
    """

    def __init__(
        self,
        columns: Sequence[str],
        names: Sequence[Hashable],
        described: Mapping[str, Array | u.Quantity],
    ) -> None:
        self.columns, self.names = list(dict.fromkeys(columns)), tuple(names)
        self._described = dict(described)

    def describe(self) -> dict[str, Array | u.Quantity]:
        """Return columns for a table of the groups, each with shape (G,)."""
        return self._described

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each group in a chunk, given its table and the row of its first star.

        Raises
        ------
        astropy.units.UnitConversionError
            If the unit of a column does not fit.
        """
        raise NotImplementedError


class Windows(Groups):
    """Intervals of a column, which may overlap: lower <= value < upper.

    Their names are such as "R_g = 5 to 7 kpc".

    Parameters
    ----------
    column
        The column's name, or an expression such as "abs(z)".
    lower, upper
        The ends of the intervals with shape (G,), Quantities if the column has a unit.
    columns
        The names of the columns to read, if it is an expression.
    """

    def __init__(
        self, column: str, lower: Numbers, upper: Numbers, columns: Collection[str] | None = None
    ) -> None:
        self.column = column
        self.lower: Any = np.atleast_1d(lower)
        self.upper: Any = np.atleast_1d(upper)
        shapes = self.lower.shape, self.upper.shape
        if self.lower.ndim != 1 or shapes[0] != shapes[1] or not np.all(self.lower < self.upper):
            raise ValueError(
                "lower and upper must be one-dimensional with the same length, and lower below "
                f"upper, got {lower} and {upper}"
            )
        unit = f" {self.lower.unit}" if isinstance(self.lower, u.Quantity) else ""
        ends = zip(*(getattr(x, "value", x) for x in (self.lower, self.upper)), strict=True)
        names = [f"{column} = {a:.10g} to {b:.10g}{unit}" for a, b in ends]
        ends_of = {f"{column}_lower": self.lower, f"{column}_upper": self.upper}
        needed = [column] if columns is None else sorted(columns)
        super().__init__(needed, names, {column: 0.5 * (self.lower + self.upper), **ends_of})

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each interval; see `Groups.members`."""
        values, lower, upper = same_units(read_number(table, self.column), self)
        for group, (a, b) in enumerate(zip(lower, upper, strict=True)):
            yield group, np.flatnonzero((values >= a) & (values < b))


def same_units(values: Array | u.Quantity, windows: Windows) -> tuple[Array, Array, Array]:
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


# Numbers this large are none of a catalogue, and their differences may overflow.
_FAR = 1e100


def _number_in(value: Any, name: str, unit: u.UnitBase | None) -> Any:
    """Return one finite number in a unit, if there is one."""
    value = with_unit(value)
    if unit is not None and isinstance(value, u.Quantity):
        try:
            value = value.to_value(unit)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"{name} must have a unit like that of width, '{unit}', got '{value.unit}'"
            ) from None
    elif isinstance(value, u.Quantity) or unit is not None:
        raise u.UnitTypeError(f"{name} and width must both have a unit, or none, got {value!r}")
    number = to_tensor(value, name, None).detach().numpy()
    if number.ndim or not abs(number) < _FAR:
        raise ValueError(f"{name} must be one finite number, got {value}")
    return number[()]


def sliding_windows(
    column: str, start: Numbers, stop: Numbers, step: Numbers, width: Numbers
) -> Windows:
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
    given = {"start": start, "stop": stop, "step": step, "width": width}
    numbers = {name: _number_in(value, name, unit) for name, value in given.items()}
    if not (numbers["step"] > 0 and numbers["width"] > 0 and numbers["stop"] >= numbers["start"]):
        raise ValueError(
            "step and width must be positive and stop not below start, got "
            + ", ".join(f"{name} {value}" for name, value in numbers.items())
        )
    with np.errstate(over="ignore"):
        n = np.floor((numbers["stop"] - numbers["start"]) / numbers["step"] + 1e-9) + 1
    if not n <= _MAX_GROUPS:
        raise ValueError(
            f"step {numbers['step']} makes {n:.4g} windows from start to stop: at most "
            f"{_MAX_GROUPS} are read"
        )
    center = numbers["start"] + numbers["step"] * np.arange(int(n))
    # Ends are rounded so that neighbours that share an end share the very number.
    lower, upper = (np.round(center + sign * numbers["width"] / 2, 12) for sign in (-1, 1))
    if not np.all(lower < upper):
        raise ValueError(f"width must be larger than 1e-12, got {width}: ends are rounded to that")
    return Windows(column, *(end if unit is None else end * unit for end in (lower, upper)))


class Conditions(Groups):
    """Groups by conditions on columns, or by masks.

    Parameters
    ----------
    tests
        For each group's name a condition such as "R > 3 kpc and FE_H > -1", read as in
        `torusimaging_torch.catalogue.conditions`, or an array of booleans, one for each star.
    columns
        The names of the columns that there are.
    """

    def __init__(
        self, tests: Mapping[Hashable, str | Array], columns: Collection[str] = ()
    ) -> None:
        self.tests = tests
        texts = [test for test in tests.values() if isinstance(test, str)]
        super().__init__(_needed(texts, columns), list(tests), {})

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each group; see `Groups.members`."""
        for group, test in enumerate(self.tests.values()):
            if isinstance(test, str):
                yield group, np.flatnonzero(select(table, test))
            else:
                yield group, np.flatnonzero(test[first_row : first_row + len(table)])


def _needed(conditions: Sequence[str], columns: Collection[str]) -> list[str]:
    return [name for text in conditions for name in sorted(columns_of(text, columns))]


class Values(Groups):
    """One group for each value of a column: stars with the same value belong together.

    Their names are the values.

    Parameters
    ----------
    column
        The column's name.
    values
        The distinct values, sorted, with shape (G,).
    """

    def __init__(self, column: str, values: Array) -> None:
        self.column, self.values = column, values
        super().__init__([column], values.tolist(), {column: values})

    @classmethod
    def of(cls, source: StarSource, column: str) -> Values:
        """Read the distinct values of a column; what is missing is none.

        Raises
        ------
        ValueError
            If there are too many of them to be names of groups.
        """
        found: Array | None = None
        for _, table in source.chunks([column]):
            values, there = named(table, column)
            if not there.any():  # whatever kind of values they are not
                continue
            values = np.unique(values[there])
            found = values if found is None else np.union1d(found, values)
            if len(found) > _MAX_GROUPS:
                raise ValueError(
                    f"column {column!r} has more than {_MAX_GROUPS} values; to group stars by "
                    "intervals of it use sliding_windows"
                )
        return cls(column, np.empty(0) if found is None else found)

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each value; see `Groups.members`."""
        values, there = named(table, self.column)
        if not there.any():
            return
        place = np.searchsorted(self.values, values).clip(max=len(self.values) - 1)
        rows = np.flatnonzero((self.values[place] == values) & there)
        order = rows[np.argsort(place[rows], kind="stable")]
        ends = np.cumsum(np.bincount(place[rows], minlength=len(self.values)))
        for group, (end, n) in enumerate(zip(ends, np.diff(ends, prepend=0), strict=True)):
            if n:
                yield group, order[end - n : end]


class Crossed(Groups):
    """Every combination of the groups of several kinds; the last kind varies fastest.

    Their names are such as "R_g = 5 to 7 kpc, population = thin".

    Parameters
    ----------
    factors
        The kinds of groups.

    Raises
    ------
    ValueError
        If two of them are about the same column, or the combinations are too many.
    """

    def __init__(self, factors: Sequence[Groups]) -> None:
        self.factors = tuple(factors)
        described = [name for factor in factors for name in factor.describe()]
        if twice := {name for name in described if described.count(name) > 1}:
            raise ValueError(f"column {min(twice)!r} is in several of the groups to be combined")
        shape = [len(factor.names) for factor in factors]
        if (n := int(np.prod(shape, dtype=float))) > _MAX_GROUPS:
            raise ValueError(f"the groups have {n} combinations, at most {_MAX_GROUPS} are read")
        places = np.indices(shape).reshape(len(shape), -1)
        super().__init__(
            [name for factor in factors for name in factor.columns],
            [", ".join(texts) for texts in product(*map(_texts, factors))],
            {
                name: values[place]
                for factor, place in zip(factors, places, strict=True)
                for name, values in factor.describe().items()
            },
        )

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each combination; see `Groups.members`."""
        found = [(0, np.arange(len(table)))]
        for factor in self.factors:
            here = list(factor.members(table, first_row))
            found = [
                (group * len(factor.names) + other, rows[inside[rows]])
                for other, inside in ((other, _mask(some, len(table))) for other, some in here)
                for group, rows in found
            ]
        yield from sorted(found, key=lambda member: member[0])


def _mask(rows: Array, n: int) -> Array:
    inside = np.zeros(n, dtype=bool)
    inside[rows] = True
    return inside


def _texts(groups: Groups) -> list[str]:
    """Return names that stand for themselves: of a value also its column."""
    prefix = f"{groups.column} = " if isinstance(groups, Values) else ""
    return [f"{prefix}{name}" for name in groups.names]


class Selected(Groups):
    """Groups of those stars alone that fulfil conditions.

    Parameters
    ----------
    groups
        The groups.
    conditions
        Conditions that all must hold, read as in `torusimaging_torch.catalogue.conditions`.
    columns
        The names of the columns that there are.
    """

    def __init__(
        self, groups: Groups, conditions: Sequence[str], columns: Collection[str] = ()
    ) -> None:
        self.groups, self.conditions = groups, tuple(conditions)
        needed = [*groups.columns, *_needed(conditions, columns)]
        super().__init__(needed, groups.names, groups.describe())

    def members(self, table: Table, first_row: int) -> Members:
        """Find the selected stars of each group; see `Groups.members`."""
        keep = np.ones(len(table), dtype=bool)
        for condition in self.conditions:
            keep &= select(table, condition)
        for group, rows in self.groups.members(table, first_row):
            yield group, rows[keep[rows]]


def named(table: Table, column: str) -> tuple[Array, Array]:
    """Return the values of a column by which stars are grouped, bare, and which of them are there.

    Missing texts are empty, and so is a text that is not there in FITS; neither is a group.
    """
    values = read_column(table, column)
    bare, there = np.asarray(getattr(values, "value", values)), ~is_missing(values)
    if kind_of(bare) == "text":
        bare = np.where(there, bare, "").astype(str)
        return bare, bare != ""
    if kind_of(bare) == "truth":
        return np.where(there, bare, False).astype(bool), there
    return bare, there
