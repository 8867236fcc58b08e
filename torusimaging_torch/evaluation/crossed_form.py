r"""What two correlated labels say beyond each of them alone, by formulas.

With residuals :math:`\rho` and the precision P between the labels a and b in each pixel, it is
:math:`-\sum P \rho_a \rho_b`. Its derivative by the label a in a pixel is :math:`P \rho_b`: what a
likelihood of a alone would hand to the formulas of `closed_form`, with no curvature of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.by_autograd import Definition
from torusimaging_torch.evaluation.closed_form import Pixels
from torusimaging_torch.evaluation.coefficients import AtVector
from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.evaluation.evaluation import flattened
from torusimaging_torch.evaluation.likelihood import ClosedLikelihood
from torusimaging_torch.evaluation.observations import Observations, Score
from torusimaging_torch.evaluation.placed_torus import placed_torus
from torusimaging_torch.evaluation.second_derivatives import information
from torusimaging_torch.evaluation.torch_form import TorchForm, in_cache
from torusimaging_torch.numerics.params import Layout

__all__ = ["CrossedForm", "CrossedLabel", "Here", "crossed_label"]


class CrossedLabel(NamedTuple):
    """One of the labels: its torus, its pixels weighted with P, and which parameters it has."""

    likelihood: ClosedLikelihood
    pixels: TorchForm
    places: Tensor


def crossed_label(
    torus: Any, layout: Layout, places: Tensor, observations: Observations
) -> CrossedLabel:
    """Return one of the labels.

    Parameters
    ----------
    torus, layout
        The label's torus, and how its parameters are laid out.
    places
        Where they are among those of all labels, with shape (P',).
    observations
        The label in pixels that have both, weighted with the precision between them.
    """
    parts = placed_torus(torus, layout)
    form = TorchForm(parts.formulas, parts.with_levels(observations))
    likelihood = ClosedLikelihood(form, parts.coefficients, parts.formulas.tables, parts.frame)
    return CrossedLabel(likelihood, form, places)


class Here(NamedTuple):
    """A label at vectors (R, P), for problems ``which``."""

    label: CrossedLabel
    vector: Tensor
    point: AtVector
    frame: Tensor
    table: Tensor
    which: Tensor | None

    def pull(self, by_table: Tensor) -> Tensor:
        """Return the gradient by the label's parameters, (R, P'), from that by frame and table."""
        likelihood = self.label.likelihood
        terms = likelihood.terms(self.vector, by_table[:, 0], by_table, self.which)
        return terms.by_vector + likelihood.coefficients.pull(terms.by_coefficients, self.point)


@dataclass(frozen=True)
class CrossedForm:
    """The cross term of a batch of problems with shape *B, with the methods of `ClosedForm`.

    Attributes
    ----------
    definition
        The same as modules define it.
    labels
        The two labels, in the same pixels.
    batch
        The batch shape *B.
    """

    definition: Definition
    labels: tuple[CrossedLabel, CrossedLabel]
    batch: torch.Size

    name = "torch"
    remark = ""

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the cross term, with shape (*B,)."""
        flat, which = flattened(vector, rows, self.batch)
        here = self.at(flat, which)
        total = torch.zeros_like(flat[:, 0])
        for data, pixels in self._pieces(here, which):
            first, second = _residuals(data, pixels)
            total = total - (data[0].weight * first * second).sum(-1)
        return total.reshape(vector.shape[:-1])

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the cross term, (*B,), and its gradient, (*B, P)."""
        flat, which = flattened(vector, rows, self.batch)
        here = self.at(flat, which)
        total, by_tables = torch.zeros_like(flat[:, 0]), [flat.new_zeros(())] * 2
        for data, pixels in self._pieces(here, which):
            for i, score in enumerate(_scores(data, pixels)):
                formulas = here[i].label.pixels.formulas
                own = formulas.gradient(data[i], pixels[i], score, here[i].frame)
                by_tables[i] = by_tables[i] + own
            total = total + score.value
        gradient = torch.zeros_like(flat)
        for one, by_table in zip(here, by_tables, strict=True):
            gradient = gradient.index_add(-1, one.label.places, one.pull(by_table))
        return total.reshape(vector.shape[:-1]), gradient.reshape_as(vector)

    def data_information(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> Tensor:
        """Return J_a^T P J_b and its transpose, or minus the second derivatives, (*B, P, P)."""
        flat, which = flattened(vector, rows, self.batch)
        some = self.definition if which is None else self.definition.subset(which)
        products = some.expected_information(vector if which is None else flat)
        products = products.reshape(len(flat), *products.shape[-2:])
        found = products + self._bend(flat, which) if exact else products
        return found.reshape(*vector.shape, vector.shape[-1])

    def penalty_hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return zeros, (*B, P, P): penalties are with the labels themselves."""
        return vector.new_zeros(*vector.shape, vector.shape[-1])

    def curvature(self, vector: Tensor, rows: Tensor | None = None) -> Curvature:
        """Return the cross term, its gradient, and what it adds to the information."""
        return Curvature(
            *self.value_and_gradient(vector, rows),
            self.data_information(vector, rows),
            self.penalty_hessian(vector, rows),
        )

    def hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives, with shape (*B, P, P)."""
        return -self.data_information(vector, rows, exact=True)

    def _bend(self, flat: Tensor, which: Tensor | None) -> Tensor:
        """Return minus the sum of the labels' second derivatives, each times that by the label."""
        here, total = self.at(flat, which), flat.new_zeros(*flat.shape, flat.shape[-1])
        jacobians = [one.label.likelihood.jacobian(one.point, which) for one in here]
        for data, pixels in self._pieces(here, which):
            for i, score in enumerate(_scores(data, pixels)):
                likelihood, places = here[i].label.likelihood, here[i].label.places
                formulas, frame = here[i].label.pixels.formulas, here[i].frame
                own = information(formulas, data[i], pixels[i], score, frame, jacobians[i], True)
                by_table = formulas.gradient(data[i], pixels[i], score, frame)
                terms = likelihood.terms(here[i].vector, score.value, by_table, which)
                own = own - likelihood.coefficients.bend(terms.by_coefficients, here[i].point)
                total[..., places.unsqueeze(-1), places] += own
        return total

    def at(self, flat: Tensor, which: Tensor | None) -> list[Here]:
        """Return both labels at vectors (R, P), of all problems or of some."""
        found = []
        for label in self.labels:
            vector = flat[:, label.places]
            point = label.likelihood.coefficients.at(vector, which)
            frame, table = vector[:, label.likelihood.frame], label.likelihood.table(point, which)
            found.append(Here(label, vector, point, frame, table, which))
        return found

    @staticmethod
    def _pieces(
        here: list[Here], which: Tensor | None
    ) -> Iterator[tuple[tuple[Observations, ...], list[Pixels]]]:
        """Yield some pixels of both labels, so many at a time as stay in the cache."""
        every = [one.label.pixels.observations.of(which) for one in here]
        size = in_cache(every[0].pos.device) // len(here[0].frame)
        for data in zip(*(x.split(max(1, size)) for x in every), strict=True):
            yield (
                data,
                [
                    one.label.pixels.formulas.pixels(x, one.frame, one.table, which)
                    for one, x in zip(here, data, strict=True)
                ],
            )


def _residuals(data: tuple[Observations, ...], pixels: list[Pixels]) -> list[Tensor]:
    return [x.observed - p.label.value for x, p in zip(data, pixels, strict=True)]


def _scores(data: tuple[Observations, ...], pixels: list[Pixels]) -> list[Score]:
    """Return the cross term of pixels, and its derivatives by each label."""
    weight, residuals = data[0].weight, _residuals(data, pixels)
    value = -(weight * residuals[0] * residuals[1]).sum(-1)
    return [Score(value, weight * other, torch.zeros_like(other)) for other in residuals[::-1]]
