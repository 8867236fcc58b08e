"""ln L - R of any model by autograd: what the formulas are checked against, and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import functional

__all__ = ["ByAutograd", "Definition", "batched_hessian"]


class Definition(Protocol):
    """ln L and R of vectors (*B, P), as modules define them."""

    def ln_likelihood_at(self, vector: Tensor) -> Tensor:
        """Return ln L, with shape (*B,)."""

    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""

    def expected_information(self, vector: Tensor) -> Tensor:
        """Return J^T W J of the pixels, with shape (*B, P, P)."""

    def subset(self, index: Tensor) -> Any:
        """Return the same of some problems of a batch."""


class ByAutograd:
    """ln L - R by autograd, with the methods of `ClosedForm`.

    Parameters
    ----------
    definition
        ln L and R.
    reason
        Why not by formulas, in words.
    """

    name = "autograd"

    def __init__(self, definition: Definition, reason: str) -> None:
        self.definition = definition
        self.remark = reason
        self._latest: tuple[Tensor, Any] | None = None

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""
        definition = self._of(rows)
        return definition.ln_likelihood_at(vector) - definition.penalty(vector)

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
        return batched_hessian(self._of(rows).penalty, vector)

    def information(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L - R, its gradient, and J^T W J plus the curvature of R, (*B, P, P)."""
        found = self.data_information(vector, rows) + self.penalty_hessian(vector, rows)
        return *self.value_and_gradient(vector, rows), found

    def hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        return batched_hessian(lambda x: self.value(x, rows), vector)

    def _of(self, rows: Tensor | None) -> Any:
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
    passes give all the Hessians.
    """
    vector = vector.detach()
    if vector.ndim == 1:
        return functional.hessian(fun, vector, vectorize=True)

    def gradient(x: Tensor) -> Tensor:
        def total(x: Tensor) -> Tensor:
            return fun(x).sum()

        every = functional.jacobian(total, x, create_graph=True)
        return every.flatten(0, -2).sum(0)

    return functional.jacobian(gradient, vector, vectorize=True).movedim(0, -2)
