r"""The isothermal sheet, and what a sum of sheets is made of, smooth at the midplane.

A sheet of density :math:`\mathrm{sech}^2 s`, :math:`s = z/h` (Spitzer 1942, ApJ 95, 329), has the
surface density :math:`h \tanh s` above the midplane and the potential :math:`h^2 \ln\cosh s`. Both
are divided by their limits here,

.. math::

    L(s) = \frac{2 \ln\cosh s}{s^2}, \qquad M(s) = \frac{\tanh s}{s},

which are 1 in the midplane and even: the square root of a potential is as smooth as they are. Near
s = 0 they are sums of even powers, where the fractions would lose all digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["potential_ratio", "ratios", "surface_ratio"]

# ln cosh s = s^2/2 - s^4/12 + s^6/45 - 17 s^8/2520 + ... (Abramowitz & Stegun 4.5.65), over s^2/2.
_L = (1.0, -1 / 6, 2 / 45, -17 / 1260, 62 / 14175, -1382 / 935550, 43688 / 85135050)
# tanh s is its derivative: each term of M is n + 1 times that of L.
_M = tuple((n + 1) * c for n, c in enumerate(_L))
# Below this the next term is lost in rounding.
_SMALL = 0.1


def potential_ratio(s: Tensor) -> Tensor:
    """Return L(s), of any shape, differentiable to any order that matters."""
    small, x = _apart(s)
    # 2 sinh^2(s/2) is cosh s - 1: without rounding where s is below one.
    middle = torch.log1p(2 * torch.sinh(x.clamp(max=1.0) / 2).square())
    ln_cosh = torch.where(x < 1, middle, x + torch.log1p(torch.exp(-2 * x)) - math.log(2))
    return torch.where(small, _series(_L, s), 2 * ln_cosh / x**2)


def surface_ratio(s: Tensor) -> Tensor:
    """Return M(s), of any shape, differentiable to any order that matters."""
    small, x = _apart(s)
    return torch.where(small, _series(_M, s), torch.tanh(x) / x)


def ratios(s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return L, M and their derivatives by s, without a graph of their own."""
    small, x = _apart(s)
    L, M = potential_ratio(s), surface_ratio(s)
    # From s^2 L/2 = ln cosh s and s M = tanh s.
    sign = torch.where(s < 0, -1.0, 1.0)
    dL = torch.where(small, _slope(_L, s), sign * 2 * (M - L) / x)
    dM = torch.where(small, _slope(_M, s), sign * (1 - torch.tanh(x).square() - M) / x)
    return L, M, dL, dM


def _apart(s: Tensor) -> tuple[Tensor, Tensor]:
    """Return where s is small, and |s|, or one there: nothing divides by zero."""
    size = s.abs()
    small = size < _SMALL
    return small, torch.where(small, 1.0, size)


def _series(terms: tuple[float, ...], s: Tensor) -> Tensor:
    # Elsewhere powers would overflow.
    square = torch.where(s.abs() < _SMALL, s, 0.0).square()
    total = torch.full_like(square, terms[-1])
    for term in reversed(terms[:-1]):
        total = total * square + term
    return total


def _slope(terms: tuple[float, ...], s: Tensor) -> Tensor:
    return 2 * s * _series(tuple(n * c for n, c in enumerate(terms))[1:], s)
