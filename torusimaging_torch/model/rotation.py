r"""Forces of a model of radial motion: methods of the model, with positions that are radii.

Stars of one angular momentum move in the effective potential :math:`\Phi(R) + L_z^2/2R^2`, whose
acceleration the model gives: see `torusimaging_torch.results.rotation`, which adds errors.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np

from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.predictions import get_acceleration
from torusimaging_torch.numerics.params import Params
from torusimaging_torch.units import Numbers

__all__ = ["get_circular_velocity", "get_guiding_radius", "get_radial_force"]


def get_radial_force(model: Fronted, pos: Numbers, params: Params, L_z: u.Quantity) -> u.Quantity:
    """Return dPhi/dR at radii ``pos`` (*B, N), of stars with one angular momentum.

    Parameters
    ----------
    pos
        Radii with shape (*B, N).
    params
        Model parameters.
    L_z
        The angular momentum.

    Raises
    ------
    ValueError
        If the convention is not "vp": the model is none of radii.
    astropy.units.UnitConversionError
        If the angular momentum has another dimension.

    Examples
    --------
    >>> from torusimaging_torch import TorusImaging1DSpline
    >>> radial = TorusImaging1DSpline([0, 1], {}, {}, elliptical_angle_convention="vp")
    >>> circle = {"pos0": 8 * u.kpc, "ln_Omega0": -3.2, "e_params": {}, "vel0": 0}
    >>> circle["label_params"] = {"label_vals": [0.0, 1.0]}
    >>> L_z = 1840 * u.kpc * u.km / u.s
    >>> print(f"{radial.get_radial_force(8.5 * u.kpc, circle, L_z).to('km / (s Myr)'):.2f}")
    6.45 km / (Myr s)
    """
    if model.torus.convention != "vp":
        raise ValueError(
            "radial forces need a model of radii and radial velocities, with "
            f"elliptical_angle_convention='vp', got {model.torus.convention!r}"
        )
    unit = getattr(L_z, "unit", None)
    if unit is None or not unit.is_equivalent(u.kpc * u.km / u.s):
        got = repr(L_z) if unit is None else f"'{unit}'"
        raise u.UnitConversionError(
            f"L_z must be an angular momentum, such as in kpc km / s, got {got}"
        )
    momentum = model.border.quantity(model.border.tensor(L_z, "L_z", "action"), "action")
    a = get_acceleration(model, pos, params)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # at the centre, far out
        return (momentum**2 / _radius(model, pos) ** 3 - a).to(a.unit)


def get_circular_velocity(
    model: Fronted, pos: Numbers, params: Params, L_z: u.Quantity
) -> u.Quantity:
    """Return the circular velocity at radii ``pos`` (*B, N), nan where the force points outwards.

    Parameters and errors are those of `get_radial_force`.

    Examples
    --------
    >>> from torusimaging_torch import TorusImaging1DSpline
    >>> radial = TorusImaging1DSpline([0, 1], {}, {}, elliptical_angle_convention="vp")
    >>> circle = {"pos0": 8 * u.kpc, "ln_Omega0": -3.2, "e_params": {}, "vel0": 0}
    >>> circle["label_params"] = {"label_vals": [0.0, 1.0]}
    >>> print(radial.get_circular_velocity(8 * u.kpc, circle, 1840 * u.kpc * u.km / u.s).round(6))
    230.0 km / s
    """
    force = get_radial_force(model, pos, params, L_z)
    with np.errstate(over="ignore", invalid="ignore"):
        square = _radius(model, pos) * force
        return np.sqrt(square).to(u.km / u.s)


def get_guiding_radius(model: Fronted, params: Params) -> u.Quantity:
    """Return the guiding radius (*B,): the centre of the fit, where the acceleration vanishes.

    Examples
    --------
    >>> print(model.get_guiding_radius({**params, "pos0": 8.3}))
    8.3 kpc
    """
    return model.border.quantity(model.border.params(params)["pos0"], "length")


def _radius(model: Fronted, pos: Numbers) -> u.Quantity:
    return model.border.quantity(model.border.tensor(pos, "pos", "length"), "length")
