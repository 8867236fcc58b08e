"""The pixels by compiled loops, on the CPU in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.evaluation import loops
from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.tables import POWERS

__all__ = ["NumbaForm"]


@dataclass(frozen=True)
class NumbaForm:
    """ln L of frames and tables, its gradient and its information.

    Attributes
    ----------
    data
        Positions, velocities, what was observed and weights, with shape (4, B or 1, N).
    constant
        What is added to ln L, with shape (B or 1,).
    counts
        Whether star counts are observed.
    vp
        Whether the convention is "vp".
    orders, n_knots, knots, left
        As in `Tables`.
    """

    data: Any
    constant: Tensor
    counts: bool
    vp: bool
    orders: Any
    n_knots: Any
    knots: Any
    left: Any

    @classmethod
    def of(cls, formulas: Formulas, observations: Observations) -> NumbaForm:
        """Return the form of some pixels, which must be on the CPU and in double precision."""
        pixels = (observations.pos, observations.vel, observations.observed, observations.weight)
        tables = formulas.tables
        return cls(
            torch.stack(pixels).numpy(),
            observations.constant,
            observations.counts,
            formulas.transform.convention == "vp",
            np.array(formulas.orders, dtype=np.int64),
            np.array(tables.n_knots, dtype=np.int64),
            tables.knots.numpy(),
            tables.left.numpy(),
        )

    def value(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L, with shape (R,)."""
        arguments, constant = self._arguments(frame, table, rows)
        return torch.from_numpy(loops.values_and_gradients(*arguments, False)[0]) + constant

    def value_and_gradient(
        self, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L, (R,), and its gradient by frame and table, (R, F + T)."""
        arguments, constant = self._arguments(frame, table, rows)
        value, gradient = loops.values_and_gradients(*arguments, True)
        return torch.from_numpy(value) + constant, torch.from_numpy(gradient)

    def curvature(
        self,
        frame: Tensor,
        table: Tensor,
        jacobian: Tensor,
        rows: Tensor | None = None,
        *,
        exact: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, its gradient by frame and table, and its information, (R, P, P)."""
        value, gradient = self.value_and_gradient(frame, table, rows)
        arguments, _ = self._arguments(frame, table, rows)
        information = torch.from_numpy(loops.curvatures(*arguments, exact))
        return value, gradient, jacobian.mT @ information @ jacobian

    def _arguments(
        self, frame: Tensor, table: Tensor, rows: Tensor | None
    ) -> tuple[tuple[Any, ...], Tensor]:
        """Return what the loops take, and what is added to ln L."""
        of_data, of_table = (_which(rows, len(frame), len(x)) for x in (self.data[0], self.knots))
        tables = table.numpy().reshape(len(table), -1, POWERS)
        arguments = (
            *(self.data, of_data, self.counts, frame.numpy(), self.vp, tables, of_table),
            *(self.orders, self.n_knots, self.knots, self.left),
        )
        return arguments, self.constant[of_data]


def _which(rows: Tensor | None, size: int, n: int) -> Any:
    """Return which of n entries belong to problems, (R,)."""
    if n == 1:
        return np.zeros(size, dtype=np.int64)
    return np.arange(size) if rows is None else rows.numpy()
