"""ln L - R of parameter vectors, its gradient and its curvature, however they are worked out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import AtVector, Coefficients, Terms
from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.evaluation.likelihood import ClosedLikelihood
from torusimaging_torch.evaluation.penalties import PenaltyForm

__all__ = ["ClosedForm", "flattened"]


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
    coefficients
        From the vector to what the splines are linear in.
    likelihood, penalty
        ln L and R.
    batch
        The batch shape *B.
    remark
        What is not done by formulas, in words.
    """

    name: str
    coefficients: Coefficients
    likelihood: ClosedLikelihood
    penalty: PenaltyForm
    batch: torch.Size
    remark: str = ""

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""
        flat, which = flattened(vector, rows, self.batch)
        point = self.coefficients.at(flat, which)
        penalty = self.penalty.value_and_gradient(flat, point, which).value
        return (self.likelihood.value(flat, point, which) - penalty).reshape(vector.shape[:-1])

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P)."""
        flat, which = flattened(vector, rows, self.batch)
        point = self.coefficients.at(flat, which)
        data = self.likelihood.value_and_gradient(flat, point, which)
        penalty = self.penalty.value_and_gradient(flat, point, which)
        return self._join(data, penalty, point, vector)

    def _join(
        self, data: Terms, penalty: Terms, point: AtVector, vector: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R and its gradient, by the vector alone, in its shape."""
        through = self.coefficients.pull(data.by_coefficients - penalty.by_coefficients, point)
        gradient = data.by_vector - penalty.by_vector + through
        value = (data.value - penalty.value).reshape(vector.shape[:-1])
        return value, gradient.reshape_as(vector)

    def data_information(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> Tensor:
        """Return J^T W J, or minus the second derivatives of ln L, with shape (*B, P, P)."""
        flat, which = flattened(vector, rows, self.batch)
        point = self.coefficients.at(flat, which)
        data, information = self.likelihood.curvature(flat, point, which, exact=exact)
        if exact:
            information = information - self.coefficients.bend(data.by_coefficients, point)
        return information.reshape(*vector.shape, vector.shape[-1])

    def penalty_hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of R, with shape (*B, P, P)."""
        flat, which = flattened(vector, rows, self.batch)
        point = self.coefficients.at(flat, which)
        penalty, hessian = self.penalty.curvature(flat, point, which)
        hessian = hessian + self.coefficients.bend(penalty.by_coefficients, point)
        return hessian.reshape(*vector.shape, vector.shape[-1])

    def curvature(self, vector: Tensor, rows: Tensor | None = None) -> Curvature:
        """Return ln L - R, its gradient, J^T W J and the second derivatives of R, all at once."""
        flat, which = flattened(vector, rows, self.batch)
        point = self.coefficients.at(flat, which)
        data, information = self.likelihood.curvature(flat, point, which)
        penalty, hessian = self.penalty.curvature(flat, point, which)
        hessian = hessian + self.coefficients.bend(penalty.by_coefficients, point)
        square = (*vector.shape, vector.shape[-1])
        value, gradient = self._join(data, penalty, point, vector)
        return Curvature(value, gradient, information.reshape(square), hessian.reshape(square))

    def hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        data = self.data_information(vector, rows, exact=True)
        return -data - self.penalty_hessian(vector, rows)


def flattened(
    vector: Tensor, rows: Tensor | None, batch: torch.Size
) -> tuple[Tensor, Tensor | None]:
    """Return vectors (R, P) and which problem of a batch each is one of; None for all in order."""
    flat = vector.detach().reshape(-1, vector.shape[-1])
    total = batch.numel()
    if rows is not None or len(flat) == total or total == 1:
        return flat, rows
    every = torch.arange(total, device=vector.device).reshape(batch)
    return flat, every.expand(vector.shape[:-1]).reshape(-1)
