"""A start, bounds and heights for a model with a potential inside, from binned data."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.low_order import LowOrderFit, fit_label_values
from torusimaging_torch.model.start import default_bounds
from torusimaging_torch.numerics.params import Layout, Nested, column
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.torus.at_knots import knots_of
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.units import Bounds, Numbers, to_tensor

__all__ = [
    "place_heights",
    "plane_frequency",
    "potential_bounds",
    "potential_extent",
    "potential_start",
]

# Heights reach from the thinnest sheet that a grid resolves to one that is flat on all of it.
_THINNEST, _THICKEST = 0.07, 1.7
# Log densities, from their mean: the prior holds them long before.
_LN_RHO_BELOW, _LN_RHO_ABOVE = 20.0, 10.0
# Slopes of corrections e_m, over the extent of the data: such a contour is no orbit.
_STEEPEST = 5.0
# Digits of the frequency that fixes the plane: rounding of a fit must not move it.
_DIGITS = 3


def plane_frequency(quick: LowOrderFit) -> Tensor:
    """Return the plane's frequency, with shape (*B,): that of the low-order fit, rounded."""
    omega = quick.ln_Omega0.exp()
    power = 10 ** (omega.log10().floor() + 1 - _DIGITS)
    return (omega / power).round() * power


def place_heights(heights: Numbers, n: int, pixels: Pixels, units: UnitSystem) -> Tensor:
    """Return heights of sheets, with shape (*B, K): as given, or n in geometric steps.

    Raises
    ------
    ValueError
        If there is not at least one.
    """
    if heights is not None:
        given = to_tensor(heights, "heights", "length", units).reshape(-1).to(pixels.pos)
        if not len(given):
            raise ValueError("heights must be at least one height, got none")
        return given
    n = whole(n, "n_components", 1)
    reach = pixels.pos.abs().amax(-1)
    steps = torch.linspace(math.log(_THINNEST), math.log(_THICKEST), n, dtype=torch.float64)
    return column(reach) * steps.exp().to(reach)


def potential_extent(transform: PotentialEllipse, pixels: Pixels, quick: LowOrderFit) -> Tensor:
    """Return the largest radius that data on either axis reach at the start, with shape (*B,)."""
    mean = transform.ln_rho_mean
    ln_rho = column(mean).expand(*mean.shape, transform.heights.shape[-1] + 1)
    frame = (quick.pos0, quick.vel0, ln_rho)
    x, y = transform.plane(pixels.pos, pixels.vel, *frame)
    return torch.maximum(x.abs().amax(-1), y.abs().amax(-1))


def potential_bounds(model: Fronted, quick: LowOrderFit, pixels: Pixels) -> Nested:
    """Return bounds as a dictionary of (lower, upper) pairs of NumPy arrays, in model units."""
    torus, mean = model.torus, _transform(model).ln_rho_mean
    n_label, n_rho = knots_of(torus.label_func).shape[-1], _n_rho(model)
    found = default_bounds(quick, pixels, n_label, {}, model.border.units)
    del found["ln_Omega0"], found["e_params"]
    center = column(mean).expand(*mean.shape, n_rho).cpu().numpy()
    found["ln_rho"] = (center - _LN_RHO_BELOW, center + _LN_RHO_ABOVE)
    steepest = _STEEPEST / float(torch.as_tensor(quick.extent).min())
    edges = {m: np.full(n, steepest) for m, n in _n_slopes(model).items()}
    if edges:
        found["e_params"] = {m: {"vals": (-edge, edge)} for m, edge in edges.items()}
    return found


def potential_start(model: Fronted, quick: LowOrderFit, pixels: Pixels, bounds: Bounds) -> Nested:
    """Return a start inside the bounds: sheets of equal density, and the label that goes with."""
    mean = _transform(model).ln_rho_mean
    ln_rho = column(mean).expand(*mean.shape, _n_rho(model)).clone()
    params: Nested = {"pos0": quick.pos0, "vel0": quick.vel0, "ln_rho": ln_rho}
    slopes = {m: {"vals": mean.new_zeros(*mean.shape, n)} for m, n in _n_slopes(model).items()}
    if slopes:
        params["e_params"] = slopes
    torus = model.torus
    vals = fit_label_values(torus, pixels, params, knots_of(torus.label_func).shape[-1])
    params["label_params"] = {"label_vals": vals}
    layout = Layout.of(params)
    box = model.border.box(bounds, layout)
    inside = layout.flatten(params).clamp(box.lower, box.upper)
    return layout.unflatten(box.nudge_inside(inside))


def _transform(model: Fronted) -> PotentialEllipse:
    return cast(PotentialEllipse, model.torus.transform)


def _n_rho(model: Fronted) -> int:
    return _transform(model).heights.shape[-1] + 1


def _n_slopes(model: Fronted) -> dict[int, int]:
    e_funcs = model.torus.distortion.e_funcs
    return {m: knots_of(f).shape[-1] - 1 for m, f in e_funcs.items()}
