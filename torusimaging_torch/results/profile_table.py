r"""Profiles with errors: acceleration, densities and potential against position.

From samples of the parameters (of NUTS, or of the Cramer-Rao bound) come percentiles; from the
bound itself, by linear propagation through the Jacobian of the profile, :math:`\sigma_f^2 =
\nabla f^T C\,\nabla f`, come standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.numerics.params import Layout, Params, batch_shape, column, map_leaves
from torusimaging_torch.torus.acceleration import acceleration_with_gradient
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.piecewise import PiecewiseTorus
from torusimaging_torch.units import to_quantity

if TYPE_CHECKING:
    from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = [
    "PERCENTILES",
    "PROFILES",
    "evaluate_profiles",
    "profiles",
    "propagate",
    "stacked_profiles",
]

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


def propagate(
    evaluate: Callable[[Tensor], Tensor], x: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return what a function gives, and its standard errors by linear propagation.

    The Jacobian comes column by column from two passes backward: the product of its transpose with
    weights is linear in the weights, and its gradient by these is a column.

    Parameters
    ----------
    evaluate
        Takes parameters with shape (*B, P) and returns values with shape (F, *B, N), those of each
        problem from its own parameters.
    x
        Parameters with shape (*B, P).
    covariance
        Theirs, with shape (*B, P, P). A parameter without one (nan) counts as known.

    Examples
    --------
    >>> x, covariance = torch.tensor([3.0, 4.0]), torch.diag(torch.tensor([0.01, 0.04]))
    >>> values, errors = propagate(lambda x: (x[:1] * x[1:]).unsqueeze(0), x, covariance)
    >>> values, errors**2  # 4^2 0.01 + 3^2 0.04
    (tensor([[12.]]), tensor([[0.5200]]))
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = evaluate(x)
        weights = torch.zeros_like(values, requires_grad=True)
        (product,) = torch.autograd.grad(values, x, weights, create_graph=True)
        columns = [
            torch.autograd.grad(entry.sum(), weights, retain_graph=True)[0]
            for entry in product.unbind(-1)
        ]
    jacobian = torch.stack(columns, -1)
    known = covariance.nan_to_num(0.0)
    variance = torch.einsum("f...np,...pq,f...nq->f...n", jacobian, known, jacobian)
    return values.detach(), variance.clamp(min=0).sqrt()


def profiles(
    model: TorusImaging1D,
    params: Any,
    pos_grid: Any,
    covariance: Any = None,
    percentiles: Sequence[float] = PERCENTILES,
) -> QTable:
    """Return acceleration, density, surface density and potential, with their errors.

    Parameters
    ----------
    model
        The model.
    params
        Parameters of one problem. Or samples of them, for percentiles: of `sample`, a list of
        parameter dictionaries, or a dictionary whose leaves have the samples along their first
        dimension.
    pos_grid
        Positions with shape (N,).
    covariance
        Of the parameters of one problem, in model units, with shape (P, P), as `get_crlb` returns
        it: for standard errors by linear propagation. A parameter without one (nan) counts as
        known.
    percentiles
        Which percentiles of samples.

    Returns
    -------
    astropy.table.QTable
        N rows with units: ``pos``, and each profile, such as ``density``, with ``density_err`` if
        there is a covariance; of samples instead columns such as ``density_p16``.

    Raises
    ------
    ValueError
        If there is no sample, or positions, parameters or covariance have another shape.

    Examples
    --------
    >>> import astropy.units as u
    >>> from torusimaging_torch import TorusImaging1DSpline
    >>> model = TorusImaging1DSpline([0, 0.2, 0.4], {2: [0, 0.2, 0.4]}, {2: 1.0})
    >>> params = {"pos0": 0.0, "vel0": 0.0, "ln_Omega0": -2.5}
    >>> params |= {"e_params": {2: {"vals": [-2, -2]}}, "label_params": {"label_vals": [0, 1, 1]}}
    >>> table = profiles(model, params, [0.1, 0.5] * u.kpc)
    >>> table.colnames
    ['pos', 'acceleration', 'density', 'surface_density', 'potential']
    >>> print(table["acceleration"].to(u.km / u.s / u.Myr).round(3))
    [-0.649 -3.048] km / (Myr s)
    """
    p = model.border.samples(getattr(params, "params", params))
    pos = model.border.tensor(pos_grid, "pos_grid", "length")
    if pos.ndim != 1 or len(pos) == 0:
        raise ValueError(f"pos_grid must be positions with shape (N,), got {tuple(pos.shape)}")
    batch = batch_shape(p)
    if len(batch) > 1 or (batch and covariance is not None):
        raise ValueError(
            "params must be those of one problem, or without a covariance samples with one "
            f"dimension, got the batch shape {tuple(batch)}: pick one problem"
        )
    units, kinds = model.units, {name: name.replace("_", " ") for name in PROFILES}
    table = QTable({"pos": to_quantity(pos, "length", units)})
    if covariance is None:
        with torch.no_grad():
            found = evaluate_profiles(model.torus, pos, p, model.border.G)
        for name, kind in kinds.items():
            value = to_quantity(found[name], kind, units)
            if not batch:
                table[name] = value
                continue
            cuts = np.nanpercentile(value.value, percentiles, axis=0)
            for percentile, cut in zip(percentiles, cuts, strict=True):
                table[f"{name}_p{percentile:g}"] = cut << value.unit
        if batch:
            table.meta["n_samples"] = batch[0]
        return table
    layout = Layout.of(p)
    C = model.border.tensor(covariance, "covariance", None)
    if C.shape != (layout.size, layout.size):
        raise ValueError(
            f"covariance must have shape ({layout.size}, {layout.size}), got {tuple(C.shape)}"
        )
    values, errors = propagate(
        lambda x: stacked_profiles(model.torus, pos, layout.unflatten(x), model.border.G),
        layout.flatten(p),
        C,
    )
    for (name, kind), value, error in zip(kinds.items(), values, errors, strict=True):
        table[name] = to_quantity(value, kind, units)
        table[f"{name}_err"] = to_quantity(error, kind, units)
    return table


def stacked_profiles(torus: OrbitalTorus, pos: Tensor, params: Params, G: float) -> Tensor:
    """Return what `evaluate_profiles` does, all in one piece, with shape (F, *B, N)."""
    n = math.prod(batch_shape(params)) * len(pos)
    found = evaluate_profiles(torus, pos, params, G, chunk=n)
    return torch.stack([found[name] for name in PROFILES])
