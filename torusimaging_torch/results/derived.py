r"""What papers quote: surface density, midplane density and where the Sun is, beside theirs.

In one dimension Poisson's equation leaves the rotation curve out. With Oort's constants A and B,

.. math::

    \rho = -\frac{1}{4\pi G}\frac{da_z}{dz} + \rho_R, \qquad
    \rho_R = \frac{1}{4\pi G R}\frac{d v_c^2}{dR} = \frac{B^2 - A^2}{2\pi G}

and the surface density within \|z\| < h has :math:`2 h \rho_R` more (Bovy & Tremaine 2012, ApJ 756,
89). Of a flat rotation curve, A = -B, it is nothing; that is the default.
"""

from __future__ import annotations

from typing import NamedTuple

import astropy.constants as const
import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch.results.fit_result import FitResult

__all__ = ["PUBLISHED", "derived_quantities", "rotation_density"]

_SURFACE, _DENSITY = u.Msun / u.pc**2, u.Msun / u.pc**3
_HEIGHT = 1.1 * u.kpc


class Published(NamedTuple):
    """A value near the Sun from a paper."""

    value: u.Quantity
    error: u.Quantity
    source: str


PUBLISHED = {
    "Sigma": (
        Published(71 * _SURFACE, 6 * _SURFACE, "Kuijken & Gilmore 1991"),
        Published(68 * _SURFACE, 4 * _SURFACE, "Bovy & Rix 2013"),
    ),
    "rho_0": (
        Published(0.102 * _DENSITY, 0.010 * _DENSITY, "Holmberg & Flynn 2000"),
        Published(0.097 * _DENSITY, 0.013 * _DENSITY, "McKee et al. 2015"),
    ),
    "z_sun": (Published(20.8 * u.pc, 0.3 * u.pc, "Bennett & Bovy 2019"),),
    "w_sun": (Published(7.25 * u.km / u.s, 0.37 * u.km / u.s, "Schoenrich et al. 2010"),),
}
"""Values near the Sun, by name: Sigma is that within 1.1 kpc."""


def rotation_density(A: u.Quantity, B: u.Quantity) -> u.Quantity:
    """Return the density that the rotation curve adds, from Oort's constants.

    Examples
    --------
    >>> print(rotation_density(15.3 * u.km / u.s / u.kpc, -11.9 * u.km / u.s / u.kpc).round(5))
    -0.00342 solMass / pc3
    """
    found = (B**2 - A**2) / (2 * np.pi * const.G)
    return found.to(_DENSITY, equivalencies=u.dimensionless_angles())


def derived_quantities(
    result: FitResult,
    height: u.Quantity = _HEIGHT,
    oort: tuple[u.Quantity, u.Quantity] | None = None,
) -> QTable:
    """Return what papers quote of a vertical fit, with errors by linear propagation.

    Parameters
    ----------
    result
        A fit of vertical positions and velocities.
    height
        Where the surface density is taken.
    oort
        Oort's constants A and B, for the term of the rotation curve; a flat one by default.

    Returns
    -------
    astropy.table.QTable
        Rows Sigma (within the height on both sides), rho_0, z_sun and w_sun (the Sun's height above
        the midplane, and its velocity away from it); columns quantity, value, error, unit, and
        published, in words. Errors are nan where they are not known; that of the rotation curve is
        not in them.

    Examples
    --------
    >>> from torusimaging_torch.results import FitResult
    >>> found = derived_quantities(FitResult.read("fit.ecsv"))  # doctest: +SKIP
    """
    pos0, pos0_err = result.measured("pos0")
    vel0, vel0_err = result.measured("vel0")
    table = result.profiles(u.Quantity([pos0, pos0 + height]))
    more = 0 * _DENSITY if oort is None else rotation_density(*oort)
    surface, density = table["surface_density"][1], table["density"][0]
    rows = [
        ("Sigma", surface + 2 * height * more, _error(table, "surface_density", 1), _SURFACE),
        ("rho_0", density + more, _error(table, "density", 0), _DENSITY),
        ("z_sun", -pos0, pos0_err, u.pc),
        ("w_sun", -vel0, vel0_err, u.km / u.s),
    ]
    return QTable(
        {
            "quantity": [row[0] for row in rows],
            "value": [row[1].to_value(row[3]) for row in rows],
            "error": [row[2].to_value(row[3]) for row in rows],
            "unit": [str(row[3]) for row in rows],
            "published": [_published(row[0], row[3]) for row in rows],
        }
    )


def _error(table: QTable, name: str, row: int) -> u.Quantity:
    known = f"{name}_err" in table.colnames
    return table[f"{name}_err"][row] if known else np.nan * table[name].unit


def _published(name: str, unit: u.UnitBase) -> str:
    texts = (
        f"{p.value.to_value(unit):g} +- {p.error.to_value(unit):g} ({p.source})"
        for p in PUBLISHED[name]
    )
    return "; ".join(texts)
