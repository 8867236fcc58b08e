"""Line search along one direction per problem, for many problems at once: one bracket each.

Bracketing for the weak Wolfe conditions after Lewis & Overton (2013, Math. Program. 141, 135),
algorithm 2.6, which survives kinks and infinite values, sped up by cubic interpolation, Nocedal &
Wright (2006), equation 3.59. Where rounding errors hide the decrease, the "approximate Wolfe"
condition of Hager & Zhang (2005, SIAM J. Optim. 16, 170), equation 4.1, takes over: near a minimum
the slope is still exact when the value no longer is.

Nothing here evaluates a function: the owner of the searches does, at `Search.step`, and hands the
`Point` found to `judge`. All tensors have the problems as first dimension; numbers that are chosen
together lie side by side in one tensor, so that one operation chooses them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from torusimaging_torch.numerics.states import map_tensors

__all__ = [
    "End",
    "Judgement",
    "Point",
    "Search",
    "dot",
    "is_exhausted",
    "judge",
    "narrow",
    "new_search",
    "norm",
    "select",
    "take",
]

State = TypeVar("State")

_ARMIJO = 1e-4  # c1 of Nocedal & Wright (2006), equation 3.6a
_CURVATURE = 0.9  # c2 of their equation 3.6b
_MAX_TRIALS = 30  # evaluations in one line search
# A step that ends no line search has still 90 % of the first slope: on a parabola the minimum is at
# least ten steps off. So grow boldly; Hager & Zhang (2005) take the same factor.
_GROWTH = 5.0
_MARGIN = 0.1  # an interpolated step keeps this fraction of the bracket from both ends


@dataclass(frozen=True)
class Point:
    """Points x with shape (B, P), gradients and values, side by side with shape (B, 2 P + 1)."""

    packed: Tensor

    @classmethod
    def of(cls, x: Tensor, value: Tensor, grad: Tensor) -> Point:
        """Pack points (B, P), values (B,) and gradients (B, P)."""
        return cls(torch.cat([x, grad, value.unsqueeze(-1)], -1))

    @property
    def x(self) -> Tensor:
        """The points, with shape (B, P)."""
        return self.packed[:, : self.packed.shape[-1] // 2]

    @property
    def grad(self) -> Tensor:
        """The gradients, with shape (B, P)."""
        return self.packed[:, self.packed.shape[-1] // 2 : -1]

    @property
    def value(self) -> Tensor:
        """The values, with shape (B,)."""
        return self.packed[:, -1]


class End(NamedTuple):
    """One end of a bracket: step along the direction, value and slope there, with shape (B,)."""

    step: Tensor
    value: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Search:
    """Line searches: the low end decreases the function enough, the high end does not.

    Attributes
    ----------
    direction
        With shape (B, P).
    low_point
        The best point so far.
    numbers
        The ends of origin, low and high, the step to be tried next and the number of trials, with
        shape (B, 11).
    """

    direction: Tensor
    low_point: Point
    numbers: Tensor

    @property
    def origin(self) -> End:
        """Where the search starts."""
        return End(*self.numbers[:, :3].unbind(-1))

    @property
    def low(self) -> End:
        """The best end."""
        return End(*self.numbers[:, 3:6].unbind(-1))

    @property
    def high(self) -> End:
        """The other end, infinitely far away at first."""
        return End(*self.numbers[:, 6:9].unbind(-1))

    @property
    def step(self) -> Tensor:
        """The step to be tried next, with shape (B,)."""
        return self.numbers[:, 9]

    @property
    def trials(self) -> Tensor:
        """The number of trials so far, with shape (B,)."""
        return self.numbers[:, 10]


class Judgement(NamedTuple):
    """What a trial step is worth.

    `accept` says whether it satisfies the Wolfe conditions, `enough` whether it decreases the
    function enough, with shape (B,); `end` is what was found there, with shape (B, 3).
    """

    accept: Tensor
    enough: Tensor
    end: Tensor


def select(mask: Tensor, new: State, old: State) -> State:
    """Take the rows of ``new`` where the mask (B,) says so, else those of ``old``.

    Both are tensors, or dataclasses of tensors of the same type, as is the result.
    """
    return map_tensors(
        lambda x, y: torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y), new, old
    )


def take(rows: Tensor, old: State) -> State:
    """Take some rows, an index (R,), of a tensor or of a dataclass of tensors."""
    return map_tensors(lambda x: x.index_select(0, rows), old)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows."""
    return (a * b).sum(-1)


def norm(a: Tensor) -> Tensor:
    """Lengths of rows."""
    return torch.linalg.vector_norm(a, dim=-1)


def new_search(point: Point, direction: Tensor, slope: Tensor) -> Search:
    """Start searches along descent directions (B, P) with slopes (B,); the first step is one."""
    # Filled in on the device: a list of numbers would be copied there, and the host wait for it.
    none, one, far = (torch.full_like(slope, x) for x in (0.0, 1.0, math.inf))
    origin = [none, point.value, slope]
    # No high end yet; the first step; no trial.
    numbers = torch.stack([*origin, *origin, far, far, far, one, none], -1)
    return Search(direction, point, numbers)


def judge(search: Search, trial: Point, ceiling: Tensor) -> Judgement:
    """Judge the trial step.

    Parameters
    ----------
    search
        The searches of B problems.
    trial
        What was found at `Search.step`; anything not finite makes it a forbidden point.
    ceiling
        Largest value, with shape (B,), that rounding errors alone could turn into a decrease.
    """
    slope, step, origin = dot(trial.grad, search.direction), search.step, search.origin
    # A point with a finite value but no gradient is as forbidden as one without a value.
    finite = trial.packed.abs().amax(-1) < math.inf
    value = torch.where(finite, trial.value, math.inf)
    # Armijo's condition, or Hager & Zhang's where rounding hides the decrease.
    armijo = value <= torch.addcmul(origin.value, step, origin.slope, value=_ARMIJO)
    level = (value <= ceiling) & (slope <= (2 * _ARMIJO - 1) * origin.slope)
    enough = armijo | level
    accept = enough & (slope >= _CURVATURE * origin.slope)
    return Judgement(accept, enough, torch.stack([step, value, slope], -1))


def narrow(search: Search, trial: Point, judged: Judgement) -> Search:
    """Narrow the brackets with a trial; the next steps are meant for those who do not accept it."""
    enough, end, numbers = judged.enough.unsqueeze(-1), judged.end, search.numbers
    ends = [torch.where(enough, end, numbers[:, 3:6]), torch.where(enough, numbers[:, 6:9], end)]
    low, high = (End(*values.unbind(-1)) for values in ends)
    trials = search.trials + 1
    step = torch.where(high.step.isinf(), _GROWTH * low.step, _between(low, high, trials))
    numbers = torch.cat([numbers[:, :3], *ends, torch.stack([step, trials], -1)], -1)
    return replace(
        search, low_point=select(judged.enough, trial, search.low_point), numbers=numbers
    )


def is_exhausted(search: Search) -> Tensor:
    """Whether the bracket is narrower than the spacing of numbers, or the trials are used up."""
    x = search.low_point.x
    width = (search.high.step - search.low.step)[:, None] * search.direction.abs()
    narrow = (width <= torch.finfo(x.dtype).eps * x.abs()).all(-1)
    return narrow | (search.trials >= _MAX_TRIALS)


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
