"""Copies of parquet and FITS files with columns added, written in the memory of one chunk.

What a file has is copied as it is, bytes of FITS and batches of pyarrow: columns of any kind,
nulls, units, descriptions, headers, and in FITS all other parts of the file.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.misc import yaml
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml
from numpy.typing import NDArray

from torusimaging_torch.catalogue.files import FitsStars, ParquetStars

__all__ = [
    "Pairs",
    "arrow_of",
    "copy_fits",
    "copy_parquet",
    "fits_header",
    "fits_rows",
    "notes_of",
    "padding",
    "pairs_of",
    "peek",
    "serialized",
    "units_are_free",
]

Pairs = Iterator[tuple[Any, Table]]
"""Parts of a file as it has them, and tables of the columns to add."""

_BLOCK = 2880  # everything in a FITS file fills blocks of this size
_PIECE = 1 << 20
_BEGIN, _END = (f"--{word}-ASTROPY-SERIALIZED-COLUMNS--" for word in ("BEGIN", "END"))
_OF_COLUMN = re.compile(r"(T[A-Z]+?)(\d+)")


def pairs_of(
    source: ParquetStars | FitsStars,
    names: Sequence[str],
    add: Callable[[Table], Table],
    size: int,
) -> Pairs:
    """Iterate over parts of ``size`` stars and what ``add`` makes of their named columns."""
    for part in source.parts(size):
        yield part, add(source.table(part, names))


def peek(pairs: Pairs) -> tuple[Any, Table, Pairs]:
    """Return the first pair, and all pairs."""
    part, new = next(pairs)
    return part, new, chain([(part, new)], pairs)


def units_are_free(notes: Mapping[str, Any], units: Mapping[str, str]) -> bool:
    """Return whether astropy's notes name no unit of their own for columns that shall have these.

    Parameters
    ----------
    notes
        From `notes_of`.
    units
        Units by column name.
    """
    return not any("unit" in how for name, how in serialized(notes).items() if name in units)


def notes_of(source: ParquetStars | FitsStars) -> Mapping[str, Any]:
    """Return what astropy wrote into a file of columns that need more than numbers."""
    if isinstance(source, ParquetStars):
        return source.notes
    lines = [str(line) for line in source.layout.header.get("COMMENT", ())]
    if _BEGIN not in lines or _END not in lines:
        return {}
    text = "\n".join(lines[lines.index(_BEGIN) + 1 : lines.index(_END)])
    # A line that is too long for its card ends in a backslash in column 71.
    whole = re.sub(r"^(.{70})\\\n", r"\1", text, flags=re.MULTILINE)
    return dict(get_header_from_yaml(whole.split("\n")))


def serialized(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how astropy stored columns that are more than numbers, by name."""
    found: Mapping[str, Any] = notes.get("meta", {}).get("__serialized_columns__", {})
    return found


# -- parquet ---------------------------------------------------------------------------------


def copy_parquet(source: ParquetStars, path: Path, pairs: Pairs, units: Mapping[str, str]) -> None:
    """Write a parquet file with columns added, and with units of columns exchanged."""
    import pyarrow as pa
    from pyarrow import parquet

    part, new, pairs = peek(pairs)
    fields = [pa.field(name, arrow_of(new[name]).type) for name in new.colnames]
    notes = {**(source.schema.metadata or {}), b"table_meta_yaml": _notes(source, new, units)}
    schema = pa.schema([*part.schema, *fields], metadata=notes)
    with parquet.ParquetWriter(path, schema) as writer:
        for part, new in pairs:
            arrays = [*part.columns, *(arrow_of(new[name]) for name in new.colnames)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def arrow_of(column: Any) -> Any:
    """Return a column as pyarrow has it, with nulls where it is masked."""
    import pyarrow as pa

    return pa.array(np.ma.getdata(np.ma.asarray(column)), mask=getattr(column, "mask", None))


def _notes(source: ParquetStars, new: Table, units: Mapping[str, str]) -> bytes:
    """Return astropy's account of the columns, the new ones too."""
    fields = [{"name": field.name, "datatype": str(field.type)} for field in source.schema]
    columns = [dict(column) for column in source.notes.get("datatype", fields)]
    columns += [_describe(new[name]) for name in new.colnames]
    for column in columns:
        if column["name"] in units:
            column["unit"] = units[column["name"]]
    return str(yaml.dump({**source.notes, "datatype": columns})).encode()


def _describe(column: Any) -> dict[str, str]:
    described = {"name": column.name, "datatype": column.dtype.name}
    if column.unit is not None:
        described["unit"] = column.unit.to_string()
    return {**described, "description": column.description}


# -- FITS ------------------------------------------------------------------------------------


def copy_fits(source: FitsStars, path: Path, pairs: Pairs, units: Mapping[str, str]) -> None:
    """Write a FITS file with columns added to its table, and with units of columns exchanged."""
    _, new, pairs = peek(pairs)
    layout = source.layout
    old_width, n_rows = int(layout.header["NAXIS1"]), int(layout.header["NAXIS2"])
    heap = int(layout.header.get("PCOUNT", 0))  # where columns of variable length have their data
    header = _extended(layout.header, fits_header(new[:0]), n_rows)
    for name, unit in units.items():
        header[f"TUNIT{source.names.index(name) + 1}"] = unit
    width = int(header["NAXIS1"])
    with open(source.path, "rb") as old, open(path, "wb") as file:
        _copy_bytes(old, file, layout.start)
        file.write(header.tostring().encode("ascii"))
        for part, new in pairs:
            before = np.asarray(part).view(np.uint8).reshape(len(part), old_width)
            file.write(np.hstack([before, fits_rows(new)]).tobytes())
        old.seek(layout.data + old_width * n_rows)
        _copy_bytes(old, file, heap)
        file.write(padding(width * n_rows + heap))
        old.seek(len(padding(old_width * n_rows + heap)), io.SEEK_CUR)
        _copy_bytes(old, file, None)


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block after so many bytes."""
    return bytes(-size % _BLOCK)


def _copy_bytes(old: Any, new: Any, size: int | None) -> None:
    """Copy so many bytes, or all that are left."""
    while size is None or size > 0:
        piece = old.read(_PIECE if size is None else min(_PIECE, size))
        if not piece:
            break
        new.write(piece)
        size = None if size is None else size - len(piece)


def fits_header(template: Table) -> fits.Header:
    """Return the header that astropy gives a table without rows, with descriptions."""
    header = fits.table_to_hdu(template).header
    for index, name in enumerate(template.colnames, start=1):
        if template[name].description:
            header.set(f"TCOMM{index}", template[name].description, after=f"TFORM{index}")
    return header


def fits_rows(table: Table) -> NDArray[np.uint8]:
    """Return the rows of a table as FITS has them, with shape (rows, bytes of a row)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of, the header has said
        hdu = fits.table_to_hdu(table)
        hdu.writeto(buffer)
    # The table is all there is after an empty header in one block.
    start = _BLOCK + len(hdu.header.tostring())
    width = int(hdu.header["NAXIS1"])
    rows = np.frombuffer(buffer.getbuffer(), np.uint8, width * len(table), start)
    return rows.reshape(len(table), width)


def _extended(old: fits.Header, new: fits.Header, n_rows: int) -> fits.Header:
    """Return the header of a table to which the columns of another are added on the right."""
    header = old.copy()
    for key in ("CHECKSUM", "DATASUM"):
        header.remove(key, ignore_missing=True)
    width = int(old["NAXIS1"]) + int(new["NAXIS1"])
    if "THEAP" in header:
        header["THEAP"] += int(new["NAXIS1"]) * n_rows
    header["NAXIS1"] = width
    header["TFIELDS"] = int(old["TFIELDS"]) + int(new["TFIELDS"])
    keys = [_OF_COLUMN.fullmatch(key) for key in header]
    place = max(index for index, match in enumerate(keys) if match) + 1
    for card in new.cards:
        if match := _OF_COLUMN.fullmatch(card.keyword):
            key = f"{match[1]}{int(match[2]) + int(old['TFIELDS'])}"
            header.insert(place, (key, card.value, card.comment))
            place += 1
    return header
