"""Whether something can be written, looked at before work begins that would be lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from astropy.io.registry import identify_format
from astropy.table import Table

from torusimaging_torch.catalogue.endings import FORMATS, as_path, format_of

__all__ = ["check_output", "check_writable"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that a file or folder of this name can be made, before work begins that would be lost.

    Raises
    ------
    ValueError
        If the folder that it would be in is a file, is not there and cannot be made, or may not be
        written to.
    """
    path = as_path(path)
    folder = path if path.is_dir() else path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"cannot write {path}: {folder} is a file")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror or error} in the folder {folder}"
        ) from None


def check_output(
    path: str | os.PathLike[str], overwrite: bool, formats: Collection[str] | None = None
) -> None:
    """Check that a table of this name can be written.

    Parameters
    ----------
    path
        The file.
    overwrite
        Whether it may be there already.
    formats
        The formats that it may have, by astropy's names; by default all that astropy writes.

    Raises
    ------
    ValueError
        If it is there, its ending is none of a format, or its folder may not be written to.
    """
    path = as_path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another name, or say --overwrite")
    if not _is_known(path, formats):
        raise ValueError(
            f"cannot write {path}: {path.suffix or 'a name without an ending'} is not the ending "
            f"of a format; known are {', '.join(endings[0] for endings in FORMATS.values())}, ..."
        )
    check_writable(path)


def _is_known(path: Path, formats: Collection[str] | None) -> bool:
    name = format_of(path)
    if formats is not None:
        return name in formats
    return name is not None or bool(identify_format("write", Table, str(path), None, [], {}))
