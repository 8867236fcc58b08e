"""From stars to a fit: bin, place knots, scale the penalty, optimize, judge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import astropy.units as u
import numpy as np
import torch

from torusimaging_torch.analysis.automatic import choose_penalty
from torusimaging_torch.analysis.binning import (
    COUNTS,
    PixelGrid,
    bin_stars,
    describe_grid,
    objective_of,
)
from torusimaging_torch.analysis.blur import warn_blur
from torusimaging_torch.analysis.errors import checked_bound, sampled_errors
from torusimaging_torch.analysis.outliers import (
    check_outliers,
    describe_outliers,
    pixels_of,
    seek_outliers,
)
from torusimaging_torch.analysis.undetermined import is_frequency_open, why_undetermined
from torusimaging_torch.analysis.verdict import judge
from torusimaging_torch.analysis.weak_priors import KnownHere, known_here
from torusimaging_torch.catalogue.tables import SelectedStars
from torusimaging_torch.inference.parts import part_params
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model.border import Start
from torusimaging_torch.model.joining import primary_of
from torusimaging_torch.model.known import by_path
from torusimaging_torch.model_potential import TorusImaging1DPotential
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.numerics.params import Params, Path
from torusimaging_torch.results.description import Model
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.settings import LABEL_KNOTS, Settings, check_choices
from torusimaging_torch.units import BinnedData, Priors

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["Analysis", "analyse"]

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Analysis:
    """A fit with the data that it was made from.

    Attributes
    ----------
    result
        The fit; its provenance says where the stars came from and how good it is.
    data_sets
        The pixels of each label, and star counts, by name, as `torusimaging_torch.data` returns
        them.
    samples
        Samples of the posterior, if they were asked for.
    beside
        The other model, fitted to the same pixels, if both were asked for.
    """

    result: FitResult
    data_sets: Mapping[str, BinnedData]
    samples: Samples | None = None
    beside: Analysis | None = None

    @property
    def undetermined(self) -> str:
        """What the stars do not determine, in one sentence; nothing if they determine the fit."""
        return str(self.result.provenance.get("undetermined", ""))

    @property
    def binned(self) -> BinnedData:
        """The pixels that the model was fitted to, by name if they are of several data sets."""
        return _as_fitted(self.data_sets)

    @property
    def edge(self) -> u.Quantity:
        """The largest distance of a pixel from zero."""
        return np.abs(next(iter(self.data_sets.values()))["pos"]).max()

    @property
    def parts(self) -> dict[str, FitResult]:
        """The fit of each data set, by name."""
        if len(self.data_sets) == 1:
            return dict.fromkeys(self.data_sets, self.result)
        return {name: self.result.part(name) for name in self.data_sets}


def _as_fitted(values: Mapping[str, Value]) -> Value | Mapping[str, Value]:
    """Return what is of one data set alone, or all by name."""
    return next(iter(values.values())) if len(values) == 1 else values


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
    """Bin stars and fit them.

    Star counts are fitted if the stars have no label, or are to be counted beside them. Where both
    models are fitted, that is for the potential alone: ellipses gain nothing from them.

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
    check_choices(settings)
    check_outliers(stars, settings)
    data_sets, grid = bin_stars(stars, settings)
    tell(describe_grid(grid))
    first = data_sets[primary_of(data_sets)]
    here, settings = _know(stars, first, grid, settings)
    for line in here.lines():
        tell(line)
    provenance = {**stars.provenance, "uncertainty": settings.uncertainty, "grid": grid}
    provenance["known"] = here.lines()
    provenance["frequency_open"] = is_frequency_open(first, settings)
    kinds = _kinds(settings)
    made = []
    for kind in kinds:
        labels = {name: one for name, one in data_sets.items() if name != COUNTS}
        mine = labels if labels and kind == "torus" and len(kinds) > 1 else data_sets
        made.append(_fit(kind, stars, mine, settings, provenance, tell, progress))
    return replace(made[0], beside=made[1]) if len(made) > 1 else made[0]


def _know(
    stars: SelectedStars, binned: BinnedData, grid: PixelGrid, settings: Settings
) -> tuple[KnownHere, Settings]:
    """Return what is known beforehand, and the settings with it.

    Raises
    ------
    ValueError
        If something is known of a parameter that no model here has.
    """
    half = {"pos0": u.Quantity(grid["pos_max"]), "vel0": u.Quantity(grid["vel_max"])}
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

    def own(given: Priors) -> dict[Path, Any]:
        return {path: x for path, x in by_path(given).items() if path[0] in _LEAVES[kind]}

    return {"priors": own(settings.priors), "hold": own(settings.hold)}


def _kinds(settings: Settings) -> tuple[str, ...]:
    """Return which models are fitted, the first of them the one that the results are named by."""
    if settings.elliptical_angle_convention == "vp":
        if settings.model == "potential":
            raise ValueError(
                'model="potential" needs elliptical_angle_convention="pv": use "torus" for radial '
                "data"
            )
        return ("torus",)
    return ("torus", "potential") if settings.model == "both" else (settings.model,)


def _fit(
    kind: str,
    stars: SelectedStars,
    data_sets: Mapping[str, BinnedData],
    settings: Settings,
    shared: Mapping[str, Any],
    tell: Callable[[str], None],
    progress: bool,
) -> Analysis:
    """Fit one of the models."""
    binned = _as_fitted(data_sets)
    objective = _as_fitted({name: objective_of(one) for name, one in data_sets.items()})
    model, bounds, start = _auto_init(kind, data_sets, settings)
    options: dict[str, Any] = {"max_iter": settings.max_iter, "progress": progress}
    outliers = {}
    if settings.outliers:
        found = seek_outliers(model, start, bounds, stars, data_sets, shared["grid"], **options)
        params, state, outliers = found.params, found.state, describe_outliers(found, data_sets)
        data_sets = pixels_of(found, data_sets)
        binned = _as_fitted(data_sets)
    else:
        params, state = model.optimize(start, objective, bounds, data=binned, **options)
    tell(f"fit of the {kind}: {state.message}; {state.iter_num} iterations")
    heights = (
        model.heights.cpu().numpy() * u.kpc if isinstance(model, TorusImaging1DPotential) else None
    )
    provenance: dict[str, Any] = {
        **shared,
        "outliers": outliers,
        "blur": warn_blur(stars, shared["grid"], heights),
        "goodness": _goodness(model, params, objective, binned),
        "orbits_cross": isinstance(model, TorusImaging1DSpline) and _orbits_cross(model, params),
    }
    covariance, samples, fitted = None, None, (model, params, bounds, objective, binned)
    if settings.uncertainty == "crlb" and state.success:
        covariance, provenance["bound"] = checked_bound(*fitted)
    elif settings.uncertainty == "crlb":
        provenance["bound"] = {
            "good": False,
            "reading": "no errors, since the fit did not converge",
        }
    if settings.uncertainty == "nuts":
        covariance, samples = sampled_errors(*fitted, settings.num_samples, tell, progress)
        provenance["sampling"] = samples.diagnostics()
    result = FitResult(model, params, bounds, state, objective, provenance, covariance)
    provenance["undetermined"] = why_undetermined(result, shared["frequency_open"])
    verdict = judge(result, binned)
    if provenance["undetermined"] and verdict.good:
        verdict = replace(verdict, reasons=("the frequency is undetermined",))
    provenance["verdict"] = {"good": verdict.good, "reading": str(verdict)}
    return Analysis(replace(result, provenance=provenance), data_sets, samples)


def _auto_init(kind: str, data_sets: Mapping[str, BinnedData], settings: Settings) -> Start[Model]:
    binned, n = _as_fitted(data_sets), settings.label_knots
    labels = [name for name in data_sets if name != COUNTS]
    several = len(data_sets) > 1
    if kind == "potential":
        knots: Any = dict.fromkeys(labels, n) if several else n
        return TorusImaging1DPotential.auto_init(
            binned,
            **({} if n is None else {"label_knots": knots}),
            label_spline=settings.label_spline,
            label_smooth_sigma=settings.label_smooth_sigma,
            **_known_of(kind, settings),
        )
    n = LABEL_KNOTS if n is None else n
    return TorusImaging1DSpline.auto_init(
        binned,
        dict.fromkeys(labels, n) if several else n,
        settings.e_knots,
        settings.e_signs,
        label_knots_spacing_power=settings.label_knots_spacing_power,
        e_knots_spacing_power=settings.e_knots_spacing_power,
        elliptical_angle_convention=settings.elliptical_angle_convention,
        e_spline=settings.e_spline,
        label_spline=settings.label_spline,
        **_known_of(kind, settings),
        **choose_penalty(data_sets[primary_of(data_sets)], settings),
    )


def _goodness(
    model: Model, params: Params, objective: str | Mapping[str, str], binned: BinnedData
) -> dict[str, Any]:
    """Return what a good fit has near one per pixel, chi^2 or the deviance of counts.

    Of several data sets that of each, by name.
    """
    if isinstance(objective, str):
        return _goodness_of(model, params, binned, objective)
    return {
        name: _goodness_of(
            model.part(name), part_params(params, name), binned[name], objective[name]
        )
        for name in binned
    }


def _goodness_of(
    model: Model, params: Params, binned: BinnedData, objective: str
) -> dict[str, Any]:
    posterior, vector = model.posterior_at(params, binned, objective)
    with torch.no_grad():
        deviance = 2 * (posterior.saturated() - posterior.ln_likelihood_at(vector))
    name = make_likelihood(objective).goodness
    return {name: float(deviance), "n_pixels": int(posterior.pixels.n)}


def _orbits_cross(model: TorusImaging1DSpline, params: Params) -> bool:
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
