r"""The Fourier distortion of elliptical radii: contours of constant r are orbits.

.. math:: r = r_e \left(1 + \sum_m e_m(r_e) \cos m\theta_e\right)

(Price-Whelan et al. 2025, ApJ 979, 115, Section 2). Angles enter through their cosine alone: the
harmonics are Chebyshev polynomials of it, which are smooth where an angle is not defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.params import Nested, Params, column, function_params, iter_leaves
from torusimaging_torch.numerics.roots import increasing_root
from torusimaging_torch.torus.radial_function import RadialFunction, as_function

__all__ = ["FourierDistortion", "Harmonics", "chebyshev", "chebyshev_slopes", "check_e_funcs"]

# r and r_e are of the same size: a factor of a thousand is no orbit any more.
_DOUBLINGS = 10

Harmonics = dict[int, tuple[Tensor, Tensor, Tensor]]


def chebyshev(cos: Tensor, orders: list[int]) -> dict[int, Tensor]:
    r"""Return :math:`\cos m\theta = T_m(\cos\theta)` for each order m, by the recurrence.

    Parameters
    ----------
    cos
        Cosines, with any shape.
    orders
        Non-negative integers.
    """
    terms = [torch.ones_like(cos), cos]
    twice = 2 * cos
    for m in range(2, max(orders, default=0) + 1):
        terms.append(twice * terms[m - 1] - terms[m - 2])
    return {m: terms[m] for m in orders}


def chebyshev_slopes(cos: Tensor, orders: list[int]) -> dict[int, Tensor]:
    r"""Return the derivatives of `chebyshev`, :math:`T_m' = m\,U_{m-1}`, for each order m."""
    terms = [torch.zeros_like(cos), torch.ones_like(cos)]
    for _ in range(2, max(orders, default=0) + 1):
        terms.append(2 * cos * terms[-1] - terms[-2])
    return {m: m * terms[m] for m in orders}


class FourierDistortion(nn.Module):
    """The distorted radius r of points in elliptical polar coordinates, and its inverse.

    Parameters
    ----------
    e_funcs
        The function e_m for each order m, called as ``e_funcs[m](r_e, **e_params[m])``.

    Raises
    ------
    ValueError
        If an order is not a non-negative integer.
    """

    def __init__(self, e_funcs: Mapping[int, Callable[..., Tensor]]) -> None:
        super().__init__()
        for m in e_funcs:
            if int(m) != m or m < 0:
                raise ValueError(f"orders m must be non-negative integers, got {m!r}")
        self.orders = sorted(int(m) for m in e_funcs)
        self.functions = nn.ModuleDict({str(int(m)): as_function(f) for m, f in e_funcs.items()})

    @property
    def e_funcs(self) -> dict[int, RadialFunction]:
        """The functions e_m, by order."""
        return {m: cast(RadialFunction, self.functions[str(m)]) for m in self.orders}

    def es(self, r_e: Tensor, e_params: Params) -> dict[int, Tensor]:
        """Return each e_m at ``r_e`` (*B, N)."""
        return {m: f(r_e, **self._arguments(m, e_params)) for m, f in self.e_funcs.items()}

    def derivatives(self, r_e: Tensor, e_params: Params) -> Harmonics:
        """Return each e_m and its first two derivatives at ``r_e`` (*B, N)."""
        return {
            m: f.derivatives(r_e, **self._arguments(m, e_params)) for m, f in self.e_funcs.items()
        }

    @staticmethod
    def _arguments(m: int, e_params: Params) -> Nested:
        try:
            return dict(e_params[m])  # type: ignore[index]
        except KeyError:
            raise ValueError(
                f"e_params has no entry for m = {m}: expected one for each order of the model, "
                f"got {sorted(e_params)}"
            ) from None

    def forward(self, r_e: Tensor, cos: Tensor, e_params: Params) -> Tensor:
        """Return r, with shape (*B, N).

        Parameters
        ----------
        r_e, cos
            Elliptical radius and cosine of the elliptical angle, with shape (*B, N).
        e_params
            Parameters of each e_m, by order.
        """
        harmonics = chebyshev(cos, self.orders)
        factor: Tensor | float = 1.0
        for m, e in self.es(r_e, e_params).items():
            factor = factor + e * harmonics[m]
        return r_e * factor

    def dr_dre(self, r_e: Tensor, cos: Tensor, e_params: Params) -> Tensor:
        r"""Return :math:`\partial r/\partial r_e = 1 + \sum_m (e_m + r_e e_m')\cos m\theta_e`.

        Orbits do not cross where it is positive. Shapes are as in `forward`.
        """
        harmonics = chebyshev(cos, self.orders)
        result = torch.ones_like(r_e * cos)
        for m, (e, slope, _) in self.derivatives(r_e, e_params).items():
            result = result + (e + r_e * slope) * harmonics[m]
        return result

    def invert(
        self, r: Tensor, cos: Tensor, e_params: Params, upper: Tensor | float | None = None
    ) -> Tensor:
        """Return the elliptical radius at which the distorted radius is ``r``.

        Parameters
        ----------
        r, cos
            Distorted radius and cosine of the elliptical angle, with shape (*B, N).
        e_params
            Parameters of each e_m, by order.
        upper
            Largest elliptical radius considered. By default a bracket is sought by doubling.

        Returns
        -------
        Tensor
            r_e with shape (*B, N), differentiable; nan where there is none below ``upper``.
        """
        bracket = self._bracket(r, cos, e_params) if upper is None else upper * torch.ones_like(r)
        return increasing_root(
            lambda r_e: self(r_e, cos, e_params), r, torch.zeros_like(r), bracket
        )

    @torch.no_grad()
    def _bracket(self, r: Tensor, cos: Tensor, e_params: Params) -> Tensor:
        """Return an elliptical radius beyond the one that ``r`` belongs to."""
        upper = r
        for _ in range(_DOUBLINGS):
            upper = torch.where(self(upper, cos, e_params) < r, 2 * upper, upper)
        return upper


def check_e_funcs(
    distortion: FourierDistortion, e_params: Params, r_e_max: float | Tensor, n_theta: int = 128
) -> tuple[Tensor, Tensor]:
    r"""Check that orbits do not cross: :math:`\sum_m \cos m\theta_e (e_m + r_e e_m') > -1`.

    Parameters
    ----------
    distortion
        The distortion to check.
    e_params
        Parameters of each e_m, by order.
    r_e_max
        Largest elliptical radius to look at, a number or with shape (*B,).
    n_theta
        Number of angles: over a quarter turn if all orders are even, over half a turn otherwise.

    Returns
    -------
    valid, checks
        Whether the condition holds everywhere, with shape (*B,), and the sum on 16 radii, evenly
        spaced in their root, times ``n_theta`` angles, with shape (*B, 16, n_theta).
    """
    leaves = [leaf for _, leaf in iter_leaves(e_params)]
    like = leaves[0] if leaves else torch.empty(0, dtype=torch.float64)
    r_e_max = torch.as_tensor(r_e_max, dtype=like.dtype, device=like.device)
    fraction = torch.linspace(1 / 32, 1, 16, dtype=like.dtype, device=like.device) ** 2
    r_e = column(r_e_max) * fraction
    # Scalars of one's own functions have to meet the radii of their own problem.
    e_params = function_params({"ln_Omega0": r_e_max, "e_params": e_params}, "e_params")
    span = torch.pi / 2 if all(m % 2 == 0 for m in distortion.orders) else torch.pi
    cos = torch.linspace(0, span, n_theta, dtype=r_e.dtype, device=r_e.device).cos()
    harmonics = chebyshev(cos, distortion.orders)
    checks = torch.zeros(*r_e.shape, n_theta, dtype=r_e.dtype, device=r_e.device)
    for m, (e, slope, _) in distortion.derivatives(r_e, e_params).items():
        checks = checks + (e + r_e * slope).unsqueeze(-1) * harmonics[m]
    return (checks > -1).flatten(-2).all(-1), checks
