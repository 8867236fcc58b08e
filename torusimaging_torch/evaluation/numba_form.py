"""ln L - R by compiled loops, on the CPU in double precision."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.evaluation import loops
from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.compiled_posterior import posteriors
from torusimaging_torch.evaluation.evaluation import ClosedForm, flattened
from torusimaging_torch.evaluation.moving_wall import MovingWall
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.penalties import DefaultPenalty
from torusimaging_torch.evaluation.tables import POWERS
from torusimaging_torch.evaluation.wall import Wall

__all__ = ["CompiledForm", "NumbaForm", "compiled_splines", "which"]


@dataclass(frozen=True)
class NumbaForm:
    """ln L of frames and tables, its gradient and its information.

    Attributes
    ----------
    data
        Positions, velocities, what was observed and weights, with shape (B or 1, 4, N).
    constant
        What is added to ln L, with shape (B or 1,).
    counts
        Whether star counts are observed.
    vp
        Whether the convention is "vp".
    splines
        Orders, number of knots of each function, knots and left ends of intervals, as in `Tables`.
    """

    data: Any
    constant: Any
    counts: bool
    vp: bool
    splines: tuple[Any, Any, Any, Any]

    @classmethod
    def of(cls, formulas: Formulas, observations: Observations) -> NumbaForm:
        """Return the form of some pixels, which must be on the CPU and in double precision."""
        return cls(
            torch.stack(observations.pixels, 1).numpy(),
            _own(observations.constant),
            observations.counts,
            formulas.transform.convention == "vp",
            compiled_splines(formulas),
        )

    def value(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L, with shape (R,)."""
        return self._run(frame, table, rows, wanted=False)[0]

    def value_and_gradient(
        self, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L, (R,), and its gradient by frame and table, (R, F + T)."""
        return self._run(frame, table, rows, wanted=True)

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
        value, gradient = self._run(frame, table, rows, wanted=True)
        tables = table.numpy().reshape(len(table), -1, POWERS)
        information = loops.products(
            *(self.data, self.counts, frame.numpy(), self.vp, self.splines, tables),
            *(which(rows, len(frame), self.n_problems), exact),
        )
        return value, gradient, jacobian.mT @ torch.from_numpy(information) @ jacobian

    @property
    def n_problems(self) -> int:
        """Number of problems B."""
        return max(len(self.data), len(self.splines[2]))

    def _run(
        self, frame: Tensor, table: Tensor, rows: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        tables = table.numpy().reshape(len(table), -1, POWERS)
        value, gradient = loops.ln_likelihoods(
            *(self.data, self.constant, self.counts, frame.numpy(), self.vp, self.splines, tables),
            *(which(rows, len(frame), self.n_problems), wanted),
        )
        return torch.from_numpy(value), torch.from_numpy(gradient)


@dataclass(frozen=True)
class CompiledForm(ClosedForm):
    """ln L - R with all that values and gradients need in one compiled call."""

    arguments: tuple[Any, ...] = ()

    @classmethod
    def of(cls, form: ClosedForm) -> ClosedForm:
        """Return a form with `NumbaForm` for its pixels in one call, if the penalty allows it."""
        pixels, penalty, tables = form.likelihood.pixels, form.penalty, form.likelihood.tables
        if not isinstance(penalty, DefaultPenalty) or not isinstance(pixels, NumbaForm):
            return form
        if isinstance(penalty.wall, MovingWall):
            return form
        coefficients = tuple(_own(x) for x in vars(form.coefficients).values())
        arguments = (
            *(pixels.data, pixels.constant, pixels.counts, pixels.vp, pixels.splines),
            *(_own(tables.map), _own(form.likelihood.frame)),
            *(coefficients, _arrays(penalty)),
        )
        return cls(**{f.name: getattr(form, f.name) for f in fields(form)}, arguments=arguments)

    def value(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ln L - R, with shape (*B,)."""
        return self._run(vector, rows, wanted=False)[0]

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P)."""
        return self._run(vector, rows, wanted=True)

    def _run(self, vector: Tensor, rows: Tensor | None, wanted: bool) -> tuple[Tensor, Tensor]:
        flat, some = flattened(vector, rows, self.batch)
        index = which(some, len(flat), self.batch.numel())
        value, gradient = posteriors(flat.contiguous().numpy(), index, *self.arguments, wanted)
        found = torch.from_numpy(value).reshape(vector.shape[:-1])
        return found, torch.from_numpy(gradient).reshape(vector.shape)


def compiled_splines(formulas: Formulas) -> tuple[Any, Any, Any, Any]:
    """Return orders, numbers of knots, knots and left ends of intervals, as loops take them."""
    tables = formulas.tables
    return (
        np.array(formulas.orders, dtype=np.int64),
        np.array(tables.n_knots, dtype=np.int64),
        _own(tables.knots),
        _own(tables.left),
    )


def which(rows: Tensor | None, size: int, n: int) -> Any:
    """Return which of n problems vectors belong to, (R,)."""
    if n == 1:
        return np.zeros(size, dtype=np.int64)
    return np.arange(size) if rows is None else rows.numpy()


def _own(tensor: Tensor) -> Any:
    """Return an array with memory of its own.

    Whoever sends a tensor to another process moves its memory away: an array that shares it would
    be left with memory that was given back.
    """
    return np.array(tensor.numpy(), order="C")


def _arrays(penalty: DefaultPenalty) -> tuple[Any, ...]:
    """Return a penalty as arrays; one without a wall has one of no length."""
    forms = (penalty.of_coefficients, penalty.of_parameters, penalty.center)
    wall, none = penalty.wall, penalty.center[:1, :0]
    one = none.new_ones(1, 1)
    if not isinstance(wall, Wall):
        wall = Wall(none.reshape(1, 4, 0, 0), none, one, one, 0)
    walls = (wall.maps, wall.radii, wall.scale, wall.strength)
    return (*(_own(x) for x in (*forms, *walls)), wall.ln_Omega0)
