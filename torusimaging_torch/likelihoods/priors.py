r"""Penalties that are priors of one leaf of the parameters: :math:`R = -\ln p`, in nats."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor
from torch.distributions import Distribution, Transform

from torusimaging_torch.likelihoods.penalty import Penalty
from torusimaging_torch.numerics.params import Params, Path

__all__ = ["DensityPenalty", "NormalPenalty", "Prior"]

Scale = float | Tensor
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class NormalPenalty(Penalty):
    r"""The penalty :math:`\frac12 \sum ((p - \mu)/\sigma)^2` of one leaf: a normal prior.

    Attributes
    ----------
    path
        The keys that lead to the leaf.
    size
        Its number of entries K, or None if it is a number, with shape (*B,).
    mean, sigma
        Of the prior: numbers, or tensors with the shape (K,) or (*B, K) of the leaf, () or (*B,) if
        it is a number.
    """

    path: Path
    size: int | None
    mean: Scale
    sigma: Scale

    def __call__(self, model: object, params: Params) -> Tensor:
        """Return the penalty with shape (*B,)."""
        square = 0.5 * ((leaf_of(params, self.path) - self.mean) / self.sigma).square()
        return square if self.size is None else square.sum(-1)

    def subset(self, index: object) -> NormalPenalty:
        """Return the penalty of some problems, in any order, also more than once."""

        def pick(x: Scale) -> Scale:
            shared = not isinstance(x, Tensor) or x.ndim <= (self.size is not None)
            return x if shared else x[index]  # type: ignore[index]

        return replace(self, mean=pick(self.mean), sigma=pick(self.sigma))

    def to(self, like: Tensor) -> NormalPenalty:
        """Return the same on the device, and of the type, of a tensor."""

        def move(x: Scale) -> Scale:
            return x.to(like) if isinstance(x, Tensor) else x

        return replace(self, mean=move(self.mean), sigma=move(self.sigma))


@dataclass(frozen=True, eq=False)
class DensityPenalty(Penalty):
    r"""The penalty :math:`-\ln p` of one leaf with any other density.

    Attributes
    ----------
    path, size
        As in `NormalPenalty`.
    distribution
        Its ``log_prob`` takes the leaf; the same for all problems of a batch.
    """

    path: Path
    size: int | None
    distribution: Distribution

    def __call__(self, model: object, params: Params) -> Tensor:
        """Return the penalty with shape (*B,)."""
        leaf = leaf_of(params, self.path)
        batch = leaf.shape if self.size is None else leaf.shape[:-1]
        return -self.distribution.log_prob(leaf).reshape(*batch, -1).sum(-1)

    def to(self, like: Tensor) -> DensityPenalty:
        """Return the same on the device, and of the type, of a tensor."""
        return replace(self, distribution=_moved(self.distribution, like))


Prior = NormalPenalty | DensityPenalty
"""A penalty that says what is known of one leaf."""


def _moved(value: Value, like: Tensor) -> Value:
    """Return a part of a distribution with its tensors moved; what it is made of comes along."""
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(like) if value.is_floating_point() else value.to(like.device)
    elif isinstance(value, list | tuple):
        moved = type(value)(_moved(one, like) for one in value)
    elif isinstance(value, Distribution | Transform):
        moved = copy.copy(value)
        moved.__dict__.update({name: _moved(one, like) for name, one in vars(moved).items()})
    return moved


def leaf_of(params: Params, path: Path) -> Any:
    """Return the leaf to which keys lead."""
    leaf: Any = params
    for key in path:
        leaf = leaf[key]
    return leaf
