"""From stars to a fit: bin, place knots, scale the penalty, optimize, judge."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
import torch
from gala.units import galactic
from scipy.special import xlogy

from torusimaging_torch.catalog import Stars
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.fit_errors import checked_bound, sampled_errors
from torusimaging_torch.initialize import label_data, low_order_fit
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.results import FitResult
from torusimaging_torch.units import label_values

if TYPE_CHECKING:
    from torusimaging_torch.samples import Samples

__all__ = [
    "UNCERTAINTIES",
    "Analysis",
    "Settings",
    "analyse",
    "bin_stars",
    "choose_half_range",
    "choose_n_bins",
    "choose_penalty",
]

UNCERTAINTIES = ("crlb", "nuts", "none")
"""Kinds of errors that an analysis can come with."""

# Of the stars, per cent that the default ranges of position and of velocity hold.
_RANGE_PERCENT = 99.0
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


@dataclass(frozen=True, eq=False)
class Analysis:
    """A fit with the data that it was made from.

    Attributes
    ----------
    result
        The fit; its provenance says where the stars came from and how good it is.
    binned
        The pixels, as `torusimaging_torch.data` returns them.
    samples
        Samples of the posterior, if they were asked for.
    """

    result: FitResult
    binned: Mapping[str, Any]
    samples: Samples | None = None


def _silent(line: str) -> None:
    pass


def analyse(
    stars: Stars,
    settings: Settings | None = None,
    tell: Callable[[str], None] = _silent,
    *,
    progress: bool = False,
) -> Analysis:
    """Bin stars and fit them; star counts are fitted if the stars have no label.

    Parameters
    ----------
    stars
        The stars.
    settings
        What to choose otherwise than by default.
    tell
        Called with short lines about what is going on.
    progress
        Whether the optimizer reports on standard error.

    Raises
    ------
    ValueError
        If nothing can be fitted: no star on the grid, no scatter, no usable pixel.

    Warns
    -----
    RuntimeWarning
        If the fit did not converge, or orbits of the model cross.
    """
    settings = Settings() if settings is None else settings
    if settings.uncertainty not in UNCERTAINTIES:
        raise ValueError(
            f"uncertainty must be one of {UNCERTAINTIES}, got {settings.uncertainty!r}"
        )
    objective = "poisson" if stars.label is None else "gaussian"
    binned, grid = bin_stars(stars, settings)
    tell(_describe_grid(grid))
    model, bounds, start = TorusImaging1DSpline.auto_init(
        binned,
        settings.label_knots,
        settings.e_knots,
        settings.e_signs,
        label_knots_spacing_power=settings.label_spacing_power,
        e_knots_spacing_power=settings.e_spacing_power,
        elliptical_angle_convention=settings.convention,
        e_spline=settings.e_spline,
        **choose_penalty(binned, settings),
    )
    params, state = model.optimize(
        start, objective, bounds, max_iter=settings.max_iter, progress=progress, **binned
    )
    tell(f"fit: {state.message}; {state.iter_num} iterations")
    provenance = {
        **stars.provenance,
        "uncertainty": settings.uncertainty,
        "grid": grid,
        "goodness": _goodness(model, params, objective, binned),
        "orbits_cross": _orbits_cross(model, params),
    }
    covariance, samples, fitted = None, None, (model, params, bounds, objective, binned)
    if settings.uncertainty == "crlb":
        covariance, provenance["bound"] = checked_bound(*fitted)
    if settings.uncertainty == "nuts":
        covariance, samples = sampled_errors(*fitted, settings.draws, tell, progress)
        provenance["sampling"] = samples.diagnostics()
    result = FitResult(model, params, bounds, state, objective, provenance, covariance)
    return Analysis(result, binned, samples)


def _round(x: float) -> float:
    """Round to two digits, so that default ranges look as if a person had chosen them."""
    return float(f"{x:.2g}")


def choose_half_range(values: u.Quantity, given: u.Quantity | None, name: str) -> u.Quantity:
    """Return how far a grid reaches to either side: as given, or so that it holds 99 % of values.

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
    return _round(float(np.percentile(finite, _RANGE_PERCENT))) * values.unit


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


def bin_stars(stars: Stars, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Bin stars on a grid that is symmetric about zero.

    Returns
    -------
    binned
        As `get_binned_label` or `get_binned_counts` returns it.
    grid
        pos_max and vel_max as texts, n_bins, n_stars on the grid, and n_pixels that hold any.

    Raises
    ------
    ValueError
        If no star is on the grid.
    astropy.units.UnitConversionError
        If a range has the wrong dimension.
    """
    pos_max = choose_half_range(stars.pos, settings.pos_max, "pos_max")
    vel_max = choose_half_range(stars.vel, settings.vel_max, "vel_max")
    inside = (np.abs(stars.pos) <= pos_max) & (np.abs(stars.vel) <= vel_max)
    if not inside.any():
        raise ValueError(f"no star has |pos| <= {pos_max} and |vel| <= {vel_max}")
    n_bins = choose_n_bins(int(np.count_nonzero(inside)), settings.n_bins)
    edges = np.linspace(-1, 1, n_bins + 1)
    bins = {"pos": edges * pos_max, "vel": edges * vel_max}
    if stars.label is None:
        binned = get_binned_counts(stars.pos, stars.vel, bins)
    else:
        binned = get_binned_label(
            stars.pos,
            stars.vel,
            stars.label,
            bins,
            label_err=stars.label_err,
            s=settings.scatter,
        )
    return binned, {
        "pos_max": str(pos_max),
        "vel_max": str(vel_max),
        "n_bins": n_bins,
        "n_stars": int(binned["counts"].sum()),
        "n_pixels": int(np.count_nonzero(binned["counts"])),
    }


def _describe_grid(grid: Mapping[str, Any]) -> str:
    return (
        f"{grid['n_stars']:,} stars in {grid['n_pixels']:,} of {grid['n_bins']} x "
        f"{grid['n_bins']} pixels, |pos| < {grid['pos_max']}, |vel| < {grid['vel_max']}"
    )


def choose_penalty(binned: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the arguments of the default penalty, in the label's own unit and size.

    Raises
    ------
    ValueError
        If the data have no usable pixel, or no gradient.
    """
    values = np.asarray(label_data(binned)["label"], dtype=float)
    quick = low_order_fit(binned, galactic, settings.convention)
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


def _goodness(
    model: TorusImaging1DSpline, params: Mapping[str, Any], objective: str, binned: Any
) -> dict[str, Any]:
    """Return what a good fit has near one per pixel: chi^2, or the deviance of counts."""
    if objective == "gaussian":
        label, label_err, _ = label_values(binned["label"], binned["label_err"])
        seen = np.isfinite(label) & np.isfinite(label_err)
        log_likelihood = model.ln_gaussian_likelihood(
            params, binned["pos"], binned["vel"], label, label_err
        )
        return {"chi2": -2 * float(log_likelihood), "n_pixels": int(np.count_nonzero(seen))}
    counts = binned["counts"]
    with torch.no_grad():
        expected = model.get_label(binned["pos"], binned["vel"], params).exp().numpy()
    deviance = 2 * (xlogy(counts, counts / expected) - (counts - expected)).sum()
    return {"deviance": float(deviance), "n_pixels": int(counts.size)}


def _orbits_cross(model: TorusImaging1DSpline, params: Mapping[str, Any]) -> bool:
    reach = min(knots.max() for knots in model._e_knots.values())
    valid, _ = model.check_e_funcs(params["e_params"], reach)
    if not valid:
        warnings.warn(
            "orbits of the fitted model cross within its knots: profiles are not to be trusted "
            "there; use fewer knots or a stronger penalty (smaller e_l2, e_smooth)",
            RuntimeWarning,
            stacklevel=3,
        )
    return not valid
