"""The potential of a fit for gala: a table of accelerations, joined by a cubic spline."""

from __future__ import annotations

import inspect
from functools import cached_property

import numpy as np
from gala.potential import PotentialBase
from gala.potential.common import PotentialParameter
from scipy.interpolate import CubicSpline, PPoly

from torusimaging_torch.arrays import Array

__all__ = ["TabulatedPotential"]

# Older versions of gala do not ask how many dimensions a parameter has.
_TABLE = {"ndim": 1} if "ndim" in inspect.signature(PotentialParameter).parameters else {}


class TabulatedPotential(PotentialBase):
    """A potential in one dimension from a table of accelerations; nan beyond its ends.

    `torusimaging_torch.results.to_gala` makes it from a fit. The density is that of
    one-dimensional gravity, (d^2 Phi / dz^2) / (4 pi G).

    Parameters
    ----------
    z
        Heights, increasing, with shape (N,), 0 among them.
    acceleration_table
        Accelerations there.
    units
        gala's unit system.

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> from gala.units import galactic
    >>> from torusimaging_torch.results.gala_potential import TabulatedPotential
    >>> z = np.linspace(-1, 1, 21) * u.kpc
    >>> potential = TabulatedPotential(z, -((0.08 / u.Myr) ** 2) * z, units=galactic)
    >>> print(potential.acceleration([0.5] * u.kpc))
    [[-0.0032]] kpc / Myr2
    """

    z = PotentialParameter("z", physical_type="length", **_TABLE)
    acceleration_table = PotentialParameter(
        "acceleration_table", physical_type="acceleration", **_TABLE
    )
    ndim = 1

    @cached_property
    def _slope(self) -> CubicSpline:
        heights, values = (self.parameters[name].value for name in ("z", "acceleration_table"))
        return CubicSpline(heights, -values, extrapolate=False)

    @cached_property
    def _integral(self) -> PPoly:
        return self._slope.antiderivative()

    @cached_property
    def _curvature(self) -> PPoly:
        return self._slope.derivative()

    def _energy(self, q: Array, t: float = 0.0) -> Array:
        return self._integral(q[:, 0]) - self._integral(0.0)

    def _gradient(self, q: Array, t: float = 0.0) -> Array:
        return self._slope(q)

    def _density(self, q: Array, t: float = 0.0) -> Array:
        return self._curvature(q[:, 0]) / (4 * np.pi * self.G)

    def _hessian(self, q: Array, t: float = 0.0) -> Array:
        return self._curvature(q[:, 0]).reshape(1, 1, -1)
