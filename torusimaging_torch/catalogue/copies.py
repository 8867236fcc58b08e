"""Copies of parquet files with columns added, written in the memory of a batch.

What a file has is copied as it is: columns of any kind, nulls, units, descriptions, metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.io.misc import yaml
from astropy.table import Column, Table, hstack
from numpy.typing import NDArray

from torusimaging_torch.catalogue.chunks import StarSource, progress_bar
from torusimaging_torch.catalogue.files import ParquetStars

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["can_copy", "copy_parquet"]


def can_copy(source: StarSource) -> bool:
    """Return whether a source is one parquet file whose units can be exchanged where they are.

    They cannot where astropy's notes on a column, such as a Quantity, name a unit of its own.
    """
    rows = source.rows
    if not isinstance(rows, ParquetStars):
        return False
    return not any("unit" in rows.serialized.get(name, {}) for name in source.units or {})


def copy_parquet(
    source: StarSource,
    path: Path,
    names: Sequence[str],
    add: Callable[[Table], Table],
    progress: str = "",
    *,
    keep: Callable[[Table], NDArray[np.bool_]] | None = None,
    meta: Mapping[str, str] | None = None,
) -> None:
    """Write a copy of a parquet file with columns added, and with the units of the source.

    Parameters
    ----------
    source
        For which `can_copy` is true.
    path
        The file to write.
    names
        The columns that ``add`` needs.
    add
        Gets a table of some stars and returns one of new columns.
    progress
        As for `torusimaging_torch.catalogue.chunks.progress_bar`.
    keep
        Gets a table of the columns that ``add`` needs and of new ones, and returns which stars to
        write; by default all of them.
    meta
        Put into the metadata of the table.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = source.rows
    assert isinstance(rows, ParquetStars)
    schema = writer = None
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(source.n_rows, progress))
        for batch in rows.batches(source.size):
            n_stars, old = batch.num_rows, source.with_units(rows.table(batch, names))
            new = add(old)
            if keep is not None:
                kept = keep(hstack([old, new], join_type="exact"))
                batch, new = batch.filter(pa.array(kept)), new[kept]
            columns = [_arrow(new[name]) for name in new.colnames]
            if writer is None:
                fields = [
                    pa.field(*x) for x in zip(new.colnames, (c.type for c in columns), strict=True)
                ]
                notes = {b"table_meta_yaml": _notes(rows, new, source.units or {}, meta or {})}
                metadata = {**(rows.schema.metadata or {}), **notes}
                schema = pa.schema([*rows.schema, *fields], metadata=metadata)
                writer = stack.enter_context(parquet.ParquetWriter(path, schema))
            writer.write_batch(
                pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)
            )
            bar.update(n_stars)


def _arrow(column: object) -> pa.Array:
    """Return a column as pyarrow has it, with nulls where it is masked."""
    import pyarrow as pa

    return pa.array(np.ma.getdata(np.ma.asarray(column)), mask=getattr(column, "mask", None))


def _notes(
    rows: ParquetStars, new: Table, units: Mapping[str, u.UnitBase], meta: Mapping[str, str]
) -> bytes:
    """Return astropy's account of the columns, the new ones too."""
    fields = [{"name": field.name, "datatype": str(field.type)} for field in rows.schema]
    columns = [dict(column) for column in rows.notes.get("datatype", fields)]
    columns += [_describe(new[name]) for name in new.colnames]
    for column in columns:
        if column["name"] in units:
            column["unit"] = units[column["name"]].to_string()
    notes = {**rows.notes, "datatype": columns}
    if meta or "meta" in notes:  # an ordered dictionary in astropy 6, which YAML does not write
        notes["meta"] = {**notes.get("meta", {}), **meta}
    return str(yaml.dump(notes)).encode()


def _describe(column: Column) -> dict[str, str]:
    described = {"name": column.name, "datatype": column.dtype.name}
    if column.unit is not None:
        described["unit"] = column.unit.to_string()
    return {**described, "description": column.description}
