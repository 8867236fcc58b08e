r"""Profiles with errors: acceleration, densities and potential against position.

From samples of the parameters (of NUTS, or of the Cramer-Rao bound) come percentiles; from the
bound itself, by linear propagation through the Jacobian of the profile, :math:`\sigma_f^2 =
\nabla f^T C\,\nabla f`, come standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Layout, Params, batch_shape
from torusimaging_torch.results.profile_values import (
    PROFILES,
    evaluate_profiles,
    profile_jacobian,
)
from torusimaging_torch.units import gravitational_constant, to_quantity, to_tensor

__all__ = ["PERCENTILES", "delta_profiles", "profiles"]

PERCENTILES = (2.5, 16.0, 50.0, 84.0, 97.5)
"""Two and one standard deviations on either side of the median, by convention."""


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


@with_autograd
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

    values, jacobian = profile_jacobian(model.torus, pos, layout, vector, G)
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
