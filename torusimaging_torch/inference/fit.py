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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.lbfgs import Minimum, Status, minimize
from torusimaging_torch.numerics.straighten import StraightBox, foot
from torusimaging_torch.numerics.whitening import Whitening

__all__ = ["REFRESH", "Fit", "fit", "straightened"]

# Accepted steps after which the Fisher matrix is computed again. L-BFGS then forgets the curvature
# that it has learned, so a fit that has not ended after two rounds, for which the Fisher matrix is
# no good picture of the curvature, gets rounds of twice that: it would crawl otherwise.
REFRESH = 15
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
    posterior: Posterior,
    box: Box,
    x0: Tensor,
    *,
    tol: float = 1e-9,
    max_iter: int = 500,
    history: int = 20,
    callback: Callable[[Fit], None] | None = None,
    done: int = 0,
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
    done
        Iterations made before, if this goes on with a fit that was interrupted.

    Returns
    -------
    Fit
        A fit that fails has a status and affects no other.
    """
    u = box.inv(x0)
    nit = nfev = status = torch.zeros(u.shape[:-1], dtype=torch.int64, device=u.device)
    running = torch.ones_like(nit, dtype=torch.bool)
    result: Fit | None = None
    while bool(running.any()):
        straight, whitening = straightened(posterior, box, u, _TAU)
        steps = (max_iter - nit).minimum(
            torch.where(nit + done < 2 * REFRESH, REFRESH, 2 * REFRESH)
        )
        found = _descend(posterior, straight, whitening, running, steps, tol, history)
        u = torch.where(running.unsqueeze(-1), straight.plain(whitening(found.x)), u)
        nit, nfev = nit + running * found.nit, nfev + running * found.nfev
        status = torch.where(running, _judge(found, nit, max_iter), status)
        # The end counts only where fresh coordinates confirm it, with no step taken in them.
        confirmed = (found.nit == 0) | (status == Status.MAX_ITER)
        ended = running & confirmed & (status == Status.CONVERGED)
        held = torch.zeros_like(u, dtype=torch.bool)
        if bool((running & confirmed).any()):
            held = held_by_bound(posterior, box, box(u))
        if bool(ended.any()):
            u, escaped = _leap(posterior, box, whitening, found, u, ended, held)
            nit, confirmed = nit + escaped, confirmed & ~escaped
            status = torch.where(escaped, Status.RUNNING.value, status)
        gain = 0.5 * found.grad.square().sum(-1)
        this = Fit(straight(whitening(found.x)), -found.fun, status, nit, nfev, gain, held)
        result = _update(result, this, running)
        running = running & ~confirmed
        if callback is not None:
            callback(result)
    assert result is not None
    return result


def straightened(
    posterior: Posterior, box: Box, u: Tensor, tau: float
) -> tuple[StraightBox, Whitening]:
    """Return coordinates around ``u`` (*B, P) in which posterior and box are straight and round.

    The information is that of pixels and penalty, carried into the box's own coordinates; its
    directions are floored at one nat per unit there, the scale of a logistic function.

    Parameters
    ----------
    posterior
        ln L - R.
    box
        The bounds.
    u
        The reference, in coordinates of the box, with shape (*B, P).
    tau
        How straight; see `StraightBox`.
    """
    x, slope = box(u), box.slope(u)
    data = posterior.data_information(x)
    significance = data.diagonal(dim1=-2, dim2=-1).sqrt()
    straight = StraightBox(box, u, posterior.logarithmic, foot(significance, tau))
    # At the reference straight coordinates are those of the box, to first order.
    information = data + posterior.penalty_hessian(x)
    return straight, Whitening.from_information(
        u, slope.unsqueeze(-1) * information * slope.unsqueeze(-2), floor=1.0
    )


def _descend(
    posterior: Posterior,
    box: Box,
    whitening: Whitening,
    running: Tensor,
    steps: Tensor,
    tol: float,
    history: int,
) -> Minimum:
    def energy(w: Tensor) -> Tensor:
        return -posterior(box(whitening(w)))

    # What has ended converges at once, so that it costs its neighbours nothing.
    gain_tol = torch.where(running, tol, torch.inf).to(whitening.center.dtype)
    start = torch.zeros_like(whitening.center)
    return minimize(energy, start, gain_tol=gain_tol, max_iter=steps, history=history)


def _judge(found: Minimum, nit: Tensor, max_iter: int) -> Tensor:
    """Return the status of each fit after a round of L-BFGS."""
    running_on = (found.status == Status.MAX_ITER) & (nit < max_iter)
    return torch.where(running_on, Status.RUNNING.value, found.status)


@torch.no_grad()
def _leap(
    posterior: Posterior,
    box: Box,
    whitening: Whitening,
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
        Coordinates (*B, P), and which problems went on to a better place, with shape (*B,).
    """
    # Columns of the scale that are as long as the floor allows are the flat directions.
    columns = whitening.scale * (whitening.scale.square().sum(-2, keepdim=True) > 1 - 1e-6)
    flat = columns.square().sum(-1) > 1e-2
    inward = -u.sign() * (flat & ~held)
    best, lowest = u, found.fun
    if not bool((ended.unsqueeze(-1) & (inward != 0)).any()):
        return u, torch.zeros_like(ended)
    for size in _LEAPS:
        trial = torch.where(inward == 0, u, u.clamp(-_FAR, _FAR) + size * inward)
        value = -posterior(box(trial))
        lower = value < lowest
        best = torch.where(lower.unsqueeze(-1), trial, best)
        lowest = torch.where(lower, value, lowest)
    escaped = ended & (lowest < found.fun - _WORTH)
    return torch.where(escaped.unsqueeze(-1), best, u), escaped


def held_by_bound(posterior: Posterior, box: Box, x: Tensor) -> Tensor:
    """Return which parameters lie close to a bound and are pushed against it, with shape (*B, P).

    One that equal bounds hold has nothing that pushes it.
    """
    # By the parameters themselves: far out in the box a coordinate has no gradient left.
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-posterior(leaf).sum(), leaf)
    margin, pull = _AT_BOUND * box.width, gradient * box.width
    low = (x - box.lower < margin) & (pull > _PULL)
    high = (box.upper - x < margin) & (pull < -_PULL)
    return (low | high) & (box.lower < box.upper)


def _update(old: Fit | None, new: Fit, running: Tensor) -> Fit:
    """Replace the entries of the problems that were still running."""
    if old is None:
        return new
    merged = {}
    for name, value in vars(new).items():
        mask = running if value.ndim == running.ndim else running.unsqueeze(-1)
        merged[name] = torch.where(mask, value, getattr(old, name))
    return Fit(**merged)
