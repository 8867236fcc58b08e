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

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torusimaging_torch.params import column

__all__ = [
    "CubicSpline",
    "QuadraticSpline",
    "Spline",
    "SplineEFunction",
    "SplineLabelFunction",
    "make_spline",
    "n_slopes",
]


class _Pieces(NamedTuple):
    """Local polynomials c1 u + c2 u^2 + c3 u^3 per interval (*B, K-1), and how the end goes on."""

    c1: Tensor
    c2: Tensor
    c3: Tensor | None
    end_slope: Tensor  # (*B,), at the last knot
    end_c2: Tensor  # (*B,), quadratic coefficient beyond it, in units of the last interval


class _Local(NamedTuple):
    """Where points lie: per-interval coordinates (*B, N, K-1), and overshoots (*B, N)."""

    u: Tensor
    inside: Tensor
    below: Tensor
    above: Tensor


class Spline(nn.Module):
    """A spline through its slopes: what the quadratic and the cubic one share.

    Parameters
    ----------
    knots
        Knot positions, strictly increasing, with shape (K,), or (*B, K) where each problem of a
        batch has its own.

    Raises
    ------
    ValueError
        If there are fewer than two knots or they do not increase.
    """

    knots: Tensor

    def __init__(self, knots: Tensor) -> None:
        super().__init__()
        knots = torch.as_tensor(knots)
        if not knots.is_floating_point():
            knots = knots.double()
        if knots.ndim == 0 or knots.shape[-1] < 2:
            raise ValueError(f"a spline needs at least two knots, got shape {tuple(knots.shape)}")
        if not bool((knots.diff(dim=-1) > 0).all()):
            raise ValueError(f"knots must be strictly increasing, got {knots.tolist()}")
        self.register_buffer("knots", knots)

    @property
    def n_slopes(self) -> int:
        """Number of slopes, one fewer than knots."""
        return self.knots.shape[-1] - 1

    def _pieces(self, slopes: Tensor, widths: Tensor) -> _Pieces:
        raise NotImplementedError

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
        widths = self.knots.diff(dim=-1)
        pieces, local = self._pieces(slopes, widths), self._locate(x, widths)
        return self._value(pieces, local, value0, widths)

    def derivatives(
        self, x: Tensor, value0: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the spline and its first two derivatives, in closed form.

        Parameters and shapes are as in `forward`. At a knot the second derivative is the one to the
        right, at the last knot the one to the left.
        """
        widths = self.knots.diff(dim=-1)
        p, local = self._pieces(slopes, widths), self._locate(x, widths)
        u = local.u
        # The slope is continuous, so it is a running sum too: each interval adds its own change.
        slope = column(p.c1[..., 0]) + _dot(u, 2 * p.c2)
        curvature = _dot(local.inside, 2 * p.c2 / widths)
        if p.c3 is not None:
            slope = slope + _dot(u * u, 3 * p.c3)
            curvature = curvature + _dot(local.inside * u, 6 * p.c3 / widths)
        end_curvature = 2 * p.end_c2 / widths[..., -1]
        slope = slope + column(2 * p.end_c2) * local.above
        curvature = curvature + column(end_curvature) * (local.above > 0)
        # Points that are nan must say so in every derivative.
        nan = local.below * 0
        return self._value(p, local, value0, widths), slope + nan, curvature + nan

    def _locate(self, x: Tensor, widths: Tensor) -> _Local:
        raw = (x.unsqueeze(-1) - _row(self.knots[..., :-1])) / _row(widths)
        # Half-open intervals: were both clamps to pass a gradient at a knot, it would count twice.
        inside = (raw >= 0) & (raw < 1)
        first, last = raw[..., 0], raw[..., -1]
        inside = torch.cat([inside[..., :-1], inside[..., -1:] | (last == 1).unsqueeze(-1)], -1)
        u = torch.where(inside, raw, (raw >= 1).to(raw.dtype))
        return _Local(
            u,
            inside.to(raw.dtype),
            below=torch.where(first >= 0, torch.zeros_like(first), first),  # keeps nan
            above=torch.where(last > 1, last - 1, torch.zeros_like(last)),
        )

    @staticmethod
    def _value(p: _Pieces, local: _Local, value0: Tensor, widths: Tensor) -> Tensor:
        u = local.u
        value = column(value0) + _dot(u, widths * p.c1) + _dot(u * u, widths * p.c2)
        if p.c3 is not None:
            value = value + _dot(u * u * u, widths * p.c3)
        first, last = widths[..., 0], widths[..., -1]
        above = local.above * (column(last * p.end_slope) + column(last * p.end_c2) * local.above)
        return value + column(first * p.c1[..., 0]) * local.below + above


class QuadraticSpline(Spline):
    """Piecewise quadratic with continuous slope: slopes at all knots but the first.

    The slope is linear between knots and constant on the first interval; outside the knots the end
    pieces go on. This is the spline of Price-Whelan et al. (2025, ApJ 979, 115).
    """

    def _pieces(self, slopes: Tensor, widths: Tensor) -> _Pieces:
        left = torch.cat([slopes[..., :1], slopes[..., :-1]], dim=-1)
        c2 = (slopes - left) / 2
        return _Pieces(left, c2, None, slopes[..., -1], c2[..., -1])


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

    def __init__(self, knots: Tensor, positive: bool = False) -> None:
        super().__init__(knots)
        self.positive = positive

    def _pieces(self, slopes: Tensor, widths: Tensor) -> _Pieces:
        b, h = slopes, widths
        inner = (h[..., 1:] * b[..., :-1] + h[..., :-1] * b[..., 1:]) / (h[..., 1:] + h[..., :-1])
        s = torch.cat([b[..., :1], inner], dim=-1)
        last = b[..., -1] ** 2 / s[..., -1] if self.positive else 2 * b[..., -1] - s[..., -1]
        s_next = torch.cat([inner, last.unsqueeze(-1)], dim=-1)
        return _Pieces(s, b - s, (s - 2 * b + s_next) / 3, last, torch.zeros_like(last))


def make_spline(kind: str, knots: Tensor, positive: bool = False) -> Spline:
    """Return the spline of a kind, "quadratic" or "cubic".

    Raises
    ------
    ValueError
        If the kind is not known.
    """
    if kind == "quadratic":
        return QuadraticSpline(knots)
    if kind == "cubic":
        return CubicSpline(knots, positive)
    raise ValueError(f"a spline must be 'quadratic' or 'cubic', got {kind!r}")


class SplineEFunction(nn.Module):
    r"""A Fourier coefficient :math:`e_m(r_e)`: zero at the first knot and monotone.

    Parameters
    ----------
    knots
        Knot positions in :math:`r_e` with shape (*B, K).
    sign
        Sign of the slope, 1 or -1.
    kind
        "cubic" or "quadratic".
    """

    sign: Tensor

    def __init__(self, knots: Tensor, sign: float, kind: str = "cubic") -> None:
        super().__init__()
        self.spline = make_spline(kind, knots, positive=True)
        self.register_buffer("sign", torch.as_tensor(sign, dtype=self.spline.knots.dtype))

    def forward(self, r_e: Tensor, vals: Tensor) -> Tensor:
        """Return :math:`e_m` at ``r_e`` (*B, N), from the log slopes ``vals`` (*B, K-1)."""
        slopes = self.sign * vals.exp()
        return self.spline(r_e, torch.zeros_like(slopes[..., 0]), slopes)

    def derivatives(self, r_e: Tensor, vals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :math:`e_m` and its first two derivatives with respect to ``r_e``."""
        slopes = self.sign * vals.exp()
        return self.spline.derivatives(r_e, torch.zeros_like(slopes[..., 0]), slopes)


class SplineLabelFunction(nn.Module):
    """The label as a function of the distorted radius: a value and slopes of any sign.

    Parameters
    ----------
    knots
        Knot positions in r with shape (*B, K).
    kind
        "quadratic" or "cubic".
    """

    def __init__(self, knots: Tensor, kind: str = "quadratic") -> None:
        super().__init__()
        self.spline = make_spline(kind, knots)

    def forward(self, r: Tensor, label_vals: Tensor) -> Tensor:
        """Return the label at ``r`` (*B, N); ``label_vals`` (*B, K) are value, then slopes."""
        return self.spline(r, label_vals[..., 0], label_vals[..., 1:])

    def derivatives(self, r: Tensor, label_vals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the label and its first two derivatives with respect to ``r``."""
        return self.spline.derivatives(r, label_vals[..., 0], label_vals[..., 1:])


def n_slopes(function: nn.Module) -> int:
    """Return the number of slopes of a function made of a spline."""
    assert isinstance(function, SplineEFunction | SplineLabelFunction)
    return function.spline.n_slopes


def _row(per_problem: Tensor) -> Tensor:
    """Make (*B, K) broadcast against points (*B, N, 1); without a batch (K,) already does."""
    return per_problem if per_problem.ndim == 1 else per_problem.unsqueeze(-2)


def _dot(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Sum a basis (*B, N, K) against coefficients (*B, K)."""
    if coefficients.ndim == 1:
        return basis @ coefficients
    return (basis @ coefficients.unsqueeze(-1)).squeeze(-1)
