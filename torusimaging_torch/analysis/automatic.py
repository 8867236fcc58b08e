"""How the data choose what settings of an analysis leave open."""

from __future__ import annotations

import math
from typing import Any

import astropy.units as u
import numpy as np
from gala.units import galactic

from torusimaging_torch.model.known_applied import frame_known
from torusimaging_torch.model.start import label_data, low_order_fit
from torusimaging_torch.settings import Settings
from torusimaging_torch.units import BinnedData

__all__ = ["choose_half_range", "choose_n_bins", "choose_penalty", "in_unit"]

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


def choose_penalty(binned: BinnedData, settings: Settings) -> dict[str, Any]:
    """Return the arguments of the default penalty, in the label's own unit and size.

    Raises
    ------
    ValueError
        If the data have no usable pixel, or no gradient.
    """
    values = np.asarray(label_data(binned)["label"], dtype=float)
    known = frame_known(settings.priors, settings.hold, galactic)
    quick = low_order_fit(binned, galactic, settings.elliptical_angle_convention, known=known)
    l2, smooth = settings.label_l2_sigma, settings.label_smooth_sigma
    if l2 is None:
        l2 = _LABEL_L2 * float(np.sqrt(np.nanmean(values**2)))
    if smooth is None:
        spread = float(np.nanstd(values)) / float(quick.extent)
        smooth = _LABEL_SMOOTH * max(abs(float(quick.label_range[1])), 0.1 * spread)
    return {
        "label_l2_sigma": l2,
        "label_smooth_sigma": smooth,
        "e_l2_sigmas": dict.fromkeys(settings.e_knots, settings.e_l2_sigmas),
        "e_smooth_sigmas": dict.fromkeys(settings.e_knots, settings.e_smooth_sigmas),
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
