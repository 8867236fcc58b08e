r"""What a transform is: from position and velocity to the plane where orbits are nearly circles.

The plane has a coordinate y of position alone and a coordinate x proportional to velocity,
:math:`x = (v - v_0)/\sqrt{\Omega}`. The orbits of a potential whose ellipses or circles these are
obey :math:`y^2/2 = \Phi/\Omega`, so that its acceleration is :math:`a = -\Omega\,y\,dy/dq`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.params import Params

__all__ = ["CONVENTIONS", "Axis", "Transform", "check_convention"]

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


class Axis(NamedTuple):
    """The position axis without distortion, at positions q; tensors with shape (*B, N)."""

    offset: Tensor
    """q - pos0."""
    r_e: Tensor
    """The radius |y|."""
    acceleration: Tensor
    """a = -Omega y dy/dq."""
    gradient: Tensor
    """da/dq."""
    turn: Tensor
    """a times the derivative of r_e by q."""


class Transform(nn.Module):
    """The contract of a transform: its parameters, its plane, and the way back.

    Subclasses name their parameters, each a leaf of the model's, and define `plane`, `height`,
    `axis` and `frequency`. All methods take the parameters' tensors in that order, as `frame`
    returns them.

    Parameters
    ----------
    convention
        "pv": the angle is zero on the velocity axis; "vp": on the position axis.
    """

    parameters_of_frame: tuple[str, ...] = ()
    """Names of the parameters; "pos0" and "vel0" are the first two."""
    logarithmic: tuple[str, ...] = ()
    """Those that are logarithms of what the potential depends on linearly."""
    amounts: str | None = None
    """The one of them with entries that add up: a constant, and others that are like neighbours."""

    def __init__(self, convention: str = "pv") -> None:
        super().__init__()
        self.convention = check_convention(convention)

    def extra_repr(self) -> str:
        """Show the convention when printed."""
        return f"convention={self.convention!r}"

    def frame(self, params: Params) -> tuple[Tensor, ...]:
        """Return the transform's own among a model's parameters.

        Raises
        ------
        ValueError
            If one is missing.
        """
        missing = [name for name in self.parameters_of_frame if name not in params]
        if missing:
            raise ValueError(
                f"params has no {', '.join(missing)}: expected {list(self.parameters_of_frame)} "
                f"beside e_params and label_params, got {sorted(map(str, params))}"
            )
        return tuple(params[name] for name in self.parameters_of_frame)

    def plane(self, pos: Tensor, vel: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y, with shape (*B, N), at positions and velocities in model units."""
        raise NotImplementedError

    def place(self, x: Tensor, y: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return position and velocity at x and y, with shape (*B, N): the inverse of `plane`."""
        raise NotImplementedError

    def axis(self, pos: Tensor, *frame: Tensor) -> Axis:
        """Return the position axis at positions (*B, N)."""
        raise NotImplementedError

    def axis_at(self, r_e: Tensor, *frame: Tensor) -> Axis:
        """Return the position axis above pos0 where the radius is r_e, (*B, N)."""
        pos, _ = self.place(torch.zeros_like(r_e), r_e, *frame)
        return self.axis(pos, *frame)

    def frequency(self, *frame: Tensor) -> Tensor:
        """Return the Omega of the plane, with shape (*B,)."""
        raise NotImplementedError

    def ln_frequency(self, *frame: Tensor) -> Tensor:
        """Return ln Omega0, the log frequency of small oscillations, with shape (*B,)."""
        raise NotImplementedError

    def stretch(self, y: Tensor, *frame: Tensor) -> Tensor | None:
        """Return sqrt(Omega) dq/dy at coordinates y (*B, N); None if it is one everywhere.

        It is by how much areas in position and velocity are larger than in the plane.
        """
        return None

    def potential(self, pos: Tensor, *frame: Tensor) -> Tensor:
        """Return the potential of the undistorted plane, zero at pos0, with shape (*B, N)."""
        r_e = self.axis(pos, *frame).r_e
        omega = self.frequency(*frame)
        return 0.5 * omega.unsqueeze(-1) * r_e.square() if omega.ndim else 0.5 * omega * r_e**2

    def cartesian(self, pos: Tensor, vel: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine-like and the sine-like coordinate of the angle, with shape (*B, N).

        Parameters
        ----------
        pos, vel
            Position and velocity with shape (*B, N), in model units.
        *frame
            The transform's parameters.
        """
        x, y = self.plane(pos, vel, *frame)
        return (x, y) if self.convention == "pv" else (y, x)

    def polar(self, pos: Tensor, vel: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return r_e and the cosine of theta_e, with shape (*B, N): all that a label needs.

        At r_e = 0 the cosine is 1 and gradients are 0, where those of a square root or of atan2
        would be infinite.
        """
        a, b = self.cartesian(pos, vel, *frame)
        square = a * a + b * b
        origin = square == 0
        r_e = torch.where(origin, 1.0, square).sqrt()
        return torch.where(origin, 0.0, r_e), torch.where(origin, 1.0, a / r_e)

    def inverse(self, r_e: Tensor, theta_e: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return position and velocity at r_e and theta_e, with shape (*B, N)."""
        a, b = r_e * theta_e.cos(), r_e * theta_e.sin()
        x, y = (a, b) if self.convention == "pv" else (b, a)
        return self.place(x, y, *frame)

    def forward(self, pos: Tensor, vel: Tensor, *frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return r_e and theta_e (in [-pi, pi], radian), with shape (*B, N)."""
        a, b = self.cartesian(pos, vel, *frame)
        r_e, _ = self.polar(pos, vel, *frame)
        a = torch.where(r_e == 0, torch.ones_like(a), a)
        return r_e, torch.atan2(b, a)
