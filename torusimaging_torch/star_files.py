"""Parquet and FITS files read a chunk at a time, in the memory of one chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.table.meta import get_header_from_yaml

__all__ = ["FitsStars", "ParquetStars"]

Chunk = tuple[int, Table]
"""The row number of the first star, and the stars."""

# Bytes of a column read from a parquet file at a time; without it a row group is read at once.
_BUFFER = 1 << 20


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
            return parquet.ParquetFile(self.path, buffer_size=_BUFFER)
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
            for batch in _batches(file, names, size):
                columns = {
                    name: Column(batch.column(name).to_numpy(False), unit=units.get(name))
                    for name in names
                }
                yield start, Table(columns, copy=False)
                start += batch.num_rows


def _batches(file: Any, names: Sequence[str], size: int) -> Iterator[Any]:
    # One row group after the other: an iterator over all of them keeps what it has read.
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(batch_size=size, row_groups=[group], columns=list(names))


def _units_in_parquet(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    header = metadata.get(b"table_meta_yaml")
    if header is None:
        return {}
    columns = get_header_from_yaml(header.decode().split("\n"))["datatype"]
    return {column["name"]: column["unit"] for column in columns if "unit" in column}


@dataclass(frozen=True)
class FitsStars:
    """The first table of a FITS file, read in slices of rows.

    astropy reads the header and NumPy the rows: astropy's own tables, when closed, copy all columns
    of the file into memory.

    Attributes
    ----------
    path
        The file; not compressed.
    """

    path: Path

    @cached_property
    def _layout(self) -> tuple[int, int, Any]:
        """Where the rows start, how many there are, and their columns."""
        try:
            with fits.open(self.path, memmap=True) as file:
                tables = [hdu for hdu in file if isinstance(hdu, fits.BinTableHDU)]
                if not tables:
                    raise ValueError(f"there is no binary table in {self.path}")
                hdu = tables[0]
                return hdu.fileinfo()["datLoc"], int(hdu.header["NAXIS2"]), hdu.columns
        except OSError as error:
            raise ValueError(f"cannot read {self.path} as FITS: {error}") from None

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        return self._layout[1]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._layout[2].names)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        offset, n_rows, columns = self._layout
        dtype = columns.dtype.newbyteorder(">")
        for start in range(0, n_rows, size):
            place = offset + start * dtype.itemsize
            n = min(size, n_rows - start)
            # Mapped anew for each chunk, so that pages that have been read are given back.
            rows = np.memmap(self.path, dtype, mode="r", offset=place, shape=(n,))
            table = Table([_fits_column(rows[name], columns[name]) for name in names], names=names)
            del rows
            yield start, table


def _fits_column(values: Any, column: Any) -> Column:
    """Copy a column out of the file, with its scale, in the machine's byte order; mask nulls."""
    if column.format.strip("0123456789")[:1] in ("P", "Q", "X"):
        raise ValueError(f"column {column.name!r} has format {column.format}, not one of numbers")
    native = np.array(values, dtype=values.dtype.newbyteorder("="))
    mask = native == column.null if column.null is not None else None
    if column.format.strip("0123456789")[:1] == "L":
        native = native == ord("T")
    if column.bscale not in (None, "", 1) or column.bzero not in (None, "", 0):
        native = native * float(column.bscale or 1) + float(column.bzero or 0)
    unit = u.Unit(column.unit, format="fits", parse_strict="silent") if column.unit else None
    return Column(native, unit=unit) if mask is None else MaskedColumn(native, mask=mask, unit=unit)
