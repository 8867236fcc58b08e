"""What was observed in the pixels, and what a predicted label there is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import of_rows
from torusimaging_torch.evaluation.levels import Levels

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
    offset
        What is added to the label, with shape (B or 1, N), if anything is.
    terms
        What is added to it times the last entries of the frame, with shape (B or 1, J, N).
    levels
        The positions, each once, if the transform makes use of that.
    """

    pos: Tensor
    vel: Tensor
    observed: Tensor
    weight: Tensor
    constant: Tensor
    counts: bool
    offset: Tensor | None = None
    terms: Tensor | None = None
    levels: Levels | None = None

    @property
    def n_terms(self) -> int:
        """Number J of terms."""
        return 0 if self.terms is None else self.terms.shape[-2]

    def add_to(self, label: Tensor, frame: Tensor) -> Tensor:
        """Add to labels (R, N) what the pixels add of themselves."""
        if self.offset is not None:
            label = label + self.offset
        if self.terms is not None:
            label = label + (frame[:, -self.n_terms :].unsqueeze(-2) @ self.terms).squeeze(-2)
        return label

    def of(self, rows: Tensor | None) -> Observations:
        """Return those of some problems, (R, N)."""
        if rows is None or len(self.pos) == 1:
            return self
        q, v, y, w, c = (of_rows(x, rows) for x in (*self.pixels, self.constant))
        offset, terms = (None if x is None else of_rows(x, rows) for x in self._added)
        levels = None if self.levels is None else self.levels.of(rows)
        return Observations(q, v, y, w, c, self.counts, offset, terms, levels)

    @property
    def pixels(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Positions, velocities, what was observed, and weights."""
        return self.pos, self.vel, self.observed, self.weight

    @property
    def _added(self) -> tuple[Tensor | None, ...]:
        return self.offset, self.terms

    def split(self, size: int) -> Iterator[Observations]:
        """Yield the pixels of all problems, so many at a time."""
        if size >= self.pos.shape[-1]:
            yield self
            return
        constant = self.constant
        for start in range(0, self.pos.shape[-1], size):
            part = slice(start, start + size)
            q, v, y, w = (x[..., part] for x in self.pixels)
            offset, terms = (None if x is None else x[..., part] for x in self._added)
            levels = None if self.levels is None else self.levels.part(part)
            yield Observations(q, v, y, w, constant, self.counts, offset, terms, levels)
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
