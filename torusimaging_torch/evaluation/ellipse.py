r"""The elliptical transform and its derivatives by its own parameters.

With :math:`x = (v - v_0)/\sqrt{\Omega_0}` and :math:`y = (q - q_0) \sqrt{\Omega_0}`,

.. math::

    \partial f/\partial v_0 = -f_x/\sqrt{\Omega_0}, \quad
    \partial f/\partial q_0 = -f_y \sqrt{\Omega_0}, \quad
    \partial f/\partial\ln\Omega_0 = (y f_y - x f_x)/2

A transform is what stands between positions and velocities and the two coordinates a and b of the
angle's cosine and sine: see `Frame`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from torusimaging_torch.evaluation.observations import Observations

__all__ = ["Ellipse", "Frame", "Plane"]


class Plane(NamedTuple):
    """Coordinates of pixels: the cosine-like and the sine-like one, (R, N) each."""

    a: Tensor
    b: Tensor
    own: Any = None  # what the transform keeps for its derivatives


class Frame(Protocol):
    """A transform, as the formulas need it: coordinates, and what comes back through them.

    Frames are the transform's parameters, with shape (R, F), in the order of its names.
    """

    @property
    def convention(self) -> str:
        """Which coordinate goes with the cosine."""

    @property
    def n_problems(self) -> int:
        """Number of problems that it has numbers of their own of, or 1."""

    def coordinates(self, data: Observations, frame: Tensor, rows: Tensor | None = None) -> Plane:
        """Return the coordinates of pixels (R or 1, N) in the frames of problems ``rows``."""

    def pull(self, by_a: Tensor, by_b: Tensor, at: Plane, frame: Tensor) -> Tensor:
        """Return the gradient by the frame, (R, F), from those by the coordinates, (R, N)."""

    def jacobian(self, at: Plane, frame: Tensor) -> Plane:
        """Return the derivatives of both coordinates by the frame, (R, F, N) each."""

    def bend(self, by_a: Tensor, by_b: Tensor, at: Plane, frame: Tensor) -> Tensor:
        """Return the sum of the second derivatives, each times that by it, (R, F, F)."""


@dataclass(frozen=True)
class Ellipse:
    """The frame of `~torusimaging_torch.torus.EllipticalTransform`: pos0, vel0, ln_Omega0.

    Attributes
    ----------
    convention
        "pv": a is x, and b is y; "vp": the other way round.
    """

    convention: str = "pv"

    n_problems = 1

    def _swap(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        return (p, q) if self.convention == "pv" else (q, p)

    def coordinates(self, data: Observations, frame: Tensor, rows: Tensor | None = None) -> Plane:
        """Return the coordinates of pixels (R or 1, N) in frames (R, 3)."""
        pos0, vel0, ln_Omega0 = frame.unsqueeze(-1).unbind(-2)
        root = (0.5 * ln_Omega0).exp()
        return Plane(*self._swap((data.vel - vel0) / root, (data.pos - pos0) * root))

    def pull(self, by_a: Tensor, by_b: Tensor, at: Plane, frame: Tensor) -> Tensor:
        """Return the gradient by the frame, (R, 3), from those by the coordinates, (R, N)."""
        (f_x, f_y), (x, y) = self._swap(by_a, by_b), self._swap(at.a, at.b)
        root = (0.5 * frame[:, 2]).exp()
        by_pos0, by_vel0 = -f_y.sum(-1) * root, -f_x.sum(-1) / root
        return torch.stack([by_pos0, by_vel0, 0.5 * ((f_y * y).sum(-1) - (f_x * x).sum(-1))], -1)

    def jacobian(self, at: Plane, frame: Tensor) -> Plane:
        """Return the derivatives of both coordinates by the frame, (R, 3, N) each."""
        x, y = self._swap(at.a, at.b)
        root = (0.5 * frame[:, 2:]).exp().expand_as(x)
        zero = torch.zeros_like(x)
        by_frame = (
            torch.stack([zero, -1 / root, -0.5 * x], -2),
            torch.stack([-root, zero, 0.5 * y], -2),
        )
        return Plane(*self._swap(*by_frame))

    def bend(self, by_a: Tensor, by_b: Tensor, at: Plane, frame: Tensor) -> Tensor:
        """Return the sum of the coordinates' second derivatives, each times that by it; (R, 3, 3).

        Shapes are as in `pull`.
        """
        (f_x, f_y), (x, y) = self._swap(by_a, by_b), self._swap(at.a, at.b)
        root = (0.5 * frame[:, 2]).exp()
        bend = frame.new_zeros(len(frame), 3, 3)
        bend[:, 0, 2] = bend[:, 2, 0] = -0.5 * root * f_y.sum(-1)
        bend[:, 1, 2] = bend[:, 2, 1] = 0.5 * f_x.sum(-1) / root
        bend[:, 2, 2] = 0.25 * ((f_x * x).sum(-1) + (f_y * y).sum(-1))
        return bend
