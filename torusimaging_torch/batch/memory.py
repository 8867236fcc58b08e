"""As many problems at once as memory holds: sizes of chunks, and what to do if that was wrong."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["chunk_size", "in_chunks", "is_out_of_memory", "problem_bytes"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
Found = TypeVar("Found")

# Numbers alive at the peak by pixel and parameter, measured at the renewal of the coordinates.
_NUMBERS = 12
# The exact Hessian carries one tangent per parameter through everything.
_EXACT = 10
# Pixels at once on a CPU: fewer, and the calls cost more than the numbers; more, and the numbers
# leave the cache without saving calls.
_CPU_PIXELS = 420000
# Part of a device's free memory to count on.
_FREE = 0.8
# What allocators say: PyTorch's on a CPU, CUDA, its cuBLAS and cuSOLVER, and MAGMA.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed", "memory allocation")


def problem_bytes(n_pixels: int, n_params: int, item_size: int = 8, exact: bool = False) -> int:
    """Return the bytes that one problem takes at the peak of its fit, about."""
    return n_pixels * n_params * _NUMBERS * item_size * (_EXACT if exact else 1)


def chunk_size(
    n_pixels: int,
    n_params: int,
    device: torch.device,
    max_memory: float | None,
    item_size: int = 8,
    exact: bool = False,
) -> int:
    """Return how many problems to fit at once.

    Parameters
    ----------
    n_pixels, n_params
        Size of the largest problem, all its starts together.
    device
        Where it is fitted.
    max_memory
        Bytes to use at most; by default what a CUDA device has free, and on a CPU what its caches
        like best.
    item_size
        Bytes of a number.
    exact
        Whether the exact Hessian is needed.
    """
    if max_memory is None and device.type != "cuda":
        return max(1, _CPU_PIXELS // n_pixels)
    if max_memory is None:
        max_memory = _FREE * _free_memory(device)
    return max(1, int(max_memory / problem_bytes(n_pixels, n_params, item_size, exact)))


def in_chunks(
    run: Callable[[Sequence[T]], Found], items: Sequence[T], size: int
) -> Iterator[Found]:
    """Yield what a function returns for one chunk of items after the other.

    A chunk that does not fit into memory is halved, and so are all after it.

    Raises
    ------
    MemoryError
        If a single item does not fit.
    """
    start = 0
    while start < len(items):
        chunk = items[start : start + size]
        try:
            result = run(chunk)
        except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(chunk) == 1:
                raise MemoryError(
                    "one subsample alone does not fit into memory: use fewer pixels or knots, "
                    f"fewer starts, or hessian='expected' ({error})"
                ) from None
            size = len(chunk) // 2
            _log.warning("out of memory: %d subsamples at a time in place of %d", size, len(chunk))
        else:
            start += len(chunk)
            yield result
            continue
        # Outside the handler: there the exception would keep the failed chunk alive.
        _free()


def _free_memory(device: torch.device) -> int:
    """Return the bytes of a CUDA device that are free, or that PyTorch keeps for its next use."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: PyTorch's own, or one of CUDA's libraries."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
