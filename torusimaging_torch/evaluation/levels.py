"""Pixels of equal position: what depends on the position alone is worked out once for all of them.

Pixels come from a grid, so thousands of them have a few dozen positions between them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import of_rows

__all__ = ["Levels"]

# Levels of no more than so many pixels each are not worth the way there and back.
_FEWEST_PIXELS = 4


@dataclass(frozen=True)
class Levels:
    """The positions of pixels, each once.

    Attributes
    ----------
    pos
        Positions with shape (B or 1, U); rows with fewer of them repeat their last one.
    place
        Which of them each pixel has, with shape (B or 1, N); None if each has its own, in order.
    """

    pos: Tensor
    place: Tensor | None = None

    @classmethod
    def of_pixels(cls, pos: Tensor) -> Levels:
        """Return the levels of positions (B or 1, N).

        Examples
        --------
        >>> Levels.of_pixels(torch.tensor([[3.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 3.0]])).pos
        tensor([[1., 3.]])
        """
        ordered, order = pos.sort(-1)
        new = torch.zeros_like(order)
        new[:, 1:] = (ordered[:, 1:] > ordered[:, :-1]).long()
        rank = new.cumsum(-1)
        n_levels = int(rank.max()) + 1 if rank.numel() else 0
        if _FEWEST_PIXELS * n_levels >= pos.shape[-1]:
            return cls(pos)
        levels = ordered[:, -1:].repeat(1, n_levels).scatter(-1, rank, ordered)
        return cls(levels, torch.zeros_like(rank).scatter(-1, order, rank))

    def of(self, rows: Tensor | None) -> Levels:
        """Return those of some problems, with shape (R, U)."""
        place = None if self.place is None else of_rows(self.place, rows)
        return Levels(of_rows(self.pos, rows), place)

    def part(self, pixels: slice) -> Levels:
        """Return those of some of the pixels."""
        if self.place is None:
            return Levels(self.pos[:, pixels])
        return replace(self, place=self.place[:, pixels])

    def spread(self, x: Tensor) -> Tensor:
        """Return in each pixel, (R, ..., N), what its level has, (R, ..., U)."""
        if self.place is None:
            return x
        shape = (len(self.place), *(1,) * (x.ndim - 2), self.place.shape[-1])
        place = self.place.reshape(shape).expand(*x.shape[:-1], -1)
        return x.gather(-1, place)

    def collect(self, x: Tensor) -> Tensor:
        """Return the sums over the pixels of each level, (R, U), of what pixels have, (R, N)."""
        if self.place is None:
            return x
        total = x.new_zeros(len(x), self.pos.shape[-1])
        return total.scatter_add(-1, self.place.expand_as(x), x)
