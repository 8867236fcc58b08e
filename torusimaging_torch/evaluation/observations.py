"""What was observed in the pixels, and what a predicted label there is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import of_rows

__all__ = ["Observations", "Score"]


class Score(NamedTuple):
    """ln L of problems, (R,), and its derivatives by the label in each pixel, (R, N)."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor  # minus the second derivative: for both likelihoods the expected one, too


@dataclass(frozen=True)
class Observations:
    """The pixels of a batch of problems, with shape (B or 1, N).

    Attributes
    ----------
    pos, vel
        Positions and velocities.
    observed
        The label, or the star count.
    weight
        The pixel's weight over the squared error of the label; for counts the weight alone.
    constant
        What is added to ln L, whatever the parameters, with shape (B or 1,).
    counts
        Whether star counts were observed.
    """

    pos: Tensor
    vel: Tensor
    observed: Tensor
    weight: Tensor
    constant: Tensor
    counts: bool

    def of(self, rows: Tensor | None) -> Observations:
        """Return those of some problems, (R, N)."""
        if rows is None or len(self.pos) == 1:
            return self
        q, v, y, w, c = (of_rows(x, rows) for x in (*self._pixels, self.constant))
        return Observations(q, v, y, w, c, self.counts)

    @property
    def _pixels(self) -> tuple[Tensor, ...]:
        return self.pos, self.vel, self.observed, self.weight

    def split(self, size: int) -> Iterator[Observations]:
        """Yield the pixels of all problems, so many at a time."""
        if size >= self.pos.shape[-1]:
            yield self
            return
        constant = self.constant
        for q, v, y, w in zip(*(x.split(size, -1) for x in self._pixels), strict=True):
            yield Observations(q, v, y, w, constant, self.counts)
            constant = torch.zeros_like(constant)

    def score(self, label: Tensor) -> Score:
        """Return ln L at predicted labels (R, N), and what it changes by them."""
        if self.counts:
            expected = label.exp()
            terms = self.observed * label - expected
            gradient, curvature = self.observed - expected, self.weight * expected
        else:
            gradient, curvature = self.observed - label, self.weight
            terms = -0.5 * gradient * gradient
        return Score(
            (self.weight * terms).sum(-1) + self.constant, self.weight * gradient, curvature
        )
