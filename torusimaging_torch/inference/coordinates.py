"""Coordinates in which a posterior is straight and round: box, straightening and whitening."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.numerics.balances import Balances
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.straighten import StraightBox, foot
from torusimaging_torch.numerics.whitening import Whitening

__all__ = ["Energy", "Problems", "around", "balanced", "straightened"]

# An amount has at least this part of the total, when groups of amounts are halved.
_LEAST = 1e-6


@dataclass(frozen=True)
class Problems:
    """The posterior of some problems of a batch, with shape (R, P).

    Attributes
    ----------
    posterior
        ln L - R of the whole batch, with at most one dimension.
    rows
        Which problems these are, with shape (R,); None for all, in order.
    """

    posterior: LogPosterior
    rows: Tensor | None

    def take(self, index: Tensor) -> Problems:
        """Return some of these problems."""
        return Problems(self.posterior, index if self.rows is None else self.rows[index])

    @property
    def logarithmic(self) -> Tensor:
        """Which parameters are logarithms, with shape (P,)."""
        return self.posterior.logarithmic

    def value(self, x: Tensor) -> Tensor:
        """Return ln L - R, with shape (R,)."""
        return self.posterior.evaluation.value(x, self.rows)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln L - R and its gradient, (R,) and (R, P)."""
        return self.posterior.value_and_gradient(x, self.rows)

    def curvature(self, x: Tensor) -> Curvature:
        """Return also the information of pixels and penalty."""
        return self.posterior.evaluation.curvature(x, self.rows)


def straightened(
    posterior: LogPosterior, box: Box, u: Tensor, tau: float
) -> tuple[StraightBox, Whitening]:
    """Return coordinates around ``u`` (*B, P) in which posterior and box are straight and round.

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
    x, slope = box.with_slope(u)
    return around(box, u, slope, Problems(posterior, None).curvature(x), posterior.logarithmic, tau)


def around(
    box: Box, u: Tensor, slope: Tensor, curvature: Curvature, logarithmic: Tensor, tau: float
) -> tuple[StraightBox, Whitening]:
    """Return coordinates around ``u`` (*B, P), given the curvature there.

    The information is that of pixels and penalty, carried into the box's own coordinates; its
    directions are floored at one nat per unit there, the scale of a logistic function.

    Parameters
    ----------
    box, u, tau
        As for `straightened`.
    slope
        dx/du there, with shape (*B, P).
    curvature
        Of the posterior there.
    logarithmic
        Which parameters are logarithms, with shape (P,).
    """
    straight, information = _straight(box, u, slope, curvature, logarithmic, tau)
    return straight, Whitening.from_information(u, information, floor=1.0)


def _straight(
    box: Box, u: Tensor, slope: Tensor, curvature: Curvature, logarithmic: Tensor, tau: float
) -> tuple[StraightBox, Tensor]:
    """Return straight coordinates, and the information in them, with shape (*B, P, P)."""
    significance = curvature.data.diagonal(dim1=-2, dim2=-1).sqrt()
    straight = StraightBox(box, u, logarithmic, foot(significance, tau))
    # At the reference straight coordinates are those of the box, to first order.
    return straight, slope.unsqueeze(-1) * curvature.information * slope.unsqueeze(-2)


def balanced(
    posterior: LogPosterior, box: Box, u: Tensor, tau: float
) -> tuple[StraightBox, Balances, Whitening]:
    """Return coordinates around ``u`` (P,) as `straightened` does, but with balances of amounts.

    From whitened coordinates whitening, balances and box lead to parameters.

    Parameters
    ----------
    posterior, box, u, tau
        As for `straightened`, of one problem.
    """
    x, slope = box.with_slope(u)
    curvature = Problems(posterior, None).curvature(x)
    places = posterior.amounts
    places = places[slope[places] > 0]  # but for what is held
    logarithmic = posterior.logarithmic.index_fill(0, places, False)
    straight, information = _straight(box, u, slope, curvature, logarithmic, tau)
    balances = Balances(places, u[places], slope[places], _shares(curvature.data, places))
    t, eye = balances.inverse(u), torch.eye(len(u), dtype=u.dtype, device=u.device)
    jacobian = balances.pull(eye, t.expand_as(eye))
    information = jacobian.mT @ information @ jacobian
    return straight, balances, Whitening.from_information(t, information, floor=1.0)


def _shares(information: Tensor, places: Tensor) -> Tensor:
    """Return what part each amount has in what all of them together do to labels, (n,)."""
    felt = information[places][:, places].sum(-1).clamp(min=0.0)
    if not bool(felt.sum() > 0) or not bool(felt.isfinite().all()):
        felt = torch.ones_like(felt)
    share = (felt / felt.sum()).clamp(min=_LEAST)
    return share / share.sum()


class Energy:
    """-(ln L - R) and its gradient by whitened coordinates w of a batch of problems.

    Parameters
    ----------
    problems
        Their posteriors.
    box, whitening
        Their coordinates, with shape (B, P).
    """

    def __init__(self, problems: Problems, box: StraightBox, whitening: Whitening) -> None:
        self.problems, self.box, self.whitening = problems, box, whitening
        self._rows: Tensor | None = None
        self._some = self

    @property
    def by_formulas(self) -> bool:
        """Whether an evaluation is the same steps every time, and calls nobody else's functions."""
        evaluation = self.problems.posterior.evaluation
        return isinstance(evaluation, ClosedForm) and not evaluation.remark

    def __call__(self, w: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the energy (R,) and its gradient (R, P) at w (R, P), for rows of the problems."""
        here = self if rows is None else self._of(rows)
        x, slope = here.box.with_slope(here.whitening(w))
        value, gradient = here.problems.value_and_gradient(x)
        return -value, here.whitening.pull(-slope * gradient)

    def _of(self, rows: Tensor) -> Energy:
        # The same problems are asked for until some of them end.
        if self._rows is not rows:
            whitening = Whitening(self.whitening.center[rows], self.whitening.scale[rows])
            self._some = Energy(self.problems.take(rows), self.box.take(rows), whitening)
            self._rows = rows
        return self._some
