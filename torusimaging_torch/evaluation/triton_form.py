"""The pixels by kernels on a GPU, in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
from torch import Tensor

from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.kernels import gradient_kernel, information_kernel
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.potential import Potential
from torusimaging_torch.evaluation.tables import POWERS
from torusimaging_torch.evaluation.torch_form import TorchForm

__all__ = ["TritonForm"]

# Pixels of a block, and warps of a program: as measured on an H100. Where more than an ellipse has
# to be kept for each pixel, so many fewer by thread that all of it stays in the registers, as
# Triton 3.5 to 3.9 compile it; that was not measured.
_GRADIENT, _GRADIENT_OF_MORE = {"BLOCK": 64, "num_warps": 1}, {"BLOCK": 32, "num_warps": 4}
_INFORMATION = {"BLOCK": 16, "num_warps": 2}
# Programs that keep a device busy: the pixels of fewer problems are shared by more programs, ...
_PROGRAMS = 1024
# ... that have at least so many blocks each.
_BLOCKS = 4
# The smallest side of a matrix product.
_SIDE = 16
# Parameters from which on J^T W J has no room in the registers.
_MOST = 64


@dataclass(frozen=True)
class TritonForm:
    """ln L of frames and tables, its gradient and its information.

    Kernels know both transforms, the ellipse and a potential, and what pixels add to the label.

    Attributes
    ----------
    formulas
        The torus, in pixels.
    observations
        What was observed, on a CUDA device; on the CPU in Triton's interpreter.
    """

    formulas: Formulas
    observations: Observations

    @cached_property
    def _fields(self) -> Tensor:
        """What a potential has beside its frame, (B or 1, 2 + K), as the kernels take it."""
        transform = self.formulas.transform
        if not isinstance(transform, Potential):
            return self.observations.pos.new_empty(1, 0)
        omega, n = transform.omega, transform.n_problems
        every = [omega, transform.four_pi_G / omega, transform.heights]
        return torch.cat([x.expand(n, -1) for x in every], -1)

    @property
    def _is_plain(self) -> bool:
        return not self._fields.shape[-1] and self.observations.n_terms == 0

    def value(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L, with shape (R,)."""
        return self._sums(frame, table, rows, slopes=False)[:, 0]

    def value_and_gradient(
        self, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L, (R,), and its gradient by frame and table, (R, F + T)."""
        sums = self._sums(frame, table, rows, slopes=True)
        return sums[:, 0], sums[:, 1:]

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

        Second derivatives, and J^T W J of many parameters, are left to torch.
        """
        p = jacobian.shape[-1]
        if exact or p > _MOST:
            form = TorchForm(self.formulas, self.observations)
            return form.curvature(frame, table, jacobian, rows, exact=exact)
        size = max(_SIDE, triton.next_power_of_2(p))
        information = self._run(
            information_kernel,
            [frame, table, jacobian.expand(len(frame), -1, -1)],
            rows,
            (p, p),
            P=p,
            SIZE=size,
            FRAME=max(_SIDE, triton.next_power_of_2(frame.shape[-1])),
            **_INFORMATION,
        )
        return *self.value_and_gradient(frame, table, rows), information

    def _sums(self, frame: Tensor, table: Tensor, rows: Tensor | None, slopes: bool) -> Tensor:
        """Return ln L and its gradient by frame and table, with shape (R, 1 + F + T)."""
        n = frame.shape[-1], table.shape[-1]
        sums = self._run(
            gradient_kernel,
            [frame, table],
            rows,
            (1 + sum(n),),
            SLOPES=slopes,
            FRAME=triton.next_power_of_2(n[0]),
            POWERS=8,
            **(_GRADIENT if self._is_plain else _GRADIENT_OF_MORE),
        )
        constant = self.observations.constant
        sums[:, 0] += constant if rows is None or len(constant) == 1 else constant[rows]
        return sums

    def _run(
        self,
        kernel: Any,
        problems: list[Tensor],
        rows: Tensor | None,
        shape: tuple[int, ...],
        **options: Any,
    ) -> Tensor:
        """Run a kernel over problems, frames and tables first; the sums of all have a shape."""
        data, tables, fields = self.observations, self.formulas.tables, self._fields
        frame, table = problems[:2]
        offset, terms = (data.pos[:1] if x is None else x for x in (data.offset, data.terms))
        n, count = data.pos.shape[-1], len(frame)
        shares = max(1, min(_PROGRAMS // count, n // (_BLOCKS * options["BLOCK"])))
        out = frame.new_empty(count, shares, *shape)
        with torch.cuda.device_of(frame):
            kernel[count, shares](
                *(data.pos, data.vel, data.observed, data.weight, tables.knots, tables.left),
                *(fields, offset, terms, frame if rows is None else rows),
                *(x.contiguous() for x in problems),
                out,
                n,
                pixel_step=_step(data.pos),
                knot_step=_step(tables.knots),
                left_step=_step(tables.left),
                field_step=_step(fields),
                offset_step=_step(offset),
                term_step=_step(terms),
                ORDERS=tuple(self.formulas.orders),
                KNOTS=tuple(tables.n_knots),
                F=frame.shape[-1],
                T=table.shape[-1],
                SWAP=self.formulas.transform.convention != "pv",
                SHEETS=max(0, fields.shape[-1] - 1),
                TERMS=data.n_terms,
                HAS_OFFSET=data.offset is not None,
                COUNTS=data.counts,
                HAS_ROWS=rows is not None,
                ROWS=max(_SIDE, triton.next_power_of_2(table.shape[-1] // POWERS)),
                **options,
            )
        return out[:, 0] if shares == 1 else out.sum(1)


def _step(x: Tensor) -> int:
    """Return how far one problem's numbers (B or 1, ...) are from the next one's."""
    return 0 if len(x) == 1 else x[0].numel()
