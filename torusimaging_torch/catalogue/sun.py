"""Where the Sun is and how it moves, and how fast circular orbits are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import astropy.coordinates as coord
import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.columns import kind_of, read_column
from torusimaging_torch.units import to_quantity, to_tensor, with_unit

__all__ = ["CircularSpeed", "Sun"]

_KMS = u.km / u.s


def _bare(value: object, name: str, kind: str) -> Array:
    """Return numbers in kpc and Myr, of what has to have a unit."""
    bare = to_tensor(value, name, kind).detach().numpy()
    if getattr(value, "unit", None) is None:
        raise u.UnitTypeError(f"{name} must have a unit, one of a {kind}, got {value!r}")
    return bare


@dataclass(frozen=True, eq=False)
class Sun:
    """The Sun in the Galaxy; the defaults are those of the papers on Orbital Torus Imaging.

    Attributes
    ----------
    R_sun
        Distance from the Sun to the Galactic centre.
    z_sun
        Height of the Sun above the midplane.
    v_sun
        Velocity of the Sun: towards the centre, along the rotation, up.

    Raises
    ------
    ValueError
        If the distance is not positive, or the height not smaller, or one is not finite.
    astropy.units.UnitConversionError, astropy.units.UnitTypeError
        If a unit is not one of length or speed, or there is none.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import Sun
    >>> print(Sun())
    R_sun 8.275 kpc, z_sun 20.8 pc, v_sun (8.4, 251.8, 8.4) km / s
    """

    R_sun: u.Quantity[u.kpc] = 8.275 * u.kpc
    z_sun: u.Quantity[u.pc] = 20.8 * u.pc
    v_sun: u.Quantity[u.km / u.s] = field(default_factory=lambda: [8.4, 251.8, 8.4] * _KMS)

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, kind in (("R_sun", "length"), ("z_sun", "length"), ("v_sun", "velocity")):
            value = getattr(self, name)
            bare = _bare(value, name, kind)
            object.__setattr__(self, name, with_unit(value))
            if bare.shape != ((3,) if name == "v_sun" else ()) or not np.isfinite(bare).all():
                expected = "three finite speeds" if name == "v_sun" else "a finite length"
                raise ValueError(f"{name} must be {expected}, got {value}")
        if not self.R_sun > abs(self.z_sun):
            raise ValueError(f"R_sun must be larger than z_sun, got {self.R_sun}, {self.z_sun}")

    def __str__(self) -> str:
        """Return the numbers with their names."""
        return ", ".join(f"{name} {text}" for name, text in self.describe().items())

    def describe(self) -> dict[str, str]:
        """Return the numbers by name, as texts with units.

        Examples
        --------
        >>> Sun().describe()["R_sun"]
        '8.275 kpc'
        """
        v_sun = ", ".join(f"{v:g}" for v in self.v_sun.value)
        lengths = {
            name: f"{x.value:g} {x.unit}"
            for name, x in (("R_sun", self.R_sun), ("z_sun", self.z_sun))
        }
        return {**lengths, "v_sun": f"({v_sun}) {self.v_sun.unit}"}

    @property
    def frame(self) -> coord.Galactocentric:
        """The same as a frame of astropy; the direction to the centre is astropy's."""
        return coord.Galactocentric(
            galcen_distance=self.R_sun,
            z_sun=self.z_sun,
            galcen_v_sun=coord.CartesianDifferential(self.v_sun),
            roll=0 * u.deg,
        )

    @cached_property
    def from_icrs(self) -> tuple[Array, Array]:
        """The matrix M (3, 3) and the vector b (3,), in kpc, with x' = M x + b.

        Both are read off six points that astropy transforms. Velocities are M v + v_sun.
        """
        ends = np.concatenate([np.eye(3), -np.eye(3)]).T * u.kpc
        points = coord.SkyCoord(coord.CartesianRepresentation(ends), frame="icrs")
        there = points.transform_to(self.frame).cartesian.xyz.to_value(u.kpc)
        plus, minus = there[:, :3], there[:, 3:]
        return (plus - minus) / 2, np.mean(there, axis=1)


@dataclass(frozen=True, eq=False)
class CircularSpeed:
    """The speed of circular orbits: one number, or a curve.

    Attributes
    ----------
    v_c
        The speed, or the speeds at ``R`` with shape (N,).
    R
        Increasing radii with shape (N,), for a curve; straight lines join its points.

    Raises
    ------
    ValueError
        If speeds are not positive, or radii or angular momenta do not increase.

    Examples
    --------
    >>> import astropy.units as u
    >>> from torusimaging_torch.catalogue import CircularSpeed
    >>> print(CircularSpeed(229 * u.km / u.s).guiding_radius(1832.0))
    8.0
    """

    v_c: u.Quantity[u.km / u.s] = 229 * _KMS
    R: u.Quantity[u.kpc] | None = None

    def __post_init__(self) -> None:
        """Check the curve."""
        for name, kind in (("v_c", "velocity"), ("R", "length")):
            value = getattr(self, name)
            if value is not None or name == "v_c":
                _bare(value, name, kind)
                object.__setattr__(self, name, with_unit(value))
        if not np.all(self.v_c > 0 * _KMS):
            raise ValueError(f"v_c must be positive, got {self.v_c}")
        if self.R is None:
            if self.v_c.shape != ():
                raise ValueError("v_c must be one speed, or come with radii R")
            return
        if self.R.ndim != 1 or self.R.shape != self.v_c.shape or len(self.R) < 2:
            raise ValueError(f"R and v_c must have one shape (N,), got {self.R}, {self.v_c}")
        with np.errstate(over="ignore", invalid="ignore"):
            rising = {
                name: np.diff(x) > 0 for name, x in (("R", self.R), ("R v_c", self.R * self.v_c))
            }
        for name, rises in rising.items():
            if not rises.all():
                raise ValueError(f"{name} must increase along the curve")

    @classmethod
    def read(cls, table: Table) -> CircularSpeed:
        """Take a curve from the columns R and v_c of a table, in kpc and km/s unless they say.

        Raises
        ------
        KeyError
            If a column is missing.
        """
        for name in ("R", "v_c"):
            if name not in table.colnames:
                raise KeyError(
                    f"a rotation curve needs columns R and v_c, the table has {table.colnames}"
                )
        columns = []
        for name, unit in (("R", u.kpc), ("v_c", _KMS)):
            values = read_column(table, name)
            if kind_of(values) != "number":
                raise ValueError(f"column {name!r} of a rotation curve must hold numbers")
            curve = u.Quantity(values, getattr(values, "unit", unit))
            if not np.isfinite(_bare(curve, name, "length" if name == "R" else "velocity")).all():
                raise ValueError(f"{name} of a rotation curve must be finite, got {curve}")
            columns.append(curve.to(unit))
        return cls(columns[1], columns[0])

    def __str__(self) -> str:
        """Return the number, or the ends of the curve."""
        if self.R is None:
            return f"{self.v_c.value:g} {self.v_c.unit}"
        low, high = self.R[[0, -1]].to_value(u.kpc)
        return f"a curve of {len(self.R)} points from {low:g} to {high:g} kpc"

    def guiding_radius(self, L_z: object) -> Array:
        """Return the radius in kpc of the circular orbit with an angular momentum.

        It solves R v_c(R) = L_z, and is nan where nothing does: for stars that go against the
        rotation, and beyond the ends of a curve.

        Parameters
        ----------
        L_z
            Angular momentum; in kpc km/s if it has no unit.

        Examples
        --------
        >>> CircularSpeed(229 * u.km / u.s).guiding_radius(np.array([1832.0]))
        array([8.])
        """
        if getattr(L_z, "unit", None) is not None:
            momentum = to_quantity(to_tensor(L_z, "L_z", "action"), "action")
            L_z = momentum.to_value(u.kpc * _KMS)
        L_z = to_tensor(L_z, "L_z", None).detach().numpy()
        if self.R is None:
            return np.where(L_z > 0, L_z / self.v_c.to_value(_KMS), np.nan)[()]
        R, v_c = self.R.to_value(u.kpc), self.v_c.to_value(_KMS)
        place = np.clip(np.searchsorted(R * v_c, L_z) - 1, 0, len(R) - 2)
        # Between two points v_c = v + s (R - r), so s R^2 + (v - s r) R = L_z.
        slope = (np.diff(v_c) / np.diff(R))[place]
        linear = v_c[place] - slope * R[place]
        root = linear + np.sqrt(np.maximum(linear**2 + 4 * slope * L_z, 0))
        inside = (L_z >= R[0] * v_c[0]) & (L_z <= R[-1] * v_c[-1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(inside, 2 * L_z / root, np.nan)
