"""How loops are compiled, by Numba.

Functions are compiled when first called, and kept on disk. They release the GIL and start no
threads. Numbers that are not finite go through, as they do in torch; nothing is reordered.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from numba import njit

__all__ = ["compiled", "inlined", "one"]

compiled: Any = partial(njit, cache=True, nogil=True, error_model="numpy")

# What is called for each pixel is inlined: arrays that are handed on are counted otherwise.
inlined: Any = partial(compiled, inline="always")


@compiled()
def one(per_problem, i):  # type: ignore[no-untyped-def]
    """Return the entry of a problem, or the one that all share."""
    return per_problem[i if len(per_problem) > 1 else 0]
