"""Subsamples of any size as one rectangle of pixels, padded with weight 0."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.batch.reading import Columns, Subsample
from torusimaging_torch.inference.crossed import TwoLabels
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.units import Place

__all__ = ["stack_columns", "stack_crossed"]

# Rows that are copied together: of most problems they stay in the cache.
_BLOCK = 32


def stack_columns(problems: Sequence[Columns], place: Place) -> Pixels:
    """Join the usable pixels of problems to a batch with shape (B, N).

    Parameters
    ----------
    problems
        The columns of each, with a usable pixel at least.
    place
        Type and device of the batch, as arguments of `torch.Tensor.to`.

    Returns
    -------
    Pixels
        Shorter problems repeat their first pixel with weight 0: a harmless place, where the label
        cannot overflow.
    """
    numbers = [problem.n for problem in problems]

    def join(rows: Iterator[Array], pad: float | None = None) -> Tensor:
        return _rectangle(rows, (len(problems), max(numbers)), pad, place)

    def rows(name: str) -> Iterator[Array]:
        one = np.ones(max(numbers))
        return (p.of(name) if name in p.values else one[: p.n] for p in problems)

    def some(name: str) -> bool:
        return any(name in problem.values for problem in problems)

    has_terms = problems[0].terms is not None
    return Pixels(
        join(rows("pos")),
        join(rows("vel")),
        tuple(join(rows(name)) for name in problems[0].observed),
        join(rows("weight"), pad=0.0) if some("weight") or len(set(numbers)) > 1 else None,
        torch.tensor(numbers).to(place["device"]),
        sum(problem.n_masked for problem in problems),
        # In double precision: there are exposures that single precision does not know.
        join(map(np.log, rows("exposure"))) if some("exposure") else None,
        join(p.pick(np.asarray(p.terms)) for p in problems) if has_terms else None,
    )


def _rectangle(
    rows: Iterator[Array], shape: tuple[int, int], pad: float | None, place: Place
) -> Tensor:
    """Return B rows (N,) or (J, N) of any N up to a width, side by side.

    What is missing of a row is a number, or the first of its pixels. Rows go through a small block
    of the host's memory: as much of it as a batch has costs more to get than to fill.
    """
    first = next(rows)
    n, width = shape
    found = torch.empty((n, *first.shape[:-1], width), **place)
    pinned = found.device.type == "cuda"
    block = torch.empty((min(n, _BLOCK), *found.shape[1:]), dtype=torch.float64, pin_memory=pinned)
    buffer, every = block.numpy(), itertools.chain([first], rows)
    for part in found.split(len(block)):
        for own, row in zip(buffer, itertools.islice(every, len(part)), strict=False):
            size = row.shape[-1]
            own[..., :size] = row
            own[..., size:] = row[..., :1] if pad is None else pad
        part.copy_(block[: len(part)])
    return found


def stack_crossed(problems: Sequence[Subsample], place: Place) -> dict[tuple[str, str], Pixels]:
    """Join what is between labels that are not independent, pair by pair; see `stack_columns`."""
    zero, observed = np.zeros(1), TwoLabels.observed
    nothing = Columns(
        observed, dict.fromkeys(("pos", "vel", *observed), zero), np.ones(1, dtype=bool)
    )
    found = {}
    for pair in dict.fromkeys(pair for problem in problems for pair in problem.crossed):
        columns = (problem.crossed.get(pair, nothing) for problem in problems)
        found[pair] = stack_columns([one if one.n else nothing for one in columns], place)
    return found
