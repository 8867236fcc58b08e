"""What can be chosen about an analysis, and how the data choose what is left open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from gala.units import galactic

from torusimaging_torch.model.known_applied import frame_known
from torusimaging_torch.model.start import label_data, low_order_fit

__all__ = [
    "MODELS",
    "UNCERTAINTIES",
    "Settings",
    "choose_half_range",
    "choose_n_bins",
    "choose_penalty",
    "in_unit",
]

MODELS = ("both", "torus", "potential")
UNCERTAINTIES = ("crlb", "nuts", "none")
"""Kinds of errors that an analysis can come with."""

# Of the stars, per cent that the default ranges of position and of velocity hold, unless outliers
# stretch that: not more than so many times the range of the inner stars. In a Gaussian the one is
# 2.0 times the other, in an exponential and in a disk with a thick one 2.9 times; with a tenth of
# halo stars it may be ten times.
_RANGE_PERCENT, _INNER_PERCENT, _STRETCH = 99.0, 80.0, 3.0
# Stars per pixel that the default number of pixels aims at, and the limits of that number.
_STARS_PER_PIXEL = 8
_N_BINS = (20, 80)
_LEAST_BINS = 4
# Widths of the penalty on the label: its values at the knots against their root mean square, and
# the change of its slope from knot to knot against its mean slope.
_LABEL_L2, _LABEL_SMOOTH = 5.0, 1.0


@dataclass(frozen=True)
class Settings:
    """What can be chosen about an analysis; what is None is chosen from the data.

    Attributes
    ----------
    pos_max, vel_max
        The grid reaches from minus to plus these; by default it holds 99 per cent of the stars in
        each direction.
    n_bins
        Number of pixels along each direction; by default 20 to 80, such that a pixel has about
        eight stars.
    scatter
        Intrinsic scatter of the label, in its unit; by default estimated.
    label_knots, e_knots
        Number of knots of the label function, and of e_m by order m.
    label_spacing_power, e_spacing_power
        Knots are evenly spaced in this power of the radius.
    e_signs
        Sign of each e_m; by default such that orbits widen in position.
    label_l2, label_smooth
        Widths of the penalty on the label's values, and on the change of its slope; by default 5
        times the label's root mean square, and its mean slope.
    e_l2, e_smooth
        Widths of the penalty on the values of every e_m, and on the change of its log slopes.
    dacc_strength, dacc_scale
        Height of the wall that keeps densities positive, and its softness as a fraction of
        Omega0^2, that is, of the midplane's density.
    convention
        Elliptical angle convention.
    e_spline
        "cubic" or "quadratic".
    max_iter
        Largest number of iterations.
    uncertainty
        "crlb": errors from the Cramer-Rao bound; "nuts": from samples of the posterior; "none".
    draws
        Number of samples of the posterior; up to a thousand steps of warm-up come before them.
    model
        "torus": ellipses with harmonics; "potential": a potential in their place; "both", side by
        side. Of the convention "vp" there are ellipses alone.
    selection
        Selection function of star counts, as `torusimaging_torch.data.with_selection` takes it.
    selection_error
        How wrong it may be; by default 0.05 if there is one.
    priors, hold
        What is known beforehand by parameter, as in `~torusimaging_torch.TorusImaging1D.optimize`;
        each model takes what it has.
    weak_priors
        Whether pos0 and vel0 get weak priors where stars are on one side, or near the plane, alone;
        see `torusimaging_torch.analysis.weak_priors`.
    outliers
        Whether to seek stars with wrong labels; see `~torusimaging_torch.TorusImaging1D`'s
        ``fit_outliers``.
    """

    pos_max: u.Quantity | None = None
    vel_max: u.Quantity | None = None
    n_bins: int | None = None
    scatter: Any = None
    label_knots: int = 4
    e_knots: Mapping[int, int] = field(default_factory=lambda: {2: 8, 4: 4})
    label_spacing_power: float = 1.0
    e_spacing_power: float = 0.5
    e_signs: Mapping[int, float] | None = None
    label_l2: float | None = None
    label_smooth: float | None = None
    e_l2: float = 1.0
    e_smooth: float = 0.5
    dacc_strength: float = 30.0
    dacc_scale: float = 0.01
    convention: str = "pv"
    e_spline: str = "cubic"
    max_iter: int = 500
    uncertainty: str = "crlb"
    draws: int = 1000
    model: str = "both"
    selection: Any = None
    selection_error: float | None = None
    priors: Mapping[str, Any] = field(default_factory=dict)
    hold: Mapping[str, Any] = field(default_factory=dict)
    weak_priors: bool = True
    outliers: bool = False


def choose_half_range(values: u.Quantity, given: u.Quantity | None, name: str) -> u.Quantity:
    """Return how far a grid reaches to either side: as given, or so that it holds 99 % of values.

    Fewer where the outermost stars lie far from most of them, as those of the halo do.

    Raises
    ------
    ValueError
        If what is given is not positive, or there is nothing to choose from.
    """
    if given is not None:
        if not given > 0:
            raise ValueError(f"{name} must be positive, got {given}")
        return given
    finite = np.abs(values.value[np.isfinite(values.value)])
    if not finite.size or not finite.max() > 0:
        raise ValueError(f"{name} cannot be chosen: no star has a finite value other than zero")
    outer, inner = np.percentile(finite, [_RANGE_PERCENT, _INNER_PERCENT])
    return _round(float(min(outer, _STRETCH * inner) if inner > 0 else outer)) * values.unit


def choose_n_bins(n_stars: float, given: int | None) -> int:
    """Return the number of pixels along each direction: as given, or to suit the number of stars.

    Raises
    ------
    ValueError
        If what is given is too small.
    """
    if given is None:
        return int(np.clip(round(math.sqrt(n_stars / _STARS_PER_PIXEL)), *_N_BINS))
    if given < _LEAST_BINS:
        raise ValueError(f"n_bins must be at least {_LEAST_BINS}, got {given}")
    return given


def choose_penalty(binned: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the arguments of the default penalty, in the label's own unit and size.

    Raises
    ------
    ValueError
        If the data have no usable pixel, or no gradient.
    """
    values = np.asarray(label_data(binned)["label"], dtype=float)
    known = frame_known(settings.priors, settings.hold, galactic)
    quick = low_order_fit(binned, galactic, settings.convention, known=known)
    l2, smooth = settings.label_l2, settings.label_smooth
    if l2 is None:
        l2 = _LABEL_L2 * float(np.sqrt(np.nanmean(values**2)))
    if smooth is None:
        spread = float(np.nanstd(values)) / float(quick.extent)
        smooth = _LABEL_SMOOTH * max(abs(float(quick.label_range[1])), 0.1 * spread)
    return {
        "label_l2_sigma": l2,
        "label_smooth_sigma": smooth,
        "e_l2_sigmas": dict.fromkeys(settings.e_knots, settings.e_l2),
        "e_smooth_sigmas": dict.fromkeys(settings.e_knots, settings.e_smooth),
        "dacc_strength": settings.dacc_strength,
        "dacc_dpos_scale": settings.dacc_scale * float((2 * quick.ln_Omega0).exp()),
    }


def _round(x: float) -> float:
    """Round to two digits, so that default ranges look as if a person had chosen them."""
    return float(f"{x:.2g}")


def in_unit(value: u.Quantity | None, unit: u.UnitBase, option: str) -> u.Quantity | None:
    """Return a quantity in the unit of a column; a number without a unit has that unit.

    Raises
    ------
    astropy.units.UnitConversionError
        If it does not convert.
    """
    if value is None:
        return None
    if value.unit == u.dimensionless_unscaled:
        return value.value * unit
    if not value.unit.is_equivalent(unit):
        raise u.UnitConversionError(f"{option}: '{value}' does not convert to '{unit}'")
    return value.to(unit)
