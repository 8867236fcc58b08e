"""ln L - R of several data sets on one torus: the sum of what each of them says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.by_autograd import ByAutograd
from torusimaging_torch.evaluation.crossed_form import CrossedForm
from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.penalties import sum_of

__all__ = ["JointForm", "Share"]


class Share(NamedTuple):
    """What one data set says, and which of all parameters it knows, with shape (P',)."""

    form: ClosedForm | CrossedForm | ByAutograd
    places: Tensor


@dataclass(frozen=True)
class JointForm:
    """The sum of several forms, with the methods of `ClosedForm`.

    Attributes
    ----------
    shares
        The forms. Each has its own penalty, of what no other has one of.
    """

    shares: Sequence[Share]

    @property
    def name(self) -> str:
        """Who works it out."""
        return " and ".join(dict.fromkeys(share.form.name for share in self.shares))

    @property
    def remark(self) -> str:
        """What is not done by formulas, in words."""
        return "; ".join(dict.fromkeys(s.form.remark for s in self.shares if s.form.remark))

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""
        return sum_of([form.value(vector[..., index], rows) for form, index in self.shares])

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P)."""
        total, gradient = torch.zeros_like(vector[..., 0]), torch.zeros_like(vector)
        for form, index in self.shares:
            value, slope = form.value_and_gradient(vector[..., index], rows)
            total, gradient = total + value, gradient.index_add(-1, index, slope)
        return total, gradient

    def data_information(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> Tensor:
        """Return J^T W J, or minus the second derivatives of ln L, with shape (*B, P, P)."""
        pairs = [
            (form.data_information(vector[..., index], rows, exact=exact), index)
            for form, index in self.shares
        ]
        return self._square(vector, pairs)

    def penalty_hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of R, with shape (*B, P, P)."""
        return self._square(
            vector,
            [(f.penalty_hessian(vector[..., index], rows), index) for f, index in self.shares],
        )

    def curvature(self, vector: Tensor, rows: Tensor | None = None) -> Curvature:
        """Return ln L - R, its gradient, J^T W J and the second derivatives of R, all at once."""
        total, gradient = torch.zeros_like(vector[..., 0]), torch.zeros_like(vector)
        data, penalty = [], []
        for form, index in self.shares:
            own = form.curvature(vector[..., index], rows)
            total, gradient = total + own.value, gradient.index_add(-1, index, own.gradient)
            data.append((own.data, index))
            penalty.append((own.penalty, index))
        return Curvature(total, gradient, self._square(vector, data), self._square(vector, penalty))

    def hessian(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        data = self.data_information(vector, rows, exact=True)
        return -data - self.penalty_hessian(vector, rows)

    @staticmethod
    def _square(vector: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Put matrices (*B, P', P') in their places among all parameters, and add them up."""
        total = vector.new_zeros(*vector.shape, vector.shape[-1])
        for matrix, index in pairs:
            total[..., index.unsqueeze(-1), index] += matrix
        return total
