"""Coordinates in which posteriors are straight and round: box, balances and whitening."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.numerics.balances import Balances, halves, one_by_one
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.straighten import StraightBox, foot
from torusimaging_torch.numerics.whitening import Whitening

__all__ = ["Coordinates", "Energy", "Problems", "straightened"]

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


@dataclass(frozen=True)
class Coordinates:
    """Coordinates w in which posteriors and box are straight and round, w = 0 at a reference.

    Attributes
    ----------
    whitening
        From w to straight coordinates t.
    balances
        From there to u: amounts that add up are their total and balances in t.
    box
        From u to parameters.
    """

    whitening: Whitening
    balances: Balances
    box: StraightBox

    @classmethod
    def around(
        cls,
        problems: Problems,
        box: Box,
        u: Tensor,
        tau: float,
        curvature: Curvature | None = None,
        *,
        halved: bool = False,
    ) -> Coordinates:
        """Return coordinates around ``u`` (*B, P).

        The information is that of pixels and penalty, carried into straight coordinates; its
        directions are floored at one nat per unit there, the scale of a logistic function.

        Parameters
        ----------
        problems
            The posteriors.
        box
            The bounds.
        u
            The reference, in coordinates of the box.
        tau
            How straight; see `StraightBox`.
        curvature
            The posteriors' at the reference, if it is known.
        halved
            Whether groups of amounts are halved, as they are at the reference of one problem.
        """
        x, slope = box.with_slope(u)
        there = problems.curvature(x) if curvature is None else curvature
        places = problems.posterior.amounts
        share = _shares(there.data, places)
        nodes = halves(share.tolist()) if halved else one_by_one(len(places))
        rate = torch.where(slope > 0, slope, 1.0)[..., places]
        balances = Balances(places, u[..., places], rate, share, nodes)
        others = problems.posterior.logarithmic.index_fill(0, places, False)
        straight = _straight(box, u, tau, there, others)
        # At the reference straight coordinates are those of the box, to first order.
        information = slope.unsqueeze(-1) * there.information * slope.unsqueeze(-2)
        t = balances.inverse(u)
        if len(places):
            jacobian = _jacobian(balances, t)
            information = jacobian.mT @ information @ jacobian
        return cls(Whitening.from_information(t, information, floor=1.0), balances, straight)

    def take(self, rows: Tensor) -> Coordinates:
        """Return the coordinates of some problems of a batch (B,), an index with shape (R,)."""
        whitening = Whitening(self.whitening.center[rows], self.whitening.scale[rows])
        return Coordinates(whitening, self.balances.take(rows), self.box.take(rows))

    def in_box(self, w: Tensor) -> Tensor:
        """Return coordinates of the straight box, with the shape of ``w``."""
        return self.balances(self.whitening(w))

    def pull(self, by_u: Tensor, w: Tensor) -> Tensor:
        """Return the gradient by w, from that by coordinates of the straight box there."""
        if len(self.balances.places):
            by_u = self.balances.pull(by_u, self.whitening(w))
        return self.whitening.pull(by_u)

    @property
    def directions(self) -> Tensor:
        """The derivatives of the box's coordinates by w at the reference, with shape (*B, P, P)."""
        scale = self.whitening.scale
        if not len(self.balances.places):
            return scale
        return _jacobian(self.balances, self.whitening.center) @ scale


def straightened(posterior: LogPosterior, box: Box, u: Tensor, tau: float) -> StraightBox:
    """Return a box in which logarithms but those of amounts move like slopes, around ``u`` (*B, P).

    Parameters
    ----------
    posterior, box, u, tau
        As for `Coordinates.around`.
    """
    there = Problems(posterior, None).curvature(box(u))
    others = posterior.logarithmic.index_fill(0, posterior.amounts, False)
    return _straight(box, u, tau, there, others)


def _straight(
    box: Box, u: Tensor, tau: float, curvature: Curvature, logarithmic: Tensor
) -> StraightBox:
    significance = curvature.data.diagonal(dim1=-2, dim2=-1).sqrt()
    return StraightBox(box, u, logarithmic, foot(significance, tau))


def _jacobian(balances: Balances, t: Tensor) -> Tensor:
    """Return the derivatives of u by t, with shape (*B, P, P)."""
    rows = torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)
    rows = rows.expand(*t.shape, t.shape[-1]).movedim(-2, 0)
    return balances.pull(rows, t.expand_as(rows)).movedim(0, -2)


def _shares(information: Tensor, places: Tensor) -> Tensor:
    """Return what part each amount has in what all of them together do to labels, (*B, n)."""
    felt = information[..., places, :][..., places].sum(-1).nan_to_num().clamp(min=0.0)
    total = felt.sum(-1, keepdim=True)
    share = torch.where(total > 0, felt / total, 1.0).clamp(min=_LEAST)
    return share / share.sum(-1, keepdim=True)


class Energy:
    """-(ln L - R) and its gradient by whitened coordinates w of a batch of problems.

    Parameters
    ----------
    problems
        Their posteriors.
    coordinates
        Their coordinates, with shape (B, P).
    """

    def __init__(self, problems: Problems, coordinates: Coordinates) -> None:
        self.problems, self.coordinates = problems, coordinates
        self._rows: Tensor | None = None
        self._some = self

    @property
    def by_formulas(self) -> bool:
        """Whether an evaluation is the same steps every time, and calls nobody else's functions."""
        return not self.problems.posterior.evaluation.remark

    def __call__(self, w: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the energy (R,) and its gradient (R, P) at w (R, P), for rows of the problems."""
        here = self if rows is None else self._of(rows)
        x, slope = here.coordinates.box.with_slope(here.coordinates.in_box(w))
        value, gradient = here.problems.value_and_gradient(x)
        return -value, here.coordinates.pull(-slope * gradient, w)

    def _of(self, rows: Tensor) -> Energy:
        # The same problems are asked for until some of them end.
        if self._rows is not rows:
            self._some = Energy(self.problems.take(rows), self.coordinates.take(rows))
            self._rows = rows
        return self._some
