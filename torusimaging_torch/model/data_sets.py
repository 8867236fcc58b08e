r"""Several data sets at once: :math:`\ln L` is the sum of theirs, all with the same torus.

Each has its own label function, and parameters of its own by its name:
``params["label_params"]["mg_fe"]``. So labels and star counts, or several labels, are fitted
together.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.inference.joint import BY_NAME, JointPosterior, part_params
from torusimaging_torch.inference.posterior import Pixels, Posterior
from torusimaging_torch.likelihoods.objectives import Objective, make_likelihood
from torusimaging_torch.likelihoods.penalty import (
    SumOfPenalties,
    no_regularization,
    regularization_func_label,
)
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.model import predictions
from torusimaging_torch.model.border import Border, Fronted
from torusimaging_torch.model.low_order import fit_label_values, low_order_fit
from torusimaging_torch.model.start import label_pixels, label_smoothness, label_vals_bounds
from torusimaging_torch.numerics.params import Layout, Params, batch_shape
from torusimaging_torch.torus.at_knots import KnotMaps, knots_of
from torusimaging_torch.torus.orbital_torus import LabelFunctions
from torusimaging_torch.torus.spline_functions import SplineLabelFunction

__all__ = [
    "JointPenalty",
    "Part",
    "add_selection_terms",
    "are_several",
    "join_data_sets",
    "joint_posterior",
    "part",
    "primary_of",
    "warn_selection",
    "with_selection_terms",
]

# Knots of the log density of star counts, and of a label, where nobody says how many.
_COUNT_KNOTS, _LABEL_KNOTS = 8, 6
_SELECTION = ("selection_params", "vals")
# Factors of what may be wrong with a selection function, in their standard deviations.
_SELECTION_BOUND = 20.0


def are_several(data: Any) -> bool:
    """Return whether binned data are those of several data sets, dictionaries by name."""
    some = isinstance(data, Mapping) and "pos" not in data and len(data) > 0
    return some and all(isinstance(one, Mapping) and "pos" in one for one in data.values())


class Part:
    """One data set of a model of several: what a posterior needs of it.

    Parameters
    ----------
    model
        The model of all.
    name
        The name of the data set.
    """

    def __init__(self, model: Fronted, name: str) -> None:
        self.torus, self.border = model.torus.part(name), model.border
        functions = getattr(model.regularization_func, "functions", {})
        self.regularization_func = functions.get(name, no_regularization)
        self.knot_maps = KnotMaps(self.torus) if KnotMaps.fits(self.torus) else None

    at_knots = predictions.at_knots


def part(model: Any, name: str) -> Any:
    """Return the model of one data set alone, a copy, for its labels and figures.

    Its parameters are those of all with ``label_params`` of its own:
    `torusimaging_torch.inference.joint.part_params`.

    Raises
    ------
    ValueError
        If the model has one label function alone.
    KeyError
        If there is no such data set.
    """
    own, alone = Part(model, name), copy.deepcopy(model)
    alone.torus, alone.knot_maps = alone.torus.part(name), copy.deepcopy(own.knot_maps)
    alone.regularization_func = own.regularization_func
    return alone


@dataclass(frozen=True)
class JointPenalty:
    """The penalty of several data sets, each with its own share of it.

    Attributes
    ----------
    functions
        By name; called with that part of the model and its parameters. What belongs to the torus is
        in one of them alone.
    """

    functions: Mapping[str, Callable[..., Any]]

    def __call__(self, model: Fronted, params: Params) -> Tensor:
        """Return the sum, with shape (*B,)."""
        total = torch.zeros_like(params["pos0"])
        for name, function in self.functions.items():
            total = total + function(Part(model, name), part_params(params, name))
        return total


def joint_posterior(
    model: Fronted,
    params: Params,
    data: Mapping[str, Mapping[str, Any]],
    objective: Objective,
    evaluation: str | None = None,
) -> tuple[JointPosterior, Tensor]:
    """Return ln L - R of several data sets as a function of one vector, and the vector.

    Raises
    ------
    ValueError
        If names of data, objectives and the model's label functions differ, or the model's penalty
        is not a `JointPenalty`.
    """
    names = _check_names(model, data, objective)
    penalty = model.regularization_func
    if not (isinstance(penalty, JointPenalty) or penalty is no_regularization):
        raise ValueError(
            "regularization_func of a model of several data sets must be a JointPenalty, with a "
            f"function for each of them, got {penalty!r}"
        )
    p = model.border.params(params)
    parts = {}
    for name in names:
        kind = objective[name] if isinstance(objective, Mapping) else objective
        likelihood, own = make_likelihood(kind), part_params(p, name)
        tensors = model.border.data(data[name], likelihood.observed)
        batch = batch_shape(own)
        pixels = Pixels.clean(likelihood, tensors, len(batch))
        layout = Layout.of(own)
        parts[name] = Posterior(Part(model, name), likelihood, layout, pixels, evaluation, batch)
    layout = Layout.of(p)
    return JointPosterior(parts, layout), layout.flatten(p)


def _check_names(model: Fronted, data: Mapping[str, Any], objective: Any) -> list[str]:
    functions: Any = model.torus.label_func
    if not isinstance(functions, LabelFunctions):
        raise ValueError(
            f"data are of several data sets {sorted(data)}, but the model has one label function: "
            "make it by auto_init with all of them"
        )
    known = set(functions.functions)
    given = {"data": set(data)}
    if isinstance(objective, Mapping):
        given["objective"] = set(objective)
    for what, names in given.items():
        if names != known:
            raise ValueError(f"{what} must be of {sorted(known)}, got {sorted(names)}")
    return list(data)


def primary_of(data: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the data set that tells frequency and extent: the first with labels, or the first."""
    labels = [name for name, one in data.items() if _has_labels(one)]
    return labels[0] if labels else next(iter(data))


def join_data_sets(
    found: tuple[Any, dict[str, Any], dict[str, Any]],
    primary: str,
    data: Mapping[str, Mapping[str, Any]],
    label_knots: Any = None,
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
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
        By name the number of knots of the label functions of the others; by default 6, and 8 cubic
        ones for star counts.
    """
    _warn_same_stars(data)
    model, bounds, start = found
    functions, penalties = {primary: model.label_func}, {primary: model.regularization_func}
    label_bounds, label_start = {primary: bounds["label_params"]}, {primary: start["label_params"]}
    selections = {
        key: {primary: some["selection_params"]} if "selection_params" in some else {}
        for key, some in (("bounds", bounds), ("start", start))
    }
    last = knots_of(model.label_func)[..., -1]
    for name in data:
        if name == primary:
            continue
        own = _add(model, start, data[name], last, _n_knots(label_knots, name, data[name]))
        functions[name], label_bounds[name], label_start[name], penalties[name] = own[:4]
        if own[4] is not None:
            selections["bounds"][name], selections["start"][name] = own[4]
    joint = copy.deepcopy(model)
    joint.torus, joint.knot_maps = joint.torus.with_label(LabelFunctions(functions)), None
    joint.regularization_func = JointPenalty({name: penalties[name] for name in data})
    bounds = {**_shared(bounds), "label_params": label_bounds}
    start = {**_shared(start), "label_params": label_start}
    if selections["bounds"]:
        bounds["selection_params"] = selections["bounds"]
        start["selection_params"] = selections["start"]
    return joint, bounds, start


def _warn_same_stars(data: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of several labels in the same pixels with the same stars: they are not independent."""
    labels = {name: one for name, one in data.items() if _has_labels(one) and "counts" in one}
    names = list(labels)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            a, b = (np.asarray(labels[name]["counts"]) for name in (first, second))
            if a.shape == b.shape and (a == b).all():
                warnings.warn(
                    f"labels {first!r} and {second!r} are of the same stars, and are taken for "
                    "independent: where their residuals are correlated, errors of a joint fit are "
                    "too small; fit them one by one and compare",
                    RuntimeWarning,
                    stacklevel=4,
                )


def _shared(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key not in BY_NAME}


def _n_knots(label_knots: Any, name: str, data: Mapping[str, Any]) -> int:
    if isinstance(label_knots, Mapping) and name in label_knots:
        return int(label_knots[name])
    return _LABEL_KNOTS if _has_labels(data) else _COUNT_KNOTS


def _has_labels(data: Mapping[str, Any]) -> bool:
    """Return whether binned data are labels with errors; counts have a label, too, their log."""
    return {"label", "label_err"} <= set(data)


def _add(
    model: Fronted, start: Mapping[str, Any], data: Mapping[str, Any], last: Tensor, n: int
) -> tuple[Any, ...]:
    """Return label function, bounds, start, penalty and selection terms of one more data set."""
    border: Border = model.border
    pixels = label_pixels(border, data)
    quick = low_order_fit(data, border.units, model.torus.convention, border.like.device)
    kind = "quadratic" if _has_labels(data) else "cubic"
    knots = torch.linspace(0, 1, n, dtype=last.dtype, device=last.device) * last
    function = SplineLabelFunction(knots, kind)
    torus = model.torus.with_label(function)
    vals = fit_label_values(torus, pixels, _shared(start), n)
    low, high = (torch.as_tensor(x).to(vals) for x in label_vals_bounds(quick, pixels, n))
    own = {"label_vals": vals.clamp(low, high)}
    smooth = float(label_smoothness(quick, pixels))
    penalty: Callable[..., Any] = partial(regularization_func_label, label_smooth_sigma=smooth)
    penalty, selection = with_selection_terms(penalty, data)
    return function, {"label_vals": (low.numpy(), high.numpy())}, own, penalty, selection


def add_selection_terms(
    model: Any, bounds: dict[str, Any], start: dict[str, Any], data: Mapping[str, Any]
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Add to a model's penalty, bounds and start what may be wrong with a selection function."""
    model.regularization_func, terms = with_selection_terms(model.regularization_func, data)
    if terms is None:
        return model, bounds, start
    more = ({"selection_params": x} for x in terms)
    return model, {**bounds, **next(more)}, {**start, **next(more)}


def with_selection_terms(
    penalty: Callable[..., Any], data: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, Any] | None]:
    """Return a penalty with the prior of a selection function's errors, their bounds and start.

    None in place of bounds and start if the data have no such terms.
    """
    if data.get("selection_terms") is None:
        return penalty, None
    n, sigma = len(data["selection_terms"]), float(data["selection_error"])
    prior = NormalPenalty(_SELECTION, n, 0.0, sigma)
    edge = np.full(n, _SELECTION_BOUND * sigma)
    both = SumOfPenalties((penalty, prior))
    return both, ({"vals": (-edge, edge)}, {"vals": torch.zeros(n, dtype=torch.float64)})


def warn_selection(params: Params, data: Mapping[str, Any]) -> None:
    """Warn where a selection function came out further from what was given than 3 sigma."""
    if are_several(data):
        for name, one in data.items():
            warn_selection(part_params(params, name), one)
        return
    if "selection_params" not in params or data.get("selection_error") is None:
        return
    sigma = float(data["selection_error"])
    found = params["selection_params"]["vals"].detach()
    if bool((found.abs() > 3 * sigma).any()):
        listed = ", ".join(f"{x:.3f}" for x in found.flatten().tolist()[:6])
        warnings.warn(
            f"the selection function is off by more than 3 times selection_error = {sigma:g}: the "
            f"factors of |q|, q^2 and exp(-(q/.15 kpc)^2) are {listed}; a selection function that "
            "is wrong by more than it admits biases the force",
            RuntimeWarning,
            stacklevel=4,
        )
