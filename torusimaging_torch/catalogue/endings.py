"""Which ending of a file's name means which format of astropy."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FORMATS", "as_path", "format_of"]

FORMATS = {
    "parquet": (".parquet", ".pq", ".parq"),
    "fits": (".fits", ".fit", ".fts"),
    "hdf5": (".hdf5", ".h5"),
    "ascii.ecsv": (".ecsv",),
}
"""Endings by the name that astropy has for the format, the usual one first."""


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as people write it, with ~ for their home."""
    return Path(path).expanduser()


def format_of(path: str | os.PathLike[str]) -> str | None:
    """Return the format that a file's name asks for; None if its ending is another one.

    Examples
    --------
    >>> format_of("stars.PQ"), format_of("stars.csv")
    ('parquet', None)
    """
    ending = Path(path).suffix.lower()
    return next((name for name, endings in FORMATS.items() if ending in endings), None)
