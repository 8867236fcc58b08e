"""Where compiled loops are kept from one process to the next.

Numba keeps what it compiles, but looks at the file of a function alone, not at those of functions
that it calls: after a change there it would go on with old code. So each state of the sources has a
folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["cache_folder", "key_of"]

_HERE = Path(__file__).parent


@cache
def cache_folder() -> Path | None:
    """Return the folder for compiled loops, made if need be; None if none can be written to."""
    for place in _places():
        folder = place / f"torusimaging_torch-{key_of(_HERE)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


def key_of(folder: Path) -> str:
    """Return a text that no other state of the loops in a folder has."""
    found = hashlib.sha256()
    for path in sorted([*folder.glob("*loops.py"), *folder.glob("compiled*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _places() -> Iterator[Path]:
    """Yield places in order: the one that was asked for, beside the sources, the user's own."""
    if wanted := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(wanted)
    yield _HERE / "__pycache__"
    own = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    if own.is_absolute():  # not where there is no home
        yield own
