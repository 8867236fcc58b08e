"""Frequency and period as functions of the action, on quantities, as a method of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.leaves import checked_params
from torusimaging_torch.model.orbit_columns import choose_method
from torusimaging_torch.model.orbit_tables import warn_without_angles
from torusimaging_torch.numerics.params import Params, batch_shape, problems_of
from torusimaging_torch.orbits.actions import orbit_shape, radius_of_action
from torusimaging_torch.orbits.contours import Contours, edge
from torusimaging_torch.orbits.summary import quantiles
from torusimaging_torch.orbits.table import OrbitTable
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.units import Numbers

__all__ = ["compute_frequency_curve"]

_CHUNK = 512  # contours traced at once


def compute_frequency_curve(
    model: Fronted,
    params: Params | Sequence[Params],
    J: Numbers = None,
    N_grid: int = 32,
    method: str = "auto",
    *,
    percentiles: Sequence[float] = (16, 84),
) -> QTable:
    """Compute the period and the frequency of orbits as functions of the action.

    Parameters
    ----------
    params
        Model parameters, or samples of them (see `compute_action_angle`) for bands.
    J
        Actions with shape (n,). By default 100, evenly from 0 to the largest that lies within
        the last knots.
    N_grid
        Number of nodes per quarter of an orbit.
    method
        "exact", "table" or "auto", as in `compute_action_angle`.
    percentiles
        What to give beside the median where there are samples.

    Returns
    -------
    astropy.table.QTable
        ``J``, ``T``, ``Omega``; with samples, medians, and ``T_p16``, ``Omega_p84`` and so on.
        nan where the model, or one of the samples, has no orbit.

    Raises
    ------
    ValueError
        If ``J`` is not given and the model has no knots, which tell where it ends.

    Examples
    --------
    >>> curve = model.compute_frequency_curve(params, [0, 0.02] * u.kpc**2 / u.Myr)
    >>> print(curve["T"].round(1))
    [84.6 96.8] Myr

    """
    p = checked_params(model, params, one_by_one=True)
    warn_without_angles(model.torus, stacklevel=3)
    problems = list(problems_of(p))
    if J is None:
        actions = _actions(model.torus, problems, N_grid)
    else:
        actions = torch.atleast_1d(model.border.tensor(J, "J", "action"))
    method = choose_method(model.torus, method, actions.numel())
    T = torch.stack([_periods(model.torus, q, actions, N_grid, method) for q in problems])
    table = QTable({"J": model.border.quantity(actions, "action")})
    columns = {"T": (T, "time"), "Omega": (2 * math.pi / T, "frequency")}
    for name, (values, kind) in columns.items():
        if not batch_shape(p):
            table[name] = model.border.quantity(values[0], kind)
            continue
        for column, row in quantiles(name, values.cpu().numpy(), percentiles).items():
            table[column] = model.border.quantity(torch.as_tensor(row), kind)
    return table


@torch.no_grad()
def _periods(torus: OrbitalTorus, p: Params, J: Tensor, n_grid: int, method: str) -> Tensor:
    if method == "table":
        return OrbitTable.of(torus, p, n_grid).period(J)
    contours = Contours.of(torus, p, n_grid)
    parts = [orbit_shape(contours, radius_of_action(contours, j)).T for j in J.split(_CHUNK)]
    return torch.cat(parts)


@torch.no_grad()
def _actions(torus: OrbitalTorus, problems: Sequence[Params], n_grid: int) -> Tensor:
    """Return actions from 0 to the largest that all problems have."""
    if edge(torus) is None:
        raise ValueError("J must be given: this model has no knots, which would tell where it ends")
    contours = [Contours.of(torus, p, n_grid) for p in problems]
    largest = torch.cat([orbit_shape(c, c.limit.unsqueeze(-1)).J for c in contours])
    fraction = torch.linspace(0, 1, 100, dtype=largest.dtype, device=largest.device)
    return largest.amin() * (1 - 1e-12) * fraction
