r"""Models of several data sets: the model of one of them, and a label function for each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.inference.parts import BY_NAME
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.likelihoods.penalty import (
    PenaltyFunction,
    PenaltyOfMany,
    SumOfPenalties,
    regularization_func_label,
)
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.model.border import Border, Fronted, SomeModel, Start
from torusimaging_torch.model.correlation import warn_same_stars
from torusimaging_torch.model.data_sets import JointPenalty
from torusimaging_torch.model.low_order import (
    LowOrderFit,
    fit_label_values,
    low_order_fit,
    unit_grid,
)
from torusimaging_torch.model.start import label_pixels, label_smoothness, label_vals_bounds
from torusimaging_torch.numerics.params import Nested, Params, column
from torusimaging_torch.torus.at_knots import knots_of
from torusimaging_torch.torus.orbital_torus import LabelFunctions
from torusimaging_torch.torus.spline_functions import SplineLabelFunction
from torusimaging_torch.units import BinnedData, LabelKnots

__all__ = [
    "DataSet",
    "add_selection_terms",
    "join",
    "join_data_sets",
    "label_penalty",
    "n_label_knots",
    "primary_of",
    "selection_of",
    "selection_penalty",
    "with_labels",
    "with_selection_terms",
]

# Knots of the log density of star counts, and of a label, where nobody says how many.
_COUNT_KNOTS, _LABEL_KNOTS = 8, 6
_SELECTION = ("selection_params", "vals")
# Factors of what may be wrong with a selection function, in their standard deviations.
_SELECTION_BOUND = 20.0


@dataclass(frozen=True)
class DataSet:
    """What a label function, its start and its penalty are made of; of one problem or a batch.

    Attributes
    ----------
    pixels
        The pixels as labels, with shape (*B, N).
    quick
        Their low-order fit.
    counted
        Whether they are star counts.
    selection
        The number of terms that may be wrong with a selection function, and their strength.
    """

    pixels: Pixels
    quick: LowOrderFit
    counted: bool
    selection: tuple[int, float] | None = None

    @classmethod
    def of(cls, model: Fronted, data: BinnedData) -> DataSet:
        """Return that of binned data."""
        border: Border = model.border
        quick = low_order_fit(data, border.units, model.torus.convention, border.like.device)
        return cls(label_pixels(border, data), quick, not _has_labels(data), selection_of(data))


def primary_of(data: Mapping[str, BinnedData]) -> str:
    """Return the data set that tells frequency and extent: the first with labels, or the first."""
    labels = [name for name, one in data.items() if _has_labels(one)]
    return labels[0] if labels else next(iter(data))


def join_data_sets(
    found: Start[SomeModel],
    primary: str,
    data: Mapping[str, BinnedData],
    label_knots: LabelKnots | None = None,
) -> Start[SomeModel]:
    """Return a model of several data sets, its bounds and start, from those of one of them.

    Parameters
    ----------
    found
        The model of the primary data set, bounds and start.
    primary
        Its name.
    data
        All binned data, by name.
    label_knots
        By name the number of knots of the label functions of the others; by default 6, and 8 for
        star counts, whose splines are always cubic.
    """
    warn_same_stars(data)
    others = {name: DataSet.of(found[0], one) for name, one in data.items() if name != primary}
    return join(found, primary, others, list(data), label_knots)


def join(
    found: Start[SomeModel],
    primary: str,
    others: Mapping[str, DataSet],
    order: Sequence[str],
    label_knots: LabelKnots | None = None,
) -> Start[SomeModel]:
    """Return the same for one problem or a batch, of the other data sets, in an order of all."""
    model, bounds, start = found
    last = knots_of(model.torus.label_func)[..., -1]
    functions, penalties = {primary: model.torus.label_func}, {primary: model.regularization_func}
    sides = {
        key: [{k: {primary: side[k]} for k in BY_NAME if k in side} for side in (bounds, start)]
        for key in (primary,)
    }
    for name, one in others.items():
        n = _n_knots(label_knots, name, one)
        functions[name], penalties[name], *sides[name] = _add(model, start, one, last, n)
        sides[name] = [{k: {name: own[k]} for k in own} for own in sides[name]]
    joint = with_labels(
        model,
        {name: functions[name] for name in order},
        JointPenalty({name: penalties[name] for name in order}),
    )
    every = [{**_shared(side)} for side in (bounds, start)]
    for name in order:
        for side, own in zip(every, sides[name], strict=True):
            for key, leaves in own.items():
                side[key] = {**side.get(key, {}), **leaves}
    return joint, every[0], every[1]


def with_labels(
    model: SomeModel, functions: Mapping[str, Callable[..., Tensor]], penalty: PenaltyFunction
) -> SomeModel:
    """Return a model with the label functions of several data sets, by name; the rest is shared."""
    joint = copy.deepcopy(model)
    joint.torus, joint.knot_maps = joint.torus.with_label(LabelFunctions(functions)), None
    joint.regularization_func = penalty
    return joint


def _shared(params: Params) -> Nested:
    return {key: value for key, value in params.items() if key not in BY_NAME}


def _n_knots(label_knots: LabelKnots | None, name: str, data: DataSet) -> int:
    if isinstance(label_knots, Mapping) and name in label_knots:
        return int(label_knots[name])
    return n_label_knots(data.counted)


def n_label_knots(counted: bool) -> int:
    """Return how many knots the label function of a further data set has by default."""
    return _COUNT_KNOTS if counted else _LABEL_KNOTS


def _has_labels(data: BinnedData) -> bool:
    """Return whether binned data are labels with errors; counts have a label, too, their log."""
    return {"label", "label_err"} <= set(data)


def _add(
    model: Fronted, start: Params, data: DataSet, last: Tensor, n: int
) -> tuple[SplineLabelFunction, PenaltyFunction, Nested, Nested]:
    """Return label function and penalty of one more data set, bounds and start of what is its."""
    knots = unit_grid(n, last) * column(last)
    first = cast(SplineLabelFunction, model.torus.label_func)
    function = SplineLabelFunction(knots, "cubic" if data.counted else first.kind)
    torus = model.torus.with_label(function)
    vals = fit_label_values(torus, data.pixels, _shared(start), n)
    low, high = (torch.as_tensor(x).to(vals) for x in label_vals_bounds(data.quick, data.pixels, n))
    bounds: Nested = {"label_params": {"label_vals": (low.cpu().numpy(), high.cpu().numpy())}}
    own: Nested = {"label_params": {"label_vals": vals.clamp(low, high)}}
    penalty = label_penalty(label_smoothness(data.quick, data.pixels))
    penalty, terms = with_selection_terms(penalty, data.selection, start["pos0"])
    for side, more in zip((bounds, own), terms, strict=False):
        side["selection_params"] = more
    return function, penalty, bounds, own


def label_penalty(smooth: Tensor) -> PenaltyFunction:
    """Return the penalty of a label function, of one problem or of each of a batch."""
    if smooth.ndim:
        return PenaltyOfMany({"label_smooth_sigma": smooth}, regularization_func_label)
    return partial(regularization_func_label, label_smooth_sigma=float(smooth))


def selection_of(data: BinnedData) -> tuple[int, float] | None:
    """Return how many terms may be wrong with a selection function, and their strength."""
    if data.get("selection_terms") is None:
        return None
    return len(data["selection_terms"]), float(data["selection_error"])


def add_selection_terms(
    model: SomeModel,
    bounds: Nested,
    start: Nested,
    selection: tuple[int, float] | None,
) -> Start[SomeModel]:
    """Add to a model's penalty, bounds and start what may be wrong with a selection function."""
    penalty, terms = with_selection_terms(model.regularization_func, selection, start["pos0"])
    model.regularization_func = penalty
    for side, more in zip((bounds, start), terms, strict=False):
        side["selection_params"] = more
    return model, bounds, start


def with_selection_terms(
    penalty: PenaltyFunction, selection: tuple[int, float] | None, like: Tensor
) -> tuple[PenaltyFunction, tuple[Nested, ...]]:
    """Return a penalty with the prior of a selection function's errors, their bounds and start.

    Nothing in place of bounds and start if there are no such terms; the start has the batch shape,
    type and device of a tensor (*B,).
    """
    if selection is None:
        return penalty, ()
    n, sigma = selection
    edge = np.full(n, _SELECTION_BOUND * sigma)
    start = {"vals": like.new_zeros(*like.shape, n)}
    return selection_penalty(penalty, n, sigma), ({"vals": (-edge, edge)}, start)


def selection_penalty(penalty: PenaltyFunction, n: int, sigma: float) -> SumOfPenalties:
    """Return a penalty with the prior of n errors of a selection function."""
    return SumOfPenalties((penalty, NormalPenalty(_SELECTION, n, 0.0, sigma)))
