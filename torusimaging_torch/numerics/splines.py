r"""Quadratic and cubic splines given by the value at the first knot and by slopes.

Both are written without gathers. With the local coordinate of interval k, clamped to it,
:math:`u_k = \mathrm{clamp}((x - x_k)/h_k, 0, 1)`, a spline is the running sum of what each interval
adds, a dense product of shape (*B, N, K) with the coefficients:

.. math::

    f(x) = f_0 + \sum_k h_k \left(c_{1k} u_k + c_{2k} u_k^2 + c_{3k} u_k^3\right)

so that neither pass scatters: fast on a GPU, deterministic, and differentiable to any order. Both
take K - 1 slopes for K knots, under the same name.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.params import column

__all__ = ["SPLINES", "CubicSpline", "Pieces", "QuadraticSpline", "Spline", "make_spline"]


class Spline(nn.Module):
    """A spline through its slopes: what the quadratic and the cubic one share.

    A kind of spline is its ``degree``, its local polynomials (`pieces`), linear in the slopes, and
    the slope that it has at its last knot (`last_slope`); the value and both derivatives are
    products of the same coefficients with three dense bases. A class that says the three can be
    used by name as soon as it is in `SPLINES`.

    Parameters
    ----------
    knots
        Knot positions, strictly increasing, with shape (K,), or (*B, K) where each problem of a
        batch has its own.
    positive
        Whether slopes are known to be positive; a kind may make use of it.

    Raises
    ------
    ValueError
        If there are fewer than two knots or they do not increase.
    """

    knots: Tensor
    widths: Tensor
    ends: Tensor
    matrix: Tensor
    degree: int

    def __init__(self, knots: Tensor, positive: bool = False) -> None:
        super().__init__()
        self.positive = positive
        knots = torch.as_tensor(knots)
        if not knots.is_floating_point():
            knots = knots.double()
        if knots.ndim == 0 or knots.shape[-1] < 2:
            raise ValueError(f"a spline needs at least two knots, got shape {tuple(knots.shape)}")
        if not bool((knots.diff(dim=-1) > 0).all()):
            raise ValueError(f"knots must be strictly increasing, got {knots.tolist()}")
        self.register_buffer("knots", knots)
        self.register_buffer("widths", knots.diff(dim=-1))
        self.register_buffer("ends", _ends(knots))
        # From the slopes to the coefficients is a linear map: apply it once, to the identity.
        eye = torch.eye(self.n_slopes + 1, dtype=knots.dtype, device=knots.device)
        widths = self.widths.unsqueeze(-2)
        pieces = self.pieces(eye[:, :-1], eye[:, -1:], widths)
        self.register_buffer("matrix", _stack(pieces, widths).mT.contiguous())

    def _apply(self, fn: object, recurse: bool = True) -> Spline:
        """Move or convert; the number after the last knot is another one in another precision."""
        moved = super()._apply(fn, recurse)
        self.ends = _ends(self.knots)
        return moved

    @property
    def n_batch(self) -> int:
        """Number of batch dimensions of the knots."""
        return self.knots.ndim - 1

    @property
    def n_slopes(self) -> int:
        """Number of slopes, one fewer than knots."""
        return self.knots.shape[-1] - 1

    def pieces(self, slopes: Tensor, last: Tensor, widths: Tensor) -> Pieces:
        """Return the local polynomials.

        Parameters
        ----------
        slopes, last
            The slopes, with shape (*B, K-1), and the one at the last knot, (*B, 1).
        widths
            Widths of the intervals, with shape (*B, K-1).
        """
        raise NotImplementedError

    def last_slope(self, slopes: Tensor) -> Tensor:
        """Return the slope at the last knot, with shape (*B, 1)."""
        raise NotImplementedError

    def coefficients(self, slopes: Tensor) -> Tensor:
        """Return what the bases are multiplied with, with shape (*B, C), from slopes (*B, K-1)."""
        return _dot(self.matrix, self.extended(slopes))

    def extended(self, slopes: Tensor) -> Tensor:
        """Return the slopes and the one at the last knot, with shape (*B, K).

        Raises
        ------
        ValueError
            If there are not as many slopes as knots but one.
        """
        if slopes.ndim == 0 or slopes.shape[-1] != self.n_slopes:
            raise ValueError(
                f"a spline of {self.n_slopes + 1} knots needs {self.n_slopes} slopes, got values "
                f"with shape {tuple(slopes.shape)}"
            )
        return torch.cat([slopes, self.last_slope(slopes)], dim=-1)

    def linear_maps(self, x: Tensor) -> Tensor:
        """Return what turns `extended` slopes into value, slope and curvature at points.

        Parameters
        ----------
        x
            Points with shape (*B, N).

        Returns
        -------
        Tensor
            Matrices with shape (*B, 3, N, K); to the value, value0 is to be added.
        """
        raw, before = self._locate(x)
        bases = torch.stack(
            [self._basis(x, raw, before), *self._derivative_bases(x, raw, before)], -3
        )
        return bases @ self.matrix.unsqueeze(-3)

    def forward(self, x: Tensor, value0: Tensor, slopes: Tensor) -> Tensor:
        """Evaluate the spline.

        Parameters
        ----------
        x
            Points with shape (*B, N); any shape if there are no batch dimensions.
        value0
            Value at the first knot, with shape (*B,).
        slopes
            Slopes with shape (*B, K-1).

        Returns
        -------
        Tensor
            Values with the shape of ``x``; nan where ``x`` is nan.
        """
        return column(value0) + _dot(self.basis(x), self.coefficients(slopes))

    def basis(self, x: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, (*B, N, C), at points (*B, N)."""
        return self._basis(x, *self._locate(x))

    def derivatives(
        self, x: Tensor, value0: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the spline and its first two derivatives, in closed form.

        Parameters and shapes are as in `forward`. At a knot the second derivative is the one to the
        right, at the last knot the one to the left.
        """
        raw, before = self._locate(x)
        c = self.coefficients(slopes)
        value = column(value0) + _dot(self._basis(x, raw, before), c)
        first, second = self._derivative_bases(x, raw, before)
        nan = x * 0  # infinite points have no slope, and nan stays nan
        return value, _dot(first, c) + nan, _dot(second, c) + nan

    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coordinates of points in each interval, and whether they lie before its end.

        Both have shape (*B, N, K-1). The comparison is with the knots: a coordinate may round to 1
        before them.
        """
        x = x.unsqueeze(-1)
        return (x - _row(self.knots[..., :-1])) / _row(self.widths), x < _row(self.ends)

    def _basis(self, x: Tensor, raw: Tensor, before: Tensor) -> Tensor:
        """Return powers of the clamped coordinates, and the overshoots on either side.

        At a knot one interval alone may pass a gradient, or it would count twice: that above it.
        (What torch's clamp passes where it begins changed with PyTorch 2.14.)
        """
        u = torch.where(raw < 0, 0.0, torch.where(before, raw, 1.0))
        powers = list(accumulate([u] * self.degree, torch.mul))
        below, above = self._overshoots(x, before)
        return torch.cat([*powers, below, above, above * above], dim=-1)

    def _overshoots(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far points lie before the first and beyond the last knot, in widths there.

        Both have shape (*B, N, 1), and are zero in between.
        """
        x = x.unsqueeze(-1)
        low = (x - _row(self.knots[..., :1])) / _row(self.widths[..., :1])
        high = (x - _row(self.knots[..., -1:])) / _row(self.widths[..., -1:])
        return torch.where(low < 0, low, 0.0), torch.where(before[..., -1:], 0.0, high)  # keeps nan

    def _derivative_bases(self, x: Tensor, raw: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and second derivative of the basis."""
        inverse = 1 / _row(self.widths)
        inside = before & (raw >= 0)
        scale = inside * inverse
        u = torch.where(inside, raw, 0.0)
        below, above = self._overshoots(x, before)
        slope, curvature, power = [scale], [torch.zeros_like(scale)], scale
        for k in range(2, self.degree + 1):
            curvature.append(k * (k - 1) * scale * power)
            power = power * u
            slope.append(k * power)
        w0, w1 = inverse[..., :1], inverse[..., -1:]
        after = ~before[..., -1:]
        ends = [(below < 0) * w0, after * w1, 2 * above * w1]
        bends = [torch.zeros_like(above), torch.zeros_like(above), 2 * after * w1 * w1]
        return (
            torch.cat([*slope, *ends], dim=-1),
            torch.cat([*curvature, *bends], dim=-1),
        )


def _ends(knots: Tensor) -> Tensor:
    """Return the end of each interval, (*B, K-1), which is not part of it.

    The last interval is closed: at its end the spline is still the last piece.
    """
    beyond = torch.nextafter(knots[..., -1:], torch.full_like(knots[..., -1:], torch.inf))
    return torch.cat([knots[..., 1:-1], beyond], dim=-1)


class Pieces(NamedTuple):
    """Local polynomials of u by interval, (*B, K-1) each, and how the end goes on, (*B, 1)."""

    powers: list[Tensor]  # slope-like coefficients of u, u^2, ..., as many as the degree
    end: list[Tensor]  # of the overshoot beyond the last knot and of its square


def _stack(pieces: Pieces, widths: Tensor) -> Tensor:
    """Join the pieces in the order of the basis; widths turn slopes into growth."""
    below = pieces.powers[0][..., :1] * widths[..., :1]
    end = [c * widths[..., -1:] for c in pieces.end]
    batch = widths.shape[:-2]
    parts = [c * widths for c in pieces.powers] + [below, *end]
    return torch.cat([part.expand(*batch, *part.shape[-2:]) for part in parts], dim=-1)


class QuadraticSpline(Spline):
    """Piecewise quadratic with continuous slope: slopes at all knots but the first.

    The slope is linear between knots and constant on the first interval; outside the knots the end
    pieces go on. This is the spline of Price-Whelan et al. (2025, ApJ 979, 115).
    """

    degree = 2

    def pieces(self, slopes: Tensor, last: Tensor, widths: Tensor) -> Pieces:
        """Return the local polynomials; the first slope holds on all of the first interval."""
        left = torch.cat([slopes[..., :1], slopes[..., :-1]], dim=-1)
        bend = (slopes - left) / 2
        return Pieces([left, bend], [slopes[..., -1:], bend[..., -1:]])

    def last_slope(self, slopes: Tensor) -> Tensor:
        """Return the last of the slopes, with shape (*B, 1)."""
        return slopes[..., -1:]


class CubicSpline(Spline):
    r"""Piecewise cubic with continuous curvature: a quadratic B-spline as its slope.

    On interval k the slope has the Bernstein coefficients :math:`s_k, b_k, s_{k+1}`. The given
    slopes are the :math:`b_k`; at inner knots
    :math:`s_k = (h_k b_{k-1} + h_{k-1} b_k)/(h_{k-1} + h_k)`, which makes the slope smooth, and
    :math:`s_0 = b_0`. If all :math:`b_k` are positive the slope is positive everywhere: the spline
    is monotone. Outside the knots it is linear.

    Parameters
    ----------
    knots
        Knot positions with shape (*B, K).
    positive
        Whether slopes are known to be positive. Then the trend goes on geometrically at the last
        knot, :math:`s_{K-1} = b_{K-2}^2 / s_{K-2}`, which stays positive; otherwise linearly,
        :math:`s_{K-1} = 2 b_{K-2} - s_{K-2}`.
    """

    degree = 3
    shares: Tensor

    def __init__(self, knots: Tensor, positive: bool = False) -> None:
        super().__init__(knots, positive)
        # Of the last two slopes in the one at the knot between them.
        last = self.widths[..., -2:].flip(-1)
        self.register_buffer("shares", last / last.sum(-1, keepdim=True))

    def pieces(self, slopes: Tensor, last: Tensor, widths: Tensor) -> Pieces:
        """Return the local polynomials, from the slope's Bernstein coefficients."""
        b = slopes
        inner = _inner_slopes(b, widths)
        s = torch.cat([b[..., :1].expand(*inner.shape[:-1], 1), inner], dim=-1)
        s_next = torch.cat([inner, last.expand(*inner.shape[:-1], 1)], dim=-1)
        return Pieces([s, b - s, (s - 2 * b + s_next) / 3], [last, torch.zeros_like(last)])

    def last_slope(self, slopes: Tensor) -> Tensor:
        """Return the slope to which the trend goes on, with shape (*B, 1)."""
        b = slopes[..., -1:]
        if self.n_slopes == 1:
            return b
        s = (self.shares * slopes[..., -2:]).sum(-1, keepdim=True)
        return b * b / s if self.positive else 2 * b - s


def _inner_slopes(b: Tensor, h: Tensor) -> Tensor:
    """Return the slopes at inner knots that make the slope smooth, (*B, K-2)."""
    return (h[..., 1:] * b[..., :-1] + h[..., :-1] * b[..., 1:]) / (h[..., 1:] + h[..., :-1])


SPLINES: dict[str, type[Spline]] = {"quadratic": QuadraticSpline, "cubic": CubicSpline}
"""The class of each kind of spline."""


def make_spline(kind: str, knots: Tensor, positive: bool = False) -> Spline:
    """Return the spline of a kind, "quadratic" or "cubic", or another one in `SPLINES`.

    Raises
    ------
    ValueError
        If the kind is not known.
    """
    if kind not in SPLINES:
        names = " or ".join(map(repr, SPLINES))
        raise ValueError(f"a spline must be {names}, got {kind!r}")
    return SPLINES[kind](knots, positive)


def _row(per_problem: Tensor) -> Tensor:
    """Make (*B, K) broadcast against points (*B, N, 1); without a batch (K,) already does."""
    return per_problem if per_problem.ndim == 1 else per_problem.unsqueeze(-2)


def _dot(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Sum a basis (*B, N, K) against coefficients (*B, K)."""
    if coefficients.ndim == 1:
        return basis @ coefficients
    return (basis @ coefficients.unsqueeze(-1)).squeeze(-1)
