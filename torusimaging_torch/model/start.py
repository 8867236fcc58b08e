"""A start, bounds and knots from binned data: every heuristic has a name, a unit and a reason.

All of it works on a batch of problems, too: pixels with shape (*B, N), one answer for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model.border import Border, Fronted
from torusimaging_torch.model.first_bounds import (
    VELOCITY_OFFSET,
    ln_frequency_bounds,
    log_slope_bounds,
    position_bounds,
    start_vals,
)
from torusimaging_torch.model.low_order import (
    LowOrderFit,
    fit_label_values,
    fit_low_order,
    label_data,
    low_order_fit,
    unit_grid,
    upstream_extent,
    warn_without_frequency,
)
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Key, Layout, Nested, column
from torusimaging_torch.numerics.ranges import positive
from torusimaging_torch.torus.at_knots import knots_of
from torusimaging_torch.units import BinnedData, Bounds, Knots, to_tensor

__all__ = [
    "LowOrderFit",
    "check_e_knots",
    "count_knots",
    "default_bounds",
    "estimate_init_params",
    "fit_label_values",
    "fit_low_order",
    "label_data",
    "label_pixels",
    "label_smoothness",
    "label_vals_bounds",
    "low_order_fit",
    "place_knots",
    "position_bounds",
    "replace_bounds",
    "start_params",
    "upstream_extent",
    "warn_without_frequency",
]

# Far beyond what any data hold.
_MOST_KNOTS = 500
# The label at the centre, in standard deviations of all pixels' labels around the estimate.
LABEL_SPAN = 5.0
# The steepest local slope of the label, in units of its mean slope over the data.
LABEL_STEEPNESS = 10.0


def count_knots(knots: Any, name: str) -> int:
    """Return a number of knots, given as such or by their positions.

    Raises
    ------
    ValueError
        If there are fewer than two knots, or hundreds.
    """
    if np.ndim(knots) > 0:
        if len(knots) < 2:
            raise ValueError(f"{name} must be at least 2 knots or their positions, got {knots!r}")
        return len(knots)
    n = float(to_tensor(knots, name, None))
    if not (n.is_integer() and n >= 2):
        raise ValueError(f"{name} must be at least 2 knots or their positions, got {knots!r}")
    if n > _MOST_KNOTS:
        raise ValueError(
            f"{name} must be at most {_MOST_KNOTS} knots, got {knots!r}: a fit needs the square of "
            "all parameters in memory"
        )
    return int(n)


def place_knots(
    knots: Knots, extent: float | Tensor, power: float, name: str, units: UnitSystem
) -> Tensor:
    """Return knot positions: as given, or a number of them evenly spaced in x**power.

    Parameters
    ----------
    knots
        Number of knots, or their positions.
    extent
        Position of the last one, a number or with shape (*B,).
    power
        Below 1, knots are denser near the centre; above, near the edge.
    name
        The argument's name, for the error message.
    units
        Unit system of the result.

    Raises
    ------
    ValueError
        If there are fewer than two knots, or hundreds, or the power is not positive.
    """
    extent = torch.as_tensor(extent, dtype=torch.float64)
    if np.ndim(knots) > 0:
        return to_tensor(knots, name, "elliptical radius", units, device=extent.device)
    n = count_knots(knots, name)
    argument = f"{name.partition('[')[0]}_spacing_power"
    places = unit_grid(n, extent) ** (1 / positive(power, argument))
    if not (places.diff() > 0).all():
        raise ValueError(f"{argument} must leave knots apart, got {power!r}")
    return column(extent) * places


def default_bounds(
    quick: LowOrderFit,
    pixels: Pixels,
    n_label: int,
    n_e: Mapping[int, int],
    units: UnitSystem,
) -> Nested:
    """Return bounds as a dictionary of (lower, upper) pairs of NumPy arrays, in model units.

    Those of the label have shape (*B, K), all others are the same for a whole batch; but those of
    pos0 have the shape (*B,) where some of its pixels are far from zero.

    Parameters
    ----------
    quick
        The low-order fit: the label is taken to rise or fall as it does there.
    pixels
        The data.
    n_label
        Number of knots of the label function.
    n_e
        Number of knots of each e function.
    units
        The unit system.
    """
    return {
        "pos0": tuple(position_bounds(pixels, units).detach().cpu().numpy()),
        "vel0": to_tensor(VELOCITY_OFFSET, "vel0", "velocity", units).numpy(),
        "ln_Omega0": ln_frequency_bounds(units).numpy(),
        "e_params": {
            m: {"vals": tuple(np.full(n - 1, edge) for edge in log_slope_bounds(units))}
            for m, n in n_e.items()
        },
        "label_params": {"label_vals": label_vals_bounds(quick, pixels, n_label)},
    }


def label_vals_bounds(quick: LowOrderFit, pixels: Pixels, n_label: int) -> tuple[Array, Array]:
    """Return lower and upper bounds of a label's value and slopes, NumPy arrays (*B, K)."""
    centre, slope = quick.label_range
    steepest = LABEL_STEEPNESS * slope
    span = LABEL_SPAN * _label_std(pixels)

    def label_vals(first: Tensor, rest: Tensor) -> Array:
        rest = rest.unsqueeze(-1).expand(*rest.shape, n_label - 1)
        return torch.cat([first.unsqueeze(-1), rest], dim=-1).detach().cpu().numpy()

    return (
        label_vals(centre - span, steepest.clamp(max=0)),
        label_vals(centre + span, steepest.clamp(min=0)),
    )


def label_smoothness(quick: LowOrderFit, pixels: Pixels) -> Tensor:
    """Return the scale of changes of the label's slope: its mean slope, with shape (*B,)."""
    used, label = pixels.used, pixels.observed[0]
    mean = torch.where(used, label, 0.0).sum(-1) / pixels.n
    square = torch.where(used, label - column(mean), 0.0).square().sum(-1) / pixels.n
    return torch.maximum(quick.label_range[1].abs(), 0.1 * square.sqrt() / quick.extent)


def _label_std(pixels: Pixels) -> Tensor:
    used, label, n = pixels.used, pixels.observed[0], pixels.n
    mean = torch.where(used, label, 0.0).sum(-1) / n
    square = torch.where(used, label - column(mean), 0.0).square().sum(-1)
    return (square / (n - 1)).sqrt()


def start_params(
    model: Fronted, quick: LowOrderFit, pixels: Pixels, bounds: Bounds = None
) -> Nested:
    """Return a start inside the bounds: the low-order fit with a slight distortion.

    Parameters
    ----------
    model
        The spline model.
    quick
        The low-order fit.
    pixels
        The data, as labels.
    bounds
        As in `optimize`.
    """
    torus, like = model.torus, quick.ln_Omega0
    n_e = {m: knots_of(f).shape[-1] - 1 for m, f in torus.distortion.e_funcs.items()}
    params: Nested = {
        "pos0": quick.pos0,
        "vel0": quick.vel0,
        "ln_Omega0": quick.ln_Omega0,
        "e_params": {m: {"vals": start_vals(n, like, model.border.units)} for m, n in n_e.items()},
    }
    vals = fit_label_values(torus, pixels, params, knots_of(torus.label_func).shape[-1])
    params["label_params"] = {"label_vals": vals}
    layout = Layout.of(params)
    box = model.border.box(bounds, layout)
    inside = layout.flatten(params).clamp(box.lower, box.upper)
    return layout.unflatten(box.nudge_inside(inside))


@with_autograd
def estimate_init_params(model: Fronted, binned_data: BinnedData, bounds: Bounds = None) -> Nested:
    """Return a start inside the bounds, from binned data, for a model of splines.

    Parameters
    ----------
    binned_data
        Dictionary with keys pos, vel, and label and label_err, or counts; if wanted weight.
    bounds
        As in `optimize`.

    Raises
    ------
    ValueError
        If no pixel can be used, or a function of the model has no knots.

    Examples
    --------
    >>> start = model.estimate_init_params(data)
    >>> sorted(start)
    ['e_params', 'label_params', 'ln_Omega0', 'pos0', 'vel0']
    """
    border = model.border
    where = border.like.device
    quick = low_order_fit(binned_data, border.units, model.torus.convention, where)
    return start_params(model, quick, label_pixels(border, binned_data), bounds)


def label_pixels(border: Border, binned_data: BinnedData) -> Pixels:
    """Return the usable pixels of binned data as labels, whatever the kind of data."""
    likelihood = make_likelihood("gaussian")
    data = border.data(label_data(binned_data), likelihood.observed)
    data = {name: x.detach() for name, x in data.items()}
    return Pixels.clean(likelihood, data)


def check_e_knots(e_knots: object) -> None:
    """Raise a TypeError if knots are not given by order m."""
    if not isinstance(e_knots, Mapping):
        raise TypeError(
            f"e_knots must be a dictionary of knots by order m, such as {{2: 8, 4: 4}}, got "
            f"{e_knots!r}"
        )


def replace_bounds(bounds: Mapping[Key, Any], given: Mapping[Key, Any]) -> dict[Key, Any]:
    """Return bounds with those given in place of the default ones.

    Raises
    ------
    ValueError
        If a key is not among the default ones.
    """
    unknown = sorted(set(given) - set(bounds))
    if unknown:
        raise ValueError(f"bounds has unknown keys {unknown}: expected some of {sorted(bounds)}")
    merged = dict(bounds)
    for key, value in given.items():
        merged[key] = replace_bounds(bounds[key], value) if isinstance(value, Mapping) else value
    return merged
