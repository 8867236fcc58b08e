"""ln L - R of any model by autograd: what the formulas are checked against, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import functional

from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.evaluation.penalties import AutogradPenalty

__all__ = ["ByAutograd", "Definition", "batched_hessian"]


class Definition(Protocol):
    """ln L and R of vectors (*B, P), as modules define them."""

    def ln_likelihood_at(self, vector: Tensor) -> Tensor:
        """Return ln L, with shape (*B,)."""

    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""

    def expected_information(self, vector: Tensor) -> Tensor:
        """Return J^T W J of the pixels, with shape (*B, P, P)."""

    def subset(self, index: Tensor) -> Definition:
        """Return the same of some problems of a batch."""


class ByAutograd:
    """ln L - R by autograd, with the methods of `ClosedForm`.

    Parameters
    ----------
    definition
        ln L and R.
    batch
        The batch shape *B of the problems.
    reason
        Why not by formulas, in words.
    """

    name = "autograd"

    def __init__(self, definition: Definition, batch: torch.Size, reason: str) -> None:
        self.definition = definition
        self.penalty = AutogradPenalty(definition.penalty, batch)
        self.remark = reason
        self._latest: tuple[Tensor, Definition] | None = None

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""
        return self._of(rows).ln_likelihood_at(vector) - self._penalty(vector, rows)

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P)."""
        with torch.enable_grad():
            leaf = vector.detach().clone().requires_grad_()
            value = self.value(leaf, rows)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    def data_information(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> Tensor:
        """Return J^T W J, or minus the second derivatives of ln L, with shape (*B, P, P)."""
        definition = self._of(rows)
        if exact:
            return -batched_hessian(definition.ln_likelihood_at, vector)
        return definition.expected_information(vector)

    def penalty_hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of R, with shape (*B, P, P)."""
        return batched_hessian(lambda x: self._penalty(x, rows), vector)

    def curvature(self, vector: Tensor, rows: Tensor | None = None) -> Curvature:
        """Return ln L - R, its gradient, J^T W J and the second derivatives of R.

        None of them has derivatives: coordinates of a fit are made of them, and must not depend on
        data that require gradients.
        """
        return Curvature(
            *self.value_and_gradient(vector, rows),
            self.data_information(vector, rows).detach(),
            self.penalty_hessian(vector, rows).detach(),
        )

    def hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        return batched_hessian(lambda x: self.value(x, rows), vector)

    def _penalty(self, vector: Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            return self.definition.penalty(vector)
        return self.penalty.value(vector, rows)

    def _of(self, rows: Tensor | None) -> Definition:
        """Return the definition of some problems; the latest ones are asked for again."""
        if rows is None:
            return self.definition
        latest = self._latest
        if latest is None or not torch.equal(latest[0], rows):
            self._latest = latest = (rows, self.definition.subset(rows))
        return latest[1]


def batched_hessian(fun: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
    """Return the Hessian of each problem's value, with shape (*B, P, P).

    ``fun`` maps (*B, P) to (*B,), each entry from its own row. For one problem this is
    `torch.autograd.functional.hessian`, vectorized. For a batch, that would hold the zeros between
    problems, too; so it is its two Jacobians with a sum over problems between them: P backward
    passes give all the Hessians. Vectorized code cannot look for anomalies, so then it is not.
    """
    vector, vectorize = vector.detach(), not torch.is_anomaly_enabled()
    if vector.ndim == 1:
        return functional.hessian(fun, vector, vectorize=vectorize)

    def gradient(x: Tensor) -> Tensor:
        def total(x: Tensor) -> Tensor:
            return fun(x).sum()

        every = functional.jacobian(total, x, create_graph=True)
        return every.flatten(0, -2).sum(0)

    return functional.jacobian(gradient, vector, vectorize=vectorize).movedim(0, -2)
