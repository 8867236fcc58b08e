r"""Splines as tables of local polynomials, all functions of a model side by side.

A spline is looked up: in interval i, with :math:`t = x - \mathrm{left}_i`, it is
:math:`c_0 + t (c_1 + t (c_2 + t c_3))`. There is an interval before the first knot and one beyond
the last, K + 1 of them. The four numbers are a constant linear map, by the knots alone, of what the
spline is linear in: its slopes and the one at the last knot. So a gradient by slopes is that by the
table, sums of :math:`g\,t^d` over the points of each interval, times the map transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import Coefficients
from torusimaging_torch.numerics.params import Path
from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.numerics.splines import CubicSpline, Spline

__all__ = [
    "POWERS",
    "PlacedSpline",
    "Tables",
    "coefficients_of",
    "local_map",
    "placed_splines",
    "tables_of",
]

POWERS = 4
"""Number of powers of t in each interval, from 0 on."""


@dataclass(frozen=True, eq=False)
class PlacedSpline:
    """A spline whose slopes are parameters, or the exponentials of parameters.

    Attributes
    ----------
    spline
        The spline.
    slopes
        Place in the vector of its first slope.
    sign
        The sign of its slopes, if the parameters are their logarithms; else 0.
    value
        Place in the vector of the value at the first knot, or None if that is zero.
    last
        Place among the coefficients of the slope at the last knot, or None if that is linear in the
        other slopes.
    """

    spline: Spline
    slopes: int
    sign: float = 0.0
    value: int | None = None
    last: int | None = None

    def columns(self, matrix: Tensor, size: int) -> Tensor:
        """Return the matrix that does to coefficients what one does to slopes and the last one.

        Parameters
        ----------
        matrix
            With shape (*B, M, K), for a spline that is zero at its first knot.
        size
            Number of coefficients C of the model. The result has the shape (*B, M, C).
        """
        n = self.spline.n_slopes
        given, last = matrix[..., :-1], matrix[..., -1]
        result = matrix.new_zeros(*matrix.shape[:-1], size)
        if self.last is None:
            given = given + last.unsqueeze(-1) * self._shares_of_last().unsqueeze(-2)
        else:
            result[..., self.last] = last
        result[..., self.slopes : self.slopes + n] = given
        return result

    def _shares_of_last(self) -> Tensor:
        """Return the slope at the last knot that each of the others makes, with shape (*B, K-1)."""
        knots, n = self.spline.knots, self.spline.n_slopes
        eye = torch.eye(n, dtype=knots.dtype, device=knots.device)
        batch = knots.shape[:-1]
        each = eye.reshape(n, *(1 for _ in batch), n).expand(n, *batch, n)
        return self.spline.extended(each)[..., -1].movedim(0, -1)

    def values_at(self, x: Tensor, size: int) -> Tensor:
        """Return the matrix (*B, N, C) from coefficients to the function at points (*B, N)."""
        matrix = self.columns(self.spline.linear_maps(x)[..., 0, :, :], size)
        if self.value is not None:
            matrix[..., self.value] = 1.0
        return matrix


@dataclass(frozen=True)
class Tables:
    """The tables of all functions of a model: where their intervals are, and the linear map.

    Attributes
    ----------
    n_knots
        Number of knots K of each function. Its K + 1 intervals are K + 1 rows of the table.
    knots
        Those at which an interval begins, one function after the other, with shape (B or 1, sum K).
        At the very last knot the interval before goes on.
    left
        Where t is zero in each interval, with shape (B or 1, sum (K + 1)).
    map
        From coefficients to table entries, with shape (B or 1, T, C), T = 4 sum (K + 1).
    """

    n_knots: tuple[int, ...]
    knots: Tensor
    left: Tensor
    map: Tensor

    @property
    def first_rows(self) -> list[int]:
        """The first row of each function's table, and the number of rows of all."""
        return list(accumulate((k + 1 for k in self.n_knots), initial=0))

    @property
    def first_knots(self) -> list[int]:
        """The place of each function's first knot among all, and the number of all."""
        return list(accumulate(self.n_knots, initial=0))


def local_map(spline: Spline) -> Tensor:
    """Return what turns slopes, with the one at the last knot, into a table, (*B, K+1, 4, K).

    The value at the first knot is taken to be zero.
    """
    n, widths = spline.n_slopes, spline.widths.unsqueeze(-1)
    powers = [spline.matrix[..., d * n : (d + 1) * n, :] for d in range(spline.degree)]
    powers += [torch.zeros_like(powers[0])] * (POWERS - 1 - len(powers))
    below, beyond, bend = spline.matrix[..., spline.degree * n :, :].unbind(-2)
    zero = torch.zeros_like(below)
    # What each interval adds, and so the values at the knots.
    values = torch.cat([zero.unsqueeze(-2), sum(powers).cumsum(-2)], -2)  # type: ignore[union-attr]
    scaled = [c / widths ** (d + 1) for d, c in enumerate(powers)]
    inner = torch.stack([values[..., :-1, :], *scaled], -2)
    h0, h1 = widths[..., 0, :], widths[..., -1, :]
    first = torch.stack([zero, below / h0, zero, zero], -2)
    last = torch.stack([values[..., -1, :], beyond / h1, bend / h1**2, zero], -2)
    return torch.cat([first.unsqueeze(-3), inner, last.unsqueeze(-3)], -3)


def placed_splines(
    e_funcs: Mapping[int, Any], label_func: Any, places: Mapping[Path, int], size: int
) -> list[PlacedSpline]:
    """Return the functions of a spline torus, in the order of its tables.

    Parameters
    ----------
    e_funcs, label_func
        The e functions, by order, and the label function.
    places
        Where the leaves of the parameters begin in the vector.
    size
        Number of parameters P.
    """
    functions = []
    for m, e in e_funcs.items():
        curved = isinstance(e.spline, CubicSpline) and e.spline.positive and e.spline.n_slopes > 1
        last = size if curved else None
        start = places["e_params", m, "vals"]
        # Slopes of either sign are parameters themselves.
        sign = float(e.sign) if "vals" in e.logarithmic else 0.0
        functions.append(PlacedSpline(e.spline, start, sign, last=last))
        size += last is not None
    start = places["label_params", "label_vals"]
    return [*functions, PlacedSpline(label_func.spline, start + 1, value=start)]


def coefficients_of(functions: Sequence[PlacedSpline], size: int) -> Coefficients:
    """Return the coefficients of P parameters, ``size``, that are those of some functions."""
    like = functions[0].spline.knots
    sign = like.new_zeros(size)
    for f in functions:
        sign[f.slopes : f.slopes + f.spline.n_slopes] = f.sign
    curved = [f for f in functions if f.last is not None]
    ends = [f.slopes + f.spline.n_slopes - 1 for f in curved]
    end = torch.tensor(ends, dtype=torch.int64, device=like.device)
    batch = _batch_of(functions)
    shares = [f.spline.shares.expand(*batch, 2) for f in curved]  # type: ignore[operator]
    joined = torch.stack(shares, -2) if shares else like.new_zeros(*batch, 0, 2)
    return Coefficients(sign, end - 1, end, _flat(joined, 2))


def tables_of(functions: Sequence[PlacedSpline], size: int) -> Tables:
    """Return the tables of some functions, with ``size`` coefficients C in all."""
    batch, splines = _batch_of(functions), [f.spline for f in functions]
    blocks = []
    for f in functions:
        block = f.columns(local_map(f.spline).flatten(-3, -2), size)
        if f.value is not None:
            block[..., ::POWERS, f.value] = 1.0
        blocks.append(block.expand(*batch, *block.shape[-2:]))
    starts = [torch.cat([s.knots[..., :1], s.ends], -1) for s in splines]
    left = [torch.cat([s.knots[..., :1], s.knots], -1) for s in splines]
    return Tables(
        tuple(s.knots.shape[-1] for s in splines),
        _flat(_join(starts, batch), 1),
        _flat(_join(left, batch), 1),
        _flat(torch.cat(blocks, -2), 2),
    )


def _batch_of(functions: Sequence[PlacedSpline]) -> torch.Size:
    return broadcast_shapes(*(f.spline.knots.shape[:-1] for f in functions))


def _join(pieces: list[Tensor], batch: torch.Size) -> Tensor:
    return torch.cat([piece.expand(*batch, piece.shape[-1]) for piece in pieces], -1)


def _flat(x: Tensor, n_dim: int) -> Tensor:
    """Bring (*B, ...) to (B, ...), with B = 1 without a batch."""
    batch, rest = x.shape[: x.ndim - n_dim], x.shape[x.ndim - n_dim :]
    return x.reshape(batch.numel(), *rest).contiguous()
