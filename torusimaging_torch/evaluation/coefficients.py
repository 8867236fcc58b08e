r"""From the parameter vector to the numbers in which the splines are linear, and back.

The coefficients of a problem are its parameters, the log slopes as slopes, and behind them for each
:math:`e_m` with a positive cubic spline the slope at its last knot, which is not linear in the
others: with :math:`\sigma_0, \sigma_1` the last two slopes and :math:`w` their shares in the slope
at the knot between them,

.. math:: \lambda = \frac{\sigma_1^2}{w_0 \sigma_0 + w_1 \sigma_1}

By the log slopes, and with :math:`p = w_0 \sigma_0/(w_0 \sigma_0 + w_1 \sigma_1)`, its derivatives
are :math:`-\lambda p` and :math:`\lambda (1 + p)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AtVector", "Coefficients", "Terms", "apply", "of_rows"]


class AtVector(NamedTuple):
    """Coefficients of a vector, (R, C), and what their derivatives are made of."""

    value: Tensor
    growth: Tensor  # of each parameter's coefficient by the parameter, (R, P)
    last: Tensor  # the slopes at last knots, (R, L)
    share: Tensor  # p, with the same shape


class Terms(NamedTuple):
    """A part of ln L - R of vectors, (R,), and its gradients."""

    value: Tensor
    by_vector: Tensor  # all that does not come by way of the coefficients, (R, P)
    by_coefficients: Tensor  # (R, C)


@dataclass(frozen=True)
class Coefficients:
    """Which parameters are logarithms, and which slopes at last knots follow from which.

    Attributes
    ----------
    sign
        The sign of each log slope, 0 for a parameter that is its own coefficient; shape (P,).
    before, end
        For each slope at a last knot the parameters with the last two log slopes, with shape (L,).
    shares
        The shares w of both, with shape (B or 1, L, 2).
    """

    sign: Tensor
    before: Tensor
    end: Tensor
    shares: Tensor

    @property
    def size(self) -> int:
        """Number of coefficients C of a problem."""
        return len(self.sign) + len(self.end)

    def at(self, vector: Tensor, rows: Tensor | None = None) -> AtVector:
        """Return the coefficients of vectors (R, P), of all problems or those in ``rows``."""
        logarithmic, slopes = self.sign != 0, self.sign * vector.exp()
        given = torch.where(logarithmic, slopes, vector)
        before, end = given.index_select(-1, self.before), given.index_select(-1, self.end)
        before_share, end_share = of_rows(self.shares, rows).unbind(-1)
        inner = before_share * before + end_share * end
        last = end * end / inner
        growth = torch.where(logarithmic, slopes, torch.ones_like(slopes))
        return AtVector(torch.cat([given, last], -1), growth, last, before_share * before / inner)

    def pull(self, by_coefficients: Tensor, point: AtVector) -> Tensor:
        """Return the gradient by the vector, (R, P), from that by the coefficients, (R, C)."""
        own, last = by_coefficients.split([len(self.sign), len(self.end)], -1)
        felt = last * point.last
        gradient = own * point.growth
        gradient = gradient.index_add(-1, self.before, -felt * point.share)
        return gradient.index_add(-1, self.end, felt * (1 + point.share))

    def jacobian(self, point: AtVector) -> Tensor:
        """Return the derivatives of the coefficients by the vector, with shape (R, C, P)."""
        rows = point.last.new_zeros(*point.last.shape, len(self.sign))
        each = torch.arange(len(self.end), device=rows.device)
        rows[:, each, self.before] = -point.last * point.share
        rows[:, each, self.end] = point.last * (1 + point.share)
        return torch.cat([torch.diag_embed(point.growth), rows], -2)

    def bend(self, by_coefficients: Tensor, point: AtVector) -> Tensor:
        """Return what the curvature of the coefficients adds to a Hessian, (R, P, P).

        It is the sum of their second derivatives, each times the derivative by that coefficient.
        """
        own, last = by_coefficients.split([len(self.sign), len(self.end)], -1)
        bend = torch.diag_embed(own * torch.where(self.sign != 0, point.growth, 0.0))
        felt, p = last * point.last, point.share
        i, j = self.before, self.end
        bend[:, i, i] += felt * p * (2 * p - 1)
        bend[:, j, j] += felt * (1 + p + 2 * p * p)
        bend[:, i, j] -= 2 * felt * p * p
        bend[:, j, i] -= 2 * felt * p * p
        return bend


def of_rows(per_problem: Tensor, rows: Tensor | None) -> Tensor:
    """Return the entries (R, ...) of some problems from (B, ...), or the one that all share."""
    return per_problem if rows is None or len(per_problem) == 1 else per_problem[rows]


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply matrices (R or 1, M, C) with vectors (R, C)."""
    return x @ matrix[0].mT if len(matrix) == 1 else (matrix @ x.unsqueeze(-1)).squeeze(-1)
