"""A fit's potential for other libraries, as a table from below the midplane to above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from gala.units import galactic
from scipy.interpolate import CubicSpline

from torusimaging_torch.arrays import Array
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.results.arguments import one_quantity

if TYPE_CHECKING:
    from galpy.potential import linearPotential

    from torusimaging_torch.results.fit_result import FitResult
    from torusimaging_torch.results.gala_potential import TabulatedPotential

__all__ = ["to_gala", "to_galpy"]


def to_gala(result: FitResult, height: u.Quantity[u.kpc], n: int = 513) -> TabulatedPotential:
    """Return the potential of a fit as one of gala's.

    Parameters
    ----------
    result
        The fit.
    height
        How far the table reaches above and below the fitted midplane, which is at 0 in it. Beyond
        it all is nan.
    n
        Number of heights in the table, odd.

    Returns
    -------
    torusimaging_torch.results.gala_potential.TabulatedPotential
        A ``gala.potential.PotentialBase`` with one dimension: orbits can be integrated in it.

    Raises
    ------
    ValueError
        If the fit does not reach so far, or there are too few heights.

    Examples
    --------
    >>> from torusimaging_torch.results import to_gala
    >>> potential = to_gala(result, 0.8 * u.kpc)
    >>> print(potential.gradient([0.5] * u.kpc)[0].to(u.km / u.s / u.Myr).round(2))
    [2.23] km / (Myr s)
    """
    from torusimaging_torch.results.gala_potential import TabulatedPotential

    return TabulatedPotential(*_table(result, height, n), units=galactic)


def to_galpy(
    result: FitResult,
    height: u.Quantity[u.kpc],
    n: int = 513,
    ro: u.Quantity[u.kpc] = 8.275 * u.kpc,
    vo: u.Quantity[u.km / u.s] = 229 * u.km / u.s,
) -> linearPotential:
    """Return the potential of a fit as one of galpy's, which must be installed.

    Parameters
    ----------
    result, height, n
        As for `to_gala`.
    ro, vo
        galpy's units of length and velocity.

    Returns
    -------
    galpy.potential.linearPotential
        It cannot be pickled, since galpy is not there for all.

    Raises
    ------
    ValueError
        As for `to_gala`.
    ImportError
        If galpy is not installed.
    """
    from galpy.potential import linearPotential

    z, acceleration = _table(result, height, n)
    ro = one_quantity(ro, "ro", "length", at_least=0)
    vo = one_quantity(vo, "vo", "velocity", at_least=0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        bare, x = (-acceleration * ro / vo**2).to_value(u.one), (z / ro).to_value(u.one)
        slopes = np.diff(bare) / np.diff(x)
    if not np.isfinite(slopes).all() or not np.all(np.diff(x) > 0):
        raise ValueError(f"height {height} is too small or large in units of ro {ro} and vo {vo}")
    slope = CubicSpline(x, bare, extrapolate=False)
    integral = slope.antiderivative()

    class TabulatedPotential(linearPotential):
        def _evaluate(self, x: object, t: float = 0.0) -> Array | float:
            return integral(x) - integral(0.0)

        def _force(self, x: object, t: float = 0.0) -> Array | float:
            return -slope(x)

    return TabulatedPotential(amp=1.0, ro=ro, vo=vo)


def _table(result: FitResult, height: u.Quantity[u.kpc], n: int) -> tuple[u.Quantity, u.Quantity]:
    """Return heights about the midplane with shape (N,), and accelerations there."""
    n = whole(n, "n", 5)
    if n % 2 == 0:
        raise ValueError(f"n must be odd and at least 5, got {n}")
    height = one_quantity(height, "height", "length", result.model.units, at_least=0)
    z = np.linspace(-1, 1, n) * height
    found = result.profiles(z + result.quantity("pos0"))
    if found["extrapolated"].any():
        inside = np.abs(found["height"][~found["extrapolated"]]).max()
        raise ValueError(f"the fit reaches {inside:.4g}, height is {height}")
    return z, found["acceleration"]
