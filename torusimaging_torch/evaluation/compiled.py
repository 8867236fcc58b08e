"""How loops are compiled, by Numba.

Functions are compiled when first called, and kept on disk. They release the GIL and start no
threads. Numbers that are not finite go through, as they do in torch; nothing is reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba

from torusimaging_torch.evaluation.cache_folder import cache_folder

__all__ = ["compiled", "inlined", "one"]

_config: Any = numba.config


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator of functions that are compiled when first called."""
    folder = cache_folder()
    compile_ = partial(numba.njit, cache=bool(folder), nogil=True, error_model="numpy", **options)

    def decorate(function: Callable[..., Any]) -> Any:
        # Numba decides here where a function is kept; whatever others keep stays where it was.
        before = _config.CACHE_DIR
        _config.CACHE_DIR = str(folder or before)
        try:
            return compile_()(function)
        finally:
            _config.CACHE_DIR = before

    return decorate


# What is called for each pixel is inlined, by LLVM: as fast as by Numba, and sooner compiled.
inlined: Any = partial(compiled, forceinline=True)


@compiled()
def one(per_problem, i):  # type: ignore[no-untyped-def]
    """Return the entry of a problem, or the one that all share."""
    return per_problem[i if len(per_problem) > 1 else 0]
