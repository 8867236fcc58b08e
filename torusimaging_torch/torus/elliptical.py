r"""The elliptical transform: from position and velocity to elliptical radius and angle.

With :math:`\Omega_0 = \exp(\mathtt{ln\_Omega0})`,

.. math::

    x = (v - v_0)/\sqrt{\Omega_0}, \quad y = (q - q_0)\sqrt{\Omega_0}, \quad r_e = \sqrt{x^2 + y^2}

(Price-Whelan et al. 2025, ApJ 979, 115, Section 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.params import column

__all__ = ["CONVENTIONS", "EllipticalTransform", "check_convention"]

CONVENTIONS = ("pv", "vp")
"""The angle is atan2(y, x) in "pv", zero on the velocity axis; atan2(x, y) in "vp", zero on the
position axis."""


def check_convention(convention: str) -> str:
    """Return the convention if it is one of `CONVENTIONS`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"elliptical_angle_convention must be 'pv' or 'vp', got {convention!r}")
    return convention


class EllipticalTransform(nn.Module):
    """Position and velocity to elliptical radius and angle.

    Parameters
    ----------
    convention
        "pv": the angle is zero on the velocity axis; "vp": on the position axis.
    """

    def __init__(self, convention: str = "pv") -> None:
        super().__init__()
        self.convention = check_convention(convention)

    def extra_repr(self) -> str:
        """Show the convention when printed."""
        return f"convention={self.convention!r}"

    def cartesian(
        self, pos: Tensor, vel: Tensor, pos0: Tensor, vel0: Tensor, ln_Omega0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the cosine-like and the sine-like coordinate of the angle, with shape (*B, N).

        Parameters
        ----------
        pos, vel
            Position and velocity with shape (*B, N), in model units.
        pos0, vel0, ln_Omega0
            Centre and log frequency with shape (*B,).
        """
        root = (0.5 * ln_Omega0).exp()
        x = (vel - column(vel0)) / column(root)
        y = (pos - column(pos0)) * column(root)
        return (x, y) if self.convention == "pv" else (y, x)

    def polar(
        self, pos: Tensor, vel: Tensor, pos0: Tensor, vel0: Tensor, ln_Omega0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return r_e and the cosine of theta_e, with shape (*B, N): all that a label needs.

        At r_e = 0 the cosine is 1 and gradients are 0, where those of a square root or of atan2
        would be infinite.
        """
        a, b = self.cartesian(pos, vel, pos0, vel0, ln_Omega0)
        square = a * a + b * b
        origin = square == 0
        r_e = torch.where(origin, 1.0, square).sqrt()
        return torch.where(origin, 0.0, r_e), torch.where(origin, 1.0, a / r_e)

    def inverse(
        self, r_e: Tensor, theta_e: Tensor, pos0: Tensor, vel0: Tensor, ln_Omega0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return position and velocity at r_e and theta_e, with shape (*B, N)."""
        root = column((0.5 * ln_Omega0).exp())
        a, b = r_e * theta_e.cos(), r_e * theta_e.sin()
        x, y = (a, b) if self.convention == "pv" else (b, a)
        return y / root + column(pos0), x * root + column(vel0)

    def forward(
        self, pos: Tensor, vel: Tensor, pos0: Tensor, vel0: Tensor, ln_Omega0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return r_e and theta_e (in [-pi, pi], radian), with shape (*B, N)."""
        a, b = self.cartesian(pos, vel, pos0, vel0, ln_Omega0)
        r_e, _ = self.polar(pos, vel, pos0, vel0, ln_Omega0)
        a = torch.where(r_e == 0, torch.ones_like(a), a)
        return r_e, torch.atan2(b, a)
