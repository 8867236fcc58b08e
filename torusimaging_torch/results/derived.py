r"""What papers quote: surface density, midplane density and where the Sun is, beside theirs.

In one dimension Poisson's equation leaves the rotation curve out. With Oort's constants A and B,

.. math::

    \rho = -\frac{1}{4\pi G}\frac{da_z}{dz} + \rho_R, \qquad
    \rho_R = \frac{1}{4\pi G R}\frac{d v_c^2}{dR} = \frac{B^2 - A^2}{2\pi G}

and the surface density within \|z\| < h has :math:`2 h \rho_R` more (Bovy & Tremaine 2012, ApJ 756,
89). Of a flat rotation curve, A = -B, it is nothing; that is the default. What is not baryons is
dark matter: of a given surface density of baryons the rest, spread evenly over 2 h, has the density
of dark matter near the Sun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import astropy.constants as const
import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch.results.arguments import one_quantity
from torusimaging_torch.results.fit_result import FitResult

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["PUBLISHED", "curve_density", "derived_quantities", "rotation_density"]

_SURFACE, _DENSITY = u.Msun / u.pc**2, u.Msun / u.pc**3
_OORT = u.km / u.s / u.kpc
_KINDS = {_SURFACE: "surface density", _DENSITY: "density", _OORT: "frequency"}
_HEIGHT = 1.1 * u.kpc


Measured: TypeAlias = u.Quantity | tuple[u.Quantity, u.Quantity]
"""What somebody else found, with its error or without."""


class Published(NamedTuple):
    """A value near the Sun from a paper."""

    value: u.Quantity
    error: u.Quantity
    source: str


PUBLISHED = {
    "Sigma": (
        Published(71 * _SURFACE, 6 * _SURFACE, "Kuijken & Gilmore 1991"),
        Published(68 * _SURFACE, 4 * _SURFACE, "Bovy & Rix 2013"),
        Published(70 * _SURFACE, 5 * _SURFACE, "McKee et al. 2015"),
        Published(72 * _SURFACE, 7.5 * _SURFACE, "Horta et al. 2024"),
    ),
    "rho_0": (
        Published(0.102 * _DENSITY, 0.010 * _DENSITY, "Holmberg & Flynn 2000"),
        Published(0.097 * _DENSITY, 0.013 * _DENSITY, "McKee et al. 2015"),
        Published(0.081 * _DENSITY, 0.012 * _DENSITY, "Horta et al. 2024"),
    ),
    "z_sun": (Published(20.8 * u.pc, 0.3 * u.pc, "Bennett & Bovy 2019"),),
    "w_sun": (Published(7.25 * u.km / u.s, 0.37 * u.km / u.s, "Schoenrich et al. 2010"),),
    "rho_dm": (Published(0.008 * _DENSITY, 0.003 * _DENSITY, "Bovy & Tremaine 2012"),),
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


def curve_density(
    v_c: Callable[[u.Quantity], u.Quantity], R: u.Quantity, step: float = 0.01
) -> u.Quantity:
    """Return the density that a rotation curve adds at a radius.

    Parameters
    ----------
    v_c
        Circular velocities at radii, a function of a Quantity.
    R
        The radius.
    step
        Over which fraction of the radius to either side the curve is differentiated.

    Examples
    --------
    A curve that falls by 1.7 km/s in a kpc:

    >>> falling = lambda R: 230 * u.km / u.s - 1.7 * u.km / u.s / u.kpc * (R - 8.3 * u.kpc)
    >>> print(curve_density(falling, 8.3 * u.kpc).round(5))
    -0.00174 solMass / pc3
    """
    near = R * np.array([1 - step, 1 + step])
    low, high = v_c(near) ** 2
    return ((high - low) / (2 * step * R) / (4 * np.pi * const.G * R)).to(_DENSITY)


def derived_quantities(
    result: FitResult,
    height: u.Quantity = _HEIGHT,
    oort: tuple[Measured, Measured] | None = None,
    rotation: Measured | None = None,
    baryons: Measured | None = None,
    samples: Samples | None = None,
) -> QTable:
    """Return what papers quote of a vertical fit, with errors by linear propagation.

    What has an error may be a pair (value, error).

    Parameters
    ----------
    result
        A fit of vertical positions and velocities.
    height
        Where the surface density is taken.
    oort
        Oort's constants A and B, for the term of the rotation curve; a flat one by default.
    rotation
        That term itself in place of Oort's constants: a density, as from `curve_density`.
    baryons
        Surface density of the baryons within the height, on both sides: what is left is dark
        matter.
    samples
        Samples of the posterior: for medians, and half of what lies between their 16th and 84th
        percentiles as errors.

    Returns
    -------
    astropy.table.QTable
        Rows Sigma (within the height on both sides), rho_0, z_sun and w_sun (the Sun's height above
        the midplane, and its velocity away from it), and with baryons Sigma_dm and rho_dm; columns
        quantity, value, error, unit, and published, in words. Errors are nan where they are not
        known.

    Raises
    ------
    ValueError
        If both Oort's constants and their term are given.

    Examples
    --------
    >>> from torusimaging_torch.results import FitResult
    >>> found = derived_quantities(FitResult.read("fit.ecsv"))  # doctest: +SKIP
    """
    if oort is not None and rotation is not None:
        raise ValueError("oort and rotation are the same term: pass one of them")
    height = one_quantity(height, "height", "length", result.model.units)
    more, more_err = _pair(rotation, "rotation", _DENSITY) if oort is None else _oort_term(*oort)
    pos0, pos0_err = _half(result.interval("pos0", samples))
    vel0, vel0_err = _half(result.interval("vel0", samples))
    table = result.profiles(u.Quantity([pos0, pos0 + height]), samples)
    surface, surface_err = _of_table(table, "surface_density", 1)
    density, density_err = _of_table(table, "density", 0)
    surface, surface_err = surface + 2 * height * more, np.hypot(surface_err, 2 * height * more_err)
    rows = [
        ("Sigma", surface, surface_err, _SURFACE),
        ("rho_0", density + more, np.hypot(density_err, more_err), _DENSITY),
        ("z_sun", -pos0, pos0_err, u.pc),
        ("w_sun", -vel0, vel0_err, u.km / u.s),
    ]
    if baryons is not None:
        seen, seen_err = _pair(baryons, "baryons", _SURFACE)
        dark, dark_err = surface - seen, np.hypot(surface_err, seen_err)
        rows.append(("Sigma_dm", dark, dark_err, _SURFACE))
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # within no height
            rows.append(("rho_dm", dark / (2 * height), dark_err / (2 * height), _DENSITY))
    return QTable(
        {
            "quantity": [row[0] for row in rows],
            "value": [row[1].to_value(row[3]) for row in rows],
            "error": [row[2].to_value(row[3]) for row in rows],
            "unit": [str(row[3]) for row in rows],
            "published": [_published(row[0], row[3]) for row in rows],
        }
    )


def _pair(value: object, name: str, unit: u.UnitBase) -> tuple[u.Quantity, u.Quantity]:
    """Return a value and its error, which is none if it is not given."""
    if value is None:
        return 0 * unit, 0 * unit
    value, error = value if isinstance(value, tuple) else (value, 0 * unit)
    return _with_unit(value, name, unit), _with_unit(error, name, unit)


def _with_unit(value: object, name: str, unit: u.UnitBase) -> u.Quantity:
    if getattr(value, "unit", None) is None:
        raise u.UnitTypeError(f"{name} must have a unit, such as {unit}, got {value!r}")
    return one_quantity(value, name, _KINDS[unit])


def _oort_term(A: object, B: object) -> tuple[u.Quantity, u.Quantity]:
    """Return the density of Oort's constants, and its error."""
    (A, A_err), (B, B_err) = (_pair(x, "oort", _OORT) for x in (A, B))
    error = np.hypot(A * A_err, B * B_err) / (np.pi * const.G)
    return rotation_density(A, B), error.to(_DENSITY, equivalencies=u.dimensionless_angles())


def _half(interval: u.Quantity) -> tuple[u.Quantity, u.Quantity]:
    """Return the middle of an interval (3,), and half its width."""
    return interval[1], (interval[2] - interval[0]) / 2


def _of_table(table: QTable, name: str, row: int) -> tuple[u.Quantity, u.Quantity]:
    """Return a profile's value, the median where there is one, and its error."""
    value = table[f"{name}_p50" if f"{name}_p50" in table.colnames else name][row]
    known = f"{name}_err" in table.colnames
    return value, table[f"{name}_err"][row] if known else np.nan * value.unit


def _published(name: str, unit: u.UnitBase) -> str:
    texts = (
        f"{p.value.to_value(unit):g} +- {p.error.to_value(unit):g} ({p.source})"
        for p in PUBLISHED.get(name, ())
    )
    return "; ".join(texts)
