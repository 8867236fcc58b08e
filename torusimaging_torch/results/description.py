"""A spline model and the end of a fit as plain values, as a file holds them, and back."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.data.selection import SELECTION_TERMS
from torusimaging_torch.likelihoods.penalty import (
    PenaltyFunction,
    PenaltyOfMany,
    SumOfPenalties,
)
from torusimaging_torch.likelihoods.potential_penalty import regularization_func_potential
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.model.data_sets import JointPenalty
from torusimaging_torch.model.joining import label_penalty, selection_penalty, with_labels
from torusimaging_torch.model.known import by_path
from torusimaging_torch.model.known_applied import added
from torusimaging_torch.model.low_order import FRAME
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.model_potential import TorusImaging1DPotential
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Path, map_leaves
from torusimaging_torch.results.penalty_description import (
    NamedPenalty,
    describe_penalty,
    find_penalty,
    plain,
)
from torusimaging_torch.torus.spline_functions import SplineLabelFunction
from torusimaging_torch.units import as_unit_system

__all__ = [
    "Model",
    "build_model",
    "build_state",
    "column_of",
    "describe_model",
    "describe_state",
    "knots_of",
]

# Numbers of a fit's state by their names in a file.
_FLOATS = {"fun_val": "fun_val", "expected_gain": "expected_gain"}
_COUNTS = {
    "iterations": "iter_num",
    "evaluations": "num_fun_eval",
    "n_masked": "num_masked",
    "status": "status",
}

Value = TypeVar("Value")

_E_KNOTS = re.compile(r"e\d+_knots")


Model = TorusImaging1DSpline | TorusImaging1DPotential
"""The models that a file can hold: all that makes them are numbers."""


def describe_model(model: Model) -> dict[str, Any]:
    """Return what makes a model beside its knots, as numbers, texts, lists and dictionaries.

    The names are those of the arguments of its class; "model" tells which.
    """
    # The unit system may prefer some units (km/s for velocities) beyond the four it is made of.
    units = [unit.to_string() for unit in model.units.to_dict().values()]
    described = {
        "units": units,
        "elliptical_angle_convention": model.elliptical_angle_convention,
        "dtype": str(model.border.like.dtype).removeprefix("torch."),
        "label_spline": _alone({name: f.kind for name, f in _splines(model).items()}),
        "regularization_func": describe_penalty(model.regularization_func),
    }
    if isinstance(model, TorusImaging1DPotential):
        return described | {"model": "potential"}
    return described | {
        "model": "torus",
        "e_spline": model.e_spline,
        "e_signs": plain(model.e_signs),
    }


def knots_of(model: Model) -> dict[str, Tensor]:
    """Return the knots on the host, by the names "label_knots", "e2_knots", ...

    With a potential also "heights" and "plane_Omega", in model units. Those of several data sets
    are called "mg_fe_label_knots", by their names.
    """
    knots = {
        column_of(name, LABEL_KNOTS): function.knots for name, function in _splines(model).items()
    }
    knots |= {f"e{m}_knots": at for m, at in model.e_knots.items()}
    if isinstance(model, TorusImaging1DPotential):
        knots |= {"heights": model.heights, "plane_Omega": model.Omega}
    return {name: at.detach().cpu() for name, at in knots.items()}


def _splines(model: Model) -> dict[str, SplineLabelFunction]:
    """Return the label functions by the names of their data sets, "" where there is one alone."""
    functions = model.torus.label_functions
    if others := [f for f in functions.values() if not isinstance(f, SplineLabelFunction)]:
        raise TypeError(f"a file holds labels that are splines alone, got {others[0]!r}")
    return cast(dict[str, SplineLabelFunction], functions)


LABEL_KNOTS = "label_knots"
SMOOTH, SELECTION = "label_smooth_sigma", "selection_error"
"""Columns of what decides a label's penalty and a selection function's prior in a batch."""


def column_of(name: str, column: str) -> str:
    """Return the column of a data set, or of the only one, whose name is empty."""
    return f"{name}_{column}" if name else column


def _alone(by_name: dict[str, Value]) -> Value | dict[str, Value]:
    """Return what is of one data set alone without its name."""
    return by_name.get("", by_name)


def build_model(described: Mapping[str, Any], knots: Mapping[str, Tensor]) -> Model:
    """Build a model again, the same to the last bit.

    Parameters
    ----------
    described
        What `describe_model` returned; keys of the dictionaries in it may have become texts.
    knots
        What `knots_of` returned; there may be more with other names.
    """
    penalty = find_penalty(described["regularization_func"])
    kinds = described["label_spline"]
    kinds = {"": kinds} if isinstance(kinds, str) else kinds
    labels = {
        name: SplineLabelFunction(knots[column_of(name, LABEL_KNOTS)], kind)
        for name, kind in kinds.items()
    }
    first = next(iter(labels.values()))
    potential = described.get("model") == "potential"
    model = (_build_potential if potential else _build_torus)(described, knots, penalty, first)
    if not _is_complete(model.regularization_func):
        model.regularization_func = _of_each(model.regularization_func, labels, knots)
    if "" not in labels:
        model = with_labels(model, labels, model.regularization_func)
    model = _with_priors(model, by_path(described.get("priors") or {}))
    return model.to(getattr(torch, described["dtype"]))


def _is_complete(penalty: PenaltyFunction) -> bool:
    """Return whether a penalty is that of a single fit, which is described as a whole."""
    return isinstance(penalty, (JointPenalty, SumOfPenalties))


def _of_each(
    first: PenaltyFunction, labels: Collection[str], knots: Mapping[str, Tensor]
) -> PenaltyFunction:
    """Return the penalty of a batch's fits, of which columns hold what is not settings."""
    found: dict[str, PenaltyFunction] = {}
    for i, name in enumerate(labels):
        smooth = knots.get(column_of(name, SMOOTH))
        penalty = first if i == 0 or smooth is None else label_penalty(smooth)
        sigma = knots.get(column_of(name, SELECTION))
        if sigma is not None:
            penalty = selection_penalty(penalty, len(SELECTION_TERMS), float(sigma.flatten()[0]))
        found[name] = penalty
    return found[""] if "" in found else JointPenalty(found)


def _build_torus(
    described: Mapping[str, Any],
    knots: Mapping[str, Tensor],
    penalty: PenaltyFunction,
    label: SplineLabelFunction,
) -> Model:
    signs = {int(m): sign for m, sign in described["e_signs"].items()}
    return TorusImaging1DSpline(
        label.knots,
        {m: knots[f"e{m}_knots"] for m in signs},
        signs,
        penalty,
        _units(described),
        described["elliptical_angle_convention"],
        e_spline=described["e_spline"],
        label_spline=label.kind,
    )


def _build_potential(
    described: Mapping[str, Any],
    knots: Mapping[str, Tensor],
    penalty: PenaltyFunction,
    label: SplineLabelFunction,
) -> Model:
    model = TorusImaging1DPotential(
        label.knots,
        knots["heights"],
        knots["plane_Omega"],
        {int(k[1:-6]): v for k, v in knots.items() if _E_KNOTS.fullmatch(k)},
        penalty,
        _units(described),
        label_spline=label.kind,
    )
    scales = getattr(penalty, "keywords", {})
    if "e_sigma" in scales:
        model.regularization_func = _penalty_of(model, scales, knots["label_smooth_sigma"])
    return model


def _units(described: Mapping[str, Any]) -> UnitSystem:
    return as_unit_system([u.Unit(name) for name in described["units"]])


def _with_priors(model: Model, priors: Mapping[Path, Any]) -> Model:
    """Return a fit of a batch with the priors that all had; others are known by name alone."""
    if not priors:
        return model
    if not all(_is_for_all(path, x) for path, x in priors.items()):
        model.regularization_func = NamedPenalty("priors that differ from fit to fit")
        return model
    sizes: dict[Path, int] = {
        ("label_params", *([name] if name else []), "label_vals"): f.knots.shape[-1]
        for name, f in _splines(model).items()
    }
    sizes |= {("e_params", m, "vals"): x.shape[-1] - 1 for m, x in model.e_knots.items()}
    if isinstance(model, TorusImaging1DPotential):
        sizes[("ln_rho",)] = model.heights.shape[-1] + 1
    number = functools.partial(torch.tensor, dtype=torch.float64)
    return added(
        model,
        [NormalPenalty(path, sizes.get(path), *map(number, pair)) for path, pair in priors.items()],
    )


def _is_for_all(path: Path, prior: object) -> bool:
    """Whether a described prior is normal, and the same for all fits of a batch."""
    entries = path not in FRAME.paths
    return isinstance(prior, list) and all(np.ndim(x) <= entries for x in prior)


def _penalty_of(
    model: TorusImaging1DPotential, scales: Mapping[str, Any], smooth: Tensor
) -> PenaltyFunction:
    """Return the penalty of fits that had scales of their own, from those that all share."""
    found = model.penalty_scales(smooth, scales["ln_rho_sigma"], scales["e_sigma"])
    if smooth.ndim:
        return PenaltyOfMany(found, regularization_func_potential)
    numbers = map_leaves(lambda x: float(x), found)
    return functools.partial(regularization_func_potential, **numbers)


def describe_state(state: OptState, names: Sequence[str]) -> dict[str, Tensor]:
    """Return how a fit ended as tensors, which parameters are at a bound with shape (P,)."""
    described = {
        name: torch.tensor(getattr(state, known), dtype=torch.float64)
        for name, known in _FLOATS.items()
    }
    described |= {name: torch.tensor(int(getattr(state, own))) for name, own in _COUNTS.items()}
    return {**described, "at_bound": torch.tensor([name in state.at_bound for name in names])}


def build_state(
    values: Mapping[str, Tensor], names: Sequence[str], message: str, evaluation: str = ""
) -> OptState:
    """Return the state that `describe_state` described, of parameters with these names."""
    known = {"n_masked": torch.tensor(0), **values}
    numbers: dict[str, Any] = {own: known[name].item() for name, own in (_FLOATS | _COUNTS).items()}
    numbers["status"] = status = Status(int(values["status"]))
    held = zip(names, values["at_bound"].tolist(), strict=True)
    return OptState(
        **numbers,
        success=status == Status.CONVERGED,
        message=message,
        at_bound=tuple(name for name, at in held if at),
        evaluation=evaluation,
    )
