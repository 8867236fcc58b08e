r"""Coordinates in which a log slope moves like a slope.

Labels depend on the slopes of a distortion almost linearly, on their logarithms exponentially.
Where these are known to half an e-fold, the posterior is bent in them: a quadratic model of it
misleads an optimizer, and the Gaussian around the optimum a sampler. With u the coordinate of a log
slope in its box, s the slope, and :math:`u_0` and :math:`s_0` those of a reference point, the
straight coordinate t is

.. math::

    \frac{s}{s_0} = \frac{\mathrm{softplus}(\tau + c (t - u_0))}{\mathrm{softplus}(\tau)}

linear in the slope down to a fraction of the reference, and in its logarithm below, so that every t
is allowed. The rate c is such that t is u to first order at the reference: what whitens u there
whitens t.

A slope that is lost in its own error gets a lower :math:`\tau`. There is nothing to be straight
about: below the error the posterior is flat in the logarithm, down to the bound, and slopes that
data can see would lie exponentially far away in coordinates that are linear from the reference on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from torusimaging_torch.numerics.box import Box

__all__ = ["StraightBox", "foot"]

# Below, ln softplus(z) is z - e^z / 2 to 13 digits, and what torch makes of it loses them.
_TAIL = -15.0
# Standard errors below which a slope is nothing at all.
_NOTHING = 1e-12


def foot(significance: Tensor, tau: float) -> Tensor:
    """Return where slopes lie on the soft rectifier: at ``tau``, or lower if lost in their errors.

    The rectifier then bends no lower than at one standard error.

    Parameters
    ----------
    significance
        Slopes in units of their standard errors, all else held, with any shape.
    tau
        The highest place.
    """
    highest = math.log1p(math.exp(tau))
    return significance.nan_to_num(nan=highest).clamp(_NOTHING, highest).expm1().log()


class StraightBox(Box):
    """A box some of whose entries are log slopes, in coordinates that move like slopes.

    Parameters
    ----------
    box
        The bounds.
    center
        Coordinates of the reference point in that box, with shape (*B, P).
    logarithmic
        Which entries are logarithms, with shape (P,).
    tau
        Where the reference lies on the soft rectifier, a number or with shape (*B, P): the larger,
        the further down coordinates go with the slope itself, with 1 to two thirds of the
        reference, with 3 to a third.
    """

    def __init__(self, box: Box, center: Tensor, logarithmic: Tensor, tau: float | Tensor) -> None:
        super().__init__(box.lower, box.upper, box.names, validate_args=False)
        self._plain_box, self._logarithmic, self._center = box, logarithmic, center
        self._tau = torch.as_tensor(tau, dtype=center.dtype, device=center.device)
        self._log_start = _log_soft(self._tau)
        # At the reference the logarithm of a rectified number changes by so much less than it does.
        self._log_ratio = self._log_start - functional.logsigmoid(self._tau)
        self._ratio = self._log_ratio.exp()
        rate = box.slope(center)
        # An entry that is held, or so close to a bound that it cannot move, stays as it is.
        self._bent = logarithmic & (rate > 0)
        self._rate = torch.where(self._bent, rate, 1.0)

    def take(self, rows: Tensor) -> StraightBox:
        """Return the box of some problems of a batch (B, P), an index with shape (R,)."""
        tau = self._tau.expand_as(self._center)
        box = self._plain_box.of(self._center.shape, rows)
        return StraightBox(box, self._center[rows], self._logarithmic, tau[rows])

    def plain(self, t: Tensor) -> Tensor:
        """Return the coordinates in the plain box, with shape (*B, P)."""
        u = self._center + (self._soft(t)[1] - self._log_start) / self._rate
        return torch.where(self._bent, u, t)

    def log_slope(self, t: Tensor) -> Tensor:
        """Return the log of dx/dt, with shape (*B, P); 0 for entries that are held."""
        z, log_soft = self._soft(t)
        log_rise = functional.logsigmoid(z) - log_soft + self._log_ratio
        return super().log_slope(self.plain(t)) + torch.where(self._bent, log_rise, 0.0)

    def bend(self, t: Tensor) -> Tensor:
        """Return the derivative of the log of dx/dt, (*B, P); 0 for entries that are held."""
        return self.jet(t)[-1]

    def jet(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the parameters, dx/dt, its log and the derivative of that, all with one look."""
        z, log_soft = self._soft(t)
        u = self._center + (log_soft - self._log_start) / self._rate
        u = torch.where(self._bent, u, t)
        x, slope = super().with_slope(u)
        log_rise = functional.logsigmoid(z) - log_soft
        rise, bend = log_rise.exp(), super().bend(u)
        bent = self._ratio * (bend * rise + self._rate * (z.neg().sigmoid() - rise))
        return (
            x,
            slope * torch.where(self._bent, self._ratio * rise, 1.0),
            super().log_slope(u) + torch.where(self._bent, log_rise + self._log_ratio, 0.0),
            torch.where(self._bent, bent, bend),
        )

    def with_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters and dx/dt, with shape (*B, P) each; 0 for entries that are held."""
        z, log_soft = self._soft(t)
        u = self._center + (log_soft - self._log_start) / self._rate
        x, slope = super().with_slope(torch.where(self._bent, u, t))
        rise = (functional.logsigmoid(z) - log_soft + self._log_ratio).exp()
        return x, slope * torch.where(self._bent, rise, 1.0)

    def _call(self, t: Tensor) -> Tensor:
        return super()._call(self.plain(t))

    def _inverse(self, x: Tensor) -> Tensor:
        u = super()._inverse(x)
        moved = torch.where(self._bent, self._rate * (u - self._center), 0.0)
        log_soft = self._log_start + moved
        soft = log_soft.exp()
        # The inverse of the soft rectifier, ln(e^s - 1); in its tail that is ln s + s / 2.
        far = log_soft < _TAIL
        inner = soft + (-torch.expm1(-torch.where(far, math.exp(_TAIL), soft))).log()
        z = torch.where(far, log_soft + soft / 2, inner)
        t = self._center + (z - self._tau) / (self._ratio * self._rate)
        return torch.where(self._bent, t, u)

    def _soft(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = tau + c (t - u0) and ln softplus(z); tau for entries left alone."""
        moved = torch.where(self._bent, t - self._center, 0.0)
        z = self._tau + self._ratio * self._rate * moved
        return z, _log_soft(z)


def _log_soft(z: Tensor) -> Tensor:
    """Return ln softplus(z)."""
    # Not torch's softplus, which breaks off at 20, its second derivative with it.
    far = z < _TAIL
    soft = -functional.logsigmoid(-torch.where(far, _TAIL, z))
    tail = torch.where(far, z, _TAIL)
    return torch.where(far, tail - tail.exp() / 2, soft.log())
