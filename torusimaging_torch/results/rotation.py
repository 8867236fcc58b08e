r"""Rotation curves from radial motion.

A star of angular momentum :math:`L_z` moves in radius as if in one dimension, in the effective
potential :math:`\Phi(R) + L_z^2/2R^2`. A fit to such stars gives the acceleration a(R) in it, and
so

.. math::

    \frac{d\Phi}{dR} = \frac{L_z^2}{R^3} - a(R), \qquad v_c^2 = R\,\frac{d\Phi}{dR} .

Where the acceleration vanishes, at the centre ``pos0`` of the fit, is the guiding radius: there
:math:`v_c = L_z/R`.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.units import to_quantity, to_tensor

__all__ = ["rotation_curve"]

_KM_S = u.km / u.s


def rotation_curve(result: FitResult, R: u.Quantity, L_z: u.Quantity) -> QTable:
    """Return the radial force and the circular velocity of a fit of radii and radial velocities.

    Parameters
    ----------
    result
        A fit of stars of one angular momentum, with radii as positions ("vp").
    R
        Radii with shape (N,).
    L_z
        The angular momentum, such as ``1900 * u.kpc * u.km / u.s``.

    Returns
    -------
    astropy.table.QTable
        Columns R, dPhi_dR and v_c (km/s), the latter two with errors by linear propagation if the
        fit has a covariance. A circular velocity is nan where the force points outwards. In
        ``meta`` the guiding radius R_g and its error, as texts.

    Raises
    ------
    ValueError
        If the fit is none of radii: its elliptical angle convention is not "vp".
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.

    Examples
    --------
    >>> import numpy as np
    >>> from torusimaging_torch.results import FitResult
    >>> result = FitResult.read("radial.ecsv")  # doctest: +SKIP
    >>> R = np.linspace(6, 10, 5) * u.kpc
    >>> rotation_curve(result, R, 1900 * u.kpc * u.km / u.s)  # doctest: +SKIP
    """
    units = result.model.units
    R = to_quantity(to_tensor(R, "R", "length", units).reshape(-1), "length", units)
    table = result.profiles(R)
    found = QTable(
        {
            "R": R,
            "dPhi_dR": result.model.get_radial_force(R, result.params, L_z),
            "v_c": result.model.get_circular_velocity(R, result.params, L_z),
        }
    )
    if "acceleration_err" in table.colnames:
        found["dPhi_dR_err"] = table["acceleration_err"]
        with np.errstate(divide="ignore", invalid="ignore"):  # where nothing circles
            found["v_c_err"] = (0.5 * R * table["acceleration_err"] / found["v_c"]).to(_KM_S)
    R_g, error = result.measured("pos0")
    found.meta = {"R_g": str(R_g), "R_g_err": str(error), "L_z": str(L_z)}
    return found
