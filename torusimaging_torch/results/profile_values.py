r"""The values of profiles against position, and how they change with the parameters.

The acceleration at a position depends on nothing that happens elsewhere. So for derivatives the
positions are taken for problems of a batch, each with parameters of its own: one pass in reverse
gives the whole Jacobian. The potential is a sum of accelerations and their slopes, and so is its
Jacobian of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import (
    Layout,
    Nested,
    Params,
    batch_shape,
    column,
    map_leaves,
)
from torusimaging_torch.torus.acceleration import acceleration_with_gradient
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.piecewise import PiecewiseTorus

__all__ = ["PROFILES", "evaluate_profiles", "profile_jacobian"]

PROFILES = ("acceleration", "density", "surface_density", "potential")
"""The columns of a table of profiles; each name is that of the model's method, after ``get_``."""

# Points per chunk: a spline makes some ten numbers of each, and they should stay in the cache.
_CHUNK = 50_000
# Largest step of the potential's quadrature, as a fraction of the range of positions.
_STEP = 1 / 200


def evaluate_profiles(
    torus: OrbitalTorus, pos: Tensor, params: Params, G: float, chunk: int = _CHUNK
) -> dict[str, Tensor]:
    """Return all profiles at once for many sets of parameters.

    Parameters
    ----------
    torus
        The model.
    pos
        Positions in model units, with shape (N,).
    params
        Parameters with a batch of shape (S,), or of one problem.
    G
        The gravitational constant in the units of the model.
    chunk
        Number of points, of all samples together, to work on at a time.

    Returns
    -------
    dict
        Tensors with shape (S, N), or (N,), in model units, by the names in `PROFILES`.
    """
    batch = batch_shape(params)
    if not batch:
        return _evaluate(torus, pos, params, G)
    size = max(1, chunk // pos.numel())
    shared = {key: _expand(value, batch) for key, value in params.items()}
    look_up = not torch.is_grad_enabled() and PiecewiseTorus.fits(torus)
    pieces = []
    for i in range(0, batch[0], size):
        some = map_leaves(lambda x, i=i: x[i : i + size], shared)
        pieces.append(_evaluate(PiecewiseTorus(torus, some) if look_up else torus, pos, some, G))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in PROFILES}


def _expand(value: Tensor | Nested, batch: torch.Size) -> Tensor | Nested:
    """Give a leaf, or those of a dictionary, the first dimension of the batch."""
    if isinstance(value, Mapping):
        return map_leaves(lambda leaf: _expand(leaf, batch), value)
    return value.expand(*batch, *value.shape[1:]) if value.ndim else value.expand(batch)


def _evaluate(torus: Any, pos: Tensor, params: Params, G: float) -> dict[str, Tensor]:
    grid, where = _quadrature_grid(pos, params["pos0"])
    a, slope = acceleration_with_gradient(torus, grid, params)
    potential = _potential(torus, grid, a, slope, params)
    a, slope, potential = a[..., where], slope[..., where], potential[..., where]
    return {
        "acceleration": a,
        "density": -slope / (4 * math.pi * G),
        "surface_density": a.abs() / (2 * math.pi * G),
        "potential": potential,
    }


def _quadrature_grid(pos: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return increasing positions that hold ``pos`` and reach the centre, and where ``pos`` is."""
    ends = torch.cat([pos, centre.detach().reshape(-1)])
    low, high = ends.min(), ends.max()
    grid = torch.unique(torch.cat([pos, low[None], high[None]]))
    if len(grid) > 1 and bool(grid.diff().max() > 1.01 * _STEP * (high - low)):
        n = round(1 / _STEP) + 1
        fine = torch.linspace(0, 1, n, dtype=pos.dtype, device=pos.device)
        grid = torch.unique(torch.cat([grid, low + (high - low) * fine]))
    return grid, torch.searchsorted(grid, pos)


def _potential(torus: Any, grid: Tensor, a: Tensor, slope: Tensor, params: Params) -> Tensor:
    """Integrate the acceleration, zero at pos0, by the trapezoid with its end correction.

    Between two points it is the integral of the cubic with the values and slopes there, exact to
    fourth order in their distance (Abramowitz & Stegun 1964, equation 25.4.12 to first order).
    """
    pos0 = column(params["pos0"])
    inner = _hermite(grid.diff(), a[..., :-1], a[..., 1:], slope[..., :-1], slope[..., 1:])
    total = torch.cat([torch.zeros_like(a[..., :1]), inner.cumsum(-1)], -1)
    first = torch.searchsorted(grid, pos0.detach().reshape(-1).contiguous()).clamp(
        max=len(grid) - 1
    )
    first = first.reshape(*a.shape[:-1], 1)
    a0, slope0 = acceleration_with_gradient(torus, pos0.reshape(*a.shape[:-1], 1), params)
    a1, slope1 = a.gather(-1, first), slope.gather(-1, first)
    from_centre = _hermite(grid[first] - pos0.reshape(first.shape), a0, a1, slope0, slope1)
    return -(total - total.gather(-1, first) + from_centre)


def _hermite(step: Tensor, a0: Tensor, a1: Tensor, slope0: Tensor, slope1: Tensor) -> Tensor:
    """Return the integral over a step of the cubic with given values and slopes at its ends."""
    return step * (a0 + a1) / 2 + step**2 * (slope0 - slope1) / 12


def profile_jacobian(
    torus: OrbitalTorus, pos: Tensor, layout: Layout, vector: Tensor, G: float
) -> tuple[Tensor, Tensor]:
    """Return all profiles, and their derivatives by the parameters.

    Parameters
    ----------
    torus
        The model.
    pos
        Positions in model units, with shape (N,).
    layout, vector
        Parameters with shape (*B, P), and how they are laid out.
    G
        The gravitational constant in the units of the model.

    Returns
    -------
    values, jacobian
        In the order of `PROFILES`, with shapes (4, *B, N) and (4, *B, N, P).
    """
    place = layout.names.index("pos0")
    pos0 = vector[..., place]
    grid, where = _quadrature_grid(pos, pos0)
    # The centre is one position more.
    points = grid.reshape(-1, *[1] * pos0.ndim).expand(-1, *pos0.shape)
    points = torch.cat([points, pos0.unsqueeze(0)]).movedim(0, -1)
    found = _forces(torus, points, layout, vector)
    potential = -_integral(found, grid, pos0, place)
    a, slope = (x[..., where, :] for x in found)
    density, surface = -slope / (4 * math.pi * G), a / (2 * math.pi * G)
    surface = surface * surface[..., :1].sign()
    every = torch.stack([a, density, surface, potential[..., where, :]])
    return every[..., 0], every[..., 1:]


def _forces(
    torus: OrbitalTorus, points: Tensor, layout: Layout, vector: Tensor
) -> tuple[Tensor, Tensor]:
    """Return accelerations and their slopes at points (*B, N), with shape (*B, N, 1 + P) each.

    What follows the value are its derivatives by the parameters.
    """
    shape = (points.shape[-1], *vector.shape)
    pos = points.movedim(-1, 0).unsqueeze(-1)
    with torch.enable_grad():
        leaf = vector.detach().expand(shape).clone().requires_grad_()
        forces = acceleration_with_gradient(torus, pos, layout.unflatten(leaf))
        slopes = [
            torch.autograd.grad(x.sum(), leaf, retain_graph=True, materialize_grads=True)[0]
            for x in forces
        ]
    pairs = zip(forces, slopes, strict=True)
    a, slope = (torch.cat([x.detach(), d], -1).movedim(0, -2) for x, d in pairs)
    return a, slope


def _integral(forces: tuple[Tensor, Tensor], grid: Tensor, pos0: Tensor, place: int) -> Tensor:
    """Return integrals of the acceleration from the centre to a grid (N,), (*B, N, 1 + P).

    Forces are those at the grid and the centre, as `_forces` has them.
    """
    (a, a0), (slope, slope0) = (x.tensor_split([-1], -2) for x in forces)
    # At the centre, wherever it is, forces are the same.
    a0[..., 1 + place], slope0[..., 1 + place] = 0.0, 0.0
    step = grid.diff().unsqueeze(-1)
    inner = _hermite(step, a[..., :-1, :], a[..., 1:, :], slope[..., :-1, :], slope[..., 1:, :])
    total = torch.cat([torch.zeros_like(a0), inner.cumsum(-2)], -2)
    first = torch.searchsorted(grid, pos0.reshape(-1).contiguous()).clamp(max=len(grid) - 1)
    first = first.reshape(*pos0.shape, 1, 1)
    a1, slope1, total1 = (
        x.gather(-2, first.expand(*x.shape[:-2], 1, x.shape[-1])) for x in (a, slope, total)
    )
    step = grid[first] - pos0.unsqueeze(-1).unsqueeze(-1)
    from_centre = _hermite(step, a0, a1, slope0, slope1)
    # The step itself changes with the centre.
    by_step = (a0 + a1) / 2 + step * (slope0 - slope1) / 6
    from_centre[..., 1 + place] -= by_step[..., 0]
    return total - total1 + from_centre
