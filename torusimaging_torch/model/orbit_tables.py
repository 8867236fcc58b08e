"""Orbits on quantities, as methods of the model: actions and angles, both ways, and frequencies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray
from torch import Tensor

from torusimaging_torch.model.border import Border, Fronted
from torusimaging_torch.model.leaves import checked_params
from torusimaging_torch.model.orbit_columns import exact_chunk, in_chunks, sampled, single
from torusimaging_torch.numerics.params import Params, batch_shape
from torusimaging_torch.orbits.actions import (
    follow_on,
    place_on,
)
from torusimaging_torch.orbits.contours import Contours
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.units import Numbers

__all__ = [
    "action_angle_function",
    "compute_action_angle",
    "compute_phase_space",
    "orbit",
    "warn_without_angles",
]


def compute_action_angle(
    model: Fronted,
    pos: Numbers,
    vel: Numbers,
    params: Params | Sequence[Params],
    N_grid: int = 32,
    Bisection_kwargs: Mapping[str, object] | None = None,
    method: str = "auto",
    *,
    percentiles: Sequence[float] = (16, 84),
) -> QTable:
    r"""Compute the period, frequency, action and angle of each star.

    The action is the area within the star's contour, :math:`J = \frac{1}{2\pi}\oint v\,dq`, and
    the angle grows evenly in time along it (Price-Whelan et al. 2021, arXiv:2012.00015).

    Parameters
    ----------
    pos, vel
        Positions and velocities, with shapes that broadcast; (*B, N) for a batch of problems.
    params
        Model parameters. Samples of them, a list of dictionaries or one whose leaves have a
        leading dimension, together with ``pos`` and ``vel`` of shape (N,), give medians and
        percentiles over the samples.
    N_grid
        Number of nodes per quarter of an orbit.
    Bisection_kwargs
        Upstream's, without effect.
    method
        "exact" traces every star's contour. "table" interpolates in a table of 2048 orbits
        between the centre and the last knot: many times faster, with errors below 1e-6
        (relative in J and T, in radian in theta). "auto": a table if the model has knots and
        there are more than 2048 stars.
    percentiles
        What to give beside the median where there are samples.

    Returns
    -------
    astropy.table.QTable
        ``T``, ``Omega`` = 2 pi/T, ``J``, ``theta`` (from 0, at pos0 moving up, to 2 pi, growing
        in time), and ``valid``, with a row for each star. Where ``valid`` is false, all are
        nan: the star is not finite, or its contour leaves the last knot or crosses another. A
        star at the very centre is valid, with J = 0. With samples, also ``J_p16``, ``J_p84``
        and so on (those of ``theta`` not wrapped: they may lie outside [0, 2 pi)), and
        ``valid_fraction``; a star is valid if it is so in every sample.

    Raises
    ------
    astropy.units.UnitConversionError
        If ``pos`` is not a length or ``vel`` not a speed.
    ValueError
        If shapes do not fit, the method is not known, or "table" is asked of a model without
        knots.

    Warns
    -----
    RuntimeWarning
        If stars have no orbit within the fit, with their number. If the model has odd orders in
        the "pv" convention: time along such contours is not defined, so T, Omega and theta are
        nan. The "vp" convention allows them.

    Examples
    --------
    >>> orbits = model.compute_action_angle([0.5, 0.6] * u.kpc, 20 * u.km / u.s, params)
    >>> print(orbits["T"].round(1), orbits["valid"].tolist())
    [94.2 95.4] Myr [True, True]
    """
    if Bisection_kwargs is not None:
        warnings.warn(
            "Bisection_kwargs has no effect any more: contours are found to rounding error; "
            "N_grid and method say how accurately they are integrated",
            DeprecationWarning,
            stacklevel=2,
        )
    p = checked_params(model, params, one_by_one=True)
    pos, vel = _stars(model.border, pos, vel)
    warn_without_angles(model.torus, stacklevel=3)
    n_batch = len(batch_shape(p))
    if n_batch and pos.ndim == 1:
        orbits = sampled(model, p, N_grid, method, pos.numel(), percentiles)(pos, vel)
    else:
        orbits = single(model, p, N_grid, method, pos.numel())(pos, vel)
    _warn_of_lost_stars(orbits["valid"])
    return orbits


def _warn_of_lost_stars(valid: NDArray[np.bool_]) -> None:
    if not np.all(valid):
        warnings.warn(
            f"{np.sum(~valid)} of {valid.size} stars have no orbit within the fit: their numbers "
            "are nan; the column valid names them, and np.nanmedian leaves them out",
            RuntimeWarning,
            stacklevel=3,
        )


def action_angle_function(
    model: Fronted,
    params: Params | Sequence[Params],
    n_stars: int,
    N_grid: int = 32,
    method: str = "auto",
    *,
    percentiles: Sequence[float] = (16, 84),
) -> Callable[[Numbers, Numbers], QTable]:
    """Return `compute_action_angle` as a function of stars that come in parts.

    However stars are divided, their numbers are the same but for rounding; for parts of a
    multiple of 16384 they are the same to the last bit.

    Parameters
    ----------
    params, N_grid, method, percentiles
        As in `compute_action_angle`, for one problem or samples of it.
    n_stars
        How many stars there are in all; "auto" goes by it.

    Returns
    -------
    callable
        Of positions and velocities with shape (N,); returns a table with a row for each star.

    Examples
    --------
    >>> compute = model.action_angle_function(params, n_stars=1_000_000)
    >>> len(compute([0.1, 0.2] * u.kpc, [0, 10] * u.km / u.s))
    2
    """
    p = checked_params(model, params, one_by_one=True)
    warn_without_angles(model.torus, stacklevel=3)
    if batch_shape(p):
        compute = sampled(model, p, N_grid, method, n_stars, percentiles)
    else:
        compute = single(model, p, N_grid, method, n_stars)
    return lambda pos, vel: compute(*_stars(model.border, pos, vel))


def compute_phase_space(
    model: Fronted, J: Numbers, theta: Numbers, params: Params, N_grid: int = 32
) -> tuple[u.Quantity, u.Quantity]:
    """Compute positions and velocities at actions and angles: back from `compute_action_angle`.

    Parameters
    ----------
    J, theta
        Actions and angles (any real number), with shapes that broadcast; (*B, N) in a batch.
    params
        Model parameters.
    N_grid
        Number of nodes per quarter of an orbit.

    Returns
    -------
    pos, vel
        Quantities; nan where the model has no orbit with that action.

    Raises
    ------
    astropy.units.UnitConversionError
        If ``J`` is not an action or ``theta`` not an angle.

    Examples
    --------
    >>> pos, vel = model.compute_phase_space(0.01 * u.kpc**2 / u.Myr, np.pi * u.rad, params)
    >>> print(f"{abs(pos):.3f}, {vel.to(u.km / u.s):.1f}")
    0.000 kpc, -35.9 km / s

    """
    p = checked_params(model, params)
    J, theta = _pair(model.border, J, "J", "action", theta, "theta", "angle")
    warn_without_angles(model.torus, stacklevel=3)
    flat = (lambda x: x) if batch_shape(p) else torch.flatten
    with torch.no_grad():
        contours = Contours.of(model.torus, p, N_grid)
        path = in_chunks(partial(place_on, contours), exact_chunk(J), flat(J), flat(theta))
    shape = (*batch_shape(p), J.shape[-1]) if batch_shape(p) else J.shape
    pos, vel = (x.reshape(shape) for x in path)
    return model.border.quantity(pos, "length"), model.border.quantity(vel, "velocity")


def orbit(
    model: Fronted, pos: Numbers, vel: Numbers, params: Params, t: object, N_grid: int = 32
) -> tuple[u.Quantity, u.Quantity]:
    r"""Follow stars along their orbits in time.

    The angle advances evenly, :math:`\theta(t) = \theta(0) + 2\pi t/T`, on the star's contour.

    Parameters
    ----------
    pos, vel
        Where the stars are at t = 0, with shapes that broadcast; (*B, N) in a batch.
    params
        Model parameters.
    t
        Times, before or after, with shape (K,) or ().
    N_grid
        Number of nodes per quarter of an orbit.

    Returns
    -------
    pos, vel
        Quantities with the shape of the stars followed by that of ``t``.

    Notes
    -----
    The contours are the orbits. They need not be those of one force: the acceleration along a
    contour depends on velocity a little, except in a model that fits a true potential, and
    `get_acceleration` is its limit at zero velocity.

    Examples
    --------
    >>> pos, vel = model.orbit(0.5 * u.kpc, 0 * u.km / u.s, params, [0, 45, 90] * u.Myr)
    >>> print(pos.round(2))
    [ 0.5  -0.5   0.49] kpc

    """
    p = checked_params(model, params)
    pos, vel = _pair(model.border, pos, "pos", "length", vel, "vel", "velocity")
    times = model.border.tensor(t, "t", "time")
    warn_without_angles(model.torus, stacklevel=3)
    flat = (lambda x: x) if batch_shape(p) else torch.flatten
    with torch.no_grad():
        contours = Contours.of(model.torus, p, N_grid)
        follow = partial(follow_on, contours, t=times.flatten())
        path = in_chunks(follow, exact_chunk(pos), flat(pos), flat(vel), dim=-2)
    shape = (*batch_shape(p), pos.shape[-1]) if batch_shape(p) else pos.shape
    z, v = (x.reshape((*shape, *times.shape)) for x in path)
    return model.border.quantity(z, "length"), model.border.quantity(v, "velocity")


def _stars(border: Border, pos: Numbers, vel: Numbers) -> tuple[Tensor, Tensor]:
    pos, vel = _pair(border, pos, "pos", "length", vel, "vel", "velocity")
    return torch.atleast_1d(pos), torch.atleast_1d(vel)  # a table has rows


def _pair(
    border: Border, a: object, name_a: str, kind_a: str, b: object, name_b: str, kind_b: str
) -> tuple[Tensor, Tensor]:
    first, second = border.tensor(a, name_a, kind_a), border.tensor(b, name_b, kind_b)
    try:
        first, second = torch.broadcast_tensors(first, second)
    except RuntimeError:
        raise ValueError(
            f"{name_a} and {name_b} must have shapes that broadcast, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        ) from None
    return first, second


def warn_without_angles(torus: OrbitalTorus, stacklevel: int) -> None:
    """Warn if time along the contours of a torus is not defined."""
    odd = [m for m in torus.distortion.orders if m % 2]
    if odd and torus.convention == "pv":
        warnings.warn(
            f"orders {odd} are odd: in the 'pv' convention their contours are not symmetric in "
            "velocity, and time along them is not defined, so T, Omega and theta are nan; use "
            "elliptical_angle_convention='vp', where odd orders are sound",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
