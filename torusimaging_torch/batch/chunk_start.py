"""The start of a chunk of fits: knots, bounds, penalties and parameters of each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from torusimaging_torch.batch.reading import Subsample
from torusimaging_torch.batch.settings import BatchSettings
from torusimaging_torch.batch.stack import stack_columns
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.likelihoods.penalty import Penalty, PenaltyOfMany
from torusimaging_torch.likelihoods.potential_penalty import regularization_func_potential
from torusimaging_torch.model import start as initialize
from torusimaging_torch.model.border import Start
from torusimaging_torch.model.joining import DataSet, add_selection_terms, join
from torusimaging_torch.model.known import AllKnown
from torusimaging_torch.model.known_applied import frame_known
from torusimaging_torch.model.low_order import FrameKnown, LowOrderFit
from torusimaging_torch.model.potential_start import potential_bounds, potential_start
from torusimaging_torch.model_potential import TorusImaging1DPotential
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.numerics.params import Nested
from torusimaging_torch.results.description import LABEL_KNOTS, SELECTION, SMOOTH, Model, column_of
from torusimaging_torch.torus.at_knots import knots_of
from torusimaging_torch.units import Knots, Place

__all__ = ["Data", "complete", "stack", "start_chunk"]


@dataclass(frozen=True)
class Data:
    """One data set of B subsamples; see `torusimaging_torch.batch.reading.DataColumns`."""

    pixels: Pixels
    labels: Pixels
    selection: tuple[int, float] | None


def stack(settings: BatchSettings, problems: Sequence[Subsample], place: Place) -> dict[str, Data]:
    """Join the subsamples, data set by data set."""
    found = {}
    for name in settings.objectives:
        parts = [problem.parts[name] for problem in problems]
        pixels = labels = stack_columns([part.labels for part in parts], place)
        if any(part.pixels is not part.labels for part in parts):
            pixels = stack_columns([part.pixels for part in parts], place)
        found[name] = Data(pixels, labels, parts[0].selection)
    return found


def start_chunk(
    settings: BatchSettings,
    labels: Pixels,
    extents: Sequence[float] | None,
    indices: Sequence[int],
    here: AllKnown,
) -> Start[Model]:
    """Return the model with knots (B, K), its bounds and starts, of one data set.

    What is known ``here`` are priors and values that are held.
    """
    units, convention = settings.units, settings.elliptical_angle_convention
    quick = initialize.fit_low_order(labels, units, convention, frame_known(**here, units=units))
    if settings.model == "potential":
        found: Start[Model] = _potential(settings, labels, quick)
    else:
        extent = quick.extent if extents is None else quick.pos0.new_tensor(extents)
        found = _torus(settings, labels, quick, settings.re_max_factor * extent)
    model, bounds, start = found
    if isinstance(settings.regularization_func, Penalty):
        own = settings.regularization_func.subset(list(indices)).to(labels.pos)
        model.regularization_func = own
    return model, bounds, start


def _torus(
    settings: BatchSettings, labels: Pixels, quick: LowOrderFit, extent: float | Tensor
) -> Start[TorusImaging1DSpline]:
    """Return the model of ellipses of a chunk, its bounds and start."""
    units = settings.units

    def place(knots: Knots, power: float, name: str) -> Tensor:
        return initialize.place_knots(knots, extent, power, name, units).cpu()

    model = TorusImaging1DSpline(
        place(
            settings.label_knots_of(settings.primary),
            settings.label_knots_spacing_power,
            "label_knots",
        ),
        {
            m: place(knots, settings.e_knots_spacing_power, f"e_knots[{m}]")
            for m, knots in (settings.e_knots or {}).items()
        },
        settings.e_signs,  # type: ignore[arg-type]
        settings.regularization_func,  # type: ignore[arg-type]
        units,
        settings.elliptical_angle_convention,
        e_spline=settings.e_spline,
        label_spline=settings.label_spline_of(settings.primary),
    ).to(labels.pos)
    n_e = {m: knots.shape[-1] for m, knots in model.e_knots.items()}
    n_label = model.label_knots.shape[-1]
    bounds = initialize.default_bounds(quick, labels, n_label, n_e, units)
    bounds = initialize.replace_bounds(bounds, settings.bounds or {})
    return model, bounds, initialize.start_params(model, quick, labels, bounds)


def _potential(
    settings: BatchSettings, labels: Pixels, quick: LowOrderFit
) -> Start[TorusImaging1DPotential]:
    """Return the potential model of a chunk, its bounds and start."""
    model = TorusImaging1DPotential.of_pixels(
        labels,
        quick,
        settings.label_knots_of(settings.primary),
        settings.n_components,
        settings.heights,
        settings.e_knots,
        settings.regularization_func,  # type: ignore[arg-type]
        settings.units,
        settings.label_knots_spacing_power,
        settings.e_knots_spacing_power,
        settings.re_max_factor,
        settings.label_spline_of(settings.primary),
    ).to(labels.pos)
    bounds = potential_bounds(model, quick, labels)
    bounds = initialize.replace_bounds(bounds, settings.bounds or {})
    return model, bounds, potential_start(model, quick, labels, bounds)


def _own_penalties(
    settings: BatchSettings, model: TorusImaging1DPotential, labels: Pixels, frame: FrameKnown
) -> dict[str, Tensor]:
    """Give each problem the scales of its own data; return what a file needs to know of them."""
    n = len(labels.pos)
    found = {
        "heights": model.heights.expand(n, -1),
        "plane_Omega": model.Omega.expand(n),
    }
    function = settings.regularization_func
    if not isinstance(function, partial) or function.func is not regularization_func_potential:
        return found
    given = dict(function.keywords)
    smooth = given.pop("label_smooth_sigma")
    if smooth is None:
        smooth = initialize.label_smoothness(
            initialize.fit_low_order(labels, settings.units, known=frame), labels
        )
    smooth = labels.pos.new_tensor(smooth) if not isinstance(smooth, Tensor) else smooth
    scales = model.penalty_scales(smooth.expand(n), **given)
    model.regularization_func = PenaltyOfMany(scales, regularization_func_potential)
    return found | {"label_smooth_sigma": smooth.expand(n)}


def complete(
    settings: BatchSettings,
    data: Mapping[str, Data],
    model: Model,
    bounds: Nested,
    start: Nested,
    here: AllKnown,
) -> tuple[Model, Nested, Nested, dict[str, Tensor]]:
    """Add what belongs to further data sets and to selection functions.

    Also returns what a file needs to know of the model beside the settings.
    """
    primary, known_frame = data[settings.primary], frame_known(**here, units=settings.units)
    n = len(primary.labels.pos)
    columns = {column_of(settings.primary, LABEL_KNOTS): model.label_knots.expand(n, -1)}
    columns |= {f"e{m}_knots": knots.expand(n, -1) for m, knots in model.e_knots.items()}
    if isinstance(model, TorusImaging1DPotential):
        columns |= _own_penalties(settings, model, primary.labels, known_frame)
    model, bounds, start = add_selection_terms(model, bounds, start, primary.selection)
    place = settings.units, settings.elliptical_angle_convention, known_frame
    others = {
        name: DataSet(
            one.labels,
            initialize.fit_low_order(one.labels, *place),
            settings.objectives[name] == "poisson",
            one.selection,
        )
        for name, one in data.items()
        if name != settings.primary
    }
    for name, one in others.items():
        columns[column_of(name, SMOOTH)] = initialize.label_smoothness(one.quick, one.pixels)
    for name, own in data.items():
        if own.selection is not None:
            sigma = own.labels.pos.new_tensor(own.selection[1])
            columns[column_of(name, SELECTION)] = sigma.expand(n)
    if others:
        found, order = (model, bounds, start), [settings.primary, *others]
        knots = {name: settings.label_knots_of(name) for name in others}
        model, bounds, start = join(found, settings.primary, others, order, knots)
        functions = model.torus.label_functions
        columns |= {
            column_of(name, LABEL_KNOTS): knots_of(functions[name]).expand(n, -1) for name in others
        }
    return model, bounds, start, columns
