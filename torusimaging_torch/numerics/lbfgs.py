"""Limited-memory BFGS for many independent problems at once, in plain PyTorch.

Every evaluation of the function is shared by all problems, and after it each running problem makes
its own move: it accepts the trial step and turns to a new direction, or narrows its own bracket.
No problem waits for another; a finished one is frozen. Directions come from the two-loop recursion
(Nocedal & Wright 2006, algorithm 7.4), steps from `torusimaging_torch.numerics.line_search`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from torusimaging_torch.numerics.line_search import (
    Point,
    Search,
    dot,
    is_exhausted,
    is_finite,
    new_search,
    norm,
    refine,
    select,
)

__all__ = ["Minimum", "Status", "minimize"]

_ULPS = 100.0  # rounding error allowed to a value, in units in the last place

Function = Callable[[Tensor], Tensor]


class Status(IntEnum):
    """How a problem ended."""

    RUNNING = 0
    CONVERGED = 1
    MAX_ITER = 2
    MAX_EVAL = 3
    LINE_SEARCH_FAILED = 4
    NON_FINITE = 5

    @property
    def message(self) -> str:
        """The status in words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "converged: the expected gain is below gain_tol",
    Status.MAX_ITER: "stopped: max_iter iterations were made",
    Status.MAX_EVAL: "stopped: max_eval evaluations were made",
    Status.LINE_SEARCH_FAILED: (
        "stopped: no lower point found along steepest descent (rounding errors dominate, "
        "or the gradient does not belong to the function)"
    ),
    Status.NON_FINITE: "not started: the function or its gradient is not finite at the start",
}


@dataclass(frozen=True)
class Minimum:
    """Where a batch of minimizations ended.

    Attributes
    ----------
    x
        Best point of each problem, with shape (*B, P).
    fun
        Function value there, with shape (*B,). Never above the value at the start.
    grad
        Gradient there, with shape (*B, P).
    status
        `Status` code of each problem, with shape (*B,), int64.
    nit
        Accepted steps of each problem, with shape (*B,), int64.
    nfev
        Evaluations made while the problem was running, with shape (*B,), int64.
    """

    x: Tensor
    fun: Tensor
    grad: Tensor
    status: Tensor
    nit: Tensor
    nfev: Tensor


@dataclass(frozen=True)
class _History:
    """Last pairs s, y with shape (B, M, P), newest first; an empty slot has weight 1/(s.y) = 0."""

    s: Tensor
    y: Tensor
    weight: Tensor


@dataclass(frozen=True)
class _State:
    point: Point
    search: Search
    history: _History
    start_value: Tensor
    lowest: Tensor
    status: Tensor
    nit: Tensor
    nfev: Tensor

    @property
    def running(self) -> Tensor:
        return self.status == Status.RUNNING


def minimize(
    fun: Function,
    x0: Tensor,
    *,
    gain_tol: float | Tensor = 1e-8,
    max_iter: int | Tensor = 200,
    max_eval: int | None = None,
    history: int = 10,
    callback: Callable[[Minimum], None] | None = None,
) -> Minimum:
    """Minimize independent functions from independent starts, all at once.

    Parameters
    ----------
    fun
        Maps points with shape (*B, P) to values with shape (*B,), differentiable by autograd;
        value b may depend on point b alone. It is always called with the shape of `x0`. A value or
        gradient that is not finite marks a forbidden point, from which the line search steps back.
    x0
        Starts, with shape (*B, P); a single problem has shape (P,). Left unchanged.
    gain_tol
        A problem has converged when its expected gain |gradient|^2 / 2 is at most this: a number,
        or a tensor that broadcasts to (*B,). Where the Hessian is near the identity that is the
        decrease a Newton step would still bring: whoever scales the problem so, with -ln L as
        function, states the tolerance in nats of log-likelihood. A gain below the rounding errors
        of the value counts as none when no lower point is found.
    max_iter
        Largest number of accepted steps: a number, or a tensor that broadcasts to (*B,).
    max_eval
        Largest number of evaluations, the one at the start included; 5 max_iter + 1 by default.
        (A step takes little more than one, except where the function is unbounded or broken.)
    history
        Number of past steps from which the curvature is estimated.
    callback
        Called after each evaluation with the `Minimum` so far.

    Returns
    -------
    Minimum
        Best points, with a `Status` per problem. The value never exceeds that at the start. A
        problem that fails affects no other.

    Raises
    ------
    TypeError
        If `x0` is not a floating-point tensor.
    ValueError
        If `x0` has no dimension, `history` is below 1, or `fun` returns the wrong shape.
    """
    _check_arguments(x0, history)
    shape = x0.shape
    tol = torch.as_tensor(gain_tol, dtype=x0.dtype, device=x0.device)
    tol = tol.expand(shape[:-1]).reshape(-1)
    steps = torch.as_tensor(max_iter, device=x0.device).expand(shape[:-1]).reshape(-1)
    limits = _Limits(tol, steps, 5 * steps + 1 if max_eval is None else max_eval)

    with torch.no_grad():
        state = _start(_evaluate(fun, x0.detach().clone(), shape), history, limits)
        if callback is not None:
            callback(_minimum(state, shape))
        while state.running.any():
            search = state.search
            trial_x = state.point.x + search.step[:, None] * search.direction
            trial = _evaluate(fun, select(state.running, trial_x, search.low_point.x), shape)
            state = select(state.running, _advance(state, trial, limits), state)
            if callback is not None:
                callback(_minimum(state, shape))
    return _minimum(state, shape)


@dataclass(frozen=True)
class _Limits:
    gain_tol: Tensor
    max_iter: Tensor
    max_eval: int | Tensor


def _check_arguments(x0: Tensor, history: int) -> None:
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        raise TypeError(f"x0 must be a floating-point tensor, got {x0!r}")
    if x0.ndim == 0:
        raise ValueError("x0 must have shape (*B, P), got a tensor without dimensions")
    if history < 1:
        raise ValueError(f"history must be at least 1, got {history}")


def _evaluate(fun: Function, x: Tensor, shape: torch.Size) -> Point:
    """Value and gradient; `fun` sees the caller's shape, the rest of this module (B, P)."""
    leaf = x.reshape(shape).requires_grad_()
    with torch.enable_grad():
        value = fun(leaf)
        if value.shape != shape[:-1]:
            expected, got = tuple(shape[:-1]), tuple(value.shape)
            raise ValueError(f"fun must return one value per problem, {expected}, got {got}")
        (grad,) = torch.autograd.grad(value.sum(), leaf)
    rows = (value.numel(), shape[-1])
    return Point(leaf.detach().reshape(rows), value.detach().reshape(-1), grad.reshape(rows))


def _start(point: Point, slots: int, limits: _Limits) -> _State:
    pairs = point.x.new_zeros(point.x.shape[0], slots, point.x.shape[1])
    search, history = _turn(point, _History(pairs, pairs, pairs.sum(-1)))
    none = torch.zeros_like(point.value, dtype=torch.int64)
    state = _State(point, search, history, point.value, point.value, none, none, none + 1)
    status = torch.where(is_finite(point), _status(state, limits), Status.NON_FINITE.value)
    return replace(state, status=status)


def _minimum(state: _State, shape: torch.Size) -> Minimum:
    # The low end of the bracket is the best point, also when stopped within a line search.
    best, batch = state.search.low_point, shape[:-1]
    return Minimum(
        x=best.x.reshape(shape),
        fun=best.value.reshape(batch),
        grad=best.grad.reshape(shape),
        status=state.status.reshape(batch),
        nit=state.nit.reshape(batch),
        nfev=state.nfev.reshape(batch),
    )


def _advance(state: _State, trial: Point, limits: _Limits) -> _State:
    """Let every problem make its move, given its trial point."""
    allowance = _allowance(state)
    # A result is never worse than its start, not even by rounding errors.
    ceiling = torch.minimum(state.lowest + allowance, state.start_value)
    accept, refined = refine(state.search, trial, ceiling)
    give_up = ~accept & is_exhausted(refined)
    salvage = give_up & (refined.low.value < state.point.value - allowance)
    progress = accept | salvage
    # Without progress and without a history steepest descent itself has failed: the end.
    stuck = give_up & ~progress & ~_is_filled(state.history)

    point = select(accept, trial, select(salvage, refined.low_point, state.point))
    history = select(accept, _push(state.history, state.point, trial), state.history)
    history = select(give_up, _forget(history), history)
    fresh, kept = _turn(point, history)
    moved = replace(
        state,
        point=point,
        search=select(accept | give_up, fresh, refined),
        history=select(accept | give_up, kept, history),
        lowest=torch.minimum(state.lowest, point.value),
        nit=state.nit + progress,
        nfev=state.nfev + 1,
    )
    # What is still to be had may be less than rounding lets one see: that is the end, too.
    all_had = _gain(moved.point) <= allowance
    end = torch.where(all_had, Status.CONVERGED.value, Status.LINE_SEARCH_FAILED.value)
    return replace(moved, status=torch.where(stuck, end, _status(moved, limits)))


def _allowance(state: _State) -> Tensor:
    """Allow for rounding errors of a value, by the lowest one, so that they cannot add up."""
    return _ULPS * torch.finfo(state.lowest.dtype).eps * state.lowest.abs()


def _status(state: _State, limits: _Limits) -> Tensor:
    status = torch.full_like(state.status, Status.RUNNING)
    status = status.masked_fill(state.nfev >= limits.max_eval, Status.MAX_EVAL)
    status = status.masked_fill(state.nit >= limits.max_iter, Status.MAX_ITER)
    return status.masked_fill(_gain(state.point) <= limits.gain_tol, Status.CONVERGED)


def _gain(point: Point) -> Tensor:
    """Return the decrease that a Newton step would bring where the Hessian is the identity."""
    return dot(point.grad, point.grad) / 2


def _turn(point: Point, history: _History) -> tuple[Search, _History]:
    """Start a line search; a history whose direction does not descend is dropped."""
    direction = _direction(point.grad, history)
    slope = dot(direction, point.grad)
    descends = slope < -torch.finfo(slope.dtype).eps * norm(direction) * norm(point.grad)
    direction = select(descends, direction, _steepest(point.grad))
    return new_search(point, direction), select(descends, history, _forget(history))


def _steepest(grad: Tensor) -> Tensor:
    """Down the gradient, by a length of one at most: nothing is known about the curvature."""
    return -grad * (1 / norm(grad)).clamp(max=1)[:, None]


def _direction(grad: Tensor, history: _History) -> Tensor:
    """Two-loop recursion, Nocedal & Wright (2006), algorithm 7.4; empty slots add nothing."""
    slots = list(
        zip(history.s.unbind(1), history.y.unbind(1), history.weight.unbind(1), strict=True)
    )
    q, alphas = grad, []
    for s, y, weight in slots:
        alphas.append(weight * dot(s, q))
        q = torch.addcmul(q, alphas[-1][:, None], y, value=-1)
    newest, weight = history.y[:, 0], history.weight[:, 0]
    # Equation 7.20. For an empty history this divides by zero: no direction, and the caller knows.
    q = q / (weight * dot(newest, newest))[:, None]
    for (s, y, weight), alpha in zip(reversed(slots), reversed(alphas), strict=True):
        q = torch.addcmul(q, (alpha - weight * dot(y, q))[:, None], s)
    return -q


def _is_filled(history: _History) -> Tensor:
    return history.weight[:, 0] > 0


def _push(history: _History, old: Point, new: Point) -> _History:
    """Add a pair in front of the oldest ones, unless its curvature s.y is lost in rounding."""
    s, y = new.x - old.x, new.grad - old.grad
    curvature = dot(s, y)
    pushed = _History(
        s=torch.cat([s[:, None], history.s[:, :-1]], 1),
        y=torch.cat([y[:, None], history.y[:, :-1]], 1),
        weight=torch.cat([1 / curvature[:, None], history.weight[:, :-1]], 1),
    )
    return select(
        curvature > math.sqrt(torch.finfo(s.dtype).eps) * norm(s) * norm(y), pushed, history
    )


def _forget(history: _History) -> _History:
    return replace(history, weight=torch.zeros_like(history.weight))
