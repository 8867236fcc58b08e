"""Catalogues read a chunk at a time, from memory, parquet or FITS, in the memory of one chunk.

Each chunk is a small table of the columns asked for, with the row number of its first star.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
from astropy.table import QTable, Table

from torusimaging_torch.catalogue.files import FitsStars, ParquetStars

__all__ = ["CHUNK_ROWS", "StarSource", "TableStars", "open_stars"]

CHUNK_ROWS = 1 << 18
"""How many stars are read at a time, unless it is said otherwise."""

Chunk = tuple[int, Table]
"""The row number of the first star, and the stars."""


def _missing(names: Sequence[str], have: Sequence[str], where: str) -> str | None:
    absent = [name for name in names if name not in have]
    return f"no column {absent[0]!r} in {where}: it has {', '.join(have)}" if absent else None


@dataclass(frozen=True)
class TableStars:
    """A table in memory.

    Attributes
    ----------
    table
        The stars.
    """

    table: Table

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        return len(self.table)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.table.colnames)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        part = type(self.table)([self.table[name] for name in names], names=names, copy=False)
        for start in range(0, self.n_rows, size):
            yield start, part[start : start + size]


@dataclass(frozen=True)
class _ManyFiles:
    """Files one after the other; rows are counted through all of them."""

    parts: tuple[Any, ...]

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
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        before = 0
        for part in self.parts:
            for start, table in part.chunks(names, size):
                yield before + start, table
            before += part.n_rows


_Rows = TableStars | ParquetStars | FitsStars | _ManyFiles


@dataclass(frozen=True)
class StarSource:
    """A catalogue that can be read in chunks as often as need be.

    Attributes
    ----------
    rows
        Where the stars are.
    first_row
        The number of the first star, if this is a part of a larger catalogue.
    total_rows
        The number of stars of the larger catalogue; by default that of this one.
    units
        Units of columns, as texts or units, in place of what the catalogue says.
    size
        How many stars to read at a time.
    """

    rows: _Rows
    first_row: int = 0
    total_rows: int | None = None
    units: Mapping[str, Any] | None = None
    size: int = CHUNK_ROWS

    @property
    def n_rows(self) -> int:
        """The number of stars here."""
        return self.rows.n_rows

    @property
    def catalogue_rows(self) -> int:
        """The number of stars of the whole catalogue, of which this may be a part."""
        return self.first_row + self.n_rows if self.total_rows is None else self.total_rows

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """Iterate over chunks with the named columns.

        Yields
        ------
        first_row, table
            The number of the chunk's first star in the whole catalogue, and a table with units.

        Raises
        ------
        KeyError
            If there is no such column; the message lists those that there are.
        """
        if message := _missing(names, self.rows.names, "the catalogue"):
            raise KeyError(message)
        for start, table in self.rows.chunks(names, self.size):
            for name in set(names) & set(self.units or ()):
                _set_unit(table, name, u.Unit(self.units[name]))  # type: ignore[index]
            yield self.first_row + start, table


def _set_unit(table: Table, name: str, unit: u.UnitBase) -> None:
    column = table[name]
    if isinstance(column, u.Quantity):  # whose unit cannot be exchanged
        table[name] = u.Quantity(column.value, unit)
    else:
        column.unit = unit


def _open_file(path: str | os.PathLike[str]) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    endings = [suffix.lower() for suffix in path.suffixes]
    if endings[-1:] in ([".parquet"], [".pq"]):
        return ParquetStars(path)
    if endings[-1:] in ([".fits"], [".fit"]):
        return FitsStars(path)
    raise ValueError(
        f"cannot read {path} in chunks: expected a name that ends in .parquet or .fits; "
        "compressed files and other tables can be read with astropy.table.QTable.read and passed "
        "as a table"
    )


def open_stars(
    stars: Any,
    *,
    units: Mapping[str, Any] | None = None,
    first_row: int = 0,
    total_rows: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> StarSource:
    """Open a catalogue for reading in chunks.

    Parameters
    ----------
    stars
        A table of astropy, a mapping of column names to arrays, the path of a parquet or FITS
        file, or a sequence of such paths, which count as one catalogue in that order.
    units
        Units of columns by name, in place of what the catalogue says; a parquet file that astropy
        did not write says nothing.
    first_row, total_rows
        If this is a part of a larger catalogue (one shard of a run), the number of its first star
        and the number of stars of the whole.
    chunk_rows
        How many stars to read at a time.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not of a known format, or has no stars.
    TypeError
        If stars are none of these.
    """
    if isinstance(stars, StarSource):
        return stars
    if chunk_rows < 1 or first_row < 0:
        raise ValueError(
            f"chunk_rows must be positive and first_row not negative, got {chunk_rows}, {first_row}"
        )
    rows: _Rows
    if isinstance(stars, Table):
        rows = TableStars(stars)
    elif isinstance(stars, Mapping):
        rows = TableStars(QTable(dict(stars), copy=False))
    elif isinstance(stars, (str, os.PathLike)):
        rows = _open_file(stars)
    elif isinstance(stars, Sequence) and len(stars):
        rows = _ManyFiles(tuple(_open_file(path) for path in stars))
    else:
        raise TypeError(
            "stars must be a table, a mapping of columns, a path or a sequence of paths, got "
            f"{type(stars).__name__}"
        )
    source = StarSource(rows, int(first_row), total_rows, units, int(chunk_rows))
    if source.n_rows == 0:
        raise ValueError("the catalogue has no stars")
    if source.first_row + source.n_rows > source.catalogue_rows:
        raise ValueError(
            f"total_rows must be at least first_row plus the number of stars, "
            f"{source.first_row + source.n_rows}, got {total_rows}"
        )
    return source
