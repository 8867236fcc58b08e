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
from functools import cache

import torch
from torch import Tensor

__all__ = ["L_TERMS", "M_TERMS", "NEAR", "potential_ratio", "ratios", "surface_ratio"]

# ln cosh s = s^2/2 - s^4/12 + s^6/45 - 17 s^8/2520 + ... (Abramowitz & Stegun 4.5.65), over s^2/2.
L_TERMS = (1.0, -1 / 6, 2 / 45, -17 / 1260, 62 / 14175, -1382 / 935550, 43688 / 85135050)
# tanh s is its derivative: each term of M is n + 1 times that of L.
M_TERMS = tuple((n + 1) * c for n, c in enumerate(L_TERMS))


def _slopes(terms: tuple[float, ...]) -> tuple[float, ...]:
    """Return the series of a derivative, over s."""
    return (*(2 * n * c for n, c in enumerate(terms) if n), 0.0)


# The terms of L, M and their derivatives, power by power.
_ALL = tuple(zip(L_TERMS, M_TERMS, _slopes(L_TERMS), _slopes(M_TERMS), strict=True))
# Below this the next term is lost in rounding.
NEAR = 0.1


def potential_ratio(s: Tensor) -> Tensor:
    """Return L(s), of any shape, differentiable to any order that matters."""
    small, x = _apart(s)
    # 2 sinh^2(s/2) is cosh s - 1: without rounding where s is below one.
    middle = torch.log1p(2 * torch.sinh(x.clamp(max=1.0) / 2).square())
    ln_cosh = torch.where(x < 1, middle, x + torch.log1p(torch.exp(-2 * x)) - math.log(2))
    return torch.where(small, _series(L_TERMS, s), 2 * ln_cosh / x**2)


def surface_ratio(s: Tensor) -> Tensor:
    """Return M(s), of any shape, differentiable to any order that matters."""
    small, x = _apart(s)
    return torch.where(small, _series(M_TERMS, s), torch.tanh(x) / x)


def ratios(s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return L, M and their derivatives by s, without a graph of their own."""
    small, x = _apart(s)
    t = torch.exp(-2 * x)
    tanh = -torch.expm1(-2 * x) / (1 + t)
    square = tanh * tanh
    ln_cosh = torch.where(x < 1, -0.5 * torch.log1p(-square), x + torch.log1p(t) - math.log(2))
    L, M = 2 * ln_cosh / (x * x), tanh / x
    # From s^2 L/2 = ln cosh s and s M = tanh s.
    far = (L, M, (2 * (M - L) / x).copysign(-s), ((1 - square - M) / x).copysign(-s))
    near = _all_series(torch.where(small, s, 0.0))
    return tuple(torch.where(small, a, b) for a, b in zip(near, far, strict=True))  # type: ignore[return-value]


def _apart(s: Tensor) -> tuple[Tensor, Tensor]:
    """Return where s is small, and |s|, or one there: nothing divides by zero."""
    size = s.abs()
    small = size < NEAR
    return small, torch.where(small, 1.0, size)


def _series(terms: tuple[float, ...], s: Tensor) -> Tensor:
    # Elsewhere powers would overflow.
    square = torch.where(s.abs() < NEAR, s, 0.0).square()
    total = torch.full_like(square, terms[-1])
    for term in reversed(terms[:-1]):
        total = total * square + term
    return total


def _all_series(s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return L, M and their derivatives near s = 0."""
    square = s.square().unsqueeze(-1)
    total = torch.zeros_like(square)
    for term in reversed(_terms(s.dtype, s.device)):
        total = total * square + term
    L, M, dL, dM = total.unbind(-1)
    return L, M, s * dL, s * dM


@cache
def _terms(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    # Kept: copied to a GPU for every call they would make it wait.
    return torch.tensor(_ALL, dtype=dtype, device=device).unbind()
