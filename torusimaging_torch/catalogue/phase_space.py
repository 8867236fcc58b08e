"""From the sky to the Galaxy: positions and velocities in cylindrical coordinates."""

from __future__ import annotations

import astropy.units as u
import numpy as np

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.sun import CircularSpeed, Sun

__all__ = ["PHASE_SPACE", "galactocentric"]


_KMS = u.km / u.s
# A proper motion of 1 mas/yr at 1 kpc, in km/s.
_SPEED = (u.mas / u.yr * u.kpc).to(_KMS, equivalencies=u.dimensionless_angles())

PHASE_SPACE: dict[str, tuple[u.UnitBase, str]] = {
    "x": (u.kpc, "towards the Galactic centre, which is at 0; the Sun at -R_sun"),
    "y": (u.kpc, "along the rotation at the Sun"),
    "z": (u.kpc, "height above the midplane"),
    "R": (u.kpc, "distance to the axis of the Galaxy"),
    "phi": (u.rad, "azimuth: 0 at the Sun, growing along the rotation"),
    "v_R": (_KMS, "velocity away from the axis"),
    "v_phi": (_KMS, "velocity along the rotation"),
    "v_z": (_KMS, "velocity up"),
    "L_z": (u.kpc * _KMS, "angular momentum R v_phi, positive along the rotation"),
    "R_g": (u.kpc, "guiding radius, where R v_c = L_z; nan against the rotation"),
}
"""What is computed: units and meanings by name."""


def galactocentric(
    ra: Array | float,
    dec: Array | float,
    distance: Array | float,
    pmra: Array | float,
    pmdec: Array | float,
    radial_velocity: Array | float,
    sun: Sun | None = None,
    speed: CircularSpeed | None = None,
) -> dict[str, Array]:
    """Return positions and velocities in the Galaxy, bare numbers in the units of `PHASE_SPACE`.

    Parameters
    ----------
    ra, dec
        Directions (ICRS) in rad; all arguments have shapes that broadcast.
    distance
        In kpc.
    pmra, pmdec
        Proper motions in mas/yr; pmra includes cos(dec).
    radial_velocity
        Barycentric, in km/s.
    sun
        The Sun; by default `Sun`'s.
    speed
        Of circular orbits; by default 229 km/s.

    Examples
    --------
    >>> from torusimaging_torch.catalogue.phase_space import galactocentric
    >>> found = galactocentric(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    >>> print({name: round(float(x), 3) for name, x in found.items() if name in ("R", "z", "v_z")})
    {'z': 0.021, 'R': 8.275, 'v_z': 8.4}
    """
    sun, speed = sun or Sun(), speed or CircularSpeed()
    ra, dec, distance = (np.asarray(a, dtype=float) for a in (ra, dec, distance))
    sin_a, cos_a, sin_d, cos_d = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    along = cos_d * cos_a, cos_d * sin_a, sin_d
    east = -sin_a, cos_a, 0.0
    north = -sin_d * cos_a, -sin_d * sin_a, cos_d
    v_east, v_north = _SPEED * distance * pmra, _SPEED * distance * pmdec
    velocity = [
        radial_velocity * a + v_east * e + v_north * n
        for a, e, n in zip(along, east, north, strict=True)
    ]
    turn, shift = sun.from_icrs
    x, y, z = _turned(turn, [distance * a for a in along], shift)
    v_x, v_y, v_z = _turned(turn, velocity, sun.v_sun.to_value(_KMS))
    R, L_z = np.hypot(x, y), y * v_x - x * v_y
    v_R = (x * v_x + y * v_y) / R
    values = x, y, z, R, np.arctan2(y, -x), v_R, L_z / R, v_z, L_z, speed.guiding_radius(L_z)
    return dict(zip(PHASE_SPACE, values, strict=True))


def _turned(matrix: Array, vector: list[Array], shift: Array) -> list[Array]:
    x, y, z = vector
    return [m[0] * x + m[1] * y + m[2] * z + s for m, s in zip(matrix, shift, strict=True)]
