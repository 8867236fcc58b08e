"""ln L of pixels by compiled loops, whatever brought them to the plane and is added to their label.

Plain torch takes frames to coordinates and their gradients back; in between each pixel is looked
up, scored and added up as in `numba_form`. Curvatures, of which a fit needs a few, are torch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.evaluation import loops
from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.numba_form import compiled_splines, which
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.tables import POWERS
from torusimaging_torch.evaluation.torch_form import TorchForm

__all__ = ["PlaneForm"]

# Numbers of a piece of problems in each array of coordinates: they should stay in the cache.
_PIECE = 65_536


@dataclass(frozen=True)
class PlaneForm:
    """ln L of frames and tables, its gradient and its information.

    Attributes
    ----------
    torch_form
        The same in torch.
    data
        Positions, velocities, what was observed and weights, with shape (B or 1, 4, N).
    splines
        As in `~torusimaging_torch.evaluation.numba_form.NumbaForm`.
    """

    torch_form: TorchForm
    data: Any
    splines: tuple[Any, Any, Any, Any]

    @classmethod
    def of(cls, formulas: Formulas, observations: Observations) -> PlaneForm:
        """Return the form of some pixels, which must be on the CPU and in double precision."""
        data = torch.stack(observations.pixels, 1).numpy()
        return cls(TorchForm(formulas, observations), data, compiled_splines(formulas))

    def value(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L, with shape (R,)."""
        return torch.cat([x for x, _ in self._run(frame, table, rows, wanted=False)])

    def value_and_gradient(
        self, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L, (R,), and its gradient by frame and table, (R, F + T)."""
        values, gradients = zip(*self._run(frame, table, rows, wanted=True), strict=True)
        return torch.cat(values), torch.cat(gradients)

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
        return self.torch_form.curvature(frame, table, jacobian, rows, exact=exact)

    def _run(
        self, frame: Tensor, table: Tensor, rows: Tensor | None, wanted: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Return ln L and its gradient, a piece of the problems at a time."""
        index = torch.from_numpy(which(rows, len(frame), self._n_problems))
        size = max(1, _PIECE // self.data.shape[-1])
        parts = zip(*(x.split(size) for x in (frame, table, index)), strict=True)
        return [self._piece(f, t, i, wanted) for f, t, i in parts]

    def _piece(
        self, frame: Tensor, table: Tensor, rows: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        formulas = self.torch_form.formulas
        data = self.torch_form.observations.of(rows)
        transform, own = formulas.transform, formulas.own(data, frame)
        at = transform.coordinates(data, own, rows)
        shift = frame.new_zeros(len(frame), 0)
        if data.offset is not None or data.terms is not None:
            shift = data.add_to(torch.zeros_like(at.a), frame)
        value, moments, by = loops.scores(
            *(self.data, data.counts, at.a.numpy(), at.b.numpy(), shift.numpy(), self.splines),
            *(table.numpy().reshape(len(table), -1, POWERS), rows.numpy(), wanted),
        )
        value = torch.from_numpy(value) + data.constant
        if not wanted:
            return value, frame.new_zeros(len(frame), 0)
        by_a, by_b, by_label = torch.from_numpy(by).unbind(1)
        by_frame = [transform.pull(by_a, by_b, at, own)]
        if data.terms is not None:
            by_frame.append((data.terms @ by_label.unsqueeze(-1)).squeeze(-1))
        return value, torch.cat([*by_frame, torch.from_numpy(moments).flatten(1)], -1)

    @property
    def _n_problems(self) -> int:
        """Number of problems B."""
        formulas = self.torch_form.formulas
        return max(len(self.data), len(self.splines[2]), formulas.transform.n_problems)
