"""From stars to a fit: bin, place knots, scale the penalty, optimize, judge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
import torch

from torusimaging_torch.analysis.errors import checked_bound, sampled_errors
from torusimaging_torch.analysis.settings import (
    MODELS,
    UNCERTAINTIES,
    Settings,
    choose_half_range,
    choose_n_bins,
    choose_penalty,
)
from torusimaging_torch.analysis.undetermined import is_frequency_open, why_undetermined
from torusimaging_torch.analysis.verdict import judge
from torusimaging_torch.analysis.weak_priors import KnownHere, known_here
from torusimaging_torch.catalogue.tables import SelectedStars
from torusimaging_torch.data.binned import get_binned_counts, get_binned_label
from torusimaging_torch.model.known import by_path
from torusimaging_torch.model_potential import TorusImaging1DPotential
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.results.description import Model
from torusimaging_torch.results.fit_result import FitResult

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["Analysis", "analyse", "bin_stars"]


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
    beside
        The other model, fitted to the same pixels, if both were asked for.
    """

    result: FitResult
    binned: Mapping[str, Any]
    samples: Samples | None = None
    beside: Analysis | None = None

    @property
    def undetermined(self) -> str:
        """What the stars do not determine, in one sentence; nothing if they determine the fit."""
        return str(self.result.provenance.get("undetermined", ""))


# The parameters of each model.
_LEAVES = {
    "torus": ("pos0", "vel0", "ln_Omega0", "e_params", "label_params"),
    "potential": ("pos0", "vel0", "ln_rho", "label_params"),
}


def _silent(line: str) -> None:
    pass


def analyse(
    stars: SelectedStars,
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
    for name, known in (("uncertainty", UNCERTAINTIES), ("model", MODELS)):
        if getattr(settings, name) not in known:
            raise ValueError(f"{name} must be one of {known}, got {getattr(settings, name)!r}")
    objective = "poisson" if stars.label is None else "gaussian"
    binned, grid = bin_stars(stars, settings)
    tell(_describe_grid(grid))
    here, settings = _know(stars, binned, grid, settings)
    for line in here.lines():
        tell(line)
    provenance = {**stars.provenance, "uncertainty": settings.uncertainty, "grid": grid}
    provenance["known"] = here.lines()
    provenance["frequency_open"] = is_frequency_open(binned, settings)
    made = [
        _fit(kind, binned, objective, settings, provenance, tell, progress)
        for kind in _kinds(settings)
    ]
    return replace(made[0], beside=made[1]) if len(made) > 1 else made[0]


def _know(
    stars: SelectedStars, binned: Mapping[str, Any], grid: Mapping[str, Any], settings: Settings
) -> tuple[KnownHere, Settings]:
    """Return what is known beforehand, and the settings with it.

    Raises
    ------
    ValueError
        If something is known of a parameter that no model here has.
    """
    half = {name: u.Quantity(grid[key]) for name, key in (("pos0", "pos_max"), ("vel0", "vel_max"))}
    inside = np.abs(stars.pos) <= half["pos0"]
    known = known_here(stars.pos[inside], binned, half, settings)
    leaves = {name for kind in _kinds(settings) for name in _LEAVES[kind]}
    for what, given in (("priors", known.priors), ("hold", known.hold)):
        unknown = sorted({str(path[0]) for path in by_path(given)} - leaves)
        if unknown:
            raise ValueError(
                f"{what}: no parameter is called {', '.join(unknown)}: expected some of "
                f"{sorted(leaves)}"
            )
    return known, replace(settings, priors=known.priors, hold=known.hold)


def _known_of(kind: str, settings: Settings) -> dict[str, Any]:
    """Return what is known of the parameters that a model has."""

    def own(given: Mapping[str, Any]) -> dict[Any, Any]:
        return {path: x for path, x in by_path(given).items() if path[0] in _LEAVES[kind]}

    return {"priors": own(settings.priors), "hold": own(settings.hold)}


def _kinds(settings: Settings) -> tuple[str, ...]:
    """Return which models are fitted, the first of them the one that the results are named by."""
    if settings.convention == "vp":
        if settings.model == "potential":
            raise ValueError('model="potential" needs convention="pv": use "torus" for radial data')
        return ("torus",)
    return ("torus", "potential") if settings.model == "both" else (settings.model,)


def _fit(
    kind: str,
    binned: Mapping[str, Any],
    objective: str,
    settings: Settings,
    shared: Mapping[str, Any],
    tell: Callable[[str], None],
    progress: bool,
) -> Analysis:
    """Fit one of the models."""
    model, bounds, start = _auto_init(kind, binned, settings)
    params, state = model.optimize(
        start, objective, bounds, max_iter=settings.max_iter, progress=progress, **binned
    )
    tell(f"fit of the {kind}: {state.message}; {state.iter_num} iterations")
    provenance: dict[str, Any] = {
        **shared,
        "goodness": _goodness(model, params, objective, binned),
        "orbits_cross": kind == "torus" and _orbits_cross(model, params),
    }
    covariance, samples, fitted = None, None, (model, params, bounds, objective, binned)
    if settings.uncertainty == "crlb":
        covariance, provenance["bound"] = checked_bound(*fitted)
    if settings.uncertainty == "nuts":
        covariance, samples = sampled_errors(*fitted, settings.draws, tell, progress)
        provenance["sampling"] = samples.diagnostics()
    result = FitResult(model, params, bounds, state, objective, provenance, covariance)
    provenance["undetermined"] = why_undetermined(result, shared["frequency_open"])
    verdict = judge(result, binned)
    if provenance["undetermined"] and verdict.good:
        verdict = replace(verdict, reasons=("the frequency is undetermined",))
    provenance["verdict"] = {"good": verdict.good, "reading": str(verdict)}
    return Analysis(replace(result, provenance=provenance), binned, samples)


def _auto_init(kind: str, binned: Mapping[str, Any], settings: Settings) -> tuple[Any, Any, Any]:
    if kind == "potential":
        return TorusImaging1DPotential.auto_init(
            binned, label_smooth_sigma=settings.label_smooth, **_known_of(kind, settings)
        )
    return TorusImaging1DSpline.auto_init(
        binned,
        settings.label_knots,
        settings.e_knots,
        settings.e_signs,
        label_knots_spacing_power=settings.label_spacing_power,
        e_knots_spacing_power=settings.e_spacing_power,
        elliptical_angle_convention=settings.convention,
        e_spline=settings.e_spline,
        **_known_of(kind, settings),
        **choose_penalty(binned, settings),
    )


def bin_stars(stars: SelectedStars, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
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


def _goodness(
    model: Model, params: Mapping[str, Any], objective: str, binned: Any
) -> dict[str, Any]:
    """Return what a good fit has near one per pixel: chi^2, or the deviance of counts."""
    posterior, vector = model.posterior_at(params, binned, objective)
    likelihood, pixels = posterior.likelihood, posterior.pixels
    with torch.no_grad():
        label = posterior.label(vector)
        deviance = likelihood.deviance(label, *pixels.observed, weight=pixels.weight)
    return {likelihood.goodness: float(deviance), "n_pixels": int(pixels.n)}


def _orbits_cross(model: TorusImaging1DSpline, params: Mapping[str, Any]) -> bool:
    reach = min(knots.max() for knots in model.e_knots.values())
    valid, _ = model.check_e_funcs(params["e_params"], reach)
    if not valid:
        warnings.warn(
            "orbits of the fitted model cross within its knots: profiles are not to be trusted "
            "there; use fewer knots or a stronger penalty (smaller e_l2, e_smooth)",
            RuntimeWarning,
            stacklevel=3,
        )
    return not valid
