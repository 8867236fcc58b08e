"""The bounded optimum of a batch: box, whitening and L-BFGS put together.

The problem is badly scaled: curvatures span four to five decades, and an unscaled quasi-Newton
method stops far from the optimum. So parameters are reparameterized: through a smooth bijection
that removes the bounds, through another in which labels depend on them more linearly, and through
a linear map that makes the Fisher matrix the identity. There L-BFGS takes unit steps, and half the
squared gradient is the gain in ln L still to be had, in nats: a stopping rule with no tuning. The
Fisher matrix changes along the way, so the maps are made anew after some steps, until new ones
confirm the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.inference.coordinates import Coordinates, Energy, Problems
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.lbfgs import descend
from torusimaging_torch.numerics.line_search import take
from torusimaging_torch.numerics.minimum import Minimum, Status
from torusimaging_torch.numerics.ranges import not_negative, whole

__all__ = ["Fit", "fit", "held_by_bound"]

_log = logging.getLogger(__name__)

# Accepted steps after which the Fisher matrix is computed again: soon once, where the start is far.
# L-BFGS then forgets the curvature that it has learned: a fit that has not ended in these rounds,
# for which the Fisher matrix is no good picture of the curvature, gets longer ones: it would crawl.
_FIRST, _REFRESH = 6, 15
# How far down log slopes are straightened: further, and a long step takes a slope to the foot of
# its box, where nothing is felt; less, and fits take more steps.
_TAU = 1.0
# Steps by which flat directions are searched at the end, in the box's own coordinates: so fine that
# a log slope between -16 and 10 changes by less than 2 from one to the next.
_LEAPS = tuple(0.25 * i for i in range(1, 33))
# From where they start at the farthest: beyond, a coordinate changes nothing of the parameter.
_FAR = 6.0
# Nats that a leap must gain to be worth going on from.
_WORTH = 1e-3
# A bound holds a parameter if it is this close, as a fraction of the box, ...
_AT_BOUND = 1e-2
# ... and if crossing the box with the slope found there would be worth this many nats.
_PULL = 1.0


@dataclass(frozen=True)
class Fit:
    """Where the fits of a batch ended.

    Attributes
    ----------
    x
        Parameters at the optimum, with shape (*B, P).
    log_prob
        ln L - R there, in nats, with shape (*B,).
    status
        `~torusimaging_torch.numerics.Status` of each problem, with shape (*B,).
    nit, nfev
        Iterations and function evaluations of each problem, with shape (*B,).
    expected_gain
        Nats still to be had according to the gradient and the Fisher matrix, with shape (*B,).
    at_bound
        Which parameters a bound holds back, with shape (*B, P).
    """

    x: Tensor
    log_prob: Tensor
    status: Tensor
    nit: Tensor
    nfev: Tensor
    expected_gain: Tensor
    at_bound: Tensor

    @property
    def success(self) -> Tensor:
        """Which fits converged, with shape (*B,)."""
        return self.status == Status.CONVERGED


def fit(
    posterior: LogPosterior,
    box: Box,
    x0: Tensor,
    *,
    tol: float = 1e-9,
    max_iter: int = 500,
    history: int = 20,
    callback: Callable[[Fit], None] | None = None,
) -> Fit:
    """Maximize a posterior inside a box, for each problem of a batch.

    Parameters
    ----------
    posterior
        Maps parameters with shape (*B, P) to nats with shape (*B,).
    box
        The bounds.
    x0
        Starts, inside the bounds, with shape (*B, P).
    tol
        Gain in nats that is still expected when a fit counts as converged.
    max_iter
        Largest number of iterations of each fit.
    history
        Number of steps from which L-BFGS estimates the curvature.
    callback
        Called with the `Fit` so far after each whitening.

    Returns
    -------
    Fit
        A fit that fails has a status and affects no other.

    Raises
    ------
    ValueError
        If tol or max_iter is negative, or the history is empty.
    """
    tol, max_iter = not_negative(tol, "tol"), whole(max_iter, "max_iter", 0)
    history, shape = whole(history, "history", 1), x0.shape
    flat, x = box.of(shape), x0.detach().reshape(-1, shape[-1])
    if len(posterior.batch) > 1:
        numbers = torch.arange(len(x), device=x.device)
        posterior = posterior.subset(torch.unravel_index(numbers, shape[:-1]))
    u, result, rows = flat.inv(x), _unstarted(x), torch.arange(len(x), device=x.device)
    while len(rows):
        every = len(rows) == len(x)
        problems = Problems(posterior, None if every else rows)
        here = flat if every else flat.of(x.shape, rows)
        this, u_now, ended = _round(
            problems, here, u[rows], take(rows, result), tol, max_iter, history
        )
        result, u = _put(result, rows, this), u.index_copy(0, rows, u_now)
        if callback is not None:
            callback(_shaped(result, shape))
        if _log.isEnabledFor(logging.DEBUG):  # on a GPU it is a pause
            _log.debug("%s; %d of %d go on", _in_words(this), int((~ended).sum()), len(x))
        rows = rows[~ended]
    if _log.isEnabledFor(logging.INFO):
        converged = int((result.status == Status.CONVERGED).sum())
        _log.info("%d of %d fits converged: %s", converged, len(x), _in_words(result))
    return _shaped(result, shape)


def _in_words(result: Fit) -> str:
    """Return how far fits are."""
    return (
        f"iteration {int(result.nit.max())}, {int(result.nfev.max())} evaluations, mean ln L - R = "
        f"{float(result.log_prob.mean()):.6g}, largest expected gain "
        f"{float(result.expected_gain.max()):.1e} nats"
    )


def _unstarted(x: Tensor) -> Fit:
    """Return fits (B, P) that have not started."""
    value = torch.full_like(x[:, 0], -torch.inf)
    status, held = torch.zeros_like(value, dtype=torch.int64), torch.zeros_like(x, dtype=torch.bool)
    return Fit(x, value, status, status, status, -value, held)


def _put(result: Fit, rows: Tensor, this: Fit) -> Fit:
    """Replace some rows of fits (B, P)."""
    return Fit(**{k: old.index_copy(0, rows, vars(this)[k]) for k, old in vars(result).items()})


def _shaped(result: Fit, shape: torch.Size) -> Fit:
    """Return fits (B, P) with the shape (*B, P)."""
    return Fit(**{k: v.reshape(shape[:-1] + v.shape[1:]) for k, v in vars(result).items()})


def _round(
    problems: Problems,
    box: Box,
    u: Tensor,
    before: Fit,
    tol: float,
    max_iter: int,
    history: int,
) -> tuple[Fit, Tensor, Tensor]:
    """Go on from ``u`` (R, P) in fresh coordinates; return also where to, and which have ended."""
    x, slope = box.with_slope(u)
    there = problems.curvature(x)
    coordinates = Coordinates.around(problems, box, u, _TAU, there)
    steps = (max_iter - before.nit).minimum(_length(before.nit))
    energy, origin = Energy(problems, coordinates), torch.zeros_like(u)
    found = descend(
        energy,
        origin,
        gain_tol=tol,
        max_iter=steps,
        history=history,
        start=(-there.value, coordinates.pull(-slope * there.gradient, origin)),
        replay=energy.by_formulas,
    )
    t = coordinates.in_box(found.x)
    u, nit = coordinates.box.plain(t), before.nit + found.nit
    status = _judge(found, nit, max_iter)
    # The end counts only where fresh coordinates confirm it, with no step taken in them.
    ended = (found.nit == 0) | (status == Status.MAX_ITER)
    held = _held_at_end(problems, box, u, there.gradient, ended, found)
    u, escaped = _leap(
        problems, box, coordinates, found, u, ended & (status == Status.CONVERGED), held
    )
    this = Fit(
        coordinates.box(t),
        -found.fun,
        torch.where(escaped, Status.RUNNING.value, status),
        nit + escaped,
        before.nfev + found.nfev,
        0.5 * found.grad.square().sum(-1),
        held,
    )
    return this, u, ended & ~escaped


def _length(nit: Tensor) -> Tensor:
    """Return how many steps the next round of fits has, which have done so many."""
    early = torch.where(nit < _FIRST, _FIRST, _REFRESH)
    return torch.where(nit < _FIRST + _REFRESH, early, 2 * _REFRESH)


def _judge(found: Minimum, nit: Tensor, max_iter: int) -> Tensor:
    """Return the status of each fit after a round of L-BFGS."""
    running_on = (found.status == Status.MAX_ITER) & (nit < max_iter)
    return torch.where(running_on, Status.RUNNING.value, found.status)


def _held_at_end(
    problems: Problems, box: Box, u: Tensor, gradient: Tensor, ended: Tensor, found: Minimum
) -> Tensor:
    """Return which parameters (R, P) a bound holds in fits that have ended.

    The gradient is that from before the round: it holds where no step was taken.
    """
    x = box(u)
    moved = (ended & (found.x != 0).any(-1)).nonzero().squeeze(-1)
    if len(moved):
        # By the parameters themselves: far out in the box a coordinate has no gradient left.
        fresh = problems.take(moved).value_and_gradient(x[moved])[1]
        gradient = gradient.index_copy(0, moved, fresh)
    return _is_held(box, x, gradient) & ended.unsqueeze(-1)


@torch.no_grad()
def _leap(
    problems: Problems,
    box: Box,
    coordinates: Coordinates,
    found: Minimum,
    u: Tensor,
    ended: Tensor,
    held: Tensor,
) -> tuple[Tensor, Tensor]:
    """Look for something better far inside the box along the directions that are flat at the end.

    A log slope at the foot of its box has no effect, and hardly a gradient: it looks like an
    optimum also where a larger slope would fit far better; and so does any parameter that a step
    too long has brought to the very edge of its box. All that are flat go together, since the
    penalty ties neighbours to each other.

    Returns
    -------
    u, escaped
        Coordinates (R, P), and which problems went on to a better place, with shape (R,).
    """
    # Columns of the scale that are as long as the floor allows are the flat directions.
    is_flat = coordinates.whitening.scale.square().sum(-2, keepdim=True) > 1 - 1e-6
    columns = coordinates.directions * is_flat
    flat = columns.square().sum(-1) > 1e-2
    inward = -u.sign() * (flat & ~held)
    escaped = torch.zeros_like(ended)
    rows = (ended & (inward != 0).any(-1)).nonzero().squeeze(-1)
    if not len(rows):
        return u, escaped
    some, here, inward = problems.take(rows), box.of(u.shape, rows), inward[rows]
    best, lowest = u[rows], found.fun[rows]
    start = torch.where(inward == 0, best, best.clamp(-_FAR, _FAR))
    for size in _LEAPS:
        trial = start + size * inward
        value = -some.value(here(trial))
        lower = value < lowest
        best = torch.where(lower.unsqueeze(-1), trial, best)
        lowest = torch.where(lower, value, lowest)
    worth = lowest < found.fun[rows] - _WORTH
    best = torch.where(worth.unsqueeze(-1), best, u[rows])
    return u.index_copy(0, rows, best), escaped.index_copy(0, rows, worth)


def held_by_bound(posterior: Callable[[Tensor], Tensor], box: Box, x: Tensor) -> Tensor:
    """Return which parameters lie close to a bound and are pushed against it, with shape (*B, P).

    One that equal bounds hold has nothing that pushes it.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(posterior(leaf).sum(), leaf)
    return _is_held(box, x, gradient)


def _is_held(box: Box, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the same, given the gradient of the posterior."""
    margin, pull = _AT_BOUND * box.width, gradient * box.width
    low = (x - box.lower < margin) & (pull < -_PULL)
    high = (box.upper - x < margin) & (pull > _PULL)
    return (low | high) & (box.lower < box.upper)
