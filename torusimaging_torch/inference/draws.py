"""Draws of parameters from the Gaussian of a fit.

Log slopes are drawn as the slopes that they stand for, and amounts that add up as their total and
balances (`torusimaging_torch.numerics.balances`): both are far closer to the posterior than a
Gaussian of the logarithms, and the same to first order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.inference.fisher import CramerRaoBound
from torusimaging_torch.inference.propagation import moved_by
from torusimaging_torch.numerics.balances import Balances, best_known, halves
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.eigen import eigh

__all__ = ["balances_of", "covariance_root", "error_samples", "vector_samples"]


def error_samples(
    vector: Tensor,
    bound: CramerRaoBound,
    size: int,
    generator: torch.Generator | None = None,
    logarithmic: Tensor | None = None,
    box: Box | None = None,
    amounts: Tensor | None = None,
) -> Tensor:
    """Draw from the Gaussian with the bound as its covariance.

    Parameters
    ----------
    vector
        Its mean, with shape (*B, P).
    bound
        The bound.
    size
        Number of samples S.
    generator
        Source of random numbers, on the CPU, whatever the device of the vector.
    logarithmic
        Which parameters are logarithms, with shape (P,): the Gaussian is one of the slopes that
        they stand for, see `torusimaging_torch.inference.propagation.moved_by`.
    box
        Bounds that these keep.
    amounts
        Places of those that are logarithms of amounts that add up, with shape (n,).

    Returns
    -------
    Tensor
        With shape (S, *B, P). Parameters without a bound stay where they are.
    """
    return vector_samples(vector, bound.root, size, generator, logarithmic, box, amounts)


def vector_samples(
    vector: Tensor,
    root: Tensor,
    size: int,
    generator: torch.Generator | None = None,
    logarithmic: Tensor | None = None,
    box: Box | None = None,
    amounts: Tensor | None = None,
) -> Tensor:
    """Draw from a Gaussian given a root A of its covariance A A^T, with shape (*B, P, P).

    All else is as in `error_samples`.
    """
    normal = torch.randn(size, *vector.shape, generator=generator, dtype=vector.dtype)
    step = (root @ normal.to(vector.device).unsqueeze(-1)).squeeze(-1)
    if logarithmic is None:
        return vector + step
    draws = moved_by(vector.expand_as(step), step, logarithmic, box).contiguous()
    if amounts is None or len(amounts) < 2:
        return draws
    flat = draws.flatten(1, -2) if vector.ndim > 1 else draws.unsqueeze(1)
    steps = step.reshape_as(flat)
    each = vector.reshape(-1, vector.shape[-1]), root.reshape(-1, *root.shape[-2:])
    for i, (x, own) in enumerate(zip(*each, strict=True)):
        balances = balances_of(x, own, amounts)
        moved = balances(balances.inverse(x) + balances.push(steps[:, i]))
        flat[:, i, balances.places] = moved[:, balances.places]
    if box is None:
        return draws
    kept = torch.minimum(torch.maximum(draws, box.lower), box.upper)
    return torch.where(logarithmic, kept, draws)


def balances_of(x: Tensor, root: Tensor, amounts: Tensor, rate: Tensor | None = None) -> Balances:
    """Return the coordinates of amounts in which a Gaussian around ``x`` is close to what is known.

    Parameters
    ----------
    x
        Where, with shape (P,).
    root
        Root of the covariance of what has the amounts' logarithms as entries, with shape (P, P).
    amounts
        Places of the amounts, with shape (n,); those that do not move are left out.
    rate
        By how much these logarithms grow with ``x``, with shape (P,); 1 by default.
    """
    rows = root[amounts]
    moving = (rows != 0).any(-1)
    places, rows = amounts[moving], rows[moving]
    share = best_known(rows @ rows.mT)
    rate = torch.ones_like(share) if rate is None else rate[places]
    return Balances(places, x[places], rate, share, halves(share.tolist()))


def covariance_root(covariance: Tensor) -> Tensor:
    """Return a root of a covariance (P, P) that is nan where it is not known, and zeros there."""
    known = covariance.nan_to_num(0.0)
    scale = known.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)  # so that units do not matter
    values, vectors = eigh(known / (scale.unsqueeze(-1) * scale))
    return scale.unsqueeze(-1) * vectors * values.clamp(min=0).sqrt()
