r"""Coordinates of amounts that add up: their total, and balances between groups of them.

Data may know the sum of some positive amounts well and the amounts badly, as where neighbouring
sheets of matter stand for each other. Their logarithms then lie in a thin shell that is bent, and
no linear map makes it flat. In the log of their total S and the log ratios l of the two halves of
each group, its balances (Egozcue & Pawlowsky-Glahn 2005, Mathematical Geology 37, 795), it is flat:

.. math::

    \ln m_k = S + \sum_{j:\, k\,\mathrm{left}} \ln\sigma(l_j)
        + \sum_{j:\, k\,\mathrm{right}} \ln\sigma(-l_j), \qquad \sigma(l) = \frac{1}{1 + e^{-l}}

The groups make a binary tree. At each of its nodes the step from a total and a balance to the logs
of both parts has the determinant -1, so the map leaves volumes as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Balances"]


class Balances:
    """The map t -> u of vectors in which some entries are logarithms of amounts that add up.

    All other entries stay as they are.

    Parameters
    ----------
    places
        Which entries these are, neighbours side by side, with shape (n,); there may be none.
    center
        The entries where the shares are those below, with shape (n,).
    rate
        By how much the log of an amount grows with its entry, with shape (n,).
    share
        What part of the total each of them is there, with shape (n,). Groups are halved by it.

    Examples
    --------
    >>> ln_m = torch.tensor([0.2, 0.3, 0.5]).double().log()
    >>> balances = Balances(torch.arange(3), ln_m, torch.ones(3).double(), ln_m.exp())
    >>> balances.inverse(ln_m) + 0.0
    tensor([ 0.0000,  0.0000, -0.4055], dtype=torch.float64)
    """

    def __init__(self, places: Tensor, center: Tensor, rate: Tensor, share: Tensor) -> None:
        self.places, self.center, self.rate, self.ln_share = places, center, rate, share.log()
        nodes = _nodes(share.tolist())
        self._left, self._right = share.new_zeros(2, len(share), len(nodes)).unbind(0)
        for j, (left, right) in enumerate(nodes):
            self._left[left, j] = 1.0
            self._right[right, j] = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        """Return u at ``t`` (*S, P), with the same shape."""
        total, balance = self._own(t)
        ln_m = total + functional.logsigmoid(balance) @ self._left.mT
        ln_m = ln_m + functional.logsigmoid(-balance) @ self._right.mT
        return self._put(t, self.center + (ln_m - self.ln_share) / self.rate)

    def inverse(self, u: Tensor) -> Tensor:
        """Return t at ``u`` (*S, P), with the same shape."""
        ln_m = self.rate * (u[..., self.places] - self.center) + self.ln_share
        left, right = (
            (ln_m.unsqueeze(-1) + member.log()).logsumexp(-2)
            for member in (self._left, self._right)
        )
        return self._put(u, torch.cat([ln_m.logsumexp(-1, keepdim=True), left - right], -1))

    def pull(self, by_u: Tensor, t: Tensor) -> Tensor:
        """Return the gradient by t, with shape (*S, P), from that by u there."""
        _, balance = self._own(t)
        by_m = by_u[..., self.places] / self.rate
        by_balance = (by_m @ self._left) * (-balance).sigmoid()
        by_balance = by_balance - (by_m @ self._right) * balance.sigmoid()
        return self._put(by_u, torch.cat([by_m.sum(-1, keepdim=True), by_balance], -1))

    def _own(self, t: Tensor) -> tuple[Tensor, Tensor]:
        own = t[..., self.places]
        return own[..., :1], own[..., 1:]

    def _put(self, x: Tensor, own: Tensor) -> Tensor:
        # Of no amounts there is no total.
        return x.index_copy(-1, self.places, own[..., : len(self.places)])


def _nodes(share: list[float], first: int = 0) -> list[tuple[list[int], list[int]]]:
    """Return the members of both parts of each node of the tree, those of the root first."""
    if len(share) < 2:
        return []
    half = sum(share) / 2
    cut = min(range(1, len(share)), key=lambda i: abs(sum(share[:i]) - half))
    members = list(range(first, first + len(share)))
    below, above = _nodes(share[:cut], first), _nodes(share[cut:], first + cut)
    return [(members[:cut], members[cut:]), *below, *above]
