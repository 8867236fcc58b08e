r"""Profiles with errors: acceleration, densities and potential against position.

From samples of the parameters (of NUTS, or of the Cramer-Rao bound) come percentiles; from the
bound itself, by linear propagation through the Jacobian of the profile, :math:`\sigma_f^2 =
\nabla f^T C\,\nabla f`, come standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.numerics.params import Layout, Params, batch_shape, column, map_leaves
from torusimaging_torch.torus.acceleration import acceleration_with_gradient
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.piecewise import PiecewiseTorus
from torusimaging_torch.units import gravitational_constant, to_quantity, to_tensor

__all__ = ["PERCENTILES", "PROFILES", "delta_profiles", "evaluate_profiles", "profiles"]

PERCENTILES = (2.5, 16.0, 50.0, 84.0, 97.5)
"""Two and one standard deviations on either side of the median, by convention."""

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


def _expand(value: Any, batch: torch.Size) -> Any:
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
    if bool(grid.diff().max() > 1.01 * _STEP * (high - low)):
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
    return step * (a0 + a1) / 2 + step**2 * (slope0 - slope1) / 12


def profiles(
    model: Any, samples_or_crlb: Any, pos_grid: Any, percentiles: Sequence[float] = PERCENTILES
) -> QTable:
    """Return percentiles of acceleration, density, surface density and potential.

    Parameters
    ----------
    model
        A `~torusimaging_torch.TorusImaging1D`.
    samples_or_crlb
        Samples: of `sample`, a list of parameter dictionaries, or a dictionary whose leaves have
        the samples along their first dimension. Or a pair of parameters and their covariance, as
        `get_crlb` returns it: percentiles are then those of a Gaussian, see `delta_profiles`.
    pos_grid
        Positions with shape (N,).
    percentiles
        Which percentiles.

    Returns
    -------
    astropy.table.QTable
        N rows: ``pos``, and for each profile and percentile a column such as ``density_p16``, with
        units.

    Raises
    ------
    ValueError
        If there is no sample, or positions or parameters have another shape.
    """
    if isinstance(samples_or_crlb, tuple) and len(samples_or_crlb) == 2:
        return _gaussian_percentiles(delta_profiles(model, *samples_or_crlb, pos_grid), percentiles)
    params = model.border.samples(getattr(samples_or_crlb, "params", samples_or_crlb))
    if len(batch_shape(params)) != 1:
        raise ValueError(
            "samples must have one sample dimension, got parameters with the batch shape "
            f"{tuple(batch_shape(params))}: pick one problem"
        )
    pos = _positions(model, pos_grid)
    with torch.no_grad():
        values = evaluate_profiles(model.torus, pos, params, gravitational_constant(model.units))
    table = QTable({"pos": to_quantity(pos, "length", model.units)})
    for name in PROFILES:
        quantity = to_quantity(values[name], name.replace("_", " "), model.units)
        cuts = np.nanpercentile(quantity.value, percentiles, axis=0)
        for percentile, cut in zip(percentiles, cuts, strict=True):
            table[f"{name}_p{percentile:g}"] = cut << quantity.unit
    table.meta["n_samples"] = batch_shape(params)[0]
    return table


def _positions(model: Any, pos_grid: Any) -> Tensor:
    pos = model.border.tensor(pos_grid, "pos_grid", "length")
    if pos.ndim != 1 or len(pos) == 0:
        raise ValueError(f"pos_grid must be positions with shape (N,), got {tuple(pos.shape)}")
    return pos


def delta_profiles(model: Any, params: Params, covariance: Any, pos_grid: Any) -> QTable:
    """Return profiles with standard errors, by linear propagation of a covariance.

    Parameters
    ----------
    model
        A `~torusimaging_torch.TorusImaging1D`.
    params
        Parameters of one problem.
    covariance
        Their covariance in model units, with shape (P, P), as `get_crlb` returns it. A parameter
        without one (nan) counts as known.
    pos_grid
        Positions with shape (N,).

    Returns
    -------
    astropy.table.QTable
        N rows: ``pos``, and for each profile its value and its standard error, such as ``density``
        and ``density_err``, with units.

    Raises
    ------
    ValueError
        If shapes do not match.
    """
    p = model.border.params(params)
    layout, pos = Layout.of(p), _positions(model, pos_grid)
    vector, G = layout.flatten(p).detach(), gravitational_constant(model.units)
    covariance = to_tensor(covariance, "covariance", None, model.units).to(vector)
    if vector.ndim != 1 or covariance.shape != (layout.size, layout.size):
        raise ValueError(
            f"params and covariance must be of one problem, with {layout.size} parameters, got "
            f"shapes {tuple(vector.shape)} and {tuple(covariance.shape)}"
        )

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        values = evaluate_profiles(model.torus, pos, layout.unflatten(x), G)
        stacked = torch.stack([values[name] for name in PROFILES])
        return stacked, stacked

    # One row of tangents per parameter: the same profile P times, in one pass.
    jacobian, values = torch.func.jacfwd(evaluate, has_aux=True)(vector)
    variance = torch.einsum("fnp,pq,fnq->fn", jacobian, covariance.nan_to_num(0.0), jacobian)
    table = QTable({"pos": to_quantity(pos, "length", model.units)})
    for name, value, error in zip(PROFILES, values, variance.sqrt(), strict=True):
        kind = name.replace("_", " ")
        table[name] = to_quantity(value, kind, model.units)
        table[f"{name}_err"] = to_quantity(error, kind, model.units)
    return table


def _gaussian_percentiles(table: QTable, percentiles: Sequence[float]) -> QTable:
    cuts = QTable({"pos": table["pos"]})
    for name in PROFILES:
        for percentile in percentiles:
            number = NormalDist().inv_cdf(percentile / 100)
            cuts[f"{name}_p{percentile:g}"] = table[name] + number * table[f"{name}_err"]
    return cuts
