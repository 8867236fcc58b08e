"""The posterior of several data sets on one torus, with the methods of `Posterior`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from torusimaging_torch.evaluation.by_autograd import ByAutograd
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.joint import JointForm, Share
from torusimaging_torch.evaluation.penalties import sum_of
from torusimaging_torch.evaluation.seam import evaluate
from torusimaging_torch.inference.crossed import Crossed
from torusimaging_torch.inference.parts import part_params, part_rows
from torusimaging_torch.inference.pixels import Index, Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.numerics.params import Layout, Params

__all__ = ["JointPosterior"]


class JointPosterior:
    """ln L - R of several data sets: the sum of theirs, all with the same torus.

    Labels that are not independent have the errors of `conditional_errors`, and cross terms.

    Parameters
    ----------
    parts
        The posterior of each data set by its name, with a penalty of what no other one has.
    layout
        How all parameters are laid out.
    crossed
        The cross terms of labels that are not independent.
    """

    def __init__(
        self, parts: Mapping[str, Posterior], layout: Layout, crossed: Sequence[Crossed] = ()
    ) -> None:
        self.parts, self.layout, self.crossed = dict(parts), layout, tuple(crossed)
        self.indices = {name: self._index(name) for name in self.parts}
        self.model = next(iter(self.parts.values())).model
        self.batch = torch.broadcast_shapes(*(part.batch for part in self.parts.values()))

    @cached_property
    def pixels(self) -> Pixels:
        """The pixels of the first data set, with the number of usable pixels of all."""
        every = [part.pixels for part in self.parts.values()]
        n, n_masked = sum_of([p.n for p in every]), sum(p.n_masked for p in every)
        first = every[0]
        return Pixels(first.pos, first.vel, first.observed, first.weight, n, n_masked)

    def _index(self, name: str) -> Tensor:
        """Return where the parameters of a data set are among all, with shape (P',)."""
        rows = part_rows(self.layout, self.parts[name].layout, name)
        return torch.tensor(rows, device=self.parts[name].pixels.pos.device)

    @cached_property
    def evaluation(self) -> JointForm:
        """Who works the posterior out."""
        shares = [Share(part.evaluation, self.indices[name]) for name, part in self.parts.items()]
        every = torch.arange(self.layout.size, device=self.pixels.pos.device)
        by_formulas = all(isinstance(share.form, ClosedForm) for share in shares)
        for cross in self.crossed:
            reason = f"correlation of {' and '.join(cross.names)}"
            own = cross.by_formulas(self.batch) if by_formulas else None
            shares.append(Share(own or ByAutograd(cross, self.batch, reason), every))
        return JointForm(shares)

    def decide(self) -> JointForm:
        """Find out who works the posterior out."""
        return self.evaluation

    @property
    def evaluated_by(self) -> str:
        """Who works the posterior out, and what is not done by formulas, and why: in words."""
        remark = self.evaluation.remark
        return f"{self.evaluation.name} ({remark})" if remark else self.evaluation.name

    def compile(self) -> None:
        """Compile the evaluation of each data set."""
        for part in self.parts.values():
            part.compile()

    def __call__(self, vector: Tensor) -> Tensor:
        """Return ln L - R at a vector with shape (*B, P), with shape (*B,)."""
        if not any(isinstance(share.form, ByAutograd) for share in self.evaluation.shares):
            return evaluate(self.evaluation, vector)
        parts = [part(vector[..., self.indices[n]]) for n, part in self.parts.items()]
        return sum_of(parts + [cross.ln_likelihood_at(vector) for cross in self.crossed])

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P); see `Posterior`."""
        return self.evaluation.value_and_gradient(vector, rows)

    @property
    def logarithmic(self) -> Tensor:
        """Which parameters are logarithms of what labels depend on linearly, with shape (P,)."""
        flags = torch.zeros(self.layout.size, dtype=torch.bool, device=self.pixels.pos.device)
        for name, part in self.parts.items():
            flags[self.indices[name]] = part.logarithmic
        return flags

    def subset(self, index: Index) -> JointPosterior:
        """Return the posterior of some problems of a batch, in any order, also more than once."""
        parts = {n: p.subset(index) for n, p in self.parts.items()}
        return JointPosterior(parts, self.layout, [c.subset(index) for c in self.crossed])

    def objective(self, vector: Tensor) -> Tensor:
        """Return -(ln L - R)/N, N the number of terms of all data sets, with shape (*B,)."""
        return -self(vector) / self.pixels.n

    def ln_likelihood(self, params: Params) -> Tensor:
        """Return ln L of a parameter dictionary, with shape (*B,)."""
        parts = [p.ln_likelihood(part_params(params, n)) for n, p in self.parts.items()]
        return sum_of(parts + [cross.ln_likelihood(params) for cross in self.crossed])

    def ln_likelihood_at(self, vector: Tensor) -> Tensor:
        """Return ln L of vectors (*B, P), with shape (*B,), as the modules define it."""
        return self.ln_likelihood(self.layout.unflatten(vector))

    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""
        return sum_of([p.penalty(vector[..., self.indices[n]]) for n, p in self.parts.items()])

    def data_information(self, vector: Tensor) -> Tensor:
        """Return the expected (Gauss-Newton) information of the pixels, with shape (*B, P, P)."""
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
