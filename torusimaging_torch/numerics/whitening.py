r"""Whitened coordinates: a linear map in which an information matrix is the identity.

:math:`u = u_0 + A w` with :math:`A A^T = F^{-1}`: one unit of :math:`w` in any direction is one
standard deviation. A badly scaled problem becomes round, so that L-BFGS takes unit steps,
:math:`|g_w|^2/2` is the gain still to be had in nats, and NUTS needs no long trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.numerics.eigen import eigh

__all__ = ["Whitening"]


@dataclass(frozen=True)
class Whitening:
    """The map w -> u of a batch.

    Attributes
    ----------
    center
        Point u at which w is zero, with shape (*B, P).
    scale
        Matrix A, with shape (*B, P, P).
    """

    center: Tensor
    scale: Tensor

    @classmethod
    def from_information(cls, center: Tensor, information: Tensor, floor: float = 1.0) -> Whitening:
        """Whiten with an information matrix.

        Parameters
        ----------
        center
            Point u with shape (*B, P).
        information
            Symmetric matrix with shape (*B, P, P), in nats per unit of u squared. It need not be
            positive definite.
        floor
            Smallest curvature. A direction that the data leave flat, or one of negative curvature,
            is scaled as if it had this one, so that one step never leaves the region where the
            coordinate makes sense. A problem with a matrix that is not finite gets it everywhere.
        """
        finite = information.isfinite().all(-1).all(-1)[..., None, None]
        eye = torch.eye(center.shape[-1], dtype=center.dtype, device=center.device)
        matrix = torch.where(finite, information, floor * eye)
        values, vectors = eigh((matrix + matrix.mT) / 2)
        return cls(center, vectors * values.clamp(min=floor).rsqrt().unsqueeze(-2))

    def __call__(self, w: Tensor) -> Tensor:
        """Return u at ``w``, with shape (*B, P)."""
        return self.center + (self.scale @ w.unsqueeze(-1)).squeeze(-1)

    def pull(self, by_u: Tensor) -> Tensor:
        """Return the gradient by w, with shape (*B, P), from that by u."""
        return (self.scale.mT @ by_u.unsqueeze(-1)).squeeze(-1)

    def inverse(self, u: Tensor) -> Tensor:
        """Return w at ``u``, with shape (*B, P)."""
        offset = (u - self.center).unsqueeze(-1)
        return torch.linalg.solve(self.scale, offset).squeeze(-1)
