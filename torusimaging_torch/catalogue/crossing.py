"""Groups within groups: products of several kinds of groups, and groups of selected stars alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from astropy.table import Table

from torusimaging_torch.catalogue.conditions import parse_condition, select
from torusimaging_torch.catalogue.groups import MAX_GROUPS, Groups, Members, Values, columns_of

__all__ = ["Crossed", "Selected"]


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
        needed = [name for text in self.conditions for name in columns_of(parse_condition(text))]
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
