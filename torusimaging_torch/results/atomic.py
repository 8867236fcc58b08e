"""Files that appear under their final names only when they are complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torusimaging_torch.catalogue.endings import as_path

__all__ = ["replaced_file", "replaced_folder"]


def _temporary_sibling(path: Path) -> Path:
    # In the same folder, since a rename is atomic within one file system only; with the same
    # suffix, since some writers choose the format by it.
    return path.with_name(f".{path.stem}-{secrets.token_hex(4)}.part{path.suffix}")


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write to; the file takes its final name when all went well.

    Parameters
    ----------
    path
        The final name; a file that has it is replaced.

    Yields
    ------
    pathlib.Path
        A name in the same folder, which is gone in the end, whatever happened.
    """
    path = as_path(path)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: str | os.PathLike[str], last: str) -> Iterator[Path]:
    """Give a temporary folder to write files to; they move to the final one when all went well.

    A new folder appears at once, complete. In one that exists, files of the same names are replaced
    one by one and others stay.

    Parameters
    ----------
    path
        The final folder; its parents are made.
    last
        Name of the file that moves last: where it is, the others are.

    Yields
    ------
    pathlib.Path
        An empty folder, which is gone in the end, whatever happened.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path) if not path.exists() else _temporary_sibling(path / "out")
    temporary.mkdir()
    try:
        yield temporary
        if not path.exists():
            os.replace(temporary, path)
            return
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == last):
            os.replace(file, path / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
