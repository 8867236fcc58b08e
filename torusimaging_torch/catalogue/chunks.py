"""Catalogues read a chunk at a time, from memory or from files.

Each chunk is a small table of the columns asked for, with the row number of its first star.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import TextIO, TypeAlias

import astropy.units as u
from astropy.table import Table
from tqdm import tqdm

from torusimaging_torch.catalogue.endings import as_path
from torusimaging_torch.catalogue.files import ParquetStars, is_parquet, read_table
from torusimaging_torch.catalogue.rows import (
    Chunk,
    Frame,
    ManyFiles,
    Rows,
    TableStars,
    is_frame,
    table_of,
)
from torusimaging_torch.numerics.ranges import whole

__all__ = [
    "CHUNK_ROWS",
    "StarSource",
    "Stars",
    "Units",
    "check_column",
    "open_stars",
    "progress_bar",
]

Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, or several that are one catalogue."""

Units: TypeAlias = Mapping[str, str | u.UnitBase]
"""Units of columns by name, as texts or as units."""

CHUNK_ROWS = 1 << 18
"""How many stars are read at a time, unless it is said otherwise."""


class _LogLines(tqdm):
    """A line at a time where there is no terminal on which one could be written over."""

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """Return what writes the state; the last line is ended by tqdm."""
        starts = chain([""], repeat("\n"))

        def write(text: str) -> None:
            file.write(next(starts) + text)
            file.flush()

        return write


def progress_bar(n_stars: int, text: str, *, delay: float = 0.0) -> tqdm:
    """Return a progress bar on standard error, with a rate and the time that is left.

    On a terminal one line is kept up to date; elsewhere, as in a log, there is one every ten
    seconds. Worker processes are silent.

    Parameters
    ----------
    n_stars
        The number of stars.
    text
        What the line begins with; without it there is none.
    delay
        Seconds in which nothing is said, not even at the end.
    """
    terminal = sys.stderr.isatty()
    return (tqdm if terminal else _LogLines)(
        total=n_stars,
        desc=text,
        unit=" stars",
        unit_scale=True,
        disable=not text or multiprocessing.parent_process() is not None,
        delay=delay,
        mininterval=0.2 if terminal else 10,
        miniters=1,  # which needs no thread that watches over it
    )


def check_column(name: str, argument: str, names: Sequence[str]) -> None:
    """Raise a KeyError that lists the columns if a name is not among them."""
    if name not in names:
        raise KeyError(f"{argument}: no column {name!r}; the table has {', '.join(names)}")


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
        Units of columns in place of what the catalogue says.
    size
        How many stars to read at a time.
    """

    rows: Rows
    first_row: int = 0
    total_rows: int | None = None
    units: Mapping[str, u.UnitBase] | None = None
    size: int = CHUNK_ROWS

    @property
    def n_rows(self) -> int:
        """The number of stars here."""
        return self.rows.n_rows

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return self.rows.names

    @property
    def catalogue_rows(self) -> int:
        """The number of stars of the whole catalogue, of which this may be a part."""
        return self.first_row + self.n_rows if self.total_rows is None else self.total_rows

    def chunks(self, names: Sequence[str], progress: str = "") -> Iterator[Chunk]:
        """Iterate over chunks with the named columns.

        Parameters
        ----------
        names
            Names of columns.
        progress
            Say on standard error, after this text, how far it is; nothing if it is empty.

        Yields
        ------
        first_row, table
            The number of the chunk's first star in the whole catalogue, and a table with units.

        Raises
        ------
        KeyError
            If there is no such column; the message lists those that there are.
        """
        known = self.names
        for name in names:
            if name not in known:
                raise KeyError(f"no column {name!r} in the catalogue: it has {', '.join(known)}")
        with progress_bar(self.n_rows, progress, delay=1.0) as bar:
            for start, table in self.rows.chunks(names, self.size):
                yield self.first_row + start, self.with_units(table)
                bar.update(len(table))

    def read(self) -> Table:
        """Return all columns of a table, or of one file, in memory and with their units."""
        rows = self.rows
        if isinstance(rows, ManyFiles):
            raise ValueError("several files cannot be read as one table")
        if isinstance(rows, ParquetStars):
            return self.with_units(read_table(rows.path))
        table: Table = rows.table  # type: ignore[attr-defined]
        return self.with_units(table)

    def with_units(self, table: Table) -> Table:
        """Give the columns of a table their units, in place, and return it."""
        for name, unit in (self.units or {}).items():
            if name in table.colnames:
                _set_unit(table, name, unit)
        return table


Stars: TypeAlias = StarSource | Table | Mapping[str, object] | Frame | Paths
"""What `open_stars` takes, and what it returns."""


def _set_unit(table: Table, name: str, unit: u.UnitBase) -> None:
    column = table[name]
    if isinstance(column, u.Quantity):  # whose unit cannot be exchanged
        table[name] = u.Quantity(column.value, unit)
    else:
        column.unit = unit


def _read_units(units: Units, names: Sequence[str]) -> dict[str, u.UnitBase]:
    found = {}
    for name, unit in units.items():
        check_column(name, "units", names)
        try:
            found[name] = u.Unit(unit)
        except ValueError:
            raise ValueError(f"{unit!r}, given for column {name!r}, is not a unit") from None
    return found


def _open_file(
    path: str | os.PathLike[str], hdu: int | str | None, table_format: str | None
) -> list[TableStars | ParquetStars]:
    path = as_path(path)
    if path.is_dir():
        return [ParquetStars(one) for one in _parquet_in(path)]
    if not is_parquet(path):
        return [TableStars(read_table(path, hdu, table_format), str(path))]
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    return [ParquetStars(path)]


def _without_margins(folder: Path) -> Path:
    """Return the catalogue of a HATS collection, whose margins are copies of some of its stars."""
    about = folder / "collection.properties"
    if not about.is_file():
        _refuse_several_catalogues(folder)
        return folder
    text = about.read_text("utf-8", "replace")
    main = re.search(r"^hats_primary_table_url[ \t]*=[ \t]*(\S.*?)[ \t]*$", text, re.MULTILINE)
    if main is None or not (folder / main[1]).is_dir():
        raise ValueError(
            f"{about} names no folder of a catalogue: give that of the catalogue itself"
        )
    return folder / main[1]


def _refuse_several_catalogues(folder: Path) -> None:
    # Margins, or other surveys: their stars would be counted together without a word.
    described = {p.parent for p in folder.glob("*/*properties")}
    if len(described) > 1:
        names = ", ".join(sorted(path.name for path in described))
        raise ValueError(f"{folder} holds several catalogues, {names}: give one of them")


def _parquet_in(folder: Path) -> list[Path]:
    """Return the parquet files of a folder, in order: those of a catalogue in HATS format, too.

    What begins with a dot or an underscore is about the files, not one of them. Stars of HATS are
    in its partitions; beside these there may be a sample of them.
    """
    folder = _without_margins(folder)
    data = folder / "dataset"
    top = data if data.is_dir() else folder
    partitions = sorted(top.glob("Norder=*")) or [top]
    found = [
        path
        for part in partitions
        for path in sorted(part.rglob("*"))
        if is_parquet(path) and not any(p[0] in "._" for p in path.relative_to(top).parts)
    ]
    if not found:
        raise ValueError(f"the folder {folder} has no parquet file")
    return found


def _open(
    stars: Stars, given: Collection[str], hdu: int | str | None, table_format: str | None
) -> TableStars | ParquetStars | ManyFiles:
    if isinstance(stars, Table):
        return TableStars(stars)
    if isinstance(stars, Mapping) or is_frame(stars):
        return TableStars(table_of(stars))
    if isinstance(stars, (str, os.PathLike)):
        stars = [stars]
    if isinstance(stars, Sequence) and len(stars):
        parts = tuple(part for one in stars for part in _open_file(one, hdu, table_format))
        return parts[0] if len(parts) == 1 else ManyFiles(parts, frozenset(given))
    raise TypeError(
        "stars must be a table, a mapping of columns, a DataFrame, a path or a sequence of paths, "
        f"got {type(stars).__name__}"
    )


def open_stars(
    stars: Stars,
    *,
    units: Units | None = None,
    first_row: int = 0,
    total_rows: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    hdu: int | str | None = None,
    table_format: str | None = None,
) -> StarSource:
    """Open a catalogue for reading in chunks.

    Parameters
    ----------
    stars
        A table of astropy, a mapping of column names to arrays, a DataFrame of pandas (and what
        LSDB computes is one; its index is left out), the path of a file, or a sequence
        of paths, which count as one catalogue in that order, in the units of the first. Parquet
        files may be larger than memory; of all others (FITS, ECSV, CSV, HDF5, VOTable) the whole
        table is read at once. A folder is the parquet files in it, as in a catalogue in HATS
        format.
    units
        Units of columns by name, as texts or units, in place of what the catalogue says; a parquet
        file that astropy did not write says nothing.
    first_row, total_rows
        If this is a part of a larger catalogue (one shard of a run), the number of its first star
        and the number of stars of the whole.
    chunk_rows
        How many stars to read at a time.
    hdu
        Which table of a FITS file, by number or name; by default the first.
    table_format
        The format of a file, by the name that astropy has for it; by default the file tells.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read, has no stars, or a unit is not one that astropy knows.
    KeyError
        If units are given for a column that does not exist.
    TypeError
        If stars are none of these.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import open_stars
    >>> stars = open_stars({"z": [0.1, -0.4, 0.3]}, units={"z": "kpc"}, chunk_rows=2)
    >>> for first_row, table in stars.chunks(["z"]):
    ...     print(first_row, table["z"])
    0 [ 0.1 -0.4] kpc
    2 [0.3] kpc
    """
    if isinstance(stars, StarSource):
        return stars
    chunk_rows, first_row = whole(chunk_rows, "chunk_rows", 1), whole(first_row, "first_row", 0)
    total_rows = None if total_rows is None else whole(total_rows, "total_rows", 0)
    rows = _open(stars, units or (), hdu, table_format)
    units = _read_units(units or {}, rows.names)
    source = StarSource(rows, first_row, total_rows, units, chunk_rows)
    if source.n_rows == 0:
        raise ValueError("the catalogue has no stars")
    if source.first_row + source.n_rows > source.catalogue_rows:
        raise ValueError(
            f"total_rows must be at least first_row plus the number of stars, "
            f"{source.first_row + source.n_rows}, got {total_rows}"
        )
    return source
