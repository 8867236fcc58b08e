"""ln L of parameter vectors: from the vector to tables, to the pixels, and all the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import Coefficients, Point, of_rows
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

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L of vectors (R, P), with shape (R,)."""
        frame, table, _ = self._enter(vector, rows)
        return self.pixels.value(frame, table, rows)

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L of vectors (R, P), and its gradient (R, P)."""
        frame, table, point = self._enter(vector, rows)
        value, gradient = self.pixels.value_and_gradient(frame, table, rows)
        return value, self._pull(gradient, point, rows)[0]

    def curvature(
        self, vector: Tensor, rows: Tensor | None = None, *, exact: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ln L, its gradient, and its information, (R, P, P).

        It is J^T W J, or minus the second derivatives if they are to be exact.
        """
        frame, table, point = self._enter(vector, rows)
        jacobian = self._jacobian(point, rows)
        value, by_table, information = self.pixels.curvature(
            frame, table, jacobian, rows, exact=exact
        )
        gradient, by_coefficients = self._pull(by_table, point, rows)
        if exact:
            information = information - self.coefficients.bend(by_coefficients, point)
        return value, gradient, information

    def _enter(self, vector: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Point]:
        point = self.coefficients.at(vector, rows)
        table = _apply(of_rows(self.tables.map, rows), point.value)
        return vector[:, self.frame], table, point

    def _pull(self, by_table: Tensor, point: Point, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the gradient by the vector, and that by the coefficients through tables alone."""
        n = len(self.frame)
        by_coefficients = _apply(of_rows(self.tables.map, rows).mT, by_table[:, n:])
        gradient = self.coefficients.pull(by_coefficients, point)
        return gradient.index_add(-1, self.frame, by_table[:, :n]), by_coefficients

    def _jacobian(self, point: Point, rows: Tensor | None) -> Tensor:
        """Return the derivatives of frame and table by the vector, with shape (R, F + T, P)."""
        tables = of_rows(self.tables.map, rows) @ self.coefficients.jacobian(point)
        frame = torch.eye(tables.shape[-1], dtype=tables.dtype, device=tables.device)[self.frame]
        return torch.cat([frame.expand(len(tables), -1, -1), tables], -2)


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply matrices (R or 1, M, C) with vectors (R, C)."""
    return x @ matrix[0].mT if len(matrix) == 1 else (matrix @ x.unsqueeze(-1)).squeeze(-1)
