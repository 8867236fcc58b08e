"""The pixels in plain torch, on any device: a piece of all pixels at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.second_derivatives import information

__all__ = ["TorchForm", "in_cache"]

# Numbers that an intermediate array may have: on a CPU those of a piece should stay in the cache,
# on another device they should keep it busy.
_PIECE, _PIECE_THERE = 65_536, 2**24
# The same for matrices by pixel and parameter.
_MATRIX, _MATRIX_THERE = 4_000_000, 2**27


@dataclass(frozen=True)
class TorchForm:
    """ln L of frames and tables, its gradient and its information.

    Attributes
    ----------
    formulas
        The torus, in pixels.
    observations
        What was observed.
    """

    formulas: Formulas
    observations: Observations

    def value(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L, with shape (R,)."""
        total = torch.zeros_like(frame[:, 0])
        for data in self._pieces(rows, len(frame), in_cache(frame.device)):
            label = self.formulas.pixels(data, frame, table, rows).label.value
            total = total + data.score(data.add_to(label, frame)).value
        return total

    def value_and_gradient(
        self, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L, (R,), and its gradient by frame and table, (R, F + T).

        Parameters
        ----------
        frame, table
            Frames (R, F) and tables (R, T).
        rows
            Which problem each is one of, with shape (R,); all of them in order if not given.
        """
        pieces = []
        for data in self._pieces(rows, len(frame), in_cache(frame.device)):
            pixels = self.formulas.pixels(data, frame, table, rows)
            score = data.score(data.add_to(pixels.label.value, frame))
            pieces.append((score.value, self.formulas.gradient(data, pixels, score, frame)))
        value, gradient = (_total(parts) for parts in zip(*pieces, strict=True))
        return value, gradient

    def curvature(
        self,
        frame: Tensor,
        table: Tensor,
        jacobian: Tensor,
        rows: Tensor | None = None,
        *,
        exact: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, (R,), its gradient by frame and table, and its information, (R, P, P).

        Parameters
        ----------
        frame, table, rows
            As in `value_and_gradient`.
        jacobian
            Derivatives of frame and table by the parameters, with shape (R, F + T, P).
        exact
            Whether the information is minus the second derivatives, all but those that the tables
            have by the parameters; else J^T W J.
        """
        pieces = []
        matrix = _MATRIX if frame.device.type == "cpu" else _MATRIX_THERE
        for data in self._pieces(rows, len(frame), matrix // table.shape[-1]):
            pixels = self.formulas.pixels(data, frame, table, rows)
            score = data.score(data.add_to(pixels.label.value, frame))
            found = information(self.formulas, data, pixels, score, frame, jacobian, exact)
            gradient = self.formulas.gradient(data, pixels, score, frame)
            pieces.append((score.value, gradient, found))
        value, gradient, found = (_total(parts) for parts in zip(*pieces, strict=True))
        return value, gradient, found

    def _pieces(self, rows: Tensor | None, n: int, size: int) -> Iterator[Observations]:
        """Yield the pixels of n problems, (R or 1, N'), so many that ``size`` are not exceeded."""
        data = self.observations.of(rows)
        yield from data.split(max(1, size // n))


def in_cache(device: torch.device) -> int:
    """Return how many numbers an intermediate array may have."""
    return _PIECE if device.type == "cpu" else _PIECE_THERE


def _total(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
