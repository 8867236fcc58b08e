"""Where the rows of a catalogue are: in a table in memory, in a file, or in several files.

Several files are one catalogue. What depends on units and kinds of columns is decided once, for
all of them, from what each says of itself, before a star is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import astropy.units as u
import numpy as np
from astropy.table import MaskedColumn, QTable, Table
from torch import Tensor

from torusimaging_torch.catalogue.columns import kind_of
from torusimaging_torch.catalogue.files import ParquetStars

__all__ = ["Chunk", "Frame", "ManyFiles", "Rows", "TableStars", "is_frame", "table_of"]

Chunk = tuple[int, Table]
"""The row number of the first star, and the stars."""

_KINDS = {"number": "numbers", "text": "texts", "truth": "truth values"}


class Frame(Protocol):
    """A DataFrame of pandas, which need not be here, or what is made of one."""

    @property
    def columns(self) -> Iterable[object]:
        """Return names."""

    def items(self) -> Iterable[tuple[object, object]]:
        """Return names and columns."""


class Rows(Protocol):
    """Where stars are: counted, with named columns, read by the chunk."""

    @property
    def n_rows(self) -> int:
        """The number of stars."""

    @property
    def names(self) -> list[str]:
        """The names of the columns."""

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""


def is_frame(stars: object) -> TypeGuard[Frame]:
    """Return whether this is a DataFrame of pandas, or made of one."""
    return hasattr(stars, "columns") and hasattr(stars, "items")


def _plain(column: object) -> object:
    # Tables of astropy take neither tensors nor columns of pandas that pyarrow holds, as of LSDB.
    if isinstance(column, Tensor):
        return column.detach().cpu().numpy()
    return column.to_numpy() if hasattr(column, "to_numpy") else column


def table_of(stars: Mapping[str, object] | Frame) -> QTable:
    """Make a table of a mapping of columns, or of a DataFrame.

    Raises
    ------
    TypeError
        If a column is one value alone.
    ValueError
        If columns differ in length, or their rows do.
    """
    columns = {str(name): _plain(column) for name, column in stars.items()}
    for name, x in columns.items():
        if isinstance(x, (str, bytes, Mapping)) or not np.iterable(x):
            raise TypeError(f"column {name!r} must have a value for each star, got {x!r}")
    try:
        return QTable(columns, copy=False)
    except ValueError as error:
        raise ValueError(f"columns must have one value for each star: {error}") from None


@dataclass(frozen=True)
class TableStars:
    """A table in memory.

    Attributes
    ----------
    table
        The stars.
    name
        Where they came from, for errors.
    """

    table: Table
    name: str = "the table"

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        return len(self.table)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.table.colnames)

    def described(self, name: str) -> tuple[u.UnitBase | None, str]:
        """Return the unit of a column, None if it has none, and its kind; see `kind_of`."""
        column = self.table[name]
        return getattr(column, "unit", None), kind_of(np.ma.getdata(np.ma.asarray(column)))

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        part = type(self.table)([self.table[name] for name in names], names=names, copy=False)
        for start in range(0, self.n_rows, size):
            yield start, part[start : start + size]


@dataclass(frozen=True)
class ManyFiles:
    """Files one after the other; rows are counted through all of them.

    Columns come in the units of the first file.

    Attributes
    ----------
    parts
        The files.
    given
        The columns whose units are told otherwise, so that the files need not agree on them.
    """

    parts: tuple[TableStars | ParquetStars, ...]
    given: frozenset[str] = frozenset()

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        return sum(part.n_rows for part in self.parts)

    @property
    def names(self) -> list[str]:
        """The names of the columns that all files have."""
        others = [set(part.names) for part in self.parts[1:]]
        return [name for name in self.parts[0].names if all(name in names for names in others)]

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns.

        Raises
        ------
        ValueError
            If the files hold different kinds of things in a column, or only some have its unit.
        astropy.units.UnitConversionError
            If their units do not convert into each other.
        """
        agreed = {name: self._agreed(name) for name in names}
        before = 0
        for part in self.parts:
            for start, table in part.chunks(names, size):
                for name, (unit, kind) in agreed.items():
                    _convert(table, name, unit, kind)
                yield before + start, table
            before += part.n_rows

    def _agreed(self, name: str) -> tuple[u.UnitBase | None, str]:
        """Return the unit in which a column of all files comes, None if it has none; its kind."""
        # What a file without stars says of its columns, such as that they are texts, means nothing.
        with_stars = [part for part in self.parts if part.n_rows] or self.parts
        found = [(part, *part.described(name)) for part in with_stars]
        first, unit, _ = found[0]
        kinds = {kind: part.name for part, _, kind in found if kind in _KINDS}
        if len(kinds) > 1:
            (one, here), (other, there) = list(kinds.items())[:2]
            raise ValueError(
                f"column {name!r} holds {_KINDS[one]} in {here} and {_KINDS[other]} in {there}"
            )
        kind = next(iter(kinds), "")
        if name in self.given:
            return None, kind
        for part, other_unit, _ in found[1:]:
            if (unit is None) != (other_unit is None):
                pair = (first.name, part.name) if other_unit is None else (part.name, first.name)
                raise ValueError(
                    f"column {name!r} has a unit in {pair[0]} and none in {pair[1]}: say which it "
                    f"is, for all files, as {name}={unit if other_unit is None else other_unit}"
                )
            if unit is not None and not u.Unit(other_unit).is_equivalent(unit):
                raise u.UnitConversionError(
                    f"column {name!r} has the unit '{unit}' in {first.name} and '{other_unit}' in "
                    f"{part.name}, which do not convert into each other"
                )
        return unit, kind


def _convert(table: Table, name: str, unit: u.UnitBase | None, kind: str) -> None:
    """Give a column of a table a unit, if it has another one, and a kind if nothing is there."""
    column = table[name]
    values, own = np.ma.asarray(getattr(column, "value", column)), getattr(column, "unit", None)
    if kind in ("text", "truth") and not kind_of(np.ma.getdata(values)):
        blank = np.zeros(len(table), dtype=bool if kind == "truth" else "U1")
        table[name] = MaskedColumn(blank, mask=True)
    elif unit is not None and own is not None and own != unit:
        factor = own.to(unit)
        exact = isinstance(column, u.Quantity)
        table[name] = column.to(unit) if exact else MaskedColumn(values * factor, unit=unit)
