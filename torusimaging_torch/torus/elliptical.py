r"""The elliptical transform: from position and velocity to elliptical radius and angle.

With :math:`\Omega_0 = \exp(\mathtt{ln\_Omega0})`,

.. math::

    x = (v - v_0)/\sqrt{\Omega_0}, \quad y = (q - q_0)\sqrt{\Omega_0}, \quad r_e = \sqrt{x^2 + y^2}

(Price-Whelan et al. 2025, ApJ 979, 115, Section 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import column
from torusimaging_torch.torus.transform import CONVENTIONS, Axis, Transform, check_convention

__all__ = ["CONVENTIONS", "EllipticalTransform", "check_convention"]


class EllipticalTransform(Transform):
    """Position and velocity to elliptical radius and angle.

    Its parameters are the centre pos0, vel0 and the log frequency ln_Omega0, with shape (*B,) each.

    Parameters
    ----------
    convention
        "pv": the angle is zero on the velocity axis; "vp": on the position axis.
    """

    parameters_of_frame = ("pos0", "vel0", "ln_Omega0")

    def plane(self, pos: Tensor, vel: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y, with shape (*B, N)."""
        pos0, vel0, ln_Omega0 = frame
        root = column((0.5 * ln_Omega0).exp())
        return (vel - column(vel0)) / root, (pos - column(pos0)) * root

    def place(self, x: Tensor, y: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return position and velocity at x and y, with shape (*B, N)."""
        pos0, vel0, ln_Omega0 = frame
        root = column((0.5 * ln_Omega0).exp())
        return y / root + column(pos0), x * root + column(vel0)

    def axis(self, pos: Tensor, *frame: Tensor) -> Axis:
        """Return the position axis at positions (*B, N): a harmonic oscillator's."""
        pos0, _, ln_Omega0 = frame
        offset = pos - column(pos0)
        return self._axis(offset, offset.abs() * column(ln_Omega0.exp()).sqrt(), ln_Omega0)

    def axis_at(self, r_e: Tensor, *frame: Tensor) -> Axis:
        """Return the position axis where the radius is exactly r_e, without rounding."""
        _, _, ln_Omega0 = frame
        return self._axis(r_e / column((0.5 * ln_Omega0).exp()), r_e, ln_Omega0)

    def _axis(self, offset: Tensor, r_e: Tensor, ln_Omega0: Tensor) -> Axis:
        square = column(ln_Omega0.exp()) ** 2
        # d r_e/dq times (q - pos0) is r_e itself.
        return Axis(offset, r_e, -square * offset, -square * torch.ones_like(r_e), -square * r_e)

    def frequency(self, *frame: Tensor) -> Tensor:
        """Return Omega0, with shape (*B,)."""
        return frame[2].exp()

    def ln_frequency(self, *frame: Tensor) -> Tensor:
        """Return ln_Omega0, with shape (*B,), as it is without distortion."""
        return frame[2]
