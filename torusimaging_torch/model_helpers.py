r"""Families of monotone functions for labels and distortions, under the names upstream gives them.

All are elementwise in torch operations, broadcast over their arguments, and may serve as
``label_func`` or in ``e_funcs`` of `~torusimaging_torch.TorusImaging1D`; numbers, lists and arrays
are taken as tensors. With :math:`t = x/x_0`:

* The power family :math:`1 - (1 - t^{1/\beta})^\beta` with :math:`\beta = (1 - \alpha)/\alpha`, a
  superellipse with exponent :math:`1/\beta` read along one axis: it rises from 0 to 1 on
  :math:`0 \le t \le 1`, straight for :math:`\alpha = 1/2`, convex above and concave below.
* The tanh family :math:`\tanh(t^{1/\alpha})^\alpha`: it starts as :math:`t` and saturates at 1, the
  more sharply the smaller :math:`\alpha`.
* The generalised logistic or Richards curve (Richards 1959, J. Exp. Bot. 10, 290).

The functions whose names end in ``_alt`` are the same curves, told by values that they take instead
of by amplitudes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.numerics.splines import QuadraticSpline

__all__ = [
    "custom_tanh_func",
    "custom_tanh_func_alt",
    "generalized_logistic_func",
    "generalized_logistic_func_alt",
    "monotonic_poly_func",
    "monotonic_poly_func_alt",
    "monotonic_quadratic_spline",
]

Number = float | Tensor
"""A number, or a tensor that broadcasts against the points."""


def monotonic_poly_func(x: Tensor, A: Number, alpha: Number, x0: Number, c: Number = 1.0) -> Tensor:
    r"""Return :math:`A\,[c - (1 - (x/x_0)^{1/\beta})^\beta]`, :math:`\beta = (1-\alpha)/\alpha`.

    Parameters
    ----------
    x
        Points, between 0 and ``x0``, with any shape; the result is nan outside.
    A
        Change of the function from 0 to ``x0``.
    alpha
        Shape, between 0 and 1: straight at 1/2, and with slope 0 at x = 0 above it.
    x0
        Where the curve ends.
    c
        Offset in units of A: the function is A (c - 1) at 0 and A c at ``x0``.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> monotonic_poly_func(x, 1.0, 0.3, 1.0).round(decimals=3)
    tensor([0.0000, 0.9580, 1.0000])
    """
    x, A, alpha, x0, c = _numbers(x=x, A=A, alpha=alpha, x0=x0, c=c)
    return A * (c - _superellipse(x, alpha, x0))


def monotonic_poly_func_alt(
    x: Tensor, f0: Number, fx: Number, alpha: Number, x0: Number, xval: Number = 1.0
) -> Tensor:
    """Return the curve of `monotonic_poly_func` that is ``f0`` at 0 and ``fx`` at ``xval``.

    Parameters
    ----------
    x
        Points, between 0 and ``x0``, with any shape.
    f0, fx
        Values at 0 and at ``xval``.
    alpha, x0
        As in `monotonic_poly_func`.
    xval
        Where the second value is given, between 0 and ``x0``.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> monotonic_poly_func_alt(x, 0.1, 0.5, 0.3, 1.0).round(decimals=3)
    tensor([0.1000, 0.4830, 0.5000])
    """
    x, f0, fx, alpha, x0, xval = _numbers(x=x, f0=f0, fx=fx, alpha=alpha, x0=x0, xval=xval)
    rise = 1 - _superellipse(x, alpha, x0)
    return f0 + (fx - f0) * rise / (1 - _superellipse(_like(xval, x), alpha, x0))


def custom_tanh_func(x: Tensor, A: Number, alpha: Number, x0: Number) -> Tensor:
    r"""Return :math:`A \tanh\left((x/x_0)^{1/\alpha}\right)^\alpha`.

    The slope at x = 0 is A / x0 for any ``alpha``; so is the gradient there. (The second derivative
    there is given as 0, which is right for alpha below 2.)

    Parameters
    ----------
    x
        Points, not negative, with any shape.
    A
        The value far out.
    alpha
        Shape, positive: small values saturate sharply.
    x0
        Scale on which the function saturates.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> custom_tanh_func(x, 1.0, 2.0, 1.0).round(decimals=3)
    tensor([0.0000, 0.3710, 0.5800])
    """
    x, A, alpha, x0 = _numbers(x=x, A=A, alpha=alpha, x0=x0)
    return A * _saturation(x, alpha, x0)


def custom_tanh_func_alt(
    x: Tensor, f_xval: Number, alpha: Number, x0: Number, xval: Number = 1.0
) -> Tensor:
    """Return the curve of `custom_tanh_func` that is ``f_xval`` at ``xval``.

    Parameters
    ----------
    x
        Points, not negative, with any shape.
    f_xval
        Value at ``xval``.
    alpha, x0
        As in `custom_tanh_func`.
    xval
        Where the value is given, positive.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> custom_tanh_func_alt(x, 0.5, 2.0, 1.0).round(decimals=3)
    tensor([0.0000, 0.3200, 0.5000])
    """
    x, f_xval, alpha, x0, xval = _numbers(x=x, f_xval=f_xval, alpha=alpha, x0=x0, xval=xval)
    return f_xval * _saturation(x, alpha, x0) / _saturation(_like(xval, x), alpha, x0)


def generalized_logistic_func(
    t: Tensor, t0: Number, A: Number, B: Number, C: Number, K: Number, nu: Number
) -> Tensor:
    r"""Return the Richards curve :math:`A + (K - A)/(C + e^{-B(t - t_0)})^{1/\nu}`.

    Parameters
    ----------
    t
        Points, with any shape.
    t0
        Where the exponential is 1.
    A
        Asymptote on the side where it grows.
    B
        Growth rate, of either sign.
    C
        Not negative; the other asymptote is :math:`A + (K - A)/C^{1/\nu}`, which is K for C = 1.
    K
        See ``C``.
    nu
        Positive; tells near which asymptote the curve is steepest.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> generalized_logistic_func(x, 0.0, 0.0, 2.0, 1.0, 1.0, 1.0).round(decimals=3)
    tensor([0.5000, 0.7310, 0.8810])
    """
    t, t0, A, B, C, K, nu = _numbers(t=t, t0=t0, A=A, B=B, C=C, K=K, nu=nu)
    return A + (K - A) * torch.exp(-_log_denominator(t, t0, B, C) / nu)


def generalized_logistic_func_alt(
    t: Tensor, t0: Number, F1: Number, B: Number, C: Number, nu: Number, t1: Number = 1.0
) -> Tensor:
    """Return the curve of `generalized_logistic_func` that is 0 at 0 and ``F1`` at ``t1``.

    Parameters
    ----------
    t
        Points, with any shape.
    t0, B, C, nu
        As in `generalized_logistic_func`.
    F1
        Value at ``t1``.
    t1
        Where the value is given; not 0.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> generalized_logistic_func_alt(x, 0.0, 1.0, 2.0, 1.0, 1.0).round(decimals=3)
    tensor([0.0000, 0.6070, 1.0000])
    """
    t, t0, F1, B, C, nu, t1 = _numbers(t=t, t0=t0, F1=F1, B=B, C=C, nu=nu, t1=t1)
    # In the notation of the curve f(t) = A + (K - A)/D(t), f(0) = 0 makes it A (1 - D(0)/D(t)).
    start = _log_denominator(_like(0.0, t), t0, B, C)
    rise = torch.expm1((start - _log_denominator(t, t0, B, C)) / nu)
    return F1 * rise / torch.expm1((start - _log_denominator(_like(t1, t), t0, B, C)) / nu)


def monotonic_quadratic_spline(x: Tensor, y: Tensor, x_eval: Tensor) -> Tensor:
    """Return a quadratic spline given by the value at its first knot and slopes at the others.

    It is monotone if all slopes have one sign. The same as
    `~torusimaging_torch.numerics.splines.QuadraticSpline`, in upstream's order of arguments.

    Parameters
    ----------
    x
        Knots, with shape (*B, K).
    y
        Value at the first knot, then slopes at the others, with shape (*B, K).
    x_eval
        Points, with shape (*B, N); any shape if there are no batch dimensions.

    Examples
    --------
    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> y = torch.tensor([0.0, 1.0, 1.0])
    >>> monotonic_quadratic_spline(x, y, torch.tensor([0.25])).round(decimals=3)
    tensor([0.2500])
    """
    x, y, x_eval = (_tensor(v, name) for name, v in (("x", x), ("y", y), ("x_eval", x_eval)))
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), x_eval.dtype)
    x, y, x_eval = x.to(dtype), y.to(dtype), x_eval.to(dtype)
    if y.ndim == 0 or y.shape != x.shape:
        raise ValueError(f"y must have the shape of x, got {tuple(y.shape)} and {tuple(x.shape)}")
    return QuadraticSpline(x)(x_eval, y[..., 0], y[..., 1:])


def _numbers(**given: Any) -> list[Tensor]:
    """Return tensors that broadcast; tensors of any floating-point type are left as they are."""
    found = [_tensor(value, name) for name, value in given.items()]
    shapes = [tuple(x.shape) for x in found]
    try:
        broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{', '.join(given)} must broadcast, got shapes {shapes}") from None
    return found


def _tensor(value: Any, name: str) -> Tensor:
    array = value if isinstance(value, Tensor) else np.ma.asarray(value)
    if isinstance(array, Tensor):
        numbers = not array.is_complex()
    else:
        numbers = array.dtype.kind in "biuf" and getattr(value, "unit", None) is None
    if not numbers:
        raise TypeError(f"{name} must be numbers without a unit, got {value!r}")
    if not isinstance(array, Tensor):  # what is masked is missing
        array = torch.tensor(np.ma.filled(array.astype(float), np.nan))
    return array if array.is_floating_point() else array.double()


def _superellipse(x: Tensor, alpha: Number, x0: Number) -> Tensor:
    beta = (1 - alpha) / alpha
    return (1 - (x / x0) ** (1 / beta)) ** beta


def _saturation(x: Tensor, alpha: Number, x0: Number) -> Tensor:
    scaled = x / x0
    # The powers have infinite derivatives at 0 that cancel; the function itself starts as x / x0.
    origin = scaled == 0
    power = torch.where(origin, torch.ones_like(scaled), scaled) ** (1 / alpha)
    return torch.where(origin, scaled, torch.tanh(power) ** alpha)


def _log_denominator(t: Tensor, t0: Number, B: Number, C: Number) -> Tensor:
    # The logarithm of C + exp(-B (t - t0)): the exponential itself may overflow.
    return torch.logaddexp(_like(C, t).log(), -B * (t - t0))


def _like(number: Number, x: Tensor) -> Tensor:
    return torch.as_tensor(number, dtype=x.dtype, device=x.device)
