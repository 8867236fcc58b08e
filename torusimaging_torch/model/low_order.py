"""A quick fit of an almost elliptical model: what knots, bounds and a start are made from.

It works on a batch of problems, too: pixels with shape (*B, N), one answer for each.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TypeVar

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.binned import estimate_Omega
from torusimaging_torch.inference.fit import fit
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import likelihood_of, make_likelihood
from torusimaging_torch.likelihoods.penalty import SumOfPenalties, no_regularization
from torusimaging_torch.likelihoods.priors import NormalPenalty, Prior
from torusimaging_torch.model.first_bounds import (
    START_LOG_SLOPE,
    VELOCITY_OFFSET,
    ln_frequency_bounds,
    log_slope_bounds,
    log_slope_offset,
    position_bounds,
    start_vals,
)
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Nested, Params, column
from torusimaging_torch.tensors import data_to_tensors, device_of
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction
from torusimaging_torch.units import Binned, BinnedData, to_tensor, unit_of

__all__ = [
    "FRAME",
    "FrameKnown",
    "LowOrderFit",
    "fit_label_values",
    "fit_low_order",
    "label_data",
    "low_order_fit",
    "unit_grid",
    "upstream_extent",
    "warn_without_frequency",
    "why_no_gradient",
]

Values = TypeVar("Values", Tensor, Array)

# Knots of the low-order fit: enough to bend the label function, few enough to be certain.
_LOW_ORDER_KNOTS = 4
_LOW_ORDER_E_KNOTS = 3
# So near to a bound of ln_Omega0 the data have not chosen it.
_NEAR_A_BOUND = 0.1
# Nats by which the low-order fit may miss its optimum.
_TOL = 1e-9


def unit_grid(n: int, like: Tensor) -> Tensor:
    """Return n numbers from 0 to 1, evenly spaced, of the type and on the device of a tensor."""
    return torch.linspace(0, 1, n, dtype=like.dtype, device=like.device)


FRAME = Layout((("ln_Omega0",), ("pos0",), ("vel0",)), (None, None, None))
"""The parameters that the low-order fit shares with models."""


@dataclass(frozen=True)
class FrameKnown:
    """What is known beforehand of the parameters in `FRAME`.

    Attributes
    ----------
    priors
        Penalties.
    lower, upper
        Bounds in model units, with shape () or (*B,); equal where a parameter is held.
    """

    priors: tuple[Prior, ...] = ()
    lower: Mapping[str, Tensor] = field(default_factory=dict)
    upper: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LowOrderFit:
    """A quick fit with an almost elliptical model: enough to know centre, frequency and extent.

    Attributes
    ----------
    pos0, vel0, ln_Omega0
        In model units, with shape (*B,).
    label_range
        Label at the centre, and its mean slope by r over the data, with shape (*B,) each.
    extent
        Largest elliptical radius that data on the position or velocity axis reach, (*B,).
    success
        Whether the fit converged, with shape (*B,).
    """

    pos0: Tensor
    vel0: Tensor
    ln_Omega0: Tensor
    label_range: tuple[Tensor, ...]
    extent: Tensor | float
    success: Tensor

    def has_frequency(self, units: UnitSystem) -> Tensor:
        """Return whether the data have chosen the frequency, with shape (*B,), not a bound."""
        bounds = ln_frequency_bounds(units).to(self.ln_Omega0)
        return (column(self.ln_Omega0) - bounds).abs().amin(-1) > _NEAR_A_BOUND


class _LowOrderModel:
    """What a posterior needs of a model: a few knots for the label, and for e_2 alone."""

    def __init__(
        self, extent: Tensor, convention: str, units: UnitSystem, priors: Sequence[Prior]
    ) -> None:
        knots = unit_grid(_LOW_ORDER_KNOTS, extent) * column(extent)
        e_knots = unit_grid(_LOW_ORDER_E_KNOTS, extent) ** 2 * column(extent)
        sign = 1.0 if convention == "pv" else -1.0
        label = SplineLabelFunction(knots, "quadratic")
        torus = OrbitalTorus(label, {2: SplineEFunction(e_knots, sign)}, convention)
        self.torus = torus.to(extent.device)
        # The distortion stays small where the data do not ask for it.
        start = START_LOG_SLOPE + log_slope_offset(units)
        path = ("e_params", 2, "vals")
        small = NormalPenalty(path, _LOW_ORDER_E_KNOTS - 1, start, 2.0)
        own = (prior.to(extent) for prior in priors)
        self.regularization_func = SumOfPenalties((small, *own)) if priors else small


def label_data(binned_data: BinnedData) -> Binned:
    """Return positions, velocities, labels and their errors, whatever the kind of binned data.

    Star counts alone have the label ln(counts), with the error 1/sqrt(counts); see
    `Likelihood.as_labels`. Weights of pixels come along.

    Raises
    ------
    KeyError
        If the data have neither labels nor counts.
    """
    likelihood = likelihood_of(binned_data)
    bare = {key: binned_data[key] for key in ("pos", "vel", *likelihood.observed)}
    tensors = data_to_tensors(bare, likelihood.observed)
    label, label_err = likelihood.as_labels(*(tensors[key] for key in likelihood.observed))
    if "counts" in likelihood.observed and not bool((tensors["counts"] > 0).any()):
        raise ValueError("nothing can be fitted: no star is counted in any pixel")
    if binned_data.get("exposure") is not None:
        label = label - torch.as_tensor(binned_data["exposure"]).to(label).log()
    data = {key: binned_data[key] for key in ("pos", "vel", "weight") if key in binned_data}
    return data | {"label": label, "label_err": label_err}


def upstream_extent(binned_data: BinnedData, units: UnitSystem) -> float:
    """Return the largest elliptical radius by upstream's rule.

    It is the mean over the two axes of the edge of the grid, with the frequency from the first
    guess, which is too small on a disk: the knots then end before the data do.
    """
    Omega = estimate_Omega(label_data(binned_data), units)
    root = np.sqrt(Omega.to_value(unit_of("frequency", units)))
    pos = to_tensor(binned_data["pos"], "pos", "length", units).max().item()
    vel = to_tensor(binned_data["vel"], "vel", "velocity", units).max().item()
    return 0.5 * (pos * root + vel / root)


def why_no_gradient(pos: Values, vel: Values, label: Values) -> str:
    """Return why labels of pixels (N,) tell nothing about orbits, or nothing if they do."""
    for name, x in (("position", pos), ("velocity", vel)):
        low, high = float(x.min()), float(x.max())
        if not high > low:
            return f"all {len(x)} usable pixels have the same {name}"
        if math.isinf((high - low) * (high - low)):
            return f"pixels reach {max(abs(low), abs(high)):g} in {name}: is that its unit?"
    if not bool(label.max() > label.min()):
        return f"all {len(label)} usable pixels have the same label: it has no gradient"
    return ""


def low_order_fit(
    binned_data: BinnedData,
    units: UnitSystem,
    convention: str = "pv",
    device: torch.device | None = None,
    known: FrameKnown | None = None,
) -> LowOrderFit:
    """Fit an almost elliptical model to binned data.

    Parameters
    ----------
    binned_data
        Dictionary with keys pos, vel, and label and label_err, or counts; if wanted weight.
    units
        Unit system of the result.
    convention
        Elliptical angle convention.
    device
        Where to fit; by default where the data are.
    known
        What is known beforehand.

    Raises
    ------
    ValueError
        If no pixel can be used, or all are alike in position, velocity or label.
    """
    likelihood = make_likelihood("gaussian")
    device = device_of(binned_data) if device is None else device
    data = data_to_tensors(label_data(binned_data), likelihood.observed, units, device=device)
    data = {name: x.detach() for name, x in data.items()}  # knots have no derivatives
    pixels = Pixels.clean(likelihood, data)
    if problem := why_no_gradient(pixels.pos, pixels.vel, pixels.observed[0]):
        raise ValueError(f"nothing can be fitted: {problem}")
    return fit_low_order(pixels, units, convention, known)


def warn_without_frequency(quick: LowOrderFit, units: UnitSystem) -> None:
    """Warn of problems whose frequency rests at an end of its range, as with wrong units."""
    lost = ~quick.has_frequency(units)
    if lost.any():
        to_unit = unit_of("frequency", units).to(u.rad / u.Myr)
        low, high = (ln_frequency_bounds(units).exp() * to_unit).tolist()
        warnings.warn(
            f"the orbital frequency of {int(lost.sum())} of {lost.numel()} data sets is at an end "
            f"of the range in which disks are, {low:.2g} to {high:.2g} rad/Myr: do positions and "
            "velocities carry their right units, and does the label change along both?",
            RuntimeWarning,
            stacklevel=4,
        )


def fit_low_order(
    pixels: Pixels,
    units: UnitSystem,
    convention: str = "pv",
    known: FrameKnown | None = None,
) -> LowOrderFit:
    """Fit an almost elliptical model to the labels of pixels with shape (*B, N).

    Positions, velocities and labels of each problem's pixels must differ.
    """
    # The span of the usable pixels fixes a scale even where the label says little.
    vel, pos = _half_span(pixels.vel), _half_span(pixels.pos)
    known = known or FrameKnown()
    model = _LowOrderModel((vel * pos).sqrt(), convention, units, known.priors)
    params = _low_order_start(pixels, (vel / pos).log(), model, units)
    layout = Layout.of(params)
    bounds = {"pos0": position_bounds(pixels, units), "vel0": VELOCITY_OFFSET}
    posterior = Posterior(model, make_likelihood("gaussian"), layout, pixels)
    box = _low_order_box(layout, units, bounds, known, like=vel)
    start = layout.flatten(params).clamp(box.lower, box.upper)
    result = fit(posterior, box, box.nudge_inside(start), tol=_TOL, max_iter=200)
    found = layout.unflatten(result.x)
    return LowOrderFit(
        found["pos0"],
        found["vel0"],
        found["ln_Omega0"],
        tuple(_round_up(x, 3) for x in _label_range(model, found, pixels)),
        _round_up(_axis_extent(pixels, found), 4),
        result.success,
    )


def _round_up(x: Tensor, digits: int) -> Tensor:
    """Round to some digits, away from zero: rounding errors of a fit must not move knots."""
    power = 10 ** (x.abs().log10().floor() + 1 - digits)
    return torch.where(x == 0, x, x.sign() * (x.abs() / power).ceil() * power)


def _half_span(x: Tensor) -> Tensor:
    return (x.amax(-1) - x.amin(-1)) / 2


def _low_order_start(
    pixels: Pixels, ln_Omega0: Tensor, model: _LowOrderModel, units: UnitSystem
) -> Nested:
    zero = torch.zeros_like(ln_Omega0)
    low, high = position_bounds(pixels, units)
    params = {
        "pos0": zero + 0.5 * (low + high),
        "vel0": zero,
        "ln_Omega0": ln_Omega0,
        "e_params": {2: {"vals": start_vals(_LOW_ORDER_E_KNOTS - 1, zero, units)}},
    }
    vals = fit_label_values(model.torus, pixels, params, _LOW_ORDER_KNOTS)
    return {**params, "label_params": {"label_vals": vals}}


def _low_order_box(
    layout: Layout,
    units: UnitSystem,
    bounds: Mapping[str, object],
    known: FrameKnown,
    like: Tensor,
) -> Box:
    kinds = {"pos0": "length", "vel0": "velocity"}
    pairs = {k: to_tensor(v, k, kinds[k], units).to(like) for k, v in bounds.items()}
    pairs["ln_Omega0"] = ln_frequency_bounds(units).to(like)
    vals = like.new_tensor(log_slope_bounds(units))
    own = [{k: v.to(like) for k, v in side.items()} for side in (known.lower, known.upper)]
    lower, upper = (
        {**{k: v[i] for k, v in pairs.items()}, "e_params": {2: {"vals": vals[i]}}, **own[i]}
        for i in (0, 1)
    )
    return Box(
        layout.fill(lower, -torch.inf, like), layout.fill(upper, torch.inf, like), layout.names
    )


def fit_label_values(torus: OrbitalTorus, pixels: Pixels, params: Params, n_vals: int) -> Tensor:
    """Return the label values and slopes that fit best, all other parameters given.

    The label is linear in them: weighted least squares, with shape (*B, K), from the gradient and
    the information where they are zero. A little ridge decides what the data leave open.
    """
    zeros = torch.zeros_like(params["pos0"]).unsqueeze(-1).repeat_interleave(n_vals, -1)
    params = {**params, "label_params": {"label_vals": zeros}}
    layout = Layout.of(params)
    labels = SimpleNamespace(torus=torus, regularization_func=no_regularization)
    posterior = Posterior(labels, make_likelihood("gaussian"), layout, pixels)
    found = posterior.evaluation.curvature(layout.flatten(params))
    own = [i for i, name in enumerate(layout.names) if name.startswith("label_params")]
    normal, target = found.data[..., own, :][..., own], found.gradient[..., own]
    eye = torch.eye(n_vals, dtype=normal.dtype, device=normal.device)
    ridge = 1e-8 * normal.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * eye
    return torch.linalg.solve(normal + ridge, target.unsqueeze(-1)).squeeze(-1)


def _label_range(model: _LowOrderModel, params: Params, pixels: Pixels) -> tuple[Tensor, Tensor]:
    r = model.torus.radius(pixels.pos, pixels.vel, params)
    edge = _quantile(r, pixels.used, 0.95)
    ends = torch.stack([torch.zeros_like(edge), edge], dim=-1)
    inner, outer = model.torus.label_func(ends, **params["label_params"]).unbind(-1)
    return inner, (outer - inner) / edge


def _quantile(x: Tensor, used: Tensor, fraction: float) -> Tensor:
    """Return a quantile of the numbers (*B, N) that are used, with shape (*B,).

    `torch.quantile` knows no mask, and takes no more than sixteen million numbers.
    """
    ranked = torch.where(used, x, torch.inf).sort(-1).values
    rank = fraction * (used.sum(-1, keepdim=True) - 1).to(x.dtype)
    low, high = (ranked.gather(-1, i.long()) for i in (rank.floor(), rank.ceil()))
    return torch.lerp(low, high, rank - rank.floor()).squeeze(-1)


def _axis_extent(pixels: Pixels, params: Params) -> Tensor:
    # Pixels that are not used stand where another one does.
    root = (0.5 * params["ln_Omega0"]).exp()
    pos = (pixels.pos - column(params["pos0"])).abs().amax(-1)
    vel = (pixels.vel - column(params["vel0"])).abs().amax(-1)
    return torch.maximum(pos * root, vel / root)
