r"""A potential in place of the ellipse: orbits of a separable disk are circles, whatever its shape.

With :math:`z = q - q_0`, heights :math:`h_k` and weights :math:`w_k = \exp(p_k)`, a constant
:math:`w_0` beside them, the density, the acceleration and the potential are

.. math::

    \rho = w_0 + \sum_k w_k\,\mathrm{sech}^2(z/h_k), \quad
    a = -4\pi G \left[w_0 z + \sum_k w_k h_k \tanh(z/h_k)\right], \quad
    2 \Phi = z^2 F(z), \quad F = 4\pi G \left[w_0 + \sum_k w_k L(z/h_k)\right]

(`sech_squared`), and the plane is :math:`x = (v - v_0)/\sqrt{\Omega}`,
:math:`y = z \sqrt{F/\Omega}` with a fixed :math:`\Omega`, so that r keeps the unit that it has with
an ellipse. The density is positive, even and falls outwards.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import column
from torusimaging_torch.numerics.roots import increasing_root
from torusimaging_torch.torus.sech_squared import potential_ratio, surface_ratio
from torusimaging_torch.torus.transform import Axis, Transform

__all__ = ["PotentialEllipse", "Sheets"]


class Sheets(NamedTuple):
    """A sum of sheets at heights z (*B, N), divided by the plane's frequency."""

    Q: Tensor
    """F/Omega: y = z sqrt(Q)."""
    kappa: Tensor
    """-a/(z Omega)."""
    density: Tensor
    """4 pi G rho/Omega."""


class PotentialEllipse(Transform):
    """Position and velocity to the plane in which the orbits of a potential are circles.

    Its parameters are the centre pos0, vel0 with shape (*B,), and ln_rho with shape (*B, K + 1):
    the natural logs of the constant density and of the midplane densities of K sheets, in model
    units.

    Parameters
    ----------
    heights
        Heights of the sheets, in model units, with shape (K,) or (*B, K).
    omega
        The frequency of the plane, with shape () or (*B,).
    G
        The gravitational constant in model units.

    Raises
    ------
    ValueError
        If a height is not positive.

    Examples
    --------
    >>> import torch
    >>> transform = PotentialEllipse(torch.tensor([0.3, 1.0]), torch.tensor(0.07), 4.4985e-12)
    >>> zero, ln_rho = torch.tensor(0.0), torch.tensor([15.0, 18.0, 17.0])
    >>> r_e, theta_e = transform(torch.tensor([0.5]), torch.tensor([0.02]), zero, zero, ln_rho)
    """

    parameters_of_frame = ("pos0", "vel0", "ln_rho")
    logarithmic = ("ln_rho",)
    amounts = "ln_rho"
    heights: Tensor
    omega: Tensor

    def __init__(self, heights: Tensor, omega: Tensor, G: float) -> None:
        super().__init__("pv")
        if not bool((heights > 0).all()):
            raise ValueError(f"heights must be positive, got {heights.tolist()}")
        self.register_buffer("heights", heights)
        self.register_buffer("omega", torch.as_tensor(omega, dtype=heights.dtype))
        self.four_pi_G = 4 * math.pi * G

    @property
    def n_batch(self) -> int:
        """Number of batch dimensions of the heights."""
        return self.heights.ndim - 1

    @property
    def ln_rho_mean(self) -> Tensor:
        """The log density with which K + 1 equal sheets make the plane's frequency, (*B,)."""
        n = self.heights.shape[-1] + 1
        return (self.omega.square() / (self.four_pi_G * n)).log()

    def extra_repr(self) -> str:
        """Show the heights when printed."""
        first, last = (float(self.heights[..., i].max()) for i in (0, -1))
        return f"{self.heights.shape[-1]} heights from {first:.4g} to {last:.4g}"

    def sheets(self, z: Tensor, ln_rho: Tensor) -> Sheets:
        """Return what the sheets sum up to at heights z, with shape (*B, N)."""
        n = self.heights.shape[-1]
        if ln_rho.ndim == 0 or ln_rho.shape[-1] != n + 1:
            raise ValueError(
                f"ln_rho must have {n + 1} entries, of the constant and of {n} sheets, got shape "
                f"{tuple(ln_rho.shape)}"
            )
        w = self.weights(ln_rho)
        first, rest = column(w[..., 0]), w[..., 1:]
        s = z.unsqueeze(-1) / _by_point(self.heights, z)

        def total(ratio: Tensor) -> Tensor:
            return first + (ratio * _by_point(rest, z)).sum(-1)

        return Sheets(
            total(potential_ratio(s)), total(surface_ratio(s)), total(1 - torch.tanh(s).square())
        )

    def weights(self, ln_rho: Tensor) -> Tensor:
        """Return 4 pi G/Omega times the densities, with shape (*B, K + 1)."""
        return self.four_pi_G / self.omega.unsqueeze(-1) * ln_rho.exp()

    def plane(self, pos: Tensor, vel: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y, with shape (*B, N)."""
        pos0, vel0, ln_rho = frame
        z = pos - column(pos0)
        return (vel - column(vel0)) / column(self.omega.sqrt()), self._y(z, ln_rho)

    def _y(self, z: Tensor, ln_rho: Tensor) -> Tensor:
        return z * self.sheets(z, ln_rho).Q.sqrt()

    def place(self, x: Tensor, y: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return position and velocity at x and y, with shape (*B, N)."""
        pos0, vel0, ln_rho = frame
        velocity = x * column(self.omega.sqrt()) + column(vel0)
        return self.height(y, ln_rho) + column(pos0), velocity

    def height(self, y: Tensor, ln_rho: Tensor) -> Tensor:
        """Return z = q - pos0 at coordinates y (*B, N), differentiable."""
        with torch.no_grad():
            # F falls outwards, from that in the midplane to that of the constant alone.
            w = self.weights(ln_rho)
            size = y.abs().nan_to_num(0.0, 0.0, 0.0)
            upper = size / column(w[..., 0].sqrt()).clamp(min=torch.finfo(y.dtype).tiny ** 0.25)
            lower = size / column(w.sum(-1).sqrt())
        good = y.isfinite()
        inside = torch.where(good, y, 0.0)
        sign = torch.where(inside < 0, -1.0, 1.0)
        z = increasing_root(
            lambda z: self._y(z, ln_rho),
            inside * sign,
            lower * (1 - 1e-12),
            upper * (1 + 1e-12) + torch.finfo(y.dtype).tiny,
            fprime=lambda z: self._slope(z, ln_rho),
        )
        return torch.where(good, sign * z, torch.nan)

    def _slope(self, z: Tensor, ln_rho: Tensor) -> Tensor:
        """Return dy/dz."""
        at = self.sheets(z, ln_rho)
        return at.kappa / at.Q.sqrt()

    def axis(self, pos: Tensor, *frame: Tensor) -> Axis:
        """Return the position axis at positions (*B, N)."""
        pos0, _, ln_rho = frame
        z = pos - column(pos0)
        at, omega = self.sheets(z, ln_rho), column(self.omega)
        root = at.Q.sqrt()
        turn = -omega * z.abs() * at.kappa.square() / root
        return Axis(z, z.abs() * root, -omega * z * at.kappa, -omega * at.density, turn)

    def frequency(self, *frame: Tensor) -> Tensor:
        """Return the fixed frequency of the plane, with shape (*B,)."""
        return self.omega

    def ln_frequency(self, *frame: Tensor) -> Tensor:
        """Return half the log of 4 pi G rho in the midplane, with shape (*B,)."""
        return 0.5 * (self.omega * self.weights(frame[2]).sum(-1)).log()

    def stretch(self, y: Tensor, *frame: Tensor) -> Tensor:
        """Return sqrt(Omega) dz/dy at coordinates y (*B, N)."""
        ln_rho = frame[2]
        slope = self._slope(self.height(y, ln_rho), ln_rho)
        return column(self.omega.sqrt()) / slope


def _by_point(per_problem: Tensor, z: Tensor) -> Tensor:
    """Make (*B, K) broadcast against points (*B, N, 1), and (K,) against points of any shape."""
    return per_problem if per_problem.ndim == 1 else per_problem.unsqueeze(-2)
