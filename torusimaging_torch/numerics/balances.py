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

Two trees are of use. In `halves` groups are cut where their shares are halved, so that balances are
as independent as they get: best for a sampler. In `one_by_one` each amount is weighed against all
before it, whatever the shares are, so that all problems of a batch have the same tree.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Balances", "Node", "best_known", "halves", "one_by_one"]

# The least share of an amount in a total: none may vanish.
_LEAST = 1e-6

Node = tuple[list[int], list[int]]
"""The members of both parts of a group."""


class Balances:
    """The map t -> u of vectors in which some entries are logarithms of amounts that add up.

    All other entries stay as they are.

    Parameters
    ----------
    places
        Which entries these are, neighbours side by side, with shape (n,); there may be none.
    center
        The entries where the shares are those below, with shape (*B, n).
    rate
        By how much the log of an amount grows with its entry, with shape (*B, n).
    share
        What part of the total each of them is there, with shape (*B, n).
    nodes
        The tree, n - 1 groups.

    Examples
    --------
    >>> share = torch.tensor([0.25, 0.25, 0.5])
    >>> balances = Balances(torch.arange(3), share.log(), torch.ones(3), share, one_by_one(3))
    >>> balances.inverse(torch.tensor([1.0, 2.0, 4.0]).log())
    tensor([ 1.9459, -0.2877, -0.6931])
    """

    def __init__(
        self, places: Tensor, center: Tensor, rate: Tensor, share: Tensor, nodes: Sequence[Node]
    ) -> None:
        self.places, self.center, self.rate, self.share = places, center, rate, share
        self._left, self._right = (
            torch.tensor([[k in node[side] for node in nodes] for k in range(share.shape[-1])])
            .reshape(share.shape[-1], len(nodes))
            .to(share)
            for side in (0, 1)
        )

    def take(self, rows: Tensor) -> Balances:
        """Return those of some problems of a batch (B,), an index with shape (R,)."""
        some = copy.copy(self)
        some.center, some.rate, some.share = self.center[rows], self.rate[rows], self.share[rows]
        return some

    def __call__(self, t: Tensor) -> Tensor:
        """Return u at ``t`` (*S, *B, P), with the same shape."""
        if not len(self.places):
            return t
        total, balance = self._own(t)
        ln_m = total + functional.logsigmoid(balance) @ self._left.mT
        ln_m = ln_m + functional.logsigmoid(-balance) @ self._right.mT
        return self._put(t, self.center + (ln_m - self.share.log()) / self.rate)

    def inverse(self, u: Tensor) -> Tensor:
        """Return t at ``u`` (*S, *B, P), with the same shape."""
        if not len(self.places):
            return u
        ln_m = self.rate * (u[..., self.places] - self.center) + self.share.log()
        left, right = (
            (ln_m.unsqueeze(-1) + member.log()).logsumexp(-2)
            for member in (self._left, self._right)
        )
        return self._put(u, torch.cat([ln_m.logsumexp(-1, keepdim=True), left - right], -1))

    def push(self, step: Tensor) -> Tensor:
        """Return what a step of u from the center is in t, to first order, (*S, *B, P)."""
        if not len(self.places):
            return step
        by_m = self.rate * step[..., self.places]
        left, right = (self.share.unsqueeze(-1) * x for x in (self._left, self._right))
        balance = left / left.sum(-2, keepdim=True) - right / right.sum(-2, keepdim=True)
        weights = torch.cat([self.share.unsqueeze(-1), balance], -1)
        return self._put(step, (by_m.unsqueeze(-2) @ weights).squeeze(-2))

    def pull(self, by_u: Tensor, t: Tensor) -> Tensor:
        """Return the gradient by t, with shape (*S, *B, P), from that by u there."""
        if not len(self.places):
            return by_u
        _, balance = self._own(t)
        by_m = by_u[..., self.places] / self.rate
        by_balance = (by_m @ self._left) * (-balance).sigmoid()
        by_balance = by_balance - (by_m @ self._right) * balance.sigmoid()
        return self._put(by_u, torch.cat([by_m.sum(-1, keepdim=True), by_balance], -1))

    def _own(self, t: Tensor) -> tuple[Tensor, Tensor]:
        own = t[..., self.places]
        return own[..., :1], own[..., 1:]

    def _put(self, x: Tensor, own: Tensor) -> Tensor:
        return x.index_copy(-1, self.places, own)


def one_by_one(n: int) -> list[Node]:
    """Return the tree in which each of n amounts is weighed against all before it, last ones first.

    Examples
    --------
    >>> one_by_one(3)
    [([0, 1], [2]), ([0], [1])]
    """
    return [(list(range(k)), [k]) for k in range(n - 1, 0, -1)]


def halves(share: Sequence[float], first: int = 0) -> list[Node]:
    """Return the tree in which groups of neighbours are cut where their shares are halved.

    Examples
    --------
    >>> halves([0.1, 0.2, 0.3, 0.4])
    [([0, 1, 2], [3]), ([0, 1], [2]), ([0], [1])]
    """
    if len(share) < 2:
        return []
    half, members = sum(share) / 2, list(range(first, first + len(share)))
    cut = min(range(1, len(share)), key=lambda i: abs(sum(share[:i]) - half))
    parts = halves(share[:cut], first), halves(share[cut:], first + cut)
    return [(members[:cut], members[cut:]), *parts[0], *parts[1]]


def best_known(covariance: Tensor) -> Tensor:
    """Return shares of amounts in the sum that is known best, from the covariance of their logs.

    Parameters
    ----------
    covariance
        With shape (*B, n, n), positive definite.

    Returns
    -------
    Tensor
        With shape (*B, n): the mean of the logs by these weights has the least variance, unless
        some would be negative.

    Examples
    --------
    >>> best_known(torch.tensor([[1.0, -0.9], [-0.9, 1.0]]))
    tensor([0.5000, 0.5000])
    >>> best_known(torch.tensor([[1.0, 0.0], [0.0, 0.25]]))
    tensor([0.2000, 0.8000])
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    weight = (torch.linalg.pinv(unit, hermitian=True) @ (1 / scale).unsqueeze(-1)).squeeze(-1)
    share = (weight / scale).clamp(min=0.0)
    share = (share / share.sum(-1, keepdim=True)).clamp(min=_LEAST)
    return share / share.sum(-1, keepdim=True)
