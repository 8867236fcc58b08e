"""Parquet files turned into FITS and back a chunk at a time, with columns added.

Only columns of plain numbers, truth values and texts can be turned one chunk after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.table.meta import get_yaml_from_table

from torusimaging_torch.catalogue.copies import (
    Pairs,
    arrow_of,
    copy_fits,
    copy_parquet,
    fits_header,
    fits_rows,
    notes_of,
    padding,
    peek,
    serialized,
    units_are_free,
)
from torusimaging_torch.catalogue.files import FitsStars, ParquetStars

__all__ = ["FITS_ENDINGS", "PARQUET_ENDINGS", "writer_for"]

PARQUET_ENDINGS = (".parquet", ".pq", ".parq")
FITS_ENDINGS = (".fits", ".fit", ".fts")

Writer = Callable[[Path, Pairs], None]
"""Writes what a file has together with columns to add."""

_QUANTITY = "astropy.units.quantity.Quantity"
_ROWS_LOOKED_AT = 1 << 18


def writer_for(
    source: ParquetStars | FitsStars, path: Path, units: Mapping[str, str]
) -> Writer | None:
    """Return what writes a copy of a file a chunk at a time.

    Parameters
    ----------
    source
        The file.
    path
        The copy; its ending decides the format.
    units
        Units of columns, in place of what the file says.

    Returns
    -------
    callable or None
        Called with a path and pairs of parts and new columns. None if the format of the copy, or
        a column that would have to be turned into it, needs the whole table at once.
    """
    to_parquet = path.suffix.lower() in PARQUET_ENDINGS
    if not to_parquet and path.suffix.lower() not in FITS_ENDINGS:
        return None
    if isinstance(source, ParquetStars) == to_parquet:
        copy: Any = copy_parquet if to_parquet else copy_fits
        free = units_are_free(notes_of(source), units)
        return partial(copy, source, units=units) if free else None
    kinds = {how.get("__class__") for how in serialized(notes_of(source)).values()}
    if not kinds <= {_QUANTITY}:
        return None
    if isinstance(source, ParquetStars):
        columns = _look(source)
        return partial(_parquet_to_fits, source, columns, units) if columns else None
    plain = all(map(_is_scalar, source.layout.columns))
    return partial(_fits_to_parquet, source, units) if plain else None


# -- FITS to parquet -------------------------------------------------------------------------


def _is_scalar(column: Any) -> bool:
    return re.fullmatch(r"1?[LBIJKED]|\d*A", column.format) is not None and column.dim is None


def _fits_to_parquet(source: FitsStars, units: Mapping[str, str], path: Path, pairs: Pairs) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    part, new, pairs = peek(pairs)
    template = _together(_texts(source.table(part[:1], source.names)), new[:1])[:0]
    _give_units(template, units)
    template.meta = Table.read(_without_rows(source)).meta
    arrays = [arrow_of(template[name]) for name in template.colnames]
    metadata = {"table_meta_yaml": "\n".join(get_yaml_from_table(template))}
    for name in template.colnames:
        if template[name].dtype.kind == "U":  # the length that astropy's reader asks for
            metadata[f"table::len::{name}"] = str(template[name].dtype.itemsize // 4)
    fields = [(name, array.type) for name, array in zip(template.colnames, arrays, strict=True)]
    schema = pa.schema(fields, metadata=metadata)
    with parquet.ParquetWriter(path, schema) as writer:
        for part, new in pairs:
            table = _together(_texts(source.table(part, source.names)), new)
            arrays = [arrow_of(table[name]) for name in table.colnames]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _without_rows(source: FitsStars) -> fits.BinTableHDU:
    header = source.layout.header.copy()
    header["NAXIS2"] = header["PCOUNT"] = 0
    return fits.BinTableHDU.fromstring(header.tostring().encode("ascii"))


def _texts(table: Table) -> Table:
    """Turn bytes into texts without the blanks that fill them up."""
    for name in table.colnames:
        if table[name].dtype.kind == "S":
            width, unit = table[name].dtype.itemsize, table[name].unit
            texts = np.char.decode(np.char.rstrip(np.asarray(table[name])), "utf-8", "replace")
            table[name] = Column(texts.astype(f"U{max(width, 1)}"), unit=unit)
    return table


def _together(table: Table, new: Table) -> Table:
    for name in new.colnames:
        table[name] = new[name]
    return table


def _give_units(table: Table, units: Mapping[str, str]) -> None:
    for name, unit in units.items():
        table[name].unit = unit


# -- parquet to FITS -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """What FITS has to know beforehand: the lengths of texts, and where numbers are missing."""

    widths: Mapping[str, int]
    gaps: Collection[str]


def _look(source: ParquetStars) -> _Seen | None:
    """Read texts and whole numbers once; None if there is a column that FITS does not have."""
    from pyarrow import compute, types

    kinds = {field.name: field.type for field in source.schema}
    texts = [n for n, t in kinds.items() if types.is_string(t) or types.is_large_string(t)]
    whole = [n for n, t in kinds.items() if types.is_integer(t) or types.is_boolean(t)]
    real = [n for n, t in kinds.items() if types.is_float32(t) or types.is_float64(t)]
    if len({*texts, *whole, *real}) < len(source.schema):
        return None
    widths, gaps = dict.fromkeys(texts, 1), set()
    for part in source.parts(_ROWS_LOOKED_AT, [*texts, *whole]) if texts or whole else ():
        for name in texts:
            longest = compute.max(compute.utf8_length(part.column(name))).as_py()
            widths[name] = max(widths[name], longest or 1)
        gaps |= {name for name in whole if part.column(name).null_count}
    # A missing number is one that is set aside: unsigned ones and truth values have none to spare.
    spare = all(types.is_signed_integer(kinds[name]) for name in gaps)
    return _Seen(widths, gaps) if spare else None


def _parquet_to_fits(
    source: ParquetStars, seen: _Seen, units: Mapping[str, str], path: Path, pairs: Pairs
) -> None:
    part, new, pairs = peek(pairs)
    template = _together(_for_fits(part[:1], seen), new[:1])[:0]
    for described in source.notes.get("datatype", ()):
        for what in set(described) & {"unit", "description", "format"}:
            setattr(template[described["name"]], what, described[what])
    _give_units(template, units)
    template.meta = {k: v for k, v in source.notes.get("meta", {}).items() if k[:2] != "__"}
    header = fits_header(template)
    header["NAXIS2"] = source.n_rows
    with open(path, "wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        file.write(header.tostring().encode("ascii"))
        for part, new in pairs:
            file.write(fits_rows(_together(_for_fits(part, seen), new)).tobytes())
        file.write(padding(header["NAXIS1"] * header["NAXIS2"]))


def _for_fits(part: Any, seen: _Seen) -> Table:
    names = part.schema.names
    return Table([_column(part.column(n), n, seen) for n in names], names=names, copy=False)


def _column(array: Any, name: str, seen: _Seen) -> Column:
    if name in seen.widths:
        return Column(array.fill_null("").to_numpy(False).astype(f"U{seen.widths[name]}"))
    if name not in seen.gaps:
        values = array.to_numpy(False)
        return Column(values.astype(np.int16) if values.dtype == np.int8 else values)
    kind = np.promote_types(array.type.to_pandas_dtype(), np.int16)  # FITS has no shorter ones
    lowest = int(np.iinfo(kind).min)
    values = array.cast(kind.name).fill_null(lowest).to_numpy(False)
    return MaskedColumn(values, mask=array.is_null().to_numpy(False), fill_value=lowest)
