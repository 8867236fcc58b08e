"""The bounded optimum of a batch: box, whitening and L-BFGS put together.

The problem is badly scaled: curvatures span four to five decades, and an unscaled quasi-Newton
method stops far from the optimum. So parameters are reparameterized twice, through a smooth
bijection that removes the bounds, and through a linear map that makes the Fisher matrix the
identity. There L-BFGS takes unit steps, and half the squared gradient is the gain in ln L still to
be had, in nats: a stopping rule with no tuning. The Fisher matrix changes along the way, so the map
is made anew after some steps, until a new one confirms the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.bounds import Box
from torusimaging_torch.lbfgs import Minimum, Status, minimize
from torusimaging_torch.posterior import Posterior
from torusimaging_torch.whitening import Whitening

__all__ = ["Fit", "fit", "whitened"]

# Accepted steps after which the Fisher matrix is computed again.
_REFRESH = 15
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
        `~torusimaging_torch.lbfgs.Status` of each problem, with shape (*B,).
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
    """
    u = box.inv(x0)
    nit, nfev = (torch.zeros(u.shape[:-1], dtype=torch.int64, device=u.device) for _ in "in")
    running = torch.ones_like(nit, dtype=torch.bool)
    status, result = nit, None
    while bool(running.any()):
        whitening = whitened(posterior, box, u)
        found = _descend(posterior, box, whitening, running, tol, history)
        u = torch.where(running.unsqueeze(-1), whitening(found.x), u)
        nit, nfev = nit + running * found.nit, nfev + running * found.nfev
        status = torch.where(running, _judge(found, nit, max_iter), status)
        # The end counts only where fresh coordinates confirm it, with no step taken in them.
        confirmed = (found.nit == 0) | (status == Status.MAX_ITER)
        result = _update(
            result, _result(posterior, box, whitening, found, status, nit, nfev), running
        )
        running = running & ~confirmed
        if callback is not None:
            callback(result)
    assert result is not None
    return result


def whitened(posterior: Posterior, box: Box, u: Tensor) -> Whitening:
    """Return coordinates around ``u`` (*B, P) in which posterior and box are round.

    The information is that of pixels and penalty, carried into the box's own coordinates; its
    directions are floored at one nat per unit there, the scale of a logistic function.
    """
    slope = box.slope(u)
    information = posterior.information(box(u))
    return Whitening.from_information(
        u, slope.unsqueeze(-1) * information * slope.unsqueeze(-2), floor=1.0
    )


def _descend(
    posterior: Posterior,
    box: Box,
    whitening: Whitening,
    running: Tensor,
    tol: float,
    history: int,
) -> Minimum:
    def energy(w: Tensor) -> Tensor:
        return -posterior(box(whitening(w)))

    # What has ended converges at once, so that it costs its neighbours nothing.
    gain_tol = torch.where(running, tol, torch.inf).to(whitening.center.dtype)
    start = torch.zeros_like(whitening.center)
    return minimize(energy, start, gain_tol=gain_tol, max_iter=_REFRESH, history=history)


def _judge(found: Minimum, nit: Tensor, max_iter: int) -> Tensor:
    """Return the status of each fit after a round of L-BFGS."""
    running_on = (found.status == Status.MAX_ITER) & (nit < max_iter)
    return torch.where(running_on, Status.RUNNING.value, found.status)


def _result(
    posterior: Posterior,
    box: Box,
    whitening: Whitening,
    found: Minimum,
    status: Tensor,
    nit: Tensor,
    nfev: Tensor,
) -> Fit:
    u = whitening(found.x)
    # g_w = A^T g_u, so g_u comes back without another evaluation.
    gradient = torch.linalg.solve(whitening.scale.mT, found.grad.unsqueeze(-1)).squeeze(-1)
    return Fit(
        x=box(u),
        log_prob=-found.fun,
        status=status,
        nit=nit,
        nfev=nfev,
        expected_gain=0.5 * found.grad.square().sum(-1),
        at_bound=held_by_bound(box, u, gradient),
    )


def held_by_bound(box: Box, u: Tensor, gradient: Tensor) -> Tensor:
    """Return which entries lie close to a bound and are pushed against it, with shape (*B, P).

    ``gradient`` is that of the energy -(ln L - R) by ``u``.
    """
    x, slope = box(u), box.slope(u)
    margin = _AT_BOUND * box.width
    steep = torch.where(slope > 0, gradient / slope, 0.0)
    low = (x - box.lower < margin) & (steep * box.width > _PULL)
    high = (box.upper - x < margin) & (steep * box.width < -_PULL)
    return low | high


def _update(old: Fit | None, new: Fit, running: Tensor) -> Fit:
    """Replace the entries of the problems that were still running."""
    if old is None:
        return new
    merged = {}
    for name, value in vars(new).items():
        mask = running if value.ndim == running.ndim else running.unsqueeze(-1)
        merged[name] = torch.where(mask, value, getattr(old, name))
    return Fit(**merged)
