"""A start, bounds and knots from binned data: every heuristic has a name, a unit and a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.bounds import Box
from torusimaging_torch.data import estimate_Omega
from torusimaging_torch.fit import fit
from torusimaging_torch.params import Layout, Params
from torusimaging_torch.posterior import Pixels, Posterior, make_likelihood
from torusimaging_torch.splines import SplineEFunction, SplineLabelFunction, n_slopes
from torusimaging_torch.torus import OrbitalTorus
from torusimaging_torch.units import (
    data_to_tensors,
    gravitational_constant,
    label_values,
    to_tensor,
    unit_of,
    with_unit,
)

__all__ = [
    "LowOrderFit",
    "default_bounds",
    "fit_label_values",
    "label_data",
    "low_order_fit",
    "place_knots",
    "start_params",
    "upstream_extent",
]

# Midplane densities between the emptiest and the densest discs: Omega0^2 = 4 pi G rho.
MIDPLANE_DENSITY = (1e-3, 1e2) * u.Msun / u.pc**3
# The Sun lies within tens of pc of the midplane, and moves at several km/s across it.
POSITION_OFFSET = (-1.0, 1.0) * u.kpc
VELOCITY_OFFSET = (-100.0, 100.0) * u.km / u.s
# Log slopes of e: from a distortion that no data could show to one that no orbit has.
LOG_SLOPES = (-16.0, 10.0)
# The label at the centre, in standard deviations of all pixels' labels around the estimate.
LABEL_SPAN = 5.0
# The steepest local slope of the label, in units of its mean slope over the data.
LABEL_STEEPNESS = 10.0
# Knots of the low-order fit: enough to bend the label function, few enough to be certain.
_LOW_ORDER_KNOTS = 4
_LOW_ORDER_E_KNOTS = 3
# Log slope of e_2 from which the low-order fit starts, and those of all others in a full fit: a
# few per cent of distortion at the edge, where the likelihood feels each of them.
_START_LOG_SLOPE = -2.0


@dataclass(frozen=True)
class LowOrderFit:
    """A quick fit with an almost elliptical model: enough to know centre, frequency and extent.

    Attributes
    ----------
    pos0, vel0, ln_Omega0
        Scalars in model units.
    label_range
        Label at the centre, and its mean slope by r over the data.
    extent
        Largest elliptical radius that data on the position or velocity axis reach.
    success
        Whether the fit converged.
    """

    pos0: Tensor
    vel0: Tensor
    ln_Omega0: Tensor
    label_range: tuple[float, float]
    extent: float
    success: bool


class _LowOrderModel:
    """What a posterior needs of a model: a few knots for the label, and for e_2 alone."""

    def __init__(self, extent: float, convention: str) -> None:
        knots = torch.linspace(0, extent, _LOW_ORDER_KNOTS, dtype=torch.float64)
        e_knots = extent * torch.linspace(0, 1, _LOW_ORDER_E_KNOTS, dtype=torch.float64) ** 2
        sign = 1.0 if convention == "pv" else -1.0
        label = SplineLabelFunction(knots, "quadratic")
        self.torus = OrbitalTorus(label, {2: SplineEFunction(e_knots, sign)}, convention)

    @staticmethod
    def regularization_func(model: Any, params: Params) -> Tensor:
        """Keep the distortion small where the data do not ask for it."""
        vals = params["e_params"][2]["vals"]
        return 0.5 * ((vals - _START_LOG_SLOPE) / 2.0).square().sum(-1)


def label_data(binned_data: Mapping[str, Any]) -> dict[str, Any]:
    """Return positions, velocities, labels and their errors, whatever the kind of binned data.

    Star counts alone have the label ln(counts), with the error 1/sqrt(counts).

    Raises
    ------
    KeyError
        If the data have neither labels nor counts.
    """
    data = {"pos": binned_data["pos"], "vel": binned_data["vel"]}
    if "label_err" in binned_data:
        label, label_err, _ = label_values(binned_data["label"], binned_data["label_err"])
        return data | {"label": label, "label_err": label_err}
    counts = np.asarray(u.Quantity(with_unit(binned_data["counts"])).value, dtype=float)
    safe = np.where(counts > 0, counts, np.nan)
    return data | {"label": np.log(safe), "label_err": safe**-0.5}


def upstream_extent(binned_data: Mapping[str, Any], units: UnitSystem) -> float:
    """Return the largest elliptical radius by upstream's rule.

    It is the mean over the two axes of the edge of the grid, with the frequency from the first
    guess, which is too small on a disk: the knots then end before the data do.
    """
    root = np.sqrt(estimate_Omega(binned_data).to_value(unit_of("frequency", units)))
    pos = to_tensor(binned_data["pos"], "pos", "length", units).max().item()
    vel = to_tensor(binned_data["vel"], "vel", "velocity", units).max().item()
    return 0.5 * (pos * root + vel / root)


def low_order_fit(
    binned_data: Mapping[str, Any], units: UnitSystem, convention: str = "pv"
) -> LowOrderFit:
    """Fit an almost elliptical model to binned data.

    Parameters
    ----------
    binned_data
        Dictionary with keys pos, vel, and label and label_err, or counts.
    units
        Unit system of the result.
    convention
        Elliptical angle convention.

    Raises
    ------
    ValueError
        If no pixel can be used.
    """
    likelihood = make_likelihood("gaussian")
    data = data_to_tensors(label_data(binned_data), likelihood.observed, units)
    pixels = Pixels.clean(likelihood, data)
    # The span of the usable pixels fixes a scale even where the label says little.
    span = torch.stack([_half_span(pixels.vel), _half_span(pixels.pos)])
    ln_Omega0 = (span[0] / span[1]).log()
    extent = float((span[0] * span[1]).sqrt())
    model = _LowOrderModel(extent, convention)
    params = _low_order_start(pixels, ln_Omega0, model)
    layout = Layout.of(params)
    bounds = {"pos0": POSITION_OFFSET, "vel0": VELOCITY_OFFSET}
    posterior = Posterior(model, likelihood, layout, pixels)
    box = _low_order_box(layout, units, bounds)
    result = fit(posterior, box, box.nudge_inside(layout.flatten(params)), tol=1e-3, max_iter=200)
    found = layout.unflatten(result.x)
    return LowOrderFit(
        found["pos0"],
        found["vel0"],
        found["ln_Omega0"],
        _label_range(model, found, pixels),
        _axis_extent(pixels, found),
        bool(result.success),
    )


def _half_span(x: Tensor) -> Tensor:
    return (x.max() - x.min()) / 2


def _low_order_start(pixels: Pixels, ln_Omega0: Tensor, model: _LowOrderModel) -> dict[str, Any]:
    zero = torch.zeros_like(ln_Omega0)
    params = {
        "pos0": zero,
        "vel0": zero,
        "ln_Omega0": ln_Omega0,
        "e_params": {2: {"vals": zero.new_full((_LOW_ORDER_E_KNOTS - 1,), _START_LOG_SLOPE)}},
    }
    vals = fit_label_values(model.torus, pixels, params, _LOW_ORDER_KNOTS)
    return {**params, "label_params": {"label_vals": vals}}


def _low_order_box(layout: Layout, units: UnitSystem, bounds: dict[str, u.Quantity]) -> Box:
    kinds = {"pos0": "length", "vel0": "velocity"}
    pairs = {k: to_tensor(v, k, kinds[k], units) for k, v in bounds.items()}
    pairs["ln_Omega0"] = _ln_frequency_bounds(units)
    vals = torch.tensor(LOG_SLOPES, dtype=torch.float64)
    lower, upper = (
        {k: v[i] for k, v in pairs.items()} | {"e_params": {2: {"vals": vals[i]}}} for i in (0, 1)
    )
    like = vals
    return Box(
        layout.fill(lower, -torch.inf, like), layout.fill(upper, torch.inf, like), layout.names
    )


def _ln_frequency_bounds(units: UnitSystem) -> Tensor:
    density = to_tensor(MIDPLANE_DENSITY, "density", "density", units)
    return 0.5 * (4 * torch.pi * gravitational_constant(units) * density).log()


def fit_label_values(torus: OrbitalTorus, pixels: Pixels, params: Params, n_vals: int) -> Tensor:
    """Return the label values and slopes that fit best, all other parameters given.

    A spline is linear in them: weighted least squares, with shape (K,). A little ridge decides
    what the data leave open.
    """
    r = torus.radius(pixels.pos, pixels.vel, params)
    eye = torch.eye(n_vals, dtype=r.dtype)
    basis = torch.stack([torus.label_func(r, label_vals=row) for row in eye], dim=-1)
    label, label_err = pixels.observed
    weight = 1 / label_err
    matrix, target = basis * weight.unsqueeze(-1), label * weight
    normal = matrix.mT @ matrix
    ridge = 1e-8 * normal.diagonal().mean() * eye
    return torch.linalg.solve(normal + ridge, matrix.mT @ target)


def _label_range(model: _LowOrderModel, params: Params, pixels: Pixels) -> tuple[float, float]:
    r = model.torus.radius(pixels.pos, pixels.vel, params)
    edge = r.quantile(0.95) if r.numel() < 1_000_000 else r.max()
    ends = torch.stack([torch.zeros_like(edge), edge])
    inner, outer = model.torus.label_func(ends, **params["label_params"])
    return float(inner), float((outer - inner) / edge)


def _axis_extent(pixels: Pixels, params: Params) -> float:
    root = (0.5 * params["ln_Omega0"]).exp()
    pos, vel = (pixels.pos - params["pos0"]).abs().max(), (pixels.vel - params["vel0"]).abs().max()
    return float(torch.maximum(pos * root, vel / root))


def place_knots(knots: Any, extent: float, power: float, name: str) -> Tensor:
    """Return knot positions: as given, or a number of them evenly spaced in x**power.

    Parameters
    ----------
    knots
        Number of knots, or their positions.
    extent
        Position of the last one.
    power
        Below 1, knots are denser near the centre; above, near the edge.
    name
        The argument's name, for the error message.

    Raises
    ------
    ValueError
        If there are fewer than two knots.
    """
    positions = to_tensor(knots, name, "elliptical radius")
    if positions.ndim > 0:
        return positions
    n = int(positions)
    if n != float(positions) or n < 2:
        raise ValueError(f"{name} must be at least 2 knots or their positions, got {knots!r}")
    grid = torch.linspace(0, 1, n, dtype=torch.float64) ** (1 / power)
    return extent * grid


def default_bounds(
    quick: LowOrderFit,
    pixels: Pixels,
    n_label: int,
    n_e: Mapping[int, int],
    units: UnitSystem,
) -> dict[str, Any]:
    """Return bounds as a dictionary of (lower, upper) pairs of NumPy arrays, in model units.

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
    centre, slope = quick.label_range
    steepest = LABEL_STEEPNESS * abs(slope)
    span = LABEL_SPAN * float(pixels.observed[0].std())
    low, high = (0.0, steepest) if slope > 0 else (-steepest, 0.0)
    rest = np.ones(n_label - 1)
    return {
        "pos0": to_tensor(POSITION_OFFSET, "pos0", "length", units).numpy(),
        "vel0": to_tensor(VELOCITY_OFFSET, "vel0", "velocity", units).numpy(),
        "ln_Omega0": _ln_frequency_bounds(units).numpy(),
        "e_params": {
            m: {"vals": tuple(np.full(n - 1, edge) for edge in LOG_SLOPES)} for m, n in n_e.items()
        },
        "label_params": {
            "label_vals": (
                np.concatenate([[centre - span], low * rest]),
                np.concatenate([[centre + span], high * rest]),
            )
        },
    }


def start_params(
    torus: OrbitalTorus,
    quick: LowOrderFit,
    pixels: Pixels,
    lower: Params,
    upper: Params,
) -> dict[str, Any]:
    """Return a start inside the bounds: the low-order fit with a slight distortion.

    Parameters
    ----------
    torus
        The spline model.
    quick
        The low-order fit.
    pixels
        The data.
    lower, upper
        Bounds, nested dictionaries of tensors; a parameter that is left out has none.
    """
    n_e = {m: n_slopes(f) for m, f in torus.distortion.e_funcs.items()}
    params: dict[str, Any] = {
        "pos0": quick.pos0,
        "vel0": quick.vel0,
        "ln_Omega0": quick.ln_Omega0,
        "e_params": {
            m: {"vals": torch.full((n,), _START_LOG_SLOPE, dtype=torch.float64)}
            for m, n in n_e.items()
        },
    }
    n_vals = n_slopes(torus.label_func) + 1
    vals = fit_label_values(torus, pixels, params, n_vals)
    params["label_params"] = {"label_vals": vals}
    layout = Layout.of(params)
    like = vals
    box = Box(
        layout.fill(lower, -torch.inf, like), layout.fill(upper, torch.inf, like), layout.names
    )
    inside = layout.flatten(params).clamp(box.lower, box.upper)
    return layout.unflatten(box.nudge_inside(inside))
