r"""The potential in place of the ellipse, and its derivatives by its own parameters.

With z, Q, :math:`\kappa` and the sheets' ratios as in
`~torusimaging_torch.torus.potential_ellipse`, :math:`q_k = w_k L_k` and
:math:`\kappa_k = w_k M_k` (both 1 for the constant) so that :math:`Q = \sum q_k`,

.. math::

    y = z \sqrt{Q}, \quad \frac{\partial y}{\partial p_k} = \frac{z q_k}{2\sqrt{Q}}, \quad
    \frac{\partial y}{\partial q_0} = -\frac{\kappa}{\sqrt{Q}}, \quad
    \frac{\partial x}{\partial v_0} = -\frac{1}{\sqrt{\Omega}}

and the second derivatives follow from :math:`\partial q_k/\partial p_k = q_k` and the slopes of L
and M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import of_rows
from torusimaging_torch.evaluation.ellipse import Plane
from torusimaging_torch.evaluation.levels import Levels
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.torus.sech_squared import ratios

__all__ = ["Potential"]


class _Sheets(NamedTuple):
    """The sheets at the levels of the pixels, (R, U), or by sheet, (R, U, K + 1)."""

    z: Tensor
    q: Tensor
    kappa_k: Tensor
    Q: Tensor
    kappa: Tensor
    dQ: Tensor  # by z
    dkappa: Tensor
    omega: Tensor  # (R or 1, 1)
    levels: Levels


@dataclass(frozen=True)
class Potential:
    """The frame of `PotentialEllipse`: pos0, vel0 and the log densities, for B or 1 problems.

    Attributes
    ----------
    heights
        With shape (B or 1, K).
    omega
        The plane's frequency, with shape (B or 1, 1).
    four_pi_G
        In model units.
    """

    heights: Tensor
    omega: Tensor
    four_pi_G: float

    convention = "pv"

    @classmethod
    def of(cls, transform: PotentialEllipse) -> Potential:
        """Return that of a transform."""
        heights = transform.heights.reshape(-1, transform.heights.shape[-1])
        return cls(heights, transform.omega.reshape(-1, 1), transform.four_pi_G)

    @property
    def n_problems(self) -> int:
        """Number of problems B, or 1."""
        return max(len(self.heights), len(self.omega))

    def coordinates(self, data: Observations, frame: Tensor, rows: Tensor | None = None) -> Plane:
        """Return the coordinates of pixels (R or 1, N) in frames (R, F)."""
        omega, h = of_rows(self.omega, rows), of_rows(self.heights, rows).unsqueeze(-2)
        levels = data.levels or Levels(data.pos)
        z = levels.pos - frame[:, :1]
        w = (self.four_pi_G / omega * frame[:, 2:].exp()).unsqueeze(-2)
        first = torch.ones_like(z).unsqueeze(-1)
        zero = torch.zeros_like(first)
        L, M, dL, dM = ratios(z.unsqueeze(-1) / h)
        q, kappa_k = w * torch.cat([first, L], -1), w * torch.cat([first, M], -1)
        dQ = (w * torch.cat([zero, dL / h], -1)).sum(-1)
        dkappa = (w * torch.cat([zero, dM / h], -1)).sum(-1)
        Q = q.sum(-1)
        sheets = _Sheets(z, q, kappa_k, Q, kappa_k.sum(-1), dQ, dkappa, omega, levels)
        return Plane((data.vel - frame[:, 1:2]) / omega.sqrt(), levels.spread(z * Q.sqrt()), sheets)

    def pull(self, by_a: Tensor, by_b: Tensor, at: Plane, frame: Tensor) -> Tensor:
        """Return the gradient by the frame, (R, F), from those by the coordinates, (R, N)."""
        s, by_b = at.own, at.own.levels.collect(by_b)
        root = s.Q.sqrt()
        by_p = ((by_b * s.z / (2 * root)).unsqueeze(-2) @ s.q).squeeze(-2)
        by_pos0 = -(by_b * s.kappa / root).sum(-1, keepdim=True)
        by_vel0 = -by_a.sum(-1, keepdim=True) / s.omega.sqrt()
        return torch.cat([by_pos0, by_vel0, by_p], -1)

    def jacobian(self, at: Plane, frame: Tensor) -> Plane:
        """Return the derivatives of both coordinates by the frame, (R, F, N) each."""
        s = at.own
        root = s.Q.sqrt()
        zero = torch.zeros_like(root)
        by_p = ((s.z / (2 * root)).unsqueeze(-1) * s.q).mT
        of_b = s.levels.spread(torch.cat([torch.stack([-s.kappa / root, zero], -2), by_p], -2))
        of_a = torch.zeros_like(of_b)
        of_a[:, 1] = -1 / s.omega.sqrt()
        return Plane(of_a, of_b)

    def bend(self, by_a: Tensor, by_b: Tensor, at: Plane, frame: Tensor) -> Tensor:
        """Return the sum of the coordinates' second derivatives, each times that by it."""
        s, by_b = at.own, at.own.levels.collect(by_b)
        root = s.Q.sqrt()
        bend = frame.new_zeros(*frame.shape, frame.shape[-1])
        along = by_b * s.z / root
        curved = (s.q * (along / s.Q).unsqueeze(-1)).mT @ s.q
        bend[:, 2:, 2:] = (along.unsqueeze(-2) @ s.q).squeeze(-2).diag_embed() / 2 - curved / 4
        # By pos0 it is minus the derivative by z.
        slope = s.kappa.unsqueeze(-1) * s.q / (2 * s.Q).unsqueeze(-1) - s.kappa_k
        mixed = ((by_b / root).unsqueeze(-2) @ slope).squeeze(-2)
        bend[:, 0, 2:] = bend[:, 2:, 0] = mixed
        second = s.dkappa / root - s.kappa * s.dQ / (2 * s.Q * root)
        bend[:, 0, 0] = (by_b * second).sum(-1)
        return bend
