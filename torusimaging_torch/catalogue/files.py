"""Parquet and FITS files read a chunk at a time, in the memory of one chunk.

A chunk is read as the file has it, a batch of pyarrow or rows of NumPy: what is copied goes through
unchanged. Of columns that are looked at a table is made, with units, and with nulls masked.
"""

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

__all__ = ["FitsLayout", "FitsStars", "ParquetStars"]

Chunk = tuple[int, Table]
"""The row number of the first star, and the stars."""

# Bytes of a column read from a parquet file at a time; without it a row group is read at once.
_BUFFER = 1 << 20


@dataclass(frozen=True)
class ParquetStars:
    """A parquet file, read in batches of rows; needs pyarrow.

    Units and masks are those that astropy wrote into the file, if it did.

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

    @cached_property
    def schema(self) -> Any:
        """The columns, as pyarrow describes them."""
        with self._open() as file:
            return file.schema_arrow

    @cached_property
    def notes(self) -> dict[str, Any]:
        """What astropy wrote of the columns, and of the table; empty if it did not write it."""
        text = (self.schema.metadata or {}).get(b"table_meta_yaml")
        return {} if text is None else get_header_from_yaml(text.decode().split("\n"))

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)

    def parts(self, size: int, names: Sequence[str] | None = None) -> Iterator[Any]:
        """Iterate over batches of ``size`` stars (the last of fewer) with all columns, or some."""
        with self._open() as file:
            yield from _even(_batches(file, names, size), size)

    def table(self, part: Any, names: Sequence[str]) -> Table:
        """Return the named columns of a batch as a table."""
        units = {column["name"]: column.get("unit") for column in self.notes.get("datatype", ())}
        columns = {}
        for name in names:
            column = Column(part.column(name).to_numpy(False), unit=units.get(name))
            if name in self._masks:
                mask = part.column(self._masks[name]).to_numpy(False)
                column = MaskedColumn(column, mask=mask)
            columns[name] = column
        return Table(columns, copy=False)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        start = 0
        wanted = dict.fromkeys([*names, *(self._masks[n] for n in names if n in self._masks)])
        for part in self.parts(size, list(wanted)):
            yield start, self.table(part, names)
            start += part.num_rows

    @cached_property
    def _masks(self) -> dict[str, str]:
        """The columns that hold the masks of others."""
        kept = self.notes.get("meta", {}).get("__serialized_columns__", {})
        masks = {name: _find_mask(how) for name, how in kept.items()}
        return {name: mask for name, mask in masks.items() if mask in self.names}


def _find_mask(how: Any) -> str | None:
    """Return the mask in astropy's account of how a column, or its value, was stored."""
    while isinstance(how, Mapping):
        if "mask" in how:
            return str(how["mask"]["name"])
        how = how.get("value")
    return None


def _batches(file: Any, names: Sequence[str] | None, size: int) -> Iterator[Any]:
    # One row group after the other: an iterator over all of them keeps what it has read.
    columns = None if names is None else list(names)
    for group in range(file.metadata.num_row_groups):
        yield from file.iter_batches(batch_size=size, row_groups=[group], columns=columns)


def _even(batches: Iterator[Any], size: int) -> Iterator[Any]:
    """Make batches of ``size`` rows of smaller ones, whatever the row groups of the file."""
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        missing = size - sum(part.num_rows for part in waiting[:-1])
        if batch.num_rows >= missing:
            waiting[-1] = batch.slice(0, missing)
            yield _joined(waiting)
            waiting = [batch.slice(missing)] if batch.num_rows > missing else []
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[Any]) -> Any:
    if len(batches) == 1:
        return batches[0]
    from pyarrow import Table as ArrowTable

    return ArrowTable.from_batches(batches).combine_chunks().to_batches()[0]


@dataclass(frozen=True)
class FitsLayout:
    """Where the table of a FITS file is.

    Attributes
    ----------
    header
        Its header.
    columns
        Its columns, as astropy describes them.
    start, data
        Where in the file the header starts, and where the rows do.
    """

    header: fits.Header
    columns: fits.ColDefs
    start: int
    data: int


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
    def layout(self) -> FitsLayout:
        """Where the table is in the file, and its columns."""
        try:
            with fits.open(self.path, memmap=True) as file:
                tables = [hdu for hdu in file if isinstance(hdu, fits.BinTableHDU)]
                if not tables:
                    raise ValueError(f"there is no binary table in {self.path}")
                header, info = tables[0].header.copy(), tables[0].fileinfo()
                return FitsLayout(header, tables[0].columns, info["hdrLoc"], info["datLoc"])
        except OSError as error:
            raise ValueError(f"cannot read {self.path} as FITS: {error}") from None

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        return int(self.layout.header["NAXIS2"])

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.layout.columns.names)

    def parts(self, size: int) -> Iterator[Any]:
        """Iterate over ``size`` rows at a time (fewer in the end), arrays with a named type."""
        dtype = self.layout.columns.dtype.newbyteorder(">")
        for start in range(0, self.n_rows, size):
            place = self.layout.data + start * dtype.itemsize
            n = min(size, self.n_rows - start)
            # Mapped anew for each chunk, so that pages that have been read are given back.
            yield np.memmap(self.path, dtype, mode="r", offset=place, shape=(n,))

    def table(self, part: Any, names: Sequence[str]) -> Table:
        """Return a copy of the named columns of some rows as a table."""
        columns = self.layout.columns
        return Table([_fits_column(part[name], columns[name]) for name in names], names=names)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        for index, part in enumerate(self.parts(size)):
            table = self.table(part, names)
            del part
            yield index * size, table


def _fits_column(values: Any, column: Any) -> Column:
    """Copy a column out of the file, with its scale, in the machine's byte order; mask nulls."""
    kind = column.format.strip("0123456789")[:1]
    if kind in ("P", "Q", "X"):
        raise ValueError(f"column {column.name!r} has format {column.format}, not one of numbers")
    native = np.array(values, dtype=values.dtype.newbyteorder("="))
    mask = native == column.null if column.null is not None else None
    if kind == "L":
        native = native == ord("T")
    scale, zero = column.bscale or 1, column.bzero or 0
    if kind in "IJK" and scale == 1 and zero == 1 << (8 * native.dtype.itemsize - 1):
        native = native.view(f"u{native.dtype.itemsize}") ^ zero  # the unsigned numbers of FITS
    elif scale != 1 or zero != 0:
        native = native * float(scale) + float(zero)
    unit = u.Unit(column.unit, format="fits", parse_strict="silent") if column.unit else None
    return Column(native, unit=unit) if mask is None else MaskedColumn(native, mask=mask, unit=unit)
