"""The cross term of two correlated labels by compiled loops; the formulas are in `crossed_form`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.evaluation.crossed_form import CrossedForm, CrossedLabel, Here
from torusimaging_torch.evaluation.evaluation import flattened
from torusimaging_torch.evaluation.numba_form import NumbaForm

__all__ = ["CompiledCrossed"]


@dataclass(frozen=True)
class CompiledCrossed(CrossedForm):
    """A `CrossedForm` whose values and gradients come from compiled loops.

    Attributes
    ----------
    forms
        The pixels of both labels.
    """

    forms: tuple[NumbaForm, ...] = ()

    name = "numba"

    @classmethod
    def of(cls, form: CrossedForm) -> CompiledCrossed:
        """Return a form of pixels on the CPU, in double precision."""
        return cls(form.definition, form.labels, form.batch, tuple(map(_compiled, form.labels)))

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the cross term, with shape (*B,)."""
        here = self.at(*flattened(vector, rows, self.batch))
        _, (first, second), weight = self._residuals(here)
        return -(weight * first * second).sum(-1).reshape(vector.shape[:-1])

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the cross term, (*B,), and its gradient, (*B, P)."""
        here = self.at(*flattened(vector, rows, self.batch))
        labels, residuals, weight = self._residuals(here)
        gradient = torch.zeros_like(vector).reshape(-1, vector.shape[-1])
        for i, one in enumerate(here):
            # As if the label were drawn there: its derivative is the other residual, weighted.
            target = labels[i] + weight * residuals[1 - i]
            by_table = self.forms[i].towards(target, one.frame, one.table, one.which)
            gradient = gradient.index_add(-1, one.label.places, one.pull(by_table))
        value = -(weight * residuals[0] * residuals[1]).sum(-1)
        return value.reshape(vector.shape[:-1]), gradient.reshape_as(vector)

    def _residuals(self, here: list[Here]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return labels and residuals of both, (R, N), and the weights of pixels."""
        which = here[0].which
        data = [one.label.pixels.observations.of(which) for one in here]
        labels = [
            form.labels(one.frame, one.table, which)
            for form, one in zip(self.forms, here, strict=True)
        ]
        found = [x.observed - label for x, label in zip(data, labels, strict=True)]
        return labels, found, data[0].weight


def _compiled(label: CrossedLabel) -> NumbaForm:
    return NumbaForm.of(label.pixels.formulas, label.pixels.observations)
