"""ln L - R by compiled loops, on the CPU in double precision."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.evaluation import loops
from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.compiled_posterior import posteriors
from torusimaging_torch.evaluation.ellipse import Ellipse, Frame
from torusimaging_torch.evaluation.evaluation import ClosedForm, flattened
from torusimaging_torch.evaluation.levels import Levels
from torusimaging_torch.evaluation.moving_wall import MovingWall
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.penalties import DefaultPenalty
from torusimaging_torch.evaluation.potential import Potential
from torusimaging_torch.evaluation.tables import POWERS
from torusimaging_torch.evaluation.torch_form import TorchForm
from torusimaging_torch.evaluation.wall import Wall

__all__ = ["CompiledForm", "NumbaForm"]


@dataclass(frozen=True)
class NumbaForm:
    """ln L of frames and tables, its gradient and its information.

    Attributes
    ----------
    data
        Positions, velocities, what was observed and weights, with shape (B or 1, 4, N).
    added
        What pixels add to their label, (B or 1, N), and terms, (B or 1, J, N); empty if nothing is.
    constant
        What is added to ln L, with shape (B or 1,).
    counts
        Whether star counts are observed.
    transform
        The convention, and a potential's fields and levels, as `loops.ln_likelihood` says.
    splines
        Orders, number of knots of each function, knots and left ends of intervals, as in `Tables`.
    torch_form
        The same in torch, where the loops have no curvature: a fit needs that a few times.
    """

    data: Any
    added: tuple[Any, Any]
    constant: Any
    counts: bool
    transform: tuple[Any, ...]
    splines: tuple[Any, Any, Any, Any]
    torch_form: TorchForm | None

    @classmethod
    def of(cls, formulas: Formulas, observations: Observations) -> NumbaForm:
        """Return the form of some pixels, which must be on the CPU and in double precision."""
        none = observations.pos.new_empty(1, 0)
        offset, terms = observations.offset, observations.terms
        plain = offset is None and terms is None and isinstance(formulas.transform, Ellipse)
        return cls(
            torch.stack(observations.pixels, 1).numpy(),
            (
                _own(none if offset is None else offset),
                _own(none.unsqueeze(-1) if terms is None else terms),
            ),
            _own(observations.constant),
            observations.counts,
            _compiled_transform(formulas.transform, observations, none),
            _compiled_splines(formulas),
            None if plain else TorchForm(formulas, observations),
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
        if self.torch_form is not None:
            return self.torch_form.curvature(frame, table, jacobian, rows, exact=exact)
        value, gradient = self._run(frame, table, rows, wanted=True)
        tables = table.numpy().reshape(len(table), -1, POWERS)
        information = loops.products(
            *(self.data, self.counts, frame.numpy(), self.transform[0], self.splines, tables),
            *(self._which(rows, len(frame)), exact),
        )
        return value, gradient, jacobian.mT @ torch.from_numpy(information) @ jacobian

    def labels(self, frame: Tensor, table: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the labels of pixels, with shape (R, N), without what they add."""
        found = loops.labels(
            *(self.data, self.added, frame.numpy(), self.transform, self.splines),
            *(table.numpy().reshape(len(table), -1, POWERS), self._which(rows, len(frame))),
        )
        return torch.from_numpy(found)

    def towards(
        self, target: Tensor, frame: Tensor, table: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Return the gradient by frame and table, (R, F + T), of minus half (target - label)^2.

        Parameters
        ----------
        target
            What labels are drawn to, with shape (R, N).
        frame, table, rows
            As in `value_and_gradient`.
        """
        which = self._which(rows, len(frame))
        data = np.ones((len(frame), *self.data.shape[1:]))
        data[:, :2] = _some(self.data, which)[:, :2]
        data[:, 2] = target.numpy()
        vp, heights, omega, four_pi_G, levels, place = self.transform
        orders, n_knots, knots, left = self.splines
        own = replace(
            self,
            data=data,
            transform=(
                *(vp, _some(heights, which), _some(omega, which), four_pi_G),
                *(_some(levels, which), _some(place, which)),
            ),
            splines=(orders, n_knots, _some(knots, which), _some(left, which)),
        )
        return own.value_and_gradient(frame, table)[1]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What loops take of pixels, transform and splines."""
        return self.data, self.added, self.constant, self.counts, self.transform, self.splines

    def _run(
        self, frame: Tensor, table: Tensor, rows: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        value, gradient = loops.ln_likelihoods(
            *(self.data, self.added, self.constant, self.counts, frame.numpy(), self.transform),
            *(self.splines, table.numpy().reshape(len(table), -1, POWERS)),
            *(self._which(rows, len(frame)), wanted),
        )
        return torch.from_numpy(value), torch.from_numpy(gradient)

    def _which(self, rows: Tensor | None, size: int) -> Any:
        _, heights, omega, *_ = self.transform
        return _which(rows, size, max(map(len, (self.data, self.splines[2], heights, omega))))


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
        coefficients = tuple(_own(x) for x in vars(form.coefficients).values())
        maps = _own(tables.map), _own(form.likelihood.frame)
        arguments = (*pixels.arguments, *maps, coefficients, _arrays(penalty))
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
        if flat.shape[1] != len(self.coefficients.sign):
            # Loops would write behind their arrays.
            raise ValueError(
                f"expected vectors of {len(self.coefficients.sign)} entries, got {flat.shape[1]}"
            )
        index = _which(some, len(flat), self.batch.numel())
        value, gradient = posteriors(flat.contiguous().numpy(), index, *self.arguments, wanted)
        found = torch.from_numpy(value).reshape(vector.shape[:-1])
        return found, torch.from_numpy(gradient).reshape(vector.shape)


def _compiled_transform(transform: Frame, data: Observations, none: Tensor) -> tuple[Any, ...]:
    """Return a transform as loops take it: an ellipse has no heights and no levels."""
    if not isinstance(transform, Potential):
        nowhere, one = _own(none), _own(none.new_ones(1, 1))
        return transform.convention == "vp", nowhere, one, 0.0, nowhere, _own(none.long())
    levels = data.levels or Levels(data.pos)
    place = torch.arange(data.pos.shape[-1])[None] if levels.place is None else levels.place
    fields = _own(transform.heights), _own(transform.omega), transform.four_pi_G
    return False, *fields, _own(levels.pos), _own(place)


def _compiled_splines(formulas: Formulas) -> tuple[Any, Any, Any, Any]:
    """Return orders, numbers of knots, knots and left ends of intervals, as loops take them."""
    tables = formulas.tables
    return (
        np.array(formulas.orders, dtype=np.int64),
        np.array(tables.n_knots, dtype=np.int64),
        _own(tables.knots),
        _own(tables.left),
    )


def _which(rows: Tensor | None, size: int, n: int) -> Any:
    """Return which of n problems vectors belong to, (R,).

    Loops do not look whether there are such problems: they would read what is behind them.
    """
    if n == 1:
        return np.zeros(size, dtype=np.int64)
    found = np.arange(size) if rows is None else rows.numpy()
    if len(found) and not (found.min() >= 0 and found.max() < n and len(found) == size):
        raise IndexError(f"rows must be {size} of {n} problems, got {found.tolist()[:9]}")
    return found


def _some(per_problem: Any, which: Any) -> Any:
    """Return what some problems have, or what all share."""
    return per_problem[which] if len(per_problem) > 1 else per_problem


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
    one, moves = none.new_ones(1, 1), isinstance(wall, MovingWall)
    if wall is None:
        wall = Wall(none.reshape(1, 4, 0, 0), none, one, one, 0, ())
    own = (
        *(_own(wall.radii), moves, np.array(wall.axis, dtype=float)),
        *(_own(wall.scale), _own(wall.strength), wall.ln_Omega0),
        wall.pos0 if isinstance(wall, MovingWall) else 0,
    )
    return (*(_own(x) for x in forms), own)
