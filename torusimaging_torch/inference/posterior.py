"""The log-posterior of a parameter vector: the one place for signs, weights and 1/N."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torusimaging_torch.evaluation.by_autograd import ByAutograd
from torusimaging_torch.evaluation.choose import choose
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.seam import evaluate
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.inference.pixels import Index, Pixels
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.penalty import PenalizedModel, Penalty
from torusimaging_torch.numerics.params import Layout, Params
from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.torus.sensitivity import label_jacobian

Module = TypeVar("Module", bound=nn.Module)

__all__ = ["Posterior", "subset_module"]


def _joint_batch(batch: torch.Size, shape: torch.Size) -> torch.Size:
    """Return the batch shape of parameters and pixels together."""
    try:
        return broadcast_shapes(batch, shape[:-1])
    except ValueError:
        raise ValueError(
            f"data of a batch of parameters {tuple(batch)} must have the shape (*B, N), or be a "
            f"grid, or (N,) for all alike, got {tuple(shape)}"
        ) from None


class Posterior(LogPosterior):
    """The log-posterior of one data set.

    Parameters
    ----------
    model
        A model: its torus predicts labels, its ``regularization_func(model, params)`` is R.
    likelihood
        The likelihood.
    layout
        How parameters are laid out in the vector.
    pixels
        The data.
    evaluation
        Who is to work it out: "torch", "numba", "triton" (formulas), or "autograd"; by default
        the fastest that can.
    batch
        The batch shape *B of the problems, if they share their pixels; else pixels tell.
    """

    def __init__(
        self,
        model: PenalizedModel,
        likelihood: Likelihood,
        layout: Layout,
        pixels: Pixels,
        evaluation: str | None = None,
        batch: torch.Size | None = None,
    ) -> None:
        self.model = model
        self.likelihood = likelihood
        self.layout = layout
        self.pixels = pixels
        self.wanted = evaluation
        self.batch = _joint_batch(batch or torch.Size(), pixels.pos.shape)
        self._evaluation: ClosedForm | ByAutograd | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None

    @property
    def evaluation(self) -> ClosedForm | ByAutograd:
        """Who works the posterior out."""
        return self._evaluation or self.decide()

    def decide(self) -> ClosedForm | ByAutograd:
        """Find out who works the posterior out."""
        self._evaluation = choose(
            self, self.model, self.likelihood, self.layout, self.pixels, self.batch, self.wanted
        )
        return self._evaluation

    @property
    def evaluated_by(self) -> str:
        """Who works the posterior out, and what is not done by formulas, and why: in words."""
        return super().evaluated_by if self._compiled is None else "autograd, compiled"

    def __call__(self, vector: Tensor) -> Tensor:
        """Return ln L - R at a vector with shape (*B, P), with shape (*B,)."""
        self.check(vector)
        if self._compiled is not None:
            return self._compiled(vector)
        if isinstance(self.evaluation, ClosedForm):
            return evaluate(self.evaluation, vector)
        return self._ln_posterior(vector)

    def _ln_posterior(self, vector: Tensor) -> Tensor:
        params = self.layout.unflatten(vector)
        return self.ln_likelihood(params) - self.model.regularization_func(self.model, params)

    @property
    def logarithmic(self) -> Tensor:
        """Which parameters are logarithms of what labels depend on linearly, with shape (P,)."""
        return self.model.torus.logarithmic_in(self.layout).to(self.pixels.pos.device)

    @property
    def amounts(self) -> Tensor:
        """The places of those that are logarithms of amounts that add up, in order, (n,)."""
        return self.model.torus.amounts_in(self.layout).to(self.pixels.pos.device)

    def compile(self) -> None:
        """Compile the evaluation with `torch.compile`; worth it for many evaluations alone."""
        self._compiled = torch.compile(self._ln_posterior)

    def subset(self, index: Index) -> Posterior:
        """Return the posterior of some problems of a batch."""
        model, pixels = _subset_model(self.model, index), self.pixels.subset(index)
        batch = (index[0] if isinstance(index, tuple) else index).shape
        return Posterior(model, self.likelihood, self.layout, pixels, self.wanted, batch)

    def ln_likelihood(self, params: Params) -> Tensor:
        """Return ln L of a parameter dictionary, with shape (*B,)."""
        pixels = self.pixels
        label = pixels.add_to(self.model.torus(pixels.pos, pixels.vel, params), params)
        # Clean pixels need no mask, so the likelihood's own is skipped.
        terms = self.likelihood.terms(label, *pixels.observed)
        return (terms if pixels.weight is None else terms * pixels.weight).sum(-1)

    def saturated(self) -> Tensor:
        """Return ln L of a model that predicts what was observed, with shape (*B,)."""
        terms, weight = self.likelihood.saturated(*self.pixels.observed), self.pixels.weight
        return (terms if weight is None else terms * weight).sum(-1)

    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""
        params = self.layout.unflatten(vector)
        value = self.model.regularization_func(self.model, params)
        return value + torch.zeros_like(vector[..., 0])

    def expected_information(self, vector: Tensor) -> Tensor:
        """Return J^T W J of the pixels, with shape (*B, P, P), as the modules define it."""
        pixels, vector = self.pixels, vector.detach()
        label, jacobian = label_jacobian(
            self.model.torus, pixels.pos, pixels.vel, vector, self.layout, pixels.terms
        )
        label = pixels.add_to(label, self.layout.unflatten(vector))
        curvature = self.likelihood.curvature(label, *pixels.observed)
        if pixels.weight is not None:
            curvature = curvature * pixels.weight
        scaled = curvature.sqrt().unsqueeze(-2) * jacobian
        return scaled @ scaled.mT


def _subset_model(model: Any, index: Index) -> Any:
    """Return a copy of a model with the knots, and the penalty, of some problems alone."""
    model = subset_module(model, index)
    if isinstance(model.regularization_func, Penalty):
        model.regularization_func = model.regularization_func.subset(index)
    return model


def subset_module(module: Module, index: Index) -> Module:
    """Return a copy of a module whose buffers are those of some problems of a batch alone."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if getattr(part, "n_batch", 0):
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer[index])
    return module
