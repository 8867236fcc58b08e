"""ln L of parameter vectors: from the vector to tables, to the pixels, and all the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import (
    AtVector,
    Coefficients,
    Terms,
    apply,
    of_rows,
)
from torusimaging_torch.evaluation.tables import Tables

__all__ = ["ClosedLikelihood", "PixelForm"]


class PixelForm(Protocol):
    """ln L of frames (R, F) and tables (R, T): what the pixels have to say.

    All the implementations are one of these. ``rows`` with shape (R,) tells which problem each is
    one of; without it they are all of them, in order.
    """

    def value(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L, with shape (R,)."""

    def value_and_gradient(
        self, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L, (R,), and its gradient by frame and table, (R, F + T)."""

    def curvature(
        self,
        frame: Tensor,
        table: Tensor,
        jacobian: Tensor,
        rows: Tensor | None = None,
        *,
        exact: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, its gradient by frame and table, and its information, (R, P, P).

        The information is J^T W J, or minus the second derivatives if they are to be exact, all but
        those that the tables have by the parameters. ``jacobian`` are the derivatives of frame and
        table by the parameters, with shape (R, F + T, P).
        """


@dataclass(frozen=True)
class ClosedLikelihood:
    """ln L of the vectors of a batch of problems, by a form of its pixels.

    Attributes
    ----------
    pixels
        The form.
    coefficients, tables
        From the vector to the tables.
    frame
        Places of the transform's parameters in the vector, with shape (F,).
    """

    pixels: PixelForm
    coefficients: Coefficients
    tables: Tables
    frame: Tensor

    def value(self, vector: Tensor, point: AtVector, rows: Tensor | None = None) -> Tensor:
        """Return ln L of vectors (R, P), with shape (R,)."""
        return self.pixels.value(vector[:, self.frame], self.table(point, rows), rows)

    def value_and_gradient(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None
    ) -> Terms:
        """Return ln L of vectors (R, P), and its gradient."""
        value, gradient = self.pixels.value_and_gradient(
            vector[:, self.frame], self.table(point, rows), rows
        )
        return self.terms(vector, value, gradient, rows)

    def curvature(
        self, vector: Tensor, point: AtVector, rows: Tensor | None = None, *, exact: bool = False
    ) -> tuple[Terms, Tensor]:
        """Return ln L, its gradient, and its information, (R, P, P).

        It is J^T W J, or minus the second derivatives if they are to be exact, all but what the
        curvature of the coefficients adds.
        """
        jacobian = self.jacobian(point, rows)
        value, gradient, information = self.pixels.curvature(
            vector[:, self.frame], self.table(point, rows), jacobian, rows, exact=exact
        )
        return self.terms(vector, value, gradient, rows), information

    def table(self, point: AtVector, rows: Tensor | None) -> Tensor:
        """Return the tables at some coefficients, with shape (R, T)."""
        return apply(of_rows(self.tables.map, rows), point.value)

    def jacobian(self, point: AtVector, rows: Tensor | None) -> Tensor:
        """Return the derivatives of frame and table by the vector, with shape (R, F + T, P)."""
        tables = of_rows(self.tables.map, rows) @ self.coefficients.jacobian(point)
        frame = torch.eye(tables.shape[-1], dtype=tables.dtype, device=tables.device)[self.frame]
        return torch.cat([frame.expand(len(tables), -1, -1), tables], -2)

    def terms(self, vector: Tensor, value: Tensor, by_table: Tensor, rows: Tensor | None) -> Terms:
        """Return ln L and its gradients, from that by frame and table, (R, F + T)."""
        n = len(self.frame)
        by_vector = torch.zeros_like(vector).index_copy(-1, self.frame, by_table[:, :n])
        maps = of_rows(self.tables.map, rows).mT
        return Terms(value, by_vector, apply(maps, by_table[:, n:]))
