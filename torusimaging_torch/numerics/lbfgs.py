"""Limited-memory BFGS for many independent problems at once, in plain PyTorch.

Every evaluation of the function is shared by all problems, and after it each running problem makes
its own move: it accepts the trial step and turns to a new direction, or narrows its own bracket.
No problem waits for another, and one that has finished is evaluated no more. Directions come from
`torusimaging_torch.numerics.quasi_newton`, steps from `torusimaging_torch.numerics.line_search`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from torusimaging_torch.numerics.line_search import (
    Point,
    Search,
    dot,
    is_exhausted,
    judge,
    narrow,
    new_search,
    norm,
    select,
    take,
)
from torusimaging_torch.numerics.minimum import Minimum, Status
from torusimaging_torch.numerics.quasi_newton import Curvature, gentle, no_curvature
from torusimaging_torch.numerics.replay import Replayed

__all__ = ["descend", "minimize"]

_ULPS = 100.0  # rounding error allowed to a value, in units in the last place
# Evaluations on a device between two looks at what still runs: a look waits for the device.
_LOOK_EVERY = 8
# The share of problems still running below which the others are left out: every one saves its
# evaluations, but where steps are replayed each change of the number costs a recording.
_WORTH_LEAVING_OUT = (1.0, 0.5)

Function = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _State:
    """Where the problems that still run are."""

    point: Point
    search: Search
    curvature: Curvature
    values: Tensor  # the first and the lowest, (B, 2)
    counts: Tensor  # nit and nfev, (B, 2)
    limits: _Limits
    status: Tensor  # (B,)

    @property
    def best(self) -> Point:
        # The low end of the bracket is the best point, also when stopped within a line search.
        return self.search.low_point


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
    options = {"gain_tol": gain_tol, "max_iter": max_iter, "max_eval": max_eval}
    by_autograd = _ByAutograd(fun, x0)
    return descend(by_autograd, x0, **options, history=history, callback=callback)  # type: ignore[arg-type]


def descend(
    fun: Gradient,
    x0: Tensor,
    *,
    gain_tol: float | Tensor = 1e-8,
    max_iter: int | Tensor = 200,
    max_eval: int | None = None,
    history: int = 10,
    callback: Callable[[Minimum], None] | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    replay: bool = False,
) -> Minimum:
    """Minimize functions that come with their gradients.

    Parameters
    ----------
    fun
        Maps points (R, P), and which problems they belong to, to values (R,) and gradients (R, P).
        The problems are an index with shape (R,) into all of them, one after the other whatever
        their batch shape, each once; None stands for all of them. Only those that still run are
        asked for, but on a device some that have ended lately may be among them.
    x0, gain_tol, max_iter, max_eval, history, callback
        As for `minimize`.
    start
        Values and gradients at the starts, if they are known.
    replay
        Whether an evaluation on a GPU may be recorded and replayed: ``fun`` then does the same
        with any numbers, and nothing but return tensors.

    Returns
    -------
    Minimum
        As from `minimize`.
    """
    _check_arguments(x0, history)
    shape, every = x0.shape, 1 if x0.device.type == "cpu" else _LOOK_EVERY
    with torch.no_grad():
        x = x0.detach().reshape(-1, shape[-1]).clone()
        point = Point.of(x, *(fun(x, None) if start is None else start))
        state = _start(point, _limits(x0, gain_tol, max_iter, max_eval), history)
        rows = torch.arange(len(state.status), device=x0.device)
        found = _Found(state.best.packed, state.counts, state.status)
        repeat = Replayed if replay else _as_it_is
        step = repeat(partial(_step, fun, None, every))
        for evaluations in itertools.count(1):
            if callback is not None:
                found.put(rows, state)
                callback(found.minimum(shape))
            if evaluations % every == 0:
                going = (state.status == Status.RUNNING).nonzero().squeeze(-1)
                if len(going) <= _WORTH_LEAVING_OUT[replay and every > 1] * (len(rows) - 1):
                    found.put(rows, state)
                    rows, state = take(going, rows), take(going, state)
                    step = repeat(partial(_step, fun, rows, every))
                if not len(rows):
                    return found.minimum(shape)
            state = step(state)
    raise AssertionError("the loop ends by returning")


def _as_it_is(step: Callable[[_State], _State]) -> Callable[[_State], _State]:
    return step


def _step(fun: Gradient, rows: Tensor | None, every: int, state: _State) -> _State:
    """Evaluate some problems, or all, at their next trial points, and let each make its move."""
    x = torch.addcmul(state.point.x, state.search.step[:, None], state.search.direction)
    new = _advance(state, Point.of(x, *fun(x, rows)))
    # Where every look is taken all problems run.
    return new if every == 1 else select(state.status == Status.RUNNING, new, state)


@dataclass
class _ByAutograd:
    """A plain function as one that comes with its gradient; it is shown all problems every time."""

    fun: Function
    x0: Tensor

    def __post_init__(self) -> None:
        self.shape = self.x0.shape
        self.shown = self.x0.detach().reshape(-1, self.shape[-1]).clone()

    def __call__(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        # Problems that have ended stay where they were last.
        self.shown = x if rows is None else self.shown.index_copy(0, rows, x)
        leaf = self.shown.reshape(self.shape).requires_grad_()
        with torch.enable_grad():
            value = self.fun(leaf)
            if value.shape != self.shape[:-1]:
                expected, got = tuple(self.shape[:-1]), tuple(value.shape)
                raise ValueError(f"fun must return one value per problem, {expected}, got {got}")
            (grad,) = torch.autograd.grad(value.sum(), leaf)
        self.shown = self.shown.detach()
        value, grad = value.detach().reshape(-1), grad.reshape(self.shown.shape)
        return (value, grad) if rows is None else (value[rows], grad[rows])


@dataclass
class _Found:
    """What was found so far of all problems: best points, counts and statuses."""

    packed: Tensor
    counts: Tensor
    status: Tensor

    def put(self, rows: Tensor, state: _State) -> None:
        self.packed = self.packed.index_copy(0, rows, state.best.packed)
        self.counts = self.counts.index_copy(0, rows, state.counts)
        self.status = self.status.index_copy(0, rows, state.status)

    def minimum(self, shape: torch.Size) -> Minimum:
        best, batch = Point(self.packed), shape[:-1]
        nit, nfev = self.counts.unbind(-1)
        return Minimum(
            x=best.x.reshape(shape),
            fun=best.value.reshape(batch),
            grad=best.grad.reshape(shape),
            status=self.status.reshape(batch),
            nit=nit.reshape(batch),
            nfev=nfev.reshape(batch),
        )


def _check_arguments(x0: Tensor, history: int) -> None:
    if not isinstance(x0, Tensor) or not x0.is_floating_point():
        raise TypeError(f"x0 must be a floating-point tensor, got {x0!r}")
    if x0.ndim == 0:
        raise ValueError("x0 must have shape (*B, P), got a tensor without dimensions")
    if history < 1:
        raise ValueError(f"history must be at least 1, got {history}")


@dataclass(frozen=True)
class _Limits:
    """The largest expected gain at the end, (B,), and the largest nit and nfev, (B, 2)."""

    gain_tol: Tensor
    counts: Tensor


def _limits(
    x0: Tensor, gain_tol: float | Tensor, max_iter: int | Tensor, max_eval: int | None
) -> _Limits:
    batch = x0.shape[:-1]
    tol = torch.as_tensor(gain_tol, dtype=x0.dtype, device=x0.device).expand(batch).reshape(-1)
    steps = torch.as_tensor(max_iter, device=x0.device).expand(batch).reshape(-1)
    most = 5 * steps + 1 if max_eval is None else torch.full_like(steps, max_eval)
    return _Limits(tol, torch.stack([steps, most], -1))


def _start(point: Point, limits: _Limits, history: int) -> _State:
    search, curvature = _turn(point, no_curvature(point.x, history))
    counts = torch.zeros_like(limits.counts) + torch.tensor([0, 1], device=point.x.device)
    lowest = torch.stack([point.value, point.value], -1)
    state = _State(point, search, curvature, lowest, counts, limits, counts[:, 0])
    finite = point.packed.isfinite().all(-1)
    return replace(state, status=torch.where(finite, _status(state), Status.NON_FINITE.value))


def _advance(state: _State, trial: Point) -> _State:
    """Let every problem make its move, given its trial point."""
    first, lowest = state.values.unbind(-1)
    allowance = _allowance(lowest)
    # A result is never worse than its start, not even by rounding errors.
    judged = judge(state.search, trial, torch.minimum(lowest + allowance, first))
    accept, curvature = judged.accept, state.curvature.learn(state.point, trial, judged.accept)
    if _is_known(accept):
        search, curvature = _turn(trial, curvature)
        return _moved(state, trial, search, curvature, accept)

    refined = narrow(state.search, trial, judged)
    give_up = ~accept & is_exhausted(refined)
    salvage = give_up & (refined.low.value < state.point.value - allowance)
    # Without progress and without a history steepest descent itself has failed: the end.
    stuck = give_up & ~salvage & ~state.curvature.known
    point = select(accept, trial, select(salvage, refined.low_point, state.point))
    turns = accept | give_up
    fresh, kept = _turn(point, curvature.keep(~give_up))
    kept = replace(
        kept,
        triangle=select(turns, kept.triangle, curvature.triangle),
        gamma=select(turns, kept.gamma, curvature.gamma),
    )
    moved = _moved(state, point, select(turns, fresh, refined), kept, accept | salvage)
    # What is still to be had may be less than rounding lets one see: that is the end, too.
    end = torch.where(
        _gain(point) <= allowance, Status.CONVERGED.value, Status.LINE_SEARCH_FAILED.value
    )
    return replace(moved, status=torch.where(stuck, end, moved.status))


def _is_known(mask: Tensor) -> bool:
    """Whether a mask is known to be true everywhere: on a device it would cost a look."""
    return mask.device.type == "cpu" and bool(mask.all())


def _moved(
    state: _State, point: Point, search: Search, curvature: Curvature, progress: Tensor
) -> _State:
    first, lowest = state.values.unbind(-1)
    values = torch.stack([first, torch.minimum(lowest, point.value)], -1)
    counts = state.counts + torch.stack([progress, torch.ones_like(progress)], -1)
    moved = _State(point, search, curvature, values, counts, state.limits, state.status)
    return replace(moved, status=_status(moved))


def _allowance(lowest: Tensor) -> Tensor:
    """Allow for rounding errors of a value, by the lowest one, so that they cannot add up."""
    return _ULPS * torch.finfo(lowest.dtype).eps * lowest.abs()


def _status(state: _State) -> Tensor:
    too_many_steps, too_many = (state.counts >= state.limits.counts).unbind(-1)
    status = torch.where(too_many, Status.MAX_EVAL.value, Status.RUNNING.value)
    status = torch.where(too_many_steps, Status.MAX_ITER.value, status)
    converged = _gain(state.point) <= state.limits.gain_tol
    return torch.where(converged, Status.CONVERGED.value, status)


def _gain(point: Point) -> Tensor:
    """Return the decrease that a Newton step would bring where the Hessian is the identity."""
    return dot(point.grad, point.grad) / 2


def _turn(point: Point, curvature: Curvature) -> tuple[Search, Curvature]:
    """Start a line search; a history whose direction does not descend is dropped."""
    grad = point.grad
    direction = curvature.direction(grad)
    slope = dot(direction, grad)
    descends = slope < -torch.finfo(slope.dtype).eps * norm(direction) * norm(grad)
    if not _is_known(descends):
        direction = select(descends, direction, -grad * gentle(grad).unsqueeze(-1))
        slope, curvature = dot(direction, grad), curvature.keep(descends)
    return new_search(point, direction, slope), curvature
