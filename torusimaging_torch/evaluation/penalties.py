"""The penalty R of parameter vectors, its gradient and its second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import (
    AtVector,
    Coefficients,
    Terms,
    apply,
    of_rows,
)
from torusimaging_torch.evaluation.moving_wall import MovingWall
from torusimaging_torch.evaluation.wall import Wall, WallAt

__all__ = [
    "AutogradPenalty",
    "DefaultPenalty",
    "NoPenalty",
    "PenaltyForm",
    "SumOfForms",
    "merged",
    "sum_of",
]


class PenaltyForm(Protocol):
    """R of vectors (R, P) with their coefficients, of all problems or of those in ``rows``."""

    def value_and_gradient(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> Terms:
        """Return R and its gradient."""

    def curvature(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P).

        All but what the curvature of the coefficients adds.
        """


@dataclass(frozen=True)
class NoPenalty:
    """No penalty at all."""

    def value_and_gradient(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> Terms:
        """Return zeros."""
        return Terms(
            torch.zeros_like(vector[:, 0]), torch.zeros_like(vector), torch.zeros_like(point.value)
        )

    def curvature(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return zeros."""
        return self.value_and_gradient(vector, point), vector.new_zeros(
            *vector.shape, vector.shape[-1]
        )


@dataclass(frozen=True)
class SumOfForms:
    """Several penalties together."""

    forms: Sequence[PenaltyForm]

    def value_and_gradient(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> Terms:
        """Return R and its gradient."""
        return _sum([form.value_and_gradient(vector, point, rows) for form in self.forms])

    def curvature(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P)."""
        pairs = [form.curvature(vector, point, rows) for form in self.forms]
        return _sum([terms for terms, _ in pairs]), sum_of([hessian for _, hessian in pairs])


def _sum(every: Sequence[Terms]) -> Terms:
    return Terms(*(sum_of(parts) for parts in zip(*every, strict=True)))


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors that broadcast against each other."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@dataclass(frozen=True)
class DefaultPenalty:
    """Quadratic forms of coefficients and parameters, and a wall, for B or 1 problems.

    Attributes
    ----------
    coefficients
        From the vector to the coefficients.
    of_coefficients, of_parameters
        The matrices of both forms, (B or 1, C, C) and (B or 1, P, P), symmetric.
    center
        The parameters for which the second form is zero, with shape (B or 1, P).
    wall
        The wall, if there is one: at fixed radii, or at radii that move with pos0.
    """

    coefficients: Coefficients
    of_coefficients: Tensor
    of_parameters: Tensor
    center: Tensor
    wall: Wall | MovingWall | None

    def value_and_gradient(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> Terms:
        """Return R and its gradient."""
        return self._terms(vector, point, rows)[0]

    def curvature(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P)."""
        terms, wall = self._terms(vector, point, rows)
        jacobian = self.coefficients.jacobian(point)
        hessian = jacobian.mT @ of_rows(self.of_coefficients, rows) @ jacobian
        hessian = 2 * (hessian + of_rows(self.of_parameters, rows))
        return terms, hessian if wall is None else hessian + wall.curvature(jacobian)

    def _terms(
        self, vector: Tensor, point: AtVector, rows: Tensor | None
    ) -> tuple[Terms, WallAt | None]:
        by_coefficients = apply(of_rows(self.of_coefficients, rows), point.value)
        offset = vector - of_rows(self.center, rows)
        by_vector = apply(of_rows(self.of_parameters, rows), offset)
        value = (by_coefficients * point.value).sum(-1) + (by_vector * offset).sum(-1)
        by_coefficients, by_vector = 2 * by_coefficients, 2 * by_vector
        if self.wall is None:
            return Terms(value, by_vector, by_coefficients), None
        wall = self.wall.at(point, vector, rows)
        by_vector = wall.add_to(by_vector)
        return Terms(value + wall.value, by_vector, by_coefficients + wall.by_coefficients), wall


def merged(forms: Sequence[PenaltyForm]) -> PenaltyForm:
    """Return the sum of penalties, in one form where they are quadratic in different parameters.

    So a prior of parameters of which the penalty says nothing costs nothing.
    """
    total, *rest = [form for form in forms if not isinstance(form, NoPenalty)] or forms
    apart: list[PenaltyForm] = []
    for form in rest:
        joined = _joined(total, form)
        total, apart = (total, [*apart, form]) if joined is None else (joined, apart)
    return SumOfForms([total, *apart]) if apart else total


def _joined(one: PenaltyForm, other: PenaltyForm) -> DefaultPenalty | None:
    if not (isinstance(one, DefaultPenalty) and isinstance(other, DefaultPenalty)):
        return None
    felt, more = ((p.of_parameters != 0).any(-1).any(0) for p in (one, other))
    if other.wall is not None or bool((felt & more).any()):
        return None
    return DefaultPenalty(
        one.coefficients,
        one.of_coefficients + other.of_coefficients,
        one.of_parameters + other.of_parameters,
        torch.where(more, other.center, one.center),
        one.wall,
    )


@dataclass(frozen=True)
class AutogradPenalty:
    """A penalty of one's own, by autograd on the parameters alone.

    Attributes
    ----------
    penalty
        From vectors with shape (*B, P) to R, (*B,).
    batch
        The batch shape *B of the problems.
    """

    penalty: Callable[[Tensor], Tensor]
    batch: torch.Size

    def value_and_gradient(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> Terms:
        """Return R and its gradient."""
        with torch.enable_grad():
            leaf = vector.detach().clone().requires_grad_()
            value = self.value(leaf, rows)
            gradient = _slope(value, leaf)
        return Terms(value.detach(), gradient, torch.zeros_like(point.value))

    def curvature(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P)."""
        with torch.enable_grad():
            leaf = vector.detach().clone().requires_grad_()
            value = self.value(leaf, rows)
            gradient = _slope(value, leaf, create_graph=True)
            hessian = torch.stack([_slope(entry, leaf) for entry in gradient.unbind(-1)], -2)
        return Terms(value.detach(), gradient.detach(), torch.zeros_like(point.value)), hessian

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return R of vectors (R, P), differentiable, with shape (R,).

        A penalty may be another one for each problem, so it always sees all of them.
        """
        size = vector.shape[-1]
        if rows is None:
            return self.penalty(vector.reshape(-1, *self.batch, size)).reshape(-1)
        every = vector.new_zeros(self.batch.numel(), size).index_copy(0, rows, vector)
        return self.penalty(every.reshape(*self.batch, size)).reshape(-1)[rows]


def _slope(total: Tensor, leaf: Tensor, create_graph: bool = False) -> Tensor:
    """Return the derivatives of a sum of entries, zeros if it does not depend on the leaf."""
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    (slope,) = torch.autograd.grad(
        total.sum(), leaf, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return slope
