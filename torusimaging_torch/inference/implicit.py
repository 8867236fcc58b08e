r"""How the optimum moves with the data: derivatives of a fit by the implicit function theorem.

At the optimum the gradient of :math:`P = \ln L - R` by the parameters x vanishes, whatever the data
d. So

.. math:: \frac{\mathrm{d}x}{\mathrm{d}d} = F^{-1} \frac{\partial^2 P}{\partial x\,\partial d}

with the information :math:`F = -\nabla\nabla P` (Krantz & Parks 2002, The Implicit Function
Theorem). Nothing of the optimizer's steps is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.inference.fisher import cramer_rao_bound
from torusimaging_torch.inference.fit import Fit
from torusimaging_torch.inference.log_posterior import LogPosterior

__all__ = ["differentiable_optimum"]


def differentiable_optimum(posterior: LogPosterior, found: Fit, information: Tensor) -> Tensor:
    """Return the parameters of a fit, with derivatives by what its posterior was made of.

    Parameters
    ----------
    posterior
        ln L - R, evaluated by autograd: labels, errors, weights, positions, knots or numbers of the
        penalty may require gradients.
    found
        The fit, of the same data.
    information
        Minus the second derivatives of ln L - R at the optimum, with shape (*B, P, P).

    Returns
    -------
    Tensor
        Parameters with shape (*B, P). A parameter that a bound holds back, or that the data leave
        undetermined, stays where it is: its derivatives are zero, and those of the others are taken
        with it held. Those of a fit that did not converge are nan.
    """
    x = found.x.detach()
    root = cramer_rao_bound(information.detach(), found.at_bound).root
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(posterior(leaf).sum(), leaf, create_graph=True)
        step = (root @ (root.mT @ slope.unsqueeze(-1))).squeeze(-1)
        known = torch.where(found.success, 1.0, torch.nan).unsqueeze(-1)
        return _Moves.apply(x, known * step)


class _Moves(torch.autograd.Function):
    """The optimum, which moves as the step from it to the optimum of other data does."""

    @staticmethod
    def forward(ctx: object, x: Tensor, step: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, by_x: Tensor) -> tuple[None, Tensor]:
        return None, by_x
