r"""The limited-memory inverse Hessian of many problems at once, as a few matrices each.

With the last steps s and changes y of the gradient, each pair scaled so that s.y = 1, as rows of S
and Y, the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4) is

.. math::

    u = T S g, \quad z = \gamma (g - Y^T u), \quad H g = z + S^T T^T (u - Y z)

where T is the inverse of the unit triangle of the products s_i.y_j, s_i the older one: the compact
form of Byrd, Nocedal & Schnabel (1994, Math. Program. 63, 129), equation 3.1, with
:math:`\gamma = 1/y.y` of the newest pair. A new pair adds the column -T S y to T, and the oldest
one leaves with its row and column, since T is a triangle. So nothing has to be in order: a new pair
takes the place of the oldest, wherever that is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.numerics.line_search import Point, norm

__all__ = ["Curvature", "gentle", "no_curvature"]


@dataclass(frozen=True)
class Curvature:
    """What the last M steps of B problems tell of their curvature.

    Attributes
    ----------
    pairs
        S and Y, with shape (B, 2, M, P).
    triangle
        T, with shape (B, M, M); zero in the rows and columns of pairs that do not count.
    gamma
        The first guess of the inverse Hessian, with shape (B,); 0 without any pair.
    oldest
        The place of the oldest pair, or of an empty one, with shape (B,).
    """

    pairs: Tensor
    triangle: Tensor
    gamma: Tensor
    oldest: Tensor

    @property
    def known(self) -> Tensor:
        """Whether there is any pair, with shape (B,)."""
        return self.gamma > 0

    def direction(self, grad: Tensor) -> Tensor:
        """Return -H g at gradients (B, P); without any pair, a `gentle` step down the gradient."""
        s, y = self.pairs.unbind(1)
        g, triangle = grad.unsqueeze(-1), self.triangle
        gamma = torch.where(self.known, self.gamma, gentle(grad))[:, None, None]
        u = torch.bmm(triangle, torch.bmm(s, g))
        z = gamma * torch.baddbmm(g, y.mT, u, alpha=-1)
        v = torch.bmm(triangle.mT, torch.baddbmm(u, y, z, alpha=-1))
        return torch.baddbmm(z, s.mT, v, beta=-1, alpha=-1).squeeze(-1)

    def learn(self, old: Point, new: Point, mask: Tensor) -> Curvature:
        """Put the step between two points in the place of the oldest, where the mask (B,) says so.

        A pair whose curvature s.y is lost in rounding is left out.
        """
        size = old.packed.shape[-1] // 2
        pair = (new.packed - old.packed)[:, :-1].reshape(-1, 2, size)
        products = torch.bmm(pair, pair.mT)
        curvature, yy = products[:, 0, 1], products[:, 1, 1]
        lengths = products.diagonal(dim1=-2, dim2=-1).sqrt().prod(-1)
        sound = mask & (curvature > math.sqrt(torch.finfo(pair.dtype).eps) * lengths)
        pair = pair * torch.where(sound, curvature, 1.0).rsqrt()[:, None, None]
        slots = torch.arange(self.pairs.shape[2], device=pair.device)
        place = (slots == self.oldest.unsqueeze(-1)) & sound.unsqueeze(-1)
        pairs = torch.where(place[:, None, :, None], pair.unsqueeze(2), self.pairs)
        row, column = place.unsqueeze(-1), place.unsqueeze(-2)
        triangle = self.triangle.masked_fill(row | column, 0.0)
        products = torch.bmm(pairs[:, 0], pair[:, 1].unsqueeze(-1))
        fresh = row.to(pair.dtype) - torch.bmm(triangle, products)
        return Curvature(
            pairs,
            torch.where(column, fresh, triangle),
            torch.where(sound, curvature / yy, self.gamma),
            (self.oldest + sound) % len(slots),
        )

    def keep(self, mask: Tensor) -> Curvature:
        """Forget all pairs of problems that are not in the mask (B,)."""
        kept = mask.to(self.gamma.dtype)
        return Curvature(
            self.pairs, self.triangle * kept[:, None, None], self.gamma * kept, self.oldest
        )


def no_curvature(like: Tensor, history: int) -> Curvature:
    """Return that of problems (B, P) of which nothing is known, with room for some pairs."""
    n, size = like.shape
    none = torch.zeros(n, dtype=torch.int64, device=like.device)
    return Curvature(
        like.new_zeros(n, 2, history, size),
        like.new_zeros(n, history, history),
        like.new_zeros(n),
        none,
    )


def gentle(grad: Tensor) -> Tensor:
    """Return the factor of a step down the gradient by a length of one at most."""
    return norm(grad).reciprocal().clamp(max=1)
