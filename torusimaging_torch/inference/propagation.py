r"""What errors of parameters do to what is computed from them.

Standard errors go by the Jacobian, :math:`\sigma_f^2 = \nabla f^T C\,\nabla f`; draws of parameters
go through the function itself. A parameter without a variance spoils everything that it has a say
in. The one exception is a log slope on its lower bound: the slope is none there, and stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.straighten import StraightBox

__all__ = ["covariance_of", "moved_by", "propagated", "room", "vanished"]

# How near its lower bound a log slope is on it, as a fraction of its box: as for a fit's bounds.
_ON_BOUND = 1e-2
# How far down draws of log slopes move like slopes, to a tenth of where they start: as far as the
# check of the bound has it.
_TAU = 10.0


def vanished(x: Tensor, box: Box, logarithmic: Tensor) -> Tensor:
    """Return which parameters are logarithms of slopes that are none, with shape (*B, P).

    Parameters
    ----------
    x
        Parameters with shape (*B, P).
    box
        Their bounds.
    logarithmic
        Which of them are logarithms, with shape (P,).
    """
    return logarithmic & (x - box.lower < _ON_BOUND * box.width)


def room(x: Tensor, box: Box, logarithmic: Tensor) -> Tensor:
    """Return how wide the bounds of each parameter are, with shape (*B, P).

    Of a log slope it is the width that the slope has, in units of the slope itself: as a logarithm
    one that is lost in its error is not known at all, as a slope it is known to be small.

    Parameters
    ----------
    x, box, logarithmic
        As in `vanished`.
    """
    width = box.upper - box.lower
    of_slope = (box.upper - x).exp() - (box.lower - x).exp()
    return torch.where(logarithmic & (width > 0), of_slope, width)


def propagated(jacobian: Tensor, covariance: Tensor, still: Tensor | None = None) -> Tensor:
    """Return standard errors by linear propagation, with shape (*B, N).

    They are nan where a parameter without a variance has a slope that is not zero.

    Parameters
    ----------
    jacobian
        Derivatives of N numbers by the parameters, with shape (..., *B, N, P).
    covariance
        Of the parameters, with shape (*B, P, P); nan where it is not known.
    still
        Parameters that count as known even so, with shape (*B, P); see `vanished`.

    Examples
    --------
    >>> jacobian = torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 1.0]])
    >>> covariance = torch.diag(torch.tensor([1.0, 1.0, torch.nan]))
    >>> propagated(jacobian, covariance)
    tensor([5., nan])
    """
    variance = torch.einsum(
        "...np,...pq,...nq->...n", jacobian, covariance.nan_to_num(0.0), jacobian
    )
    unknown = covariance.diagonal(dim1=-2, dim2=-1).isnan()
    if still is not None:
        unknown = unknown & ~still
    felt = ((jacobian != 0) & unknown.unsqueeze(-2)).any(-1)
    return torch.where(felt, torch.nan, variance.clamp(min=0).sqrt())


def covariance_of(draws: Tensor, x: Tensor, logarithmic: Tensor) -> Tensor:
    """Return the covariance of draws that linear propagation at ``x`` takes, with shape (P, P).

    Of a log slope it is that of the slope, in units of the slope at ``x``. Slopes add up: where one
    stands for another their sum is known, which it is not by their logarithms.

    Parameters
    ----------
    draws
        Draws of parameters, with shape (S, P).
    x
        Where they are propagated, with shape (P,).
    logarithmic
        Which parameters are logarithms, with shape (P,).

    Examples
    --------
    Two numbers, 1 and 3, 2 and 2, or 3 and 1:

    >>> draws = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]).log()
    >>> x = torch.tensor([2.0, 2.0]).log()
    >>> covariance_of(draws, x, torch.tensor([True, True]))
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    return torch.cov(torch.where(logarithmic, torch.expm1(draws - x), draws).mT)


def moved_by(x: Tensor, step: Tensor, logarithmic: Tensor, box: Box | None = None) -> Tensor:
    """Return parameters after a step, log slopes moved like the slopes that they stand for.

    To first order they move by the step itself. A large one multiplies a slope by one more than
    the step, where its exponential would be a number that nobody has seen; slopes that would be
    negative vanish.

    Parameters
    ----------
    x, step
        Parameters and steps with shape (*B, P).
    logarithmic
        Which parameters are logarithms, with shape (P,).
    box
        Bounds that log slopes keep.
    """
    edge = torch.full_like(x, torch.inf)
    end = StraightBox(Box(-edge, edge, validate_args=False), x, logarithmic, _TAU)(x + step)
    if box is None:
        return end
    return torch.where(logarithmic, torch.minimum(torch.maximum(end, box.lower), box.upper), end)
