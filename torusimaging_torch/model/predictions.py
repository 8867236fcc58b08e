"""What a model says about places: labels, forces, densities; methods of the model."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.inference.pixels import is_grid
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.leaves import checked_params
from torusimaging_torch.numerics.params import Params, batch_shape
from torusimaging_torch.numerics.ranges import one_of
from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.orbits.contours import edge
from torusimaging_torch.torus import acceleration as dynamics
from torusimaging_torch.torus.at_knots import AtKnots, knots_of
from torusimaging_torch.torus.distortion import check_e_funcs as check_distortion
from torusimaging_torch.torus.energy import energy_forces
from torusimaging_torch.units import Numbers

__all__ = [
    "at_knots",
    "beyond_edge",
    "check_e_funcs",
    "compute_elliptical",
    "get_acceleration",
    "get_acceleration_deriv",
    "get_density",
    "get_label",
    "get_potential",
    "get_surface_density",
]


def get_label(model: Fronted, pos: Numbers, vel: Numbers, params: Params) -> Tensor:
    """Return the predicted label.

    Parameters
    ----------
    pos, vel
        Positions and velocities, with shape (*B, N), or a grid of them.
    params
        Model parameters.

    Returns
    -------
    Tensor
        Labels with shape (*B, N), of a grid with its shape in the place of N, differentiable.

    Raises
    ------
    ValueError
        If parameters of a batch and positions have shapes that do not fit.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.

    Examples
    --------
    >>> model.get_label(500 * u.pc, 20 * u.km / u.s, params)
    tensor(0.1756, dtype=torch.float64)
    """
    p, pos, vel, shape = _places(model, params, pos, vel)
    return _as_given(model.torus(pos, vel, p), shape)


def _as_given(x: Tensor, shape: torch.Size | None) -> Tensor:
    return x if shape is None else x.unflatten(-1, shape)


def _places(
    model: Fronted, params: Params, pos: Numbers, vel: Numbers
) -> tuple[Params, Tensor, Tensor, torch.Size | None]:
    """Return parameters, positions and velocities.

    For parameters of a batch a grid of them is one dimension; its shape comes with it.
    """
    p = checked_params(model, params)
    pos, vel = (
        model.border.tensor(pos, "pos", "length"),
        model.border.tensor(vel, "vel", "velocity"),
    )
    batch, shape = batch_shape(p), None
    try:
        broadcast_shapes(pos.shape, vel.shape)
    except ValueError:
        raise ValueError(
            f"pos and vel must have shapes that broadcast, got {tuple(pos.shape)} and "
            f"{tuple(vel.shape)}"
        ) from None
    if batch and is_grid(pos, vel):
        shape, pos, vel = pos.shape[-2:], pos.flatten(-2), vel.flatten(-2)
    for name, x in (("pos", pos), ("vel", vel)):
        _check_batch(name, x, batch)
    return p, pos, vel, shape


def _check_batch(name: str, x: Tensor, batch: torch.Size) -> None:
    try:
        broadcast_shapes(batch, x.shape[:-1])
    except ValueError:
        raise ValueError(
            f"{name} must have the shape (*B, N) of a batch of parameters {tuple(batch)}, or (N,) "
            f"for all alike, got {tuple(x.shape)}"
        ) from None


def _positions(model: Fronted, params: Params, pos: Numbers) -> tuple[Tensor, Params]:
    """Return positions (*B, N) and parameters."""
    p, pos = checked_params(model, params), model.border.tensor(pos, "pos", "length")
    _check_batch("pos", pos, batch_shape(p))
    return pos, p


def compute_elliptical(
    model: Fronted, pos: Numbers, vel: Numbers, params: Params
) -> tuple[u.Quantity, u.Quantity]:
    r"""Return the elliptical radius r_e and the elliptical angle theta_e.

    Parameters
    ----------
    pos, vel
        Positions and velocities, with shape (*B, N).
    params
        Model parameters.

    Returns
    -------
    r_e, theta_e
        Quantities with shape (*B, N): in length (angle/time)^(1/2), since :math:`r_e^2` is a
        squared length times a frequency, and in angle from -pi to pi.

    Examples
    --------
    >>> r_e, theta_e = model.compute_elliptical(500 * u.pc, 20 * u.km / u.s, params)
    >>> print(f"{r_e:.4f}, {theta_e.to(u.deg):.1f}")
    0.1556 kpc rad(1/2) / Myr(1/2), 61.2 deg
    """
    border, (p, pos, vel, shape) = model.border, _places(model, params, pos, vel)
    found = model.torus.transform(pos, vel, *model.torus.transform.frame(p))
    r_e, theta_e = (_as_given(x, shape) for x in found)
    return border.quantity(r_e, "elliptical radius"), border.quantity(theta_e, "angle")


def get_acceleration(
    model: Fronted, pos: Numbers, params: Params, *, method: str = "turning"
) -> u.Quantity:
    """Return the acceleration at ``pos`` (*B, N).

    Parameters
    ----------
    pos
        Positions with shape (*B, N).
    params
        Model parameters.
    method
        "turning": from the shape of contours where they turn, in the limit of zero velocity;
        "energy": from both ends of a contour, see `torusimaging_torch.torus.energy`. The gap
        between the two tells what harmonics cannot follow.

    Raises
    ------
    ValueError
        If there is no such method.

    Examples
    --------
    >>> print(f"{model.get_acceleration(500 * u.pc, params).to(u.km / u.s / u.Myr):.3f}")
    -2.230 km / (Myr s)
    """
    return model.border.quantity(_forces(model, pos, params, method)[0], "acceleration")


def _forces(model: Fronted, pos: Numbers, params: Params, method: str) -> tuple[Tensor, Tensor]:
    """Return the acceleration and its derivative by one of the formulas, in model units."""
    formulas = {"turning": dynamics.acceleration_with_gradient, "energy": energy_forces}
    one_of(method, "method", formulas)
    pos, p = _positions(model, params, pos)
    return formulas[method](model.torus, pos, p)


def get_acceleration_deriv(model: Fronted, pos: Numbers, params: Params) -> u.Quantity:
    """Return the derivative of the acceleration by position, at ``pos`` (*B, N).

    Examples
    --------
    >>> print(f"{model.get_acceleration_deriv(500 * u.pc, params):.6f}")
    -0.003790 1 / Myr2
    """
    pos, p = _positions(model, params, pos)
    gradient = dynamics.acceleration_gradient(model.torus, pos, p)
    return model.border.quantity(gradient, "acceleration gradient")


def get_density(
    model: Fronted, pos: Numbers, params: Params, *, method: str = "turning"
) -> u.Quantity:
    """Return the mass density at ``pos`` (*B, N), from Poisson's equation in one dimension.

    What the radial terms of the Poisson equation add is left out; ``method`` is as in
    `get_acceleration`.

    Examples
    --------
    >>> print(f"{model.get_density(500 * u.pc, params).to(u.Msun / u.pc**3):.4f}")
    0.0670 solMass / pc3
    """
    density = -_forces(model, pos, params, method)[1] / (4 * math.pi * model.border.G)
    return model.border.quantity(density, "density")


def get_surface_density(
    model: Fronted, pos: Numbers, params: Params, *, method: str = "turning"
) -> u.Quantity:
    """Return the mass per area between -pos and pos, measured from the midplane pos0.

    ``method`` is as in `get_acceleration`.

    Examples
    --------
    >>> print(f"{model.get_surface_density(500 * u.pc, params).to(u.Msun / u.pc**2):.2f}")
    80.67 solMass / pc2
    """
    surface = _forces(model, pos, params, method)[0].abs() / (2 * math.pi * model.border.G)
    return model.border.quantity(surface, "surface density")


def get_potential(model: Fronted, pos: Numbers, params: Params) -> u.Quantity:
    """Return the potential at ``pos`` (*B, N), zero at the midplane pos0.

    Examples
    --------
    >>> print(f"{model.get_potential(500 * u.pc, params).to(u.km**2 / u.s**2):.1f}")
    579.7 km2 / s2
    """
    pos, p = _positions(model, params, pos)
    return model.border.quantity(dynamics.potential(model.torus, pos, p), "potential")


def beyond_edge(model: Fronted, params: Params, pos: Numbers) -> NDArray[np.bool_]:
    """Return which positions (N,) lie beyond the model's edge: beyond the last knot, or the data.

    ``params`` are those of one problem. Without knots nothing lies beyond.
    """
    end, p = edge(model.torus), model.border.params(params)
    pos = model.border.tensor(pos, "pos", "length")
    if end is None:
        return np.zeros(pos.shape, dtype=bool)
    with torch.no_grad():
        axis = model.torus.transform.axis(pos, *model.torus.transform.frame(p))
    return (axis.r_e > end).cpu().numpy()


def check_e_funcs(
    model: Fronted, e_params: Params, r_e_max: Numbers
) -> tuple[bool | Tensor, Array]:
    r"""Check that orbits do not cross, :math:`dr/dr_e > 0` out to ``r_e_max``.

    Parameters
    ----------
    e_params
        Parameters of each e function, by order.
    r_e_max
        Largest elliptical radius to look at, with shape (*B,).

    Returns
    -------
    valid, checks
        Whether all is well (a bool, or a tensor with shape (*B,)), and
        :math:`dr/dr_e - 1` on a grid of radii and angles as a NumPy array.

    Examples
    --------
    >>> valid, checks = model.check_e_funcs(params["e_params"], 0.4)
    >>> valid
    True
    """
    r_e_max = model.border.tensor(r_e_max, "r_e_max", "elliptical radius")
    tensors = model.border.params({"e_params": e_params})["e_params"]
    with torch.no_grad():
        valid, checks = check_distortion(model.torus.distortion, tensors, r_e_max)
    return (bool(valid) if valid.ndim == 0 else valid), checks.cpu().numpy()


def at_knots(model: Fronted, params: Params) -> AtKnots:
    """Return the label and each e_m at their knots: what a penalty is written with.

    Parameters
    ----------
    params
        Model parameters.

    Returns
    -------
    AtKnots
        Tensors in model units: ``label`` at the label's knots; ``e(m)`` at the knots of e_m but the
        first; ``acceleration_deriv()``, positive where the density is negative; ``radii`` and
        ``harmonics``, with the slopes and curvatures. The matrices behind it, linear in the slopes,
        are in the buffers of ``model.knot_maps``; see `torusimaging_torch.torus.at_knots.KnotMaps`.

    Raises
    ------
    ValueError
        If one of the model's functions has no knots.

    Examples
    --------
    >>> at = model.at_knots(params)
    >>> at.label
    tensor([0.1000, 0.2000, 0.3200], dtype=torch.float64)
    >>> at.e(2)
    tensor([0.0658, 0.0965], dtype=torch.float64)
    """
    if model.knot_maps is None:
        knots_of(model.torus.label_func)
        raise ValueError("at_knots needs splines: one of this model's functions has no knots")
    return model.knot_maps(model.torus, checked_params(model, params))
