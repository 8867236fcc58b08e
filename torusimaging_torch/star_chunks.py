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
import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.table.meta import get_header_from_yaml

__all__ = ["CHUNK_ROWS", "FitsStars", "ParquetStars", "StarSource", "TableStars", "open_stars"]

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
class ParquetStars:
    """A parquet file, read in batches of rows; needs pyarrow.

    Units are those that astropy wrote into the file, if it did.

    Attributes
    ----------
    path
        The file.
    """

    path: Path

    def _open(self) -> Any:
        try:
            from pyarrow import parquet
        except ImportError:
            raise ValueError(
                f"cannot read {self.path}: parquet needs pyarrow; "
                "'pip install torusimaging_torch[io]' has it"
            ) from None
        try:
            return parquet.ParquetFile(self.path)
        except (ValueError, OSError) as error:  # of which pyarrow's own errors are kinds
            raise ValueError(f"cannot read {self.path} as parquet: {error}") from None

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        with self._open() as file:
            return list(file.schema_arrow.names)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        start = 0
        with self._open() as file:
            units = _units_in_parquet(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=size, columns=list(names)):
                columns = {
                    name: Column(batch.column(name).to_numpy(False), unit=units.get(name))
                    for name in names
                }
                yield start, Table(columns, copy=False)
                start += batch.num_rows


def _units_in_parquet(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    header = metadata.get(b"table_meta_yaml")
    if header is None:
        return {}
    columns = get_header_from_yaml(header.decode().split("\n"))["datatype"]
    return {column["name"]: column["unit"] for column in columns if "unit" in column}


@dataclass(frozen=True)
class FitsStars:
    """The first table of a FITS file, read in slices of rows.

    Attributes
    ----------
    path
        The file; not compressed, or all of it is read at once.
    """

    path: Path

    def _open(self) -> Any:
        try:
            return fits.open(self.path, memmap=True)
        except OSError as error:
            raise ValueError(f"cannot read {self.path} as FITS: {error}") from None

    def _table(self, file: Any) -> Any:
        tables = [hdu for hdu in file if isinstance(hdu, fits.BinTableHDU)]
        if not tables:
            raise ValueError(f"there is no binary table in {self.path}")
        return tables[0]

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        with self._open() as file:
            return int(self._table(file).header["NAXIS2"])

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        with self._open() as file:
            return list(self._table(file).columns.names)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        for start in range(0, self.n_rows, size):
            # Closing the file gives the mapped pages back; an open one would keep them all.
            with self._open() as file:
                hdu = self._table(file)
                rows = hdu.data[start : start + size]
                table = Table(
                    [_fits_column(rows[name], hdu.columns[name]) for name in names], names=names
                )
                del rows, hdu
            yield start, table


def _fits_column(values: Any, column: Any) -> Column:
    """Copy a column out of the file in the machine's byte order; nulls are masked."""
    native = np.array(values, dtype=values.dtype.newbyteorder("="))
    unit = u.Unit(column.unit, format="fits", parse_strict="silent") if column.unit else None
    if column.null is None:
        return Column(native, unit=unit)
    return MaskedColumn(native, mask=native == column.null, unit=unit)


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
    if {".fits", ".fit", ".fz"} & set(endings):
        return FitsStars(path)
    raise ValueError(
        f"cannot read {path} in chunks: expected a name that ends in .parquet or .fits; other "
        "tables can be read with astropy.table.QTable.read and passed as a table"
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
