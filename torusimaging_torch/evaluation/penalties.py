r"""The penalty R of parameter vectors, its gradient and its second derivatives.

The default penalty is made of quadratic forms and of a wall, all in terms that are linear in the
coefficients of the splines, by maps that are made once: with n and d numerator and denominator of
the acceleration's fraction at a knot r, and their derivatives by r_e,

.. math::

    R = c^T Q_c c + \theta^T Q_\theta \theta + s \sum_k \mathrm{softplus}(z_k), \qquad
    z_k = -\frac{\Omega_0^2}{\mathrm{scale}} \left[\frac{n}{d} + r \frac{n' d - n d'}{d^2}\right]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from torusimaging_torch.evaluation.coefficients import (
    Coefficients,
    Point,
    Terms,
    apply,
    of_rows,
)

__all__ = ["AutogradPenalty", "DefaultPenalty", "NoPenalty", "PenaltyForm", "Wall"]


class PenaltyForm(Protocol):
    """R of vectors (R, P) with their coefficients, of all problems or of those in ``rows``."""

    def value_and_gradient(self, vector: Tensor, point: Point, rows: Tensor | None = None) -> Terms:
        """Return R and its gradient."""

    def curvature(
        self, vector: Tensor, point: Point, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P).

        All but what the curvature of the coefficients adds.
        """


@dataclass(frozen=True)
class NoPenalty:
    """No penalty at all."""

    def value_and_gradient(self, vector: Tensor, point: Point, rows: Tensor | None = None) -> Terms:
        """Return zeros."""
        return Terms(
            torch.zeros_like(vector[:, 0]), torch.zeros_like(vector), torch.zeros_like(point.value)
        )

    def curvature(
        self, vector: Tensor, point: Point, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return zeros."""
        return self.value_and_gradient(vector, point), vector.new_zeros(
            *vector.shape, vector.shape[-1]
        )


@dataclass(frozen=True)
class Wall:
    """The soft wall that keeps the density positive at fixed radii, for B or 1 problems.

    Attributes
    ----------
    maps
        From coefficients to n - 1, n', d - 1 and d', with shape (B or 1, 4, K, C).
    radii
        The radii, with shape (B or 1, K).
    scale, strength
        Its softness and height, with shape (B or 1, 1).
    ln_Omega0
        Place of ln_Omega0 in the vector.
    """

    maps: Tensor
    radii: Tensor
    scale: Tensor
    strength: Tensor
    ln_Omega0: int

    def at(self, point: Point, vector: Tensor, rows: Tensor | None) -> _WallAt:
        """Return the wall at vectors (R, P)."""
        maps, r = of_rows(self.maps, rows), of_rows(self.radii, rows)
        n, dn, d, dd = (maps @ point.value[:, None, :, None]).squeeze(-1).unbind(1)
        n, i = 1 + n, 1 / (1 + d)
        slope = dn * i - n * dd * i * i
        factor = -(2 * vector[:, self.ln_Omega0]).exp().unsqueeze(-1) / of_rows(self.scale, rows)
        z = factor * (n * i + r * slope)
        first = (
            i - r * dd * i * i,
            r * i,
            -i * (n * i + r * slope) + r * n * dd * i**3,
            -r * n * i * i,
        )
        second = {
            (0, 2): -i * i + 2 * r * dd * i**3,
            (0, 3): -r * i * i,
            (1, 2): -r * i * i,
            (2, 2): 2 * i * i * (n * i + r * dn * i - 3 * r * n * dd * i * i),
            (2, 3): 2 * r * n * i**3,
        }
        strength = of_rows(self.strength, rows)
        return _WallAt(z, factor, torch.stack(first, 1), second, maps, strength, self.ln_Omega0)


@dataclass(frozen=True)
class _WallAt:
    """The wall at some vectors: z, and its derivatives by n, n', d and d' but for the factor."""

    z: Tensor
    factor: Tensor
    first: Tensor  # (R, 4, K)
    second: dict[tuple[int, int], Tensor]
    maps: Tensor
    strength: Tensor
    ln_Omega0: int

    @property
    def value(self) -> Tensor:
        """The wall's part of R, with shape (R,)."""
        # Not softplus, which torch cuts off at 20, its derivatives with it.
        return (self.strength * -functional.logsigmoid(-self.z)).sum(-1)

    @property
    def pressure(self) -> Tensor:
        """How R grows with each z, with shape (R, K)."""
        return self.strength * torch.sigmoid(self.z)

    @property
    def by_coefficients(self) -> Tensor:
        """The gradient by the coefficients, with shape (R, C)."""
        weight = (self.pressure * self.factor).unsqueeze(1) * self.first
        return (weight.flatten(1).unsqueeze(1) @ self.maps.flatten(1, 2)).squeeze(1)

    @property
    def by_ln_Omega0(self) -> Tensor:
        """The derivative by ln_Omega0, with shape (R,)."""
        return 2 * (self.pressure * self.z).sum(-1)

    def curvature(self, jacobian: Tensor) -> Tensor:
        """Return the second derivatives by the vector, all but the coefficients' own, (R, P, P)."""
        maps = self.maps @ jacobian.unsqueeze(1)  # of n, n', d, d' by the vector, (R, 4, K, P)
        factor = self.factor.unsqueeze(-1)
        by_vector = factor * (self.first.unsqueeze(-1) * maps).sum(1)
        weight = self.pressure.unsqueeze(-1)
        total = torch.zeros_like(by_vector[:, :1].mT * by_vector[:, :1])
        for (i, j), change in self.second.items():
            rows = (weight * factor * change.unsqueeze(-1) * maps[:, i]).mT @ maps[:, j]
            total = total + (rows if i == j else rows + rows.mT)
        # z is proportional to Omega0^2.
        k = self.ln_Omega0
        mixed = 2 * (weight * by_vector).sum(1)
        total[:, k] += mixed
        total[:, :, k] += mixed
        total[:, k, k] += 4 * (self.pressure * self.z).sum(-1)
        by_vector[:, :, k] += 2 * self.z
        bend = self.pressure * torch.sigmoid(-self.z)
        return total + (bend.unsqueeze(-1) * by_vector).mT @ by_vector


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
        The parameters for which the second form is zero, with shape (P,).
    wall
        The wall, if there is one.
    """

    coefficients: Coefficients
    of_coefficients: Tensor
    of_parameters: Tensor
    center: Tensor
    wall: Wall | None

    def value_and_gradient(self, vector: Tensor, point: Point, rows: Tensor | None = None) -> Terms:
        """Return R and its gradient."""
        return self._terms(vector, point, rows)[0]

    def curvature(
        self, vector: Tensor, point: Point, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P)."""
        terms, wall = self._terms(vector, point, rows)
        jacobian = self.coefficients.jacobian(point)
        hessian = jacobian.mT @ of_rows(self.of_coefficients, rows) @ jacobian
        hessian = 2 * (hessian + of_rows(self.of_parameters, rows))
        return terms, hessian if wall is None else hessian + wall.curvature(jacobian)

    def _terms(
        self, vector: Tensor, point: Point, rows: Tensor | None
    ) -> tuple[Terms, _WallAt | None]:
        by_coefficients = apply(of_rows(self.of_coefficients, rows), point.value)
        offset = vector - self.center
        by_vector = apply(of_rows(self.of_parameters, rows), offset)
        value = (by_coefficients * point.value).sum(-1) + (by_vector * offset).sum(-1)
        by_coefficients, by_vector = 2 * by_coefficients, 2 * by_vector
        if self.wall is None:
            return Terms(value, by_vector, by_coefficients), None
        wall = self.wall.at(point, vector, rows)
        by_vector[:, self.wall.ln_Omega0] += wall.by_ln_Omega0
        return Terms(value + wall.value, by_vector, by_coefficients + wall.by_coefficients), wall


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

    def value_and_gradient(self, vector: Tensor, point: Point, rows: Tensor | None = None) -> Terms:
        """Return R and its gradient."""
        with torch.enable_grad():
            leaf = vector.detach().clone().requires_grad_()
            value = self._of(leaf, rows)
            gradient = _slope(value, leaf)
        return Terms(value.detach(), gradient, torch.zeros_like(point.value))

    def curvature(
        self, vector: Tensor, point: Point, rows: Tensor | None = None
    ) -> tuple[Terms, Tensor]:
        """Return R, its gradient and its second derivatives, (R, P, P)."""
        with torch.enable_grad():
            leaf = vector.detach().clone().requires_grad_()
            value = self._of(leaf, rows)
            gradient = _slope(value, leaf, create_graph=True)
            hessian = torch.stack([_slope(entry, leaf) for entry in gradient.unbind(-1)], -2)
        return Terms(value.detach(), gradient.detach(), torch.zeros_like(point.value)), hessian

    def _of(self, vector: Tensor, rows: Tensor | None) -> Tensor:
        size, total = vector.shape[-1], self.batch.numel()
        if rows is None:
            return self.penalty(vector.reshape(-1, *self.batch, size)).reshape(-1)
        every = vector.new_zeros(total, size).index_copy(0, rows, vector)
        return self.penalty(every.reshape(*self.batch, size)).reshape(-1)[rows]


def _slope(total: Tensor, leaf: Tensor, create_graph: bool = False) -> Tensor:
    """Return the derivatives of a sum of entries, zeros if it does not depend on the leaf."""
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    (slope,) = torch.autograd.grad(
        total.sum(), leaf, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return slope
