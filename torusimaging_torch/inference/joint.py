"""The log-posterior of several data sets on one torus."""

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
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.inference.parts import part_params, part_rows
from torusimaging_torch.inference.pixels import Index, Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.numerics.params import Layout, Params
from torusimaging_torch.numerics.shapes import broadcast_shapes

__all__ = ["JointPosterior"]


class JointPosterior(LogPosterior):
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
        self.batch = broadcast_shapes(*(part.batch for part in self.parts.values()))
        self.pixels = _together([part.pixels for part in self.parts.values()])

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
        compiled = all(share.form.name == "numba" for share in shares)
        for cross in self.crossed:
            reason = f"correlation of {' and '.join(cross.names)}"
            own = cross.by_formulas(self.batch, compiled=compiled) if by_formulas else None
            shares.append(Share(own or ByAutograd(cross, self.batch, reason), every))
        return JointForm(shares)

    def compile(self) -> None:
        """Compile the evaluation of each data set."""
        for part in self.parts.values():
            part.compile()

    def __call__(self, vector: Tensor) -> Tensor:
        """Return ln L - R at a vector with shape (*B, P), with shape (*B,)."""
        self.check(vector)
        if not any(isinstance(share.form, ByAutograd) for share in self.evaluation.shares):
            return evaluate(self.evaluation, vector)
        parts = [part(vector[..., self.indices[n]]) for n, part in self.parts.items()]
        return sum_of(parts + [cross.ln_likelihood_at(vector) for cross in self.crossed])

    @property
    def logarithmic(self) -> Tensor:
        """Which parameters are logarithms of what labels depend on linearly, with shape (P,)."""
        flags = torch.zeros(self.layout.size, dtype=torch.bool, device=self.pixels.pos.device)
        for name, part in self.parts.items():
            flags[self.indices[name]] = part.logarithmic
        return flags

    @property
    def amounts(self) -> Tensor:
        """The places of those that are logarithms of amounts that add up, in order, (n,)."""
        name, first = next(iter(self.parts.items()))
        return self.indices[name][first.amounts]

    def subset(self, index: Index) -> JointPosterior:
        """Return the posterior of some problems of a batch, in any order, also more than once."""
        parts = {n: p.subset(index) for n, p in self.parts.items()}
        return JointPosterior(parts, self.layout, [c.subset(index) for c in self.crossed])

    def ln_likelihood(self, params: Params) -> Tensor:
        """Return ln L of a parameter dictionary, with shape (*B,)."""
        parts = [p.ln_likelihood(part_params(params, n)) for n, p in self.parts.items()]
        return sum_of(parts + [cross.ln_likelihood(params) for cross in self.crossed])

    def saturated(self) -> Tensor:
        """Return ln L of a model that predicts what was observed, with shape (*B,)."""
        return sum_of([part.saturated() for part in self.parts.values()])

    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""
        return sum_of([p.penalty(vector[..., self.indices[n]]) for n, p in self.parts.items()])


def _together(every: Sequence[Pixels]) -> Pixels:
    """Return the pixels of the first data set, with the number of usable pixels of all."""
    n, n_masked = sum_of([p.n for p in every]), sum(p.n_masked for p in every)
    first = every[0]
    return Pixels(first.pos, first.vel, first.observed, first.weight, n, n_masked)
