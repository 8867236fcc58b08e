"""What a user says groups are: texts, columns, conditions, masks, and products of several."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.conditions import columns_of, parse_condition, read_column, select
from torusimaging_torch.catalogue.groups import (
    MAX_GROUPS,
    Conditions,
    Groups,
    Members,
    Values,
    Windows,
    named,
    same_units,
    sliding_windows,
)

__all__ = ["GROUP_GRAMMAR", "Crossed", "Selected", "read_groups"]

Array = NDArray[Any]

GROUP_GRAMMAR = (
    "'COLUMN: START..STOP step STEP [width WIDTH] [UNIT]' for windows with centres from START to "
    "STOP, as 'R_g: 6..12 step 0.25 width 2 kpc'; 'COLUMN in A, B, ...' for some values of a "
    "column, as 'population in thin, thick'; or 'COLUMN' for all of them"
)
"""How a text says what groups are."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WINDOWS = re.compile(
    rf"(?P<column>[^:]+?)\s*:\s*(?P<start>{_NUMBER})\s*\.\.\s*(?P<stop>{_NUMBER})"
    rf"\s+step\s+(?P<step>{_NUMBER})(?:\s+width\s+(?P<width>{_NUMBER}))?"
    r"(?:\s*(?P<unit>(?!step\b|width\b)[A-Za-z].*))?"
)
_CHOICE = re.compile(r"(?P<column>\S.*?)\s+in\s+(?P<values>\S.*)")


def read_groups(groups: Any, source: StarSource) -> Groups:
    """Read what a user says groups are.

    Parameters
    ----------
    groups
        A text as in `GROUP_GRAMMAR`; a list of such texts, for all combinations; `Windows`,
        `Values` or other groups; a mapping of names to conditions or masks, see `Conditions`; or
        None for all stars in one group.
    source
        The catalogue.

    Raises
    ------
    ValueError
        If a text cannot be read, there are no groups, or a mask does not have one value per star.
    KeyError
        If a text is about a column that does not exist.
    TypeError
        If groups are none of these.
    astropy.units.UnitConversionError
        If the unit of windows is not one of the column's.
    """
    if groups is None:
        found: Groups = Conditions({"all": np.broadcast_to(True, source.catalogue_rows)})
    elif isinstance(groups, str):
        found = _read_text(groups.strip(), source)
    elif isinstance(groups, Mapping):
        found = Conditions({name: _test(name, test, source) for name, test in groups.items()})
    elif isinstance(groups, Sequence) and groups and all(isinstance(x, str) for x in groups):
        found = Crossed(tuple(_read_text(text.strip(), source) for text in groups))
    elif isinstance(groups, Groups):
        found = groups
    else:
        raise TypeError(
            "groups must be one text or several, windows, a mapping of names to conditions or "
            f"masks, or None, got {type(groups).__name__}"
        )
    if not found.names:
        raise ValueError("there are no groups: groups is empty, or its column has no values")
    return found


def _read_text(text: str, source: StarSource) -> Groups:
    # A column may have any name: one that is there is meant.
    if text in source.names:
        return Values.of(source, text)
    match = _WINDOWS.fullmatch(text) or _CHOICE.fullmatch(text)
    if match is None and re.search(r":|\.\.|\bstep\b|\bwidth\b", text):
        raise ValueError(f"cannot read the group {text!r}: expected {GROUP_GRAMMAR}")
    column = text if match is None else match["column"]
    if column not in source.names:
        raise KeyError(
            f"no column {column!r} for groups; the catalogue has {', '.join(source.names)}; "
            f"expected {GROUP_GRAMMAR}"
        )
    assert match is not None
    first = next(table for _, table in source.chunks([column]))
    try:
        return _windows(match, first) if "start" in match.groupdict() else _choice(match, first)
    except (ValueError, TypeError) as error:  # of which wrong units are a kind
        raise type(error)(f"in the group {text!r}: {error}") from None


def _windows(match: re.Match[str], table: Table) -> Windows:
    column, unit = match["column"], _unit(match["unit"])
    values = read_column(table, column)
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise ValueError(f"column {column!r} does not hold one number per star")
    if unit is None and isinstance(values, u.Quantity):
        unit = values.unit
    numbers = [float(match[name]) for name in ("start", "stop", "step")]
    numbers.append(float(match["width"] or match["step"]))
    windows = sliding_windows(column, *(x if unit is None else x * unit for x in numbers))
    same_units(values, windows)
    return windows


def _unit(text: str | None) -> u.UnitBase | None:
    if text is None:
        return None
    try:
        return u.Unit(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a unit that astropy knows") from None


def _choice(match: re.Match[str], table: Table) -> Values:
    kind = named(table, match["column"]).dtype
    texts = [text.strip() for text in match["values"].split(",")]
    if not all(texts):
        raise ValueError("between two commas there is nothing")
    values = np.array([text.strip("'\"") for text in texts])
    if kind.kind in "iuf":
        try:
            values = values.astype(kind)
        except ValueError:
            raise ValueError(
                f"column {match['column']!r} holds numbers, got {match['values']!r}"
            ) from None
    return Values(match["column"], np.unique(values))


def _test(name: Hashable, test: Any, source: StarSource) -> Any:
    if isinstance(test, str):
        parse_condition(test)
        return test
    mask = np.asarray(test)
    if mask.dtype != bool or mask.shape != (source.catalogue_rows,):
        raise ValueError(
            f"group {name!r} must be a condition or booleans, one for each of the "
            f"{source.catalogue_rows} stars, got {mask.dtype} with shape {mask.shape}"
        )
    return mask


@dataclass(frozen=True, eq=False)
class Crossed:
    """Every combination of the groups of several kinds; the last kind varies fastest.

    Attributes
    ----------
    factors
        The kinds of groups.

    Raises
    ------
    ValueError
        If two of them are about the same column, or the combinations are too many.
    """

    factors: tuple[Groups, ...]

    def __post_init__(self) -> None:
        """Check that the combinations make sense."""
        described = [name for factor in self.factors for name in factor.describe()]
        if twice := {name for name in described if described.count(name) > 1}:
            raise ValueError(f"column {min(twice)!r} is in several of the groups to be combined")
        if (n := int(np.prod(self._shape, dtype=float))) > MAX_GROUPS:
            raise ValueError(f"the groups have {n} combinations, at most {MAX_GROUPS} are read")

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(len(factor.names) for factor in self.factors)

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys(name for factor in self.factors for name in factor.columns))

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The names of the combinations, such as "R_g = 5 to 7 kpc, population = thin"."""
        return tuple(", ".join(texts) for texts in product(*map(_texts, self.factors)))

    def describe(self) -> dict[str, Any]:
        """Return the columns of all kinds, each with shape (G,)."""
        places = np.indices(self._shape).reshape(len(self.factors), -1)
        return {
            name: values[place]
            for factor, place in zip(self.factors, places, strict=True)
            for name, values in factor.describe().items()
        }

    def members(self, table: Table, first_row: int) -> Members:
        """Find the stars of each combination in a chunk."""
        yield from self._members(table, first_row, self.factors)

    def _members(self, table: Table, first_row: int, factors: tuple[Groups, ...]) -> Members:
        first, *rest = factors
        if not rest:
            yield from first.members(table, first_row)
            return
        others = list(self._members(table, first_row, tuple(rest)))
        n_others = int(np.prod([len(factor.names) for factor in rest]))
        for group, rows in first.members(table, first_row):
            inside = np.zeros(len(table), dtype=bool)
            inside[rows] = True
            for other, other_rows in others:
                yield group * n_others + other, other_rows[inside[other_rows]]


def _texts(groups: Groups) -> list[str]:
    """Return names that stand for themselves: of a value also its column."""
    prefix = f"{groups.column} = " if isinstance(groups, Values) else ""
    return [f"{prefix}{name}" for name in groups.names]


@dataclass(frozen=True, eq=False)
class Selected:
    """Groups of those stars alone that fulfil conditions.

    Attributes
    ----------
    groups
        The groups.
    conditions
        Conditions that all must hold, read as in `torusimaging_torch.catalogue.conditions`.
    """

    groups: Groups
    conditions: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        needed = [name for text in self.conditions for name in columns_of(text)]
        return list(dict.fromkeys([*self.groups.columns, *needed]))

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The names of the groups."""
        return self.groups.names

    def describe(self) -> dict[str, Any]:
        """Return columns for a table of the groups, each with shape (G,)."""
        return self.groups.describe()

    def members(self, table: Table, first_row: int) -> Members:
        """Find the selected stars of each group in a chunk."""
        keep = np.ones(len(table), dtype=bool)
        for condition in self.conditions:
            keep &= select(table, condition)
        for group, rows in self.groups.members(table, first_row):
            yield group, rows[keep[rows]]
