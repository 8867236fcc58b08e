r"""The soft wall that keeps the density positive, at points whose terms are linear in coefficients.

With n and d numerator and denominator of the acceleration's fraction at a radius r, and their
derivatives by r_e,

.. math::

    R = s \sum_k \mathrm{softplus}(z_k), \qquad
    z_k = -\frac{\Omega_0^2}{\mathrm{scale}} \left[\frac{n}{d} + r \frac{n' d - n d'}{d^2}\right]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from torusimaging_torch.evaluation.coefficients import AtVector, of_rows

__all__ = ["Motion", "Wall", "WallAt", "wall_at"]


@dataclass(frozen=True)
class Wall:
    """The wall at fixed radii, for B or 1 problems.

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
    axis
        cos(m theta_e) on the position axis, for the e functions in the order of their tables.
    """

    maps: Tensor
    radii: Tensor
    scale: Tensor
    strength: Tensor
    ln_Omega0: int
    axis: Sequence[float]

    def at(self, point: AtVector, vector: Tensor, rows: Tensor | None) -> WallAt:
        """Return the wall at vectors (R, P)."""
        factor = -(2 * vector[:, self.ln_Omega0]).exp().unsqueeze(-1) / of_rows(self.scale, rows)
        strength = of_rows(self.strength, rows)
        r, maps = of_rows(self.radii, rows), of_rows(self.maps, rows)
        return wall_at(r, maps, point.value, factor, strength, self.ln_Omega0)


class Motion(NamedTuple):
    """How the radii of a wall move with the vector, and what that does to n, n', d and d'."""

    maps: Tensor  # from coefficients to the derivatives of n, n', d and d' by r, (R, 4, K, C)
    slope: Tensor  # those derivatives, (R, 4, K)
    bend: Tensor  # the second ones
    dr: Tensor  # of r by the vector, (R, K, P)
    d2r: Tensor  # the second derivatives, (R, K, P, P)


@dataclass(frozen=True)
class WallAt:
    """The wall at vectors: z, and its derivatives by n, n', d, d' and r but for the factor."""

    z: Tensor
    factor: Tensor
    first: Tensor  # by n, n', d and d', (R, 4, K)
    by_r: Tensor  # where n, n', d and d' stay, (R, K)
    second: dict[tuple[int, int], Tensor]
    mixed: Tensor  # of by_r by n, n', d and d', (R, 4, K)
    maps: Tensor
    strength: Tensor
    ln_Omega0: int
    motion: Motion | None = None

    def moving(self, motion: Motion) -> WallAt:
        """Return the wall whose radii move."""
        return replace(self, motion=motion)

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

    def add_to(self, by_vector: Tensor) -> Tensor:
        """Add the gradient by the vector, all that does not come by way of the coefficients."""
        by_vector[:, self.ln_Omega0] += 2 * (self.pressure * self.z).sum(-1)
        if self.motion is None:
            return by_vector
        weight = self.pressure * self.factor * self._along(self.motion)
        return by_vector + (weight.unsqueeze(1) @ self.motion.dr).squeeze(1)

    def _along(self, motion: Motion) -> Tensor:
        """Return how z grows with the radius, but for the factor, (R, K)."""
        return (self.first * motion.slope).sum(1) + self.by_r

    def curvature(self, jacobian: Tensor) -> Tensor:
        """Return the second derivatives by the vector, all but the coefficients' own, (R, P, P)."""
        maps = self.maps @ jacobian.unsqueeze(1)  # of n, n', d, d' by the vector, (R, 4, K, P)
        factor, motion = self.factor.unsqueeze(-1), self.motion
        weight = self.pressure.unsqueeze(-1)
        if motion is not None:
            maps = maps + motion.slope.unsqueeze(-1) * motion.dr.unsqueeze(1)
        by_vector = factor * (self.first.unsqueeze(-1) * maps).sum(1)
        total = torch.zeros_like(by_vector[:, :1].mT * by_vector[:, :1])
        for (i, j), change in self.second.items():
            rows = (weight * factor * change.unsqueeze(-1) * maps[:, i]).mT @ maps[:, j]
            total = total + (rows if i == j else rows + rows.mT)
        if motion is not None:
            by_vector = by_vector + factor * self.by_r.unsqueeze(-1) * motion.dr
            total = total + self._of_motion(motion, maps, jacobian)
        # z is proportional to Omega0^2.
        k = self.ln_Omega0
        mixed = 2 * (weight * by_vector).sum(1)
        total[:, k] += mixed
        total[:, :, k] += mixed
        total[:, k, k] += 4 * (self.pressure * self.z).sum(-1)
        by_vector[:, :, k] += 2 * self.z
        bend = self.pressure * torch.sigmoid(-self.z)
        return total + (bend.unsqueeze(-1) * by_vector).mT @ by_vector

    def _of_motion(self, motion: Motion, maps: Tensor, jacobian: Tensor) -> Tensor:
        """Return what it adds that the radii move, (R, P, P)."""
        weight, dr = self.pressure * self.factor, motion.dr
        own = motion.maps @ jacobian.unsqueeze(1)
        mixed = self.mixed.unsqueeze(-1) * maps + self.first.unsqueeze(-1) * own
        bend = 0.5 * (self.first * motion.bend).sum(1)
        half = (mixed.sum(1) + bend.unsqueeze(-1) * dr).mT @ (weight.unsqueeze(-1) * dr)
        along = (weight * self._along(motion))[..., None, None]
        return half + half.mT + (along * motion.d2r).sum(1)


def wall_at(
    r: Tensor, maps: Tensor, c: Tensor, factor: Tensor, strength: Tensor, ln_Omega0: int
) -> WallAt:
    """Return the wall at radii r, (R or 1, K), and coefficients c, (R, C); maps as in `Wall`."""
    n, dn, d, dd = (maps @ c[:, None, :, None]).squeeze(-1).unbind(1)
    n, i = 1 + n, 1 / (1 + d)
    by_r = dn * i - n * dd * i * i
    ratio = n * i + r * by_r
    first = torch.stack(
        [i - r * dd * i * i, r * i, r * n * dd * i**3 - i * ratio, -r * n * i * i], 1
    )
    second = {
        (0, 2): -i * i + 2 * r * dd * i**3,
        (0, 3): -r * i * i,
        (1, 2): -r * i * i,
        (2, 2): 2 * i * i * (n * i + r * dn * i - 3 * r * n * dd * i * i),
        (2, 3): 2 * r * n * i**3,
    }
    mixed = torch.stack([-dd * i * i, i, 2 * n * dd * i**3 - dn * i * i, -n * i * i], 1)
    return WallAt(factor * ratio, factor, first, by_r, second, mixed, maps, strength, ln_Omega0)
