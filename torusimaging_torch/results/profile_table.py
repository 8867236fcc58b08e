r"""Profiles with errors: acceleration, densities and potential against position.

From samples of the parameters (of NUTS, or of the Cramer-Rao bound) come percentiles; from the
bound itself, by linear propagation through the Jacobian of the profile, :math:`\sigma_f^2 =
\nabla f^T C\,\nabla f`, come standard errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.inference.propagation import propagated, vanished
from torusimaging_torch.model.leaves import checked_params
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Layout, batch_shape
from torusimaging_torch.results.arguments import positions
from torusimaging_torch.results.profile_values import (
    PROFILES,
    evaluate_profiles,
    profile_jacobian,
)
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.units import Bounds, Numbers, to_quantity

if TYPE_CHECKING:
    from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = ["PERCENTILES", "profiles", "profiles_with_errors"]

PERCENTILES = (2.5, 16.0, 50.0, 84.0, 97.5)
"""Two and one standard deviations on either side of the median, by convention."""


@with_autograd
def profiles_with_errors(
    torus: OrbitalTorus,
    pos: Tensor,
    layout: Layout,
    x: Tensor,
    G: float,
    covariance: Tensor | None,
    from_midplane: bool = False,
    box: Box | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the profiles of one problem, or of many, and their errors by linear propagation.

    Parameters
    ----------
    torus
        The model.
    pos
        Positions in model units, with shape (N,).
    layout, x
        Parameters with shape (*B, P), and how they are laid out.
    G
        The gravitational constant in the units of the model.
    covariance
        Of the parameters, with shape (*B, P, P); errors are nan wherever a parameter without one
        (nan) has a say. None if not known at all: errors are then nan.
    from_midplane
        Whether positions are counted from each problem's own pos0.
    box
        Bounds of the parameters: log slopes on their lower one are slopes that are none, and count
        as known.

    Returns
    -------
    values, errors
        In the order of `PROFILES`, with shape (4, *B, N).
    """
    pos0 = layout.names.index("pos0")
    if from_midplane:  # all that counts is the distance from it
        x = x.index_fill(-1, torch.tensor(pos0, device=x.device), 0.0)
    if covariance is None:
        size = max(1, x[..., 0].numel()) * len(pos)
        with torch.no_grad():
            found = evaluate_profiles(torus, pos, layout.unflatten(x), G, size)
        values = torch.stack([found[name] for name in PROFILES])
        return values, torch.full_like(values, torch.nan)
    values, jacobian = profile_jacobian(torus, pos, layout, x, G)
    if from_midplane:
        jacobian[..., pos0] = 0.0
    still = None if box is None else vanished(x, box, torus.logarithmic_in(layout).to(x.device))
    return values, propagated(jacobian, covariance, still)


def profiles(
    model: TorusImaging1D,
    params: Any,
    pos_grid: Numbers,
    covariance: Numbers | None = None,
    percentiles: Sequence[float] = PERCENTILES,
    *,
    bounds: Bounds = None,
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
        it: for standard errors by linear propagation. They are nan wherever a parameter without
        one (nan) has a say.
    percentiles
        Which percentiles of samples.
    bounds
        As in `optimize`: log slopes on their lower bound are slopes that are none, and count as
        known.

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
    p = checked_params(model, getattr(params, "params", params), one_by_one=True)
    pos = positions(pos_grid, "pos_grid", model.units).to(**model.border.place)
    batch = batch_shape(p)
    if len(batch) > 1 or (batch and covariance is not None):
        raise ValueError(
            "params must be those of one problem, or without a covariance samples with one "
            f"dimension, got the batch shape {tuple(batch)}: pick one problem"
        )
    units, layout, G = model.units, Layout.of(p), model.border.G
    table = QTable({"pos": to_quantity(pos, "length", units)})
    if batch:
        with torch.no_grad():
            found = evaluate_profiles(model.torus, pos, p, G)
        for name in PROFILES:
            value = to_quantity(found[name], name.replace("_", " "), units)
            cuts = np.nanpercentile(value.value, percentiles, axis=0)
            for percentile, cut in zip(percentiles, cuts, strict=True):
                table[f"{name}_p{percentile:g}"] = cut << value.unit
        table.meta["n_samples"] = batch[0]
        return table
    C = None if covariance is None else model.border.tensor(covariance, "covariance", None)
    if C is not None and C.shape != (layout.size, layout.size):
        raise ValueError(
            f"covariance must have shape ({layout.size}, {layout.size}), got {tuple(C.shape)}"
        )
    box = None if bounds is None else model.border.box(bounds, layout)
    pairs = profiles_with_errors(model.torus, pos, layout, layout.flatten(p), G, C, box=box)
    for name, value, error in zip(PROFILES, *pairs, strict=True):
        table[name] = to_quantity(value, name.replace("_", " "), units)
        if C is not None:
            table[f"{name}_err"] = to_quantity(error, name.replace("_", " "), units)
    return table
