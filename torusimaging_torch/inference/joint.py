"""The posterior of several data sets on one torus, with the methods of `Posterior`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.joint import JointForm, Share
from torusimaging_torch.evaluation.penalties import sum_of
from torusimaging_torch.evaluation.seam import evaluate
from torusimaging_torch.inference.posterior import Index, Pixels, Posterior
from torusimaging_torch.numerics.params import Layout, Params, Path

__all__ = ["BY_NAME", "JointPosterior", "part_params", "part_rows"]

BY_NAME = ("label_params", "selection_params")
"""The parameters that each data set has of its own, by its name."""


def part_params(params: Params, name: str) -> dict[Any, Any]:
    """Return the parameters of one data set."""
    own = {key: params[key][name] for key in BY_NAME if name in params.get(key, {})}
    return {**{key: value for key, value in params.items() if key not in BY_NAME}, **own}


def part_rows(whole: Layout, own: Layout, name: str) -> list[int]:
    """Return where the parameters of a data set are among those of all.

    Parameters
    ----------
    whole, own
        The layouts of all parameters, and of those of `part_params`.
    name
        The name of the data set.
    """
    starts = _starts(whole)
    rows: list[int] = []
    for path, size in zip(own.paths, own.sizes, strict=True):
        where: Path = (path[0], name, *path[1:]) if path[0] in BY_NAME else path
        rows += range(starts[where], starts[where] + (1 if size is None else size))
    return rows


class JointPosterior:
    """ln L - R of several data sets: the sum of theirs, all with the same torus.

    Parameters
    ----------
    parts
        The posterior of each data set by its name, with a penalty of what no other one has.
    layout
        How all parameters are laid out.
    """

    def __init__(self, parts: Mapping[str, Posterior], layout: Layout) -> None:
        self.parts, self.layout = dict(parts), layout
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
        return JointForm(
            [Share(part.evaluation, self.indices[name]) for name, part in self.parts.items()]
        )

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
        if all(isinstance(share.form, ClosedForm) for share in self.evaluation.shares):
            return evaluate(self.evaluation, vector)
        return sum_of([part(vector[..., self.indices[n]]) for n, part in self.parts.items()])

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
        return JointPosterior({n: p.subset(index) for n, p in self.parts.items()}, self.layout)

    def objective(self, vector: Tensor) -> Tensor:
        """Return -(ln L - R)/N, N the number of terms of all data sets, with shape (*B,)."""
        return -self(vector) / self.pixels.n

    def ln_likelihood(self, params: Params) -> Tensor:
        """Return ln L of a parameter dictionary, with shape (*B,)."""
        return sum_of([p.ln_likelihood(part_params(params, n)) for n, p in self.parts.items()])

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


def _starts(layout: Layout) -> dict[Path, int]:
    """Return where each leaf begins in the vector."""
    starts, at = {}, 0
    for path, size in zip(layout.paths, layout.sizes, strict=True):
        starts[path] = at
        at += 1 if size is None else size
    return starts
