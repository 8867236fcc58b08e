"""ln L - R of parameter vectors, its gradient and its curvature, however they are worked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.likelihood import ClosedLikelihood
from torusimaging_torch.evaluation.penalties import PenaltyForm

__all__ = ["ClosedForm", "Curvature"]


class Curvature(NamedTuple):
    """ln L - R of vectors (*B, P), its gradient, and the information of pixels and penalty."""

    value: Tensor
    gradient: Tensor
    data: Tensor  # (*B, P, P)
    penalty: Tensor  # (*B, P, P)

    @property
    def information(self) -> Tensor:
        """That of both together."""
        return self.data + self.penalty


@dataclass(frozen=True)
class ClosedForm:
    """ln L - R by formulas, for a batch of problems with shape *B.

    Vectors have the shape (*B, P), or (*S, *B, P) for several of each problem. With ``rows``, an
    index of problems of a batch with one dimension, each of them once, they have the shape
    (len(rows), P), and no other problem is evaluated.

    Attributes
    ----------
    name
        Which implementation it is.
    likelihood, penalty
        ln L and R.
    batch
        The batch shape *B.
    """

    name: str
    likelihood: ClosedLikelihood
    penalty: PenaltyForm
    batch: torch.Size

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""
        flat, which = self._flat(vector, rows)
        value = self.likelihood.value(flat, which) - self.penalty.value_and_gradient(flat, which)[0]
        return value.reshape(vector.shape[:-1])

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P)."""
        flat, which = self._flat(vector, rows)
        value, gradient = self.likelihood.value_and_gradient(flat, which)
        penalty, slope = self.penalty.value_and_gradient(flat, which)
        return (value - penalty).reshape(vector.shape[:-1]), (gradient - slope).reshape_as(vector)

    def curvature(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> Curvature:
        """Return ln L - R, its gradient, and the information of pixels and penalty.

        That of the pixels is J^T W J, or minus the second derivatives of ln L if they are to be
        exact; that of the penalty its second derivatives.
        """
        flat, which = self._flat(vector, rows)
        value, gradient, data = self.likelihood.curvature(flat, which, exact=exact)
        penalty, slope, bend = self.penalty.curvature(flat, which)
        square = (*vector.shape, vector.shape[-1])
        return Curvature(
            (value - penalty).reshape(vector.shape[:-1]),
            (gradient - slope).reshape_as(vector),
            data.reshape(square),
            bend.expand_as(data).reshape(square),
        )

    def information(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L - R, its gradient, and J^T W J plus the curvature of R, (*B, P, P)."""
        found = self.curvature(vector, rows)
        return found.value, found.gradient, found.information

    def hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        return -self.curvature(vector, rows, exact=True).information

    def _flat(self, vector: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return vectors (R, P) and which problem each is one of; None for all in order."""
        flat = vector.detach().reshape(-1, vector.shape[-1])
        total = self.batch.numel()
        if rows is not None or len(flat) == total or total == 1:
            return flat, rows
        every = torch.arange(total, device=vector.device).reshape(self.batch)
        return flat, every.expand(vector.shape[:-1]).reshape(-1)
