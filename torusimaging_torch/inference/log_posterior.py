"""What every log-posterior of a parameter vector can do, of one data set or of several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.inference.pixels import Index, Pixels
from torusimaging_torch.likelihoods.penalty import PenalizedModel
from torusimaging_torch.numerics.params import Layout, Params

__all__ = ["Evaluation", "LogPosterior"]


class Evaluation(Protocol):
    """Who works a log-posterior out; ``rows`` tells which problems of a batch vectors belong to."""

    @property
    def name(self) -> str:
        """The implementation."""

    @property
    def remark(self) -> str:
        """What is not done by formulas, and why, in words."""

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P)."""

    def data_information(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> Tensor:
        """Return J^T W J, or minus the second derivatives of ln L, with shape (*B, P, P)."""

    def penalty_hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of R, with shape (*B, P, P)."""

    def curvature(self, vector: Tensor, rows: Tensor | None = None) -> Curvature:
        """Return ln L - R, its gradient, J^T W J and the second derivatives of R."""


class LogPosterior(ABC):
    """ln L - R of a parameter vector, in nats, for each problem of a batch.

    Attributes
    ----------
    model
        The model whose torus predicts labels.
    layout
        How parameters are laid out in the vector.
    batch
        The batch shape *B of the problems.
    pixels
        The data; of several data sets those of the first, with the number of terms of all.
    """

    model: PenalizedModel
    layout: Layout
    batch: torch.Size
    pixels: Pixels

    @property
    @abstractmethod
    def evaluation(self) -> Evaluation:
        """Who works the posterior out."""

    @abstractmethod
    def __call__(self, vector: Tensor) -> Tensor:
        """Return ln L - R at a vector with shape (*B, P), with shape (*B,)."""

    @abstractmethod
    def compile(self) -> None:
        """Compile the evaluation with `torch.compile`; worth it for many evaluations alone."""

    @abstractmethod
    def ln_likelihood(self, params: Params) -> Tensor:
        """Return ln L of a parameter dictionary, with shape (*B,)."""

    @abstractmethod
    def saturated(self) -> Tensor:
        """Return ln L of a model that predicts what was observed, with shape (*B,)."""

    @abstractmethod
    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""

    @property
    @abstractmethod
    def logarithmic(self) -> Tensor:
        """Which parameters are logarithms of what labels depend on linearly, with shape (P,)."""

    @property
    @abstractmethod
    def amounts(self) -> Tensor:
        """The places of those that are logarithms of amounts that add up, in order, (n,)."""

    @abstractmethod
    def subset(self, index: Index) -> LogPosterior:
        """Return the posterior of some problems of a batch, in any order, also more than once.

        Parameters
        ----------
        index
            Which problems, with shape (B',), or one such index for each batch dimension.
        """

    def decide(self) -> Evaluation:
        """Find out who works the posterior out: once, at the latest when it is first called.

        Within a transform of `torch.func` that is autograd, so decide before.
        """
        return self.evaluation

    @property
    def evaluated_by(self) -> str:
        """Who works the posterior out, and what is not done by formulas, and why: in words."""
        name, remark = self.evaluation.name, self.evaluation.remark
        return f"{name} ({remark})" if remark else name

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P).

        Parameters
        ----------
        vector
            Vectors with shape (*B, P).
        rows
            Which problems of a batch with one dimension they belong to, each once, with shape
            (R,); the vectors then have the shape (R, P). No other problem is evaluated.

        Raises
        ------
        ValueError
            If vectors have another shape or type.
        IndexError
            If there are no such problems.
        """
        self.check(vector, None if rows is None else rows.shape)
        return self.evaluation.value_and_gradient(vector, rows)

    def check(self, vector: Tensor, batch: torch.Size | None = None) -> None:
        """Raise a ValueError if a vector is none of this posterior's, or not of this batch shape.

        By default that of the problems, or, of one problem, any.
        """
        batch, size, dtype = batch or self.batch, self.layout.size, self.pixels.pos.dtype
        own = vector.shape[-1 - len(batch) :]
        if own != (*batch, size) or vector.dtype != dtype:
            expected = ("*S", *batch, size)
            raise ValueError(
                f"expected vectors with shape ({', '.join(map(str, expected))}) and type {dtype}, "
                f"got {tuple(vector.shape)} and {vector.dtype}: their entries are those of "
                "posterior.layout.names"
            )

    def objective(self, vector: Tensor) -> Tensor:
        """Return what upstream minimizes, -(ln L - R)/N, with shape (*B,)."""
        return -self(vector) / self.pixels.n

    def ln_likelihood_at(self, vector: Tensor) -> Tensor:
        """Return ln L of vectors (*B, P), with shape (*B,), as the modules define it."""
        return self.ln_likelihood(self.layout.unflatten(vector))

    def data_information(self, vector: Tensor) -> Tensor:
        """Return the expected (Gauss-Newton) information of the pixels, with shape (*B, P, P).

        It is J^T W J, with J the Jacobian of the labels and W the likelihood's curvature in the
        label: positive semi-definite by construction.
        """
        return self.evaluation.data_information(vector)

    def data_hessian(self, vector: Tensor) -> Tensor:
        """Return the second derivatives of ln L, with shape (*B, P, P)."""
        return -self.evaluation.data_information(vector, exact=True)

    def penalty_hessian(self, vector: Tensor) -> Tensor:
        """Return the second derivatives of R, with shape (*B, P, P)."""
        return self.evaluation.penalty_hessian(vector)

    def hessian(self, vector: Tensor) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        return self.data_hessian(vector) - self.penalty_hessian(vector)

    def information(self, vector: Tensor) -> Tensor:
        """Return the expected information of pixels and penalty, with shape (*B, P, P)."""
        return self.data_information(vector) + self.penalty_hessian(vector)
