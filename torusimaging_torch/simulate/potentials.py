"""Potentials for motion in one dimension: the truth that simulated stars move in.

`HarmonicOscillator` and `IsothermalSheet` are closed forms; `VerticalPotential` is the motion along
z at a fixed place in the plane of any gala potential. All are symmetric about z = 0 and picklable.
The methods that users call take and give Quantities; those whose names start with ``bare_`` take
and give NumPy arrays in kpc and Myr, and are all that a potential of your own has to write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import astropy.units as u
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline

from torusimaging_torch.units import Numbers, gravitational_constant, to_quantity, to_tensor

__all__ = [
    "Z_LIMIT",
    "HarmonicOscillator",
    "IsothermalSheet",
    "SymmetricPotential",
    "VerticalPotential",
    "even_spline",
    "from_bare",
    "milky_way",
    "require_potential",
    "to_bare",
]

Array = NDArray[np.float64]

Z_LIMIT = 100.0
"""Height in kpc beyond which an orbit counts as unbound."""

# Heights are tabulated evenly in asinh(z / _Z_SCALE): linear inside, logarithmic outside. The scale
# is below the thickness of any disk; with 2048 nodes the steps are 0.4 pc and 0.4 per cent of z.
_Z_SCALE = 0.1
_N_NODES = 2048
_TABLE_TOLERANCE = 1e-6
# Beyond these sizes, in kpc and Myr, squares and quotients of numbers are none.
_SIZES = 1e-70, 1e70


def to_bare(value: object, name: str, kind: str) -> Array:
    """Turn a Quantity into a NumPy array in kpc and Myr, as `to_tensor` does."""
    return to_tensor(value, name, kind).detach().numpy()


def from_bare(values: object, kind: str) -> u.Quantity:
    """Turn a NumPy array in kpc and Myr into a Quantity."""
    return to_quantity(torch.from_numpy(np.asarray(values, dtype=np.float64)), kind)


def even_spline(x: Array, values: Array) -> BSpline:
    """Interpolate an even function with a spline of degree 5.

    Parameters
    ----------
    x
        Nodes at (0.5, 1.5, 2.5, ...) steps, with shape (K,): zero lies between the first and its
        mirror image, so a function that is 0/0 there needs no special case.
    values
        With shape (K,) or (K, M).
    """
    mirrored = np.concatenate([values[::-1], values])
    return make_interp_spline(np.concatenate([-x[::-1], x]), mirrored, k=5)


def _positive(value: object, name: str, kind: str) -> float:
    bare = to_bare(value, name, kind)
    if bare.ndim != 0 or not _SIZES[0] < bare < _SIZES[1]:
        raise ValueError(f"{name} must be one positive number, got {value}")
    return float(bare)


def _at(function: Callable[[Array], Array], pos: object, factor: float = 1.0) -> Array:
    """Return a multiple of a function at heights: infinite where its numbers overflow."""
    z = to_bare(pos, "pos", "length")
    with np.errstate(over="ignore", invalid="ignore"):
        return factor * function(z)


class SymmetricPotential(ABC):
    """A potential Phi(z) = Phi(-z), zero at z = 0, with a force towards z = 0 everywhere.

    A subclass writes `bare_potential`, `bare_acceleration` and `bare_gradient`, each accurate in
    the relative sense down to z = 0. Densities are those of one-dimensional gravity, as in an
    infinite sheet: the radial part of Poisson's equation is left out.
    """

    @abstractmethod
    def bare_potential(self, z: Array) -> Array:
        """Return Phi in kpc^2/Myr^2 at heights z in kpc, any shape."""

    @abstractmethod
    def bare_acceleration(self, z: Array) -> Array:
        """Return a = -dPhi/dz in kpc/Myr^2 at heights z in kpc, any shape."""

    @abstractmethod
    def bare_gradient(self, z: Array) -> Array:
        """Return da/dz in 1/Myr^2 at heights z in kpc, any shape."""

    def potential(self, pos: Numbers) -> u.Quantity:
        """Return Phi(z) - Phi(0) at heights ``pos`` (a length, any shape)."""
        return from_bare(_at(self.bare_potential, pos), "potential")

    def acceleration(self, pos: Numbers) -> u.Quantity:
        """Return a(z) at heights ``pos`` (a length, any shape)."""
        return from_bare(_at(self.bare_acceleration, pos), "acceleration")

    def acceleration_gradient(self, pos: Numbers) -> u.Quantity:
        """Return da/dz at heights ``pos`` (a length, any shape)."""
        return from_bare(_at(self.bare_gradient, pos), "acceleration gradient")

    def density(self, pos: Numbers) -> u.Quantity:
        """Return the one-dimensional Poisson density -(da/dz) / (4 pi G) at heights ``pos``."""
        factor = -1 / (4 * np.pi * gravitational_constant())
        return from_bare(_at(self.bare_gradient, pos, factor), "density")

    def surface_density(self, pos: Numbers) -> u.Quantity:
        """Return the surface density |a| / (2 pi G) between -``pos`` and ``pos``."""
        factor = 1 / (2 * np.pi * gravitational_constant())
        return from_bare(np.abs(_at(self.bare_acceleration, pos, factor)), "surface density")

    def launch_speed(self, z: Array) -> Array:
        """Return sign(z) sqrt(2 Phi): the speed (kpc/Myr) at z = 0 that just reaches z (kpc)."""
        return np.sign(z) * np.sqrt(2 * self.bare_potential(z))

    @cached_property
    def _heights(self) -> tuple[Array, Array]:
        z = _Z_SCALE * np.sinh(np.linspace(0, np.arcsinh(Z_LIMIT / _Z_SCALE), _N_NODES))
        return self.launch_speed(z), z

    def height(self, speed: Array) -> Array:
        """Return the height in kpc that a launch speed (kpc/Myr, any shape) reaches.

        The inverse of `launch_speed`, to machine precision; nan beyond `Z_LIMIT`.
        """
        target = np.abs(speed)
        z = np.interp(target, *self._heights, right=np.nan)
        # The table is good to 3e-6, and each Newton step squares that.
        for _ in range(2):
            z = np.maximum(z, 1e-100)  # keeps 0/0 out of the next line
            reached = self.launch_speed(z)
            z = z + (reached - target) * reached / self.bare_acceleration(z)
        return np.copysign(np.maximum(z, 0.0), speed)


def require_potential(potential: object) -> None:
    """Raise a TypeError unless the argument is a `SymmetricPotential`."""
    if not isinstance(potential, SymmetricPotential):
        raise TypeError(
            "potential must be a SymmetricPotential such as HarmonicOscillator, IsothermalSheet or "
            f"VerticalPotential(gala_potential, R), got {type(potential).__name__}"
        )


@dataclass(frozen=True)
class HarmonicOscillator(SymmetricPotential):
    """Phi = Omega^2 z^2 / 2.

    Attributes
    ----------
    Omega
        Angular frequency (rad/Myr, 1/Gyr, ...).

    Examples
    --------
    >>> from torusimaging_torch.simulate import HarmonicOscillator
    >>> oscillator = HarmonicOscillator(0.08 * u.rad / u.Myr)
    >>> print(oscillator.acceleration(1 * u.kpc))
    -0.0064 kpc / Myr2
    """

    Omega: u.Quantity

    def __post_init__(self) -> None:
        """Check the frequency."""
        _positive(self.Omega, "Omega", "frequency")

    @cached_property
    def _omega(self) -> float:
        return _positive(self.Omega, "Omega", "frequency")

    def bare_potential(self, z: Array) -> Array:
        """Return Omega^2 z^2 / 2."""
        return 0.5 * (self._omega * z) ** 2

    def bare_acceleration(self, z: Array) -> Array:
        """Return -Omega^2 z."""
        return -(self._omega**2) * z

    def bare_gradient(self, z: Array) -> Array:
        """Return -Omega^2."""
        return np.full(np.shape(z), -(self._omega**2))


@dataclass(frozen=True)
class IsothermalSheet(SymmetricPotential):
    """The self-gravitating isothermal sheet, rho = rho_0 sech^2(z/z0) (Spitzer 1942, ApJ 95, 329).

    Phi = 2 sigma^2 ln cosh(z/z0), with sigma^2 = 2 pi G rho_0 z0^2.

    Attributes
    ----------
    sigma
        Velocity dispersion of the matter that makes the potential.
    z0
        Thickness.

    Examples
    --------
    >>> from torusimaging_torch.simulate import IsothermalSheet
    >>> sheet = IsothermalSheet(20 * u.km / u.s, 300 * u.pc)
    >>> print(sheet.density(0 * u.pc).to(u.Msun / u.pc**3).round(3))
    0.164 solMass / pc3
    """

    sigma: u.Quantity
    z0: u.Quantity

    def __post_init__(self) -> None:
        """Check the two numbers."""
        _positive(self.sigma, "sigma", "velocity")
        _positive(self.z0, "z0", "length")

    @cached_property
    def _bare(self) -> tuple[float, float]:
        return _positive(self.sigma, "sigma", "velocity"), _positive(self.z0, "z0", "length")

    def bare_potential(self, z: Array) -> Array:
        """Return 2 sigma^2 ln cosh(z/z0)."""
        sigma, z0 = self._bare
        x = np.abs(z) / z0
        # Two forms of ln cosh: the first is exact near zero, the second does not overflow.
        inner = 0.5 * np.log1p(np.sinh(np.minimum(x, 1.0)) ** 2)
        outer = x + np.log1p(np.exp(-2 * x)) - np.log(2)
        return 2 * sigma**2 * np.where(x < 1, inner, outer)

    def bare_acceleration(self, z: Array) -> Array:
        """Return -(2 sigma^2/z0) tanh(z/z0)."""
        sigma, z0 = self._bare
        return -2 * sigma**2 / z0 * np.tanh(z / z0)

    def bare_gradient(self, z: Array) -> Array:
        """Return -2 (sigma/z0)^2 sech^2(z/z0)."""
        sigma, z0 = self._bare
        decay = np.exp(-2 * np.abs(z) / z0)
        return -2 * (sigma / z0) ** 2 * 4 * decay / (1 + decay) ** 2


@dataclass(frozen=True)
class VerticalPotential(SymmetricPotential):
    """Motion along z at the fixed place (x, y) = (R, 0) in a gala potential.

    The force is evaluated once on some ten thousand heights up to `Z_LIMIT` and interpolated with
    splines of degree 5; Phi is its integral (Gauss-Legendre between the nodes). In gala's
    ``MilkyWayPotential2022`` at R = 8.3 kpc the force agrees with gala to 1e-12 and da/dz to 1e-9.

    Attributes
    ----------
    gala_potential
        Any gala potential with physical units that is symmetric about z = 0.
    R
        Distance from the centre, in the plane.

    Raises
    ------
    ValueError
        If the force is not symmetric, does not point to z = 0, or is so sharp (a razor-thin disk)
        that the splines miss it by more than one part in a million.

    Examples
    --------
    >>> import gala.potential as gp
    >>> from torusimaging_torch.simulate import VerticalPotential
    >>> galaxy = gp.MilkyWayPotential2022()
    >>> here = VerticalPotential(galaxy, 8.3 * u.kpc)
    >>> print(here.surface_density(1.1 * u.kpc).to(u.Msun / u.pc**2).round(1))
    67.7 solMass / pc2
    """

    gala_potential: Any
    R: u.Quantity

    def __post_init__(self) -> None:
        """Check the arguments and fill the tables."""
        if not hasattr(self.gala_potential, "acceleration"):
            raise TypeError(
                f"gala_potential must be a gala potential, got {type(self.gala_potential).__name__}"
            )
        radius = to_bare(self.R, "R", "length")
        if radius.ndim != 0 or not np.isfinite(radius) or radius < 0:
            raise ValueError(f"R must be one number, zero or positive, got {self.R}")
        _ = self._splines

    def _gala_force(self, z: Array) -> Array:
        place = np.zeros((3, z.size))
        place[0], place[2] = to_bare(self.R, "R", "length"), z.ravel()
        force = self.gala_potential.acceleration(from_bare(place, "length"))[2]
        return to_bare(force, "gala_potential.acceleration", "acceleration").reshape(z.shape)

    @cached_property
    def _splines(self) -> tuple[BSpline, BSpline]:
        """-a/z and Phi/z^2 over asinh(z / _Z_SCALE): even functions without a zero."""
        step = np.arcsinh(Z_LIMIT / _Z_SCALE) / (_N_NODES - 0.5)
        x = step * (np.arange(_N_NODES) + 0.5)
        z = _Z_SCALE * np.sinh(x)
        force = self._gala_force(z)
        self._check_force(z, force)
        edges = np.concatenate([[0.0], z])
        nodes, weights = np.polynomial.legendre.leggauss(4)
        width = np.diff(edges)[:, None]
        inner = edges[:-1, None] + width * (nodes + 1) / 2
        phi = np.cumsum((-self._gala_force(inner) * weights * width / 2).sum(axis=1))
        stiffness = even_spline(x, -force / z)
        self._check_table(x[1:] - step / 2, stiffness)
        return stiffness, even_spline(x, phi / z**2)

    def _check_force(self, z: Array, force: Array) -> None:
        if not np.all(force < 0):
            raise ValueError(
                "the force must point to z = 0 from everywhere: it does not at "
                f"z = {z[~(force < 0)][0]:.3g} kpc; choose another potential or another R"
            )
        asymmetry = np.max(np.abs(1 + self._gala_force(-z) / force))
        if asymmetry > _TABLE_TOLERANCE:
            raise ValueError(
                "gala_potential must be symmetric about z = 0: the forces above and below differ "
                f"by up to a part of {asymmetry:.1g}"
            )

    def _check_table(self, x: Array, stiffness: BSpline) -> None:
        z = _Z_SCALE * np.sinh(x)
        error = np.max(np.abs(1 + stiffness(x) * z / self._gala_force(z)))
        if error > _TABLE_TOLERANCE:
            raise ValueError(
                f"the force has features too sharp to tabulate (error {error:.1g}, allowed "
                f"{_TABLE_TOLERANCE:g}): use a disk of finite thickness, or R > 0 in a cusp"
            )

    def bare_potential(self, z: Array) -> Array:
        """Return Phi(R, z) - Phi(R, 0)."""
        return self._splines[1](np.arcsinh(z / _Z_SCALE)) * z**2

    def bare_acceleration(self, z: Array) -> Array:
        """Return a_z(R, z)."""
        return -self._splines[0](np.arcsinh(z / _Z_SCALE)) * z

    def bare_gradient(self, z: Array) -> Array:
        """Return da_z/dz(R, z)."""
        x = np.arcsinh(z / _Z_SCALE)
        stiffness = self._splines[0]
        return -stiffness(x) - stiffness(x, 1) * z / np.hypot(z, _Z_SCALE)


def milky_way(R: Numbers = 8.3 * u.kpc) -> VerticalPotential:
    """Return the vertical motion at R in gala's ``MilkyWayPotential2022``.

    Examples
    --------
    >>> from torusimaging_torch.simulate import milky_way
    >>> print(milky_way(8.3 * u.kpc).acceleration(0.5 * u.kpc).to(u.km / u.s / u.Myr).round(3))
    -1.486 km / (Myr s)
    """
    import gala.potential as gp  # more than a second: only for those who ask

    try:
        galaxy = gp.MilkyWayPotential(version="v2")
    except TypeError:  # gala 1.9 knows it under the older name only
        galaxy = gp.MilkyWayPotential2022()
    return VerticalPotential(galaxy, R)
