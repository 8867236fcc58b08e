"""Files of stars: parquet in batches, in the memory of a few, and all that astropy reads at once.

The table of endings says which files are parquet; everything else is left to astropy, and is held
in memory whole: FITS, ECSV, CSV, HDF5, VOTable.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import astropy.units as u
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.table.meta import get_header_from_yaml

from torusimaging_torch.catalogue.endings import as_path, format_of
from torusimaging_torch.catalogue.text_tables import is_text, read_text

if TYPE_CHECKING:  # a format that not everybody needs
    from pyarrow import RecordBatch, Schema
    from pyarrow.dataset import Dataset

__all__ = ["ParquetStars", "file_digest", "is_parquet", "read_table", "write_in", "write_table"]

_PARQUET = (".parquet", ".pq", ".parq")

# Bytes of a column read from a parquet file at a time; without it a row group is read at once.
_BUFFER = 1 << 20
# Bytes of the largest file whose digest is worth the time that it takes, some seconds.
_LARGEST_DIGEST = 4 << 30
# Bytes in which a VOTable says that it is one.
_HEAD = 1 << 16


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Return whether the ending of a file's name is one of parquet."""
    return Path(path).suffix.lower() in _PARQUET


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_table(
    path: str | os.PathLike[str], hdu: int | str | None = None, table_format: str | None = None
) -> Table:
    """Read a table into memory from whatever file astropy reads.

    Parameters
    ----------
    path
        The file.
    hdu
        Which table of a FITS file, by number or name; by default the first.
    table_format
        Its format, by the name that astropy has for it; by default the file tells.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a table, has none of that number or name, or the library that reads it is not
        installed.

    Warns
    -----
    UserWarning
        If a FITS file has several tables, and it was not said which one to read.
    """
    path = as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    _refuse_to_fetch(path)
    try:
        with warnings.catch_warnings(record=True) as told:
            # Astropy's own are for its callers; units that it does not know matter only in columns
            # that are used: see there.
            warnings.simplefilter("always")
            table = _read(path, hdu, table_format)
    except ImportError as error:
        raise ValueError(
            f"cannot read {path}: {error}; 'pip install torusimaging_torch[io]' has what parquet "
            "and HDF5 need"
        ) from None
    except Exception as error:
        cut = next((str(w.message) for w in told if "truncated" in str(w.message)), None)
        reason = _reason(error) if cut is None else f"it is cut off ({cut.splitlines()[0]})"
        raise ValueError(f"cannot read {path} as a table of stars: {reason}") from None
    if cut := next((str(w.message) for w in told if "truncated" in str(w.message)), None):
        raise ValueError(f"cannot read {path}: it is cut off ({cut.splitlines()[0]})")
    if any(str(w.message).startswith("hdu= was not specified") for w in told):
        warnings.warn(
            f"{path} has several tables, of which the first is read: say --hdu NUMBER or NAME, or "
            "hdu=..., for another",
            UserWarning,
            stacklevel=2,
        )
    if len(table) == 0:
        raise ValueError(f"the table in {path} has no rows")
    return table


def _read(path: Path, hdu: int | str | None, table_format: str | None) -> Table:
    if hdu is not None:
        _check_hdu(path, hdu)
        return Table.read(path, format="fits", hdu=hdu)
    if table_format is not None:
        return Table.read(path, format=table_format)
    if is_text(path):
        return read_text(path)
    return Table.read(path, format="parquet" if is_parquet(path) else None)


def _check_hdu(path: Path, hdu: int | str) -> None:
    """Check that a FITS file has a table; astropy reads the only one, whichever is asked for."""
    with fits.open(path) as found:
        kinds = (fits.BinTableHDU, fits.TableHDU)
        there = {i: one.name for i, one in enumerate(found) if isinstance(one, kinds)}
    known = {*there, *(name.upper() for name in there.values() if name)}
    if (hdu.strip().upper() if isinstance(hdu, str) else hdu) not in known:
        listed = " or ".join(f"{i} {name!r}" if name else f"{i}" for i, name in there.items())
        raise ValueError(f"it has no table {hdu!r}: expected {listed or 'one, but it has none'}")


# A VOTable whose data are in another file, or on another machine.
_ELSEWHERE = re.compile(rb"<\s*(?:\w+:)?STREAM\b[^>]*\bhref\s*=\s*[\"']([^\"']*)", re.IGNORECASE)


def _refuse_to_fetch(path: str | os.PathLike[str]) -> None:
    """Raise a ValueError if reading a VOTable would read from another place."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if packed else open)(path, "rb") as file:
            text = file.read(_HEAD)
            if b"VOTABLE" not in text.upper():
                return
            while more := file.read(_HEAD):
                text = text[-_HEAD:] + more
                if _ELSEWHERE.search(text):
                    break
    except (OSError, EOFError, zlib.error):
        return  # which the reader tells better
    if match := _ELSEWHERE.search(text):
        where = match[1].decode(errors="replace")
        raise ValueError(
            f"cannot read {path}: its data are elsewhere, at {where!r}, which is not fetched: save "
            "the table with its data in it"
        )


def write_table(table: Table, path: str | os.PathLike[str], name: str | os.PathLike[str]) -> None:
    """Write a table in the format that the ending of a file's name asks for.

    Parameters
    ----------
    table
        The table.
    path
        The file to write.
    name
        What to call it in errors.

    Raises
    ------
    ValueError
        If astropy does not know the format, or cannot write the table in it.
    """
    try:
        write_in(table, path, format_of(path))
    except Exception as error:
        raise ValueError(f"cannot write {name}: {_reason(error)}") from None


def write_in(
    table: Table, file: str | os.PathLike[str], kind: str | None, **options: object
) -> None:
    """Write a table in a format of astropy, chosen by the file's name if it is None.

    HDF5 is made in memory first: where a disk is full its library ends the whole process.
    """
    if kind != "hdf5":
        table.write(file, format=kind, **options)
        return
    import h5py  # type: ignore[import-untyped]

    memory = io.BytesIO()
    with h5py.File(memory, "w") as group:
        table.write(group, format="hdf5", **{"path": "table", "serialize_meta": True, **options})
    Path(file).write_bytes(memory.getbuffer())


@dataclass(frozen=True)
class ParquetStars:
    """A parquet file, read in batches of rows; needs pyarrow.

    A batch goes through unchanged where it is copied. Of columns that are looked at a table is
    made, with the units and masks that astropy wrote into the file, if it did, and nulls masked.

    Attributes
    ----------
    path
        The file.
    """

    path: Path

    @cached_property
    def _dataset(self) -> Dataset:
        try:
            from pyarrow import dataset
        except ImportError:
            raise ValueError(
                f"cannot read {self.path}: parquet needs pyarrow; "
                "'pip install torusimaging_torch[io]' has it"
            ) from None
        scan = dataset.ParquetFragmentScanOptions(
            use_buffered_stream=True, buffer_size=_BUFFER, pre_buffer=False
        )
        form = dataset.ParquetFileFormat(default_fragment_scan_options=scan)
        try:
            return dataset.dataset(self.path, format=form)
        except (ValueError, OSError) as error:  # of which pyarrow's own errors are kinds
            raise ValueError(f"cannot read {self.path} as parquet: {_reason(error)}") from None

    @property
    def schema(self) -> Schema:
        """The columns, as pyarrow describes them."""
        return self._dataset.schema

    @cached_property
    def notes(self) -> dict[str, Any]:
        """What astropy wrote of the columns, and of the table; empty if it did not write it."""
        text = (self.schema.metadata or {}).get(b"table_meta_yaml")
        return {} if text is None else get_header_from_yaml(text.decode().split("\n"))

    @cached_property
    def serialized(self) -> Mapping[str, Any]:
        """How astropy stored columns that are more than numbers, by name."""
        found: Mapping[str, Any] = self.notes.get("meta", {}).get("__serialized_columns__", {})
        return found

    @cached_property
    def n_rows(self) -> int:
        """The number of stars."""
        return int(self._dataset.count_rows())

    @property
    def name(self) -> str:
        """Where the stars are, for errors."""
        return str(self.path)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)

    @cached_property
    def units(self) -> dict[str, u.UnitBase]:
        """The units of columns, by name, of those that have one."""
        notes = {column["name"]: column.get("unit") for column in self.notes.get("datatype", ())}
        return {name: u.Unit(unit, parse_strict="silent") for name, unit in notes.items() if unit}

    def described(self, name: str) -> tuple[u.UnitBase | None, str]:
        """Return the unit of a column, None if it has none, and its kind.

        The kind is "number", "text" or "truth", or nothing if it is neither, or all is missing.
        """
        from pyarrow import types

        kind = self.schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        tests = {
            "text": (types.is_string, types.is_large_string, types.is_binary),
            "truth": (types.is_boolean,),
            "number": (types.is_integer, types.is_floating, types.is_decimal),
        }
        found = (what for what, own in tests.items() if any(test(kind) for test in own))
        return self.units.get(name), next(found, "")

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[RecordBatch]:
        """Iterate over batches of at most ``size`` stars with all columns, or some."""
        # Little is read ahead, since batches are to save memory: some two row groups are held.
        some = {"batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}
        columns = None if names is None else list(names)
        try:
            for batch in self._dataset.to_batches(columns=columns, batch_size=size, **some):
                if batch.num_rows:
                    yield batch
        except (ValueError, OSError) as error:  # of which pyarrow's own errors are kinds
            raise ValueError(f"cannot read {self.path} as parquet: {_reason(error)}") from None

    def table(self, batch: RecordBatch, names: Sequence[str]) -> Table:
        """Return the named columns of a batch as a table."""
        columns = {}
        for name in names:
            column = Column(batch.column(name).to_numpy(False), unit=self.units.get(name))
            if name in self._masks:
                mask = batch.column(self._masks[name]).to_numpy(False)
                column = MaskedColumn(column, mask=mask)
            columns[name] = column
        return Table(columns, copy=False)

    def chunks(self, names: Sequence[str], size: int) -> Iterator[tuple[int, Table]]:
        """Iterate over chunks of at most ``size`` stars, with the row of the first."""
        start = 0
        wanted = dict.fromkeys([*names, *(self._masks[n] for n in names if n in self._masks)])
        for batch in self.batches(size, list(wanted)):
            yield start, self.table(batch, names)
            start += batch.num_rows

    @cached_property
    def _masks(self) -> dict[str, str]:
        """The columns that hold the masks of others."""
        masks = {name: _find_mask(how) for name, how in self.serialized.items()}
        return {name: mask for name, mask in masks.items() if mask in self.names}


def _find_mask(how: object) -> str | None:
    """Return the mask in astropy's account of how a column, or its value, was stored."""
    while isinstance(how, Mapping):
        if "mask" in how:
            return str(how["mask"]["name"])
        how = how.get("value")
    return None


def file_digest(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the SHA-256 of a file by the name "sha256"; nothing for folders and huge files."""
    place = Path(path).expanduser()
    if not place.is_file() or place.stat().st_size > _LARGEST_DIGEST:
        return {}
    digest = hashlib.sha256()
    with place.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest()}
