"""Line search along one direction per problem, for many problems at once: one bracket each.

Bracketing for the weak Wolfe conditions after Lewis & Overton (2013, Math. Program. 141, 135),
algorithm 2.6, which survives kinks and infinite values, sped up by cubic interpolation, Nocedal &
Wright (2006), equation 3.59. Where rounding errors hide the decrease, the "approximate Wolfe"
condition of Hager & Zhang (2005, SIAM J. Optim. 16, 170), equation 4.1, takes over: near a minimum
the slope is still exact when the value no longer is.

Nothing here evaluates a function: the owner of the searches does, at `Search.step`, and hands the
`Point` found to `refine`. All tensors have the problems as first dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "End",
    "Point",
    "Search",
    "dot",
    "is_exhausted",
    "is_finite",
    "new_search",
    "norm",
    "refine",
    "select",
]

_ARMIJO = 1e-4  # c1 of Nocedal & Wright (2006), equation 3.6a
_CURVATURE = 0.9  # c2 of their equation 3.6b
_MAX_TRIALS = 30  # evaluations in one line search
# A step that ends no line search has still 90 % of the first slope: on a parabola the minimum is at
# least ten steps off. So grow boldly; Hager & Zhang (2005) take the same factor.
_GROWTH = 5.0
_MARGIN = 0.1  # an interpolated step keeps this fraction of the bracket from both ends


@dataclass(frozen=True)
class Point:
    """Points with shape (B, P), function values with shape (B,) and gradients with shape (B, P)."""

    x: Tensor
    value: Tensor
    grad: Tensor


@dataclass(frozen=True)
class End:
    """One end of a bracket: step along the direction, value and slope there, with shape (B,)."""

    step: Tensor
    value: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Search:
    """Line searches: the low end decreases the function enough, the high end does not.

    `low_point` is the best point so far, `step` the one to be tried next, `trials` their number.
    """

    direction: Tensor
    origin: End
    low: End
    high: End
    low_point: Point
    step: Tensor
    trials: Tensor


def select(mask: Tensor, new: Any, old: Any) -> Any:
    """Row by row, `new` where the mask of shape (B,) holds and `old` elsewhere.

    Both are tensors, or dataclasses of tensors of the same type, as is the result.
    """
    if isinstance(new, Tensor):
        return torch.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    names = [field.name for field in fields(new)]
    return type(new)(*(select(mask, getattr(new, name), getattr(old, name)) for name in names))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows."""
    return (a * b).sum(-1)


def norm(a: Tensor) -> Tensor:
    """Lengths of rows."""
    return torch.linalg.vector_norm(a, dim=-1)


def is_finite(point: Point) -> Tensor:
    """Whether value and gradient are all finite, with shape (B,)."""
    return point.value.isfinite() & point.grad.isfinite().all(-1)


def new_search(point: Point, direction: Tensor) -> Search:
    """Start searches from points along descent directions, with a first step of one."""
    zero = torch.zeros_like(point.value)
    beyond = torch.full_like(zero, math.inf)
    origin = End(zero, point.value, dot(direction, point.grad))
    high, trials = End(beyond, beyond, beyond), zero.long()
    return Search(direction, origin, origin, high, point, zero + 1, trials)


def refine(search: Search, trial: Point, ceiling: Tensor) -> tuple[Tensor, Search]:
    """Judge the trial step and narrow the bracket with it.

    Parameters
    ----------
    search
        The searches of B problems.
    trial
        What was found at `search.step`; anything not finite makes it a forbidden point.
    ceiling
        Largest value, with shape (B,), that rounding errors alone could turn into a decrease.

    Returns
    -------
    accept
        Whether the trial satisfies the Wolfe conditions, with shape (B,).
    search
        The narrowed searches with their next steps, for those who do not accept.
    """
    end = _end_at(search, trial)
    enough = _is_low_enough(search, end, ceiling)
    low, high = select(enough, end, search.low), select(enough, search.high, end)
    trials = search.trials + 1
    step = torch.where(high.step.isinf(), _GROWTH * low.step, _between(low, high, trials))
    point = select(enough, trial, search.low_point)
    accept = enough & (end.slope >= _CURVATURE * search.origin.slope)
    return accept, replace(search, low=low, high=high, low_point=point, step=step, trials=trials)


def is_exhausted(search: Search) -> Tensor:
    """Whether the bracket is narrower than the spacing of numbers, or the trials are used up."""
    x = search.low_point.x
    width = (search.high.step - search.low.step)[:, None] * search.direction.abs()
    narrow = (width <= torch.finfo(x.dtype).eps * x.abs()).all(-1)
    return narrow | (search.trials >= _MAX_TRIALS)


def _end_at(search: Search, trial: Point) -> End:
    # A point with a finite value but no gradient is as forbidden as one without a value.
    value = torch.where(is_finite(trial), trial.value, math.inf)
    return End(search.step, value, dot(trial.grad, search.direction))


def _is_low_enough(search: Search, end: End, ceiling: Tensor) -> Tensor:
    """Armijo's condition, or Hager & Zhang's where rounding hides the decrease."""
    origin = search.origin
    armijo = end.value <= origin.value + _ARMIJO * end.step * origin.slope
    level = (end.value <= ceiling) & (end.slope <= (2 * _ARMIJO - 1) * origin.slope)
    return armijo | level


def _between(low: End, high: End, trials: Tensor) -> Tensor:
    """Minimum of the cubic through both ends, kept inside; every third time the middle."""
    width = high.step - low.step
    cubic = _cubic_minimum(low, high)
    inside = cubic.clamp(low.step + _MARGIN * width, high.step - _MARGIN * width)
    middle = low.step + width / 2
    step = torch.where(cubic.isfinite() & (trials % 3 != 0), inside, middle)
    # Where the function does not exist nothing is known about it: shrink hard.
    return torch.where(high.value.isfinite(), step, low.step + _MARGIN * width)


def _cubic_minimum(low: End, high: End) -> Tensor:
    """Nocedal & Wright (2006), equation 3.59."""
    width = high.step - low.step
    d1 = low.slope + high.slope - 3 * (high.value - low.value) / width
    d2 = (d1 * d1 - low.slope * high.slope).sqrt()
    return high.step - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2 * d2)
