r"""Several data sets at once: :math:`\ln L` is the sum of theirs, all with the same torus.

Each has its own label function, and parameters of its own by its name:
``params["label_params"]["mg_fe"]``. So labels and star counts, or several labels, are fitted
together.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torusimaging_torch.inference.crossed import Crossed, TwoLabels
from torusimaging_torch.inference.joint import JointPosterior
from torusimaging_torch.inference.parts import part_params
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.objectives import Objective, make_likelihood
from torusimaging_torch.likelihoods.penalty import (
    Penalty,
    PenaltyFunction,
    move_penalty,
    no_regularization,
    subset_penalty,
)
from torusimaging_torch.model import predictions
from torusimaging_torch.model.border import Fronted, SomeModel
from torusimaging_torch.model.correlation import read_covariances, take_apart
from torusimaging_torch.numerics.params import Layout, Params, batch_shape, column
from torusimaging_torch.torus.at_knots import KnotMaps
from torusimaging_torch.torus.orbital_torus import LabelFunctions
from torusimaging_torch.units import BinnedData

__all__ = [
    "SELECTION_MATTERS",
    "JointPenalty",
    "Part",
    "are_several",
    "by_data_set",
    "is_off",
    "joint_posterior",
    "part",
    "warn_selection",
]


def are_several(data: object) -> bool:
    """Return whether binned data are those of several data sets, dictionaries by name."""
    if not isinstance(data, Mapping) or "pos" in data or not data:
        return False
    return all(isinstance(one, Mapping) and "pos" in one for one in data.values())


class Part(nn.Module):
    """One data set of a model of several: what a posterior needs of it.

    Parameters
    ----------
    model
        The model of all.
    name
        The name of the data set.
    """

    def __init__(self, model: Fronted, name: str) -> None:
        super().__init__()
        self.torus, self.border = model.torus.part(name), model.border
        functions = getattr(model.regularization_func, "functions", {})
        self.regularization_func = functions.get(name, no_regularization)
        self.knot_maps = KnotMaps(self.torus) if KnotMaps.fits(self.torus) else None

    at_knots = predictions.at_knots


def part(model: SomeModel, name: str) -> SomeModel:
    """Return the model of one data set alone, a copy, for its labels and figures.

    Its parameters are those of all with ``label_params`` of its own:
    `torusimaging_torch.inference.joint.part_params`.

    Raises
    ------
    ValueError
        If the model has one label function alone.
    KeyError
        If there is no such data set.

    Examples
    --------
    >>> from torusimaging_torch import TorusImaging1DPotential
    >>> counts = np.round(50 * np.exp(-np.hypot(data["pos"].value, data["vel"].value / 60)))
    >>> both = {"mg_fe": data, "counts": {"pos": data["pos"], "vel": data["vel"], "counts": counts}}
    >>> joint, _, start = TorusImaging1DPotential.auto_init(both, n_components=3)
    >>> sorted(start["label_params"]), len(joint.part("counts").label_knots)
    (['counts', 'mg_fe'], 8)
    """
    own, alone = Part(model, name), copy.deepcopy(model)
    alone.torus, alone.knot_maps = alone.torus.part(name), copy.deepcopy(own.knot_maps)
    alone.regularization_func = own.regularization_func
    return alone


@dataclass(frozen=True)
class JointPenalty(Penalty):
    """The penalty of several data sets, each with its own share of it.

    Attributes
    ----------
    functions
        By name; called with that part of the model and its parameters. What belongs to the torus is
        in one of them alone.
    """

    functions: Mapping[str, PenaltyFunction]

    def __call__(self, model: Any, params: Params) -> Tensor:
        """Return the sum, with shape (*B,)."""
        total = torch.zeros_like(params["pos0"])
        for name, function in self.functions.items():
            total = total + function(Part(model, name), part_params(params, name))
        return total

    def subset(self, index: object) -> JointPenalty:
        """Return the penalty of some problems, in any order, also more than once."""
        return JointPenalty({k: subset_penalty(f, index) for k, f in self.functions.items()})

    def to(self, like: Tensor) -> JointPenalty:
        """Return the same on the device, and of the type, of a tensor."""
        return JointPenalty({k: move_penalty(f, like) for k, f in self.functions.items()})


def joint_posterior(
    model: Fronted,
    params: Params,
    data: Mapping[str, BinnedData],
    objective: Objective,
    evaluation: str | None = None,
) -> tuple[JointPosterior, Tensor]:
    """Return ln L - R of several data sets as a function of one vector, and the vector.

    Raises
    ------
    ValueError
        If names of data, objectives and the model's label functions differ, one objective is given
        for data sets of two kinds, or the model's penalty is not a `JointPenalty`.
    """
    names = _check_names(model, data, objective)
    penalty = model.regularization_func
    if not (isinstance(penalty, JointPenalty) or penalty is no_regularization):
        raise ValueError(
            "regularization_func of a model of several data sets must be a JointPenalty, with a "
            f"function for each of them, got {penalty!r}"
        )
    p = model.border.params(params)
    kinds = objective if isinstance(objective, Mapping) else dict.fromkeys(names, objective)
    likelihoods = {name: make_likelihood(kinds[name]) for name in names}
    if not isinstance(objective, Mapping):
        _check_observed(objective, likelihoods, data)
    tensors, crossed = take_apart(
        {name: model.border.data(data[name], likelihoods[name].observed) for name in names},
        read_covariances(data, model.border.like),
    )
    parts, layout = {}, Layout.of(p)
    for name, likelihood in likelihoods.items():
        own = part_params(p, name)
        batch = batch_shape(own)
        pixels = Pixels.clean(likelihood, tensors[name], len(batch))
        laid = Layout.of(own)
        parts[name] = Posterior(Part(model, name), likelihood, laid, pixels, evaluation, batch)
    terms = [
        Crossed(model.torus, pair, layout, Pixels.clean(TwoLabels(), both, len(batch_shape(p))))
        for pair, both in crossed.items()
    ]
    return JointPosterior(parts, layout, terms), layout.flatten(p)


def _check_names(model: Fronted, data: BinnedData, objective: object) -> list[str]:
    functions: nn.Module = model.torus.label_func
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


def _check_observed(
    objective: object, likelihoods: Mapping[str, Likelihood], data: Mapping[str, BinnedData]
) -> None:
    """Check that one objective suits all data sets."""
    for name, likelihood in likelihoods.items():
        if missing := sorted(set(likelihood.observed) - set(data[name])):
            kinds = {
                key: "gaussian" if "label_err" in one else "poisson" for key, one in data.items()
            }
            raise ValueError(
                f"several data sets need an objective each, got {objective!r} for all, but "
                f"{name!r} has no {', '.join(missing)}: give objective={kinds}"
            )


def warn_selection(params: Params, data: BinnedData) -> None:
    """Warn where a selection function came out further from what was given than 3 sigma."""
    several = data if are_several(data) else {"": data}
    for name, one in several.items():
        own = part_params(params, name) if name else params
        if "selection_params" not in own or one.get("selection_error") is None:
            continue
        sigma, found = float(one["selection_error"]), own["selection_params"]["vals"].detach()
        if bool(is_off(found, sigma).any()):
            listed = ", ".join(f"{x:.3f}" for x in found.flatten().tolist()[:6])
            warnings.warn(
                f"the selection function{name and f' of {name}'} is off by more than 3 times "
                f"selection_error = {sigma:g}: the factors of |q|, q^2 and exp(-(q/.15 kpc)^2) are "
                f"{listed}; {SELECTION_MATTERS}",
                RuntimeWarning,
                stacklevel=4,
            )


SELECTION_MATTERS = (
    "a selection function that is wrong by more than it admits biases the force: give a better "
    "one, or a larger selection_error"
)
"""What a selection function does that is off."""


def by_data_set(leaves: Params) -> Mapping[str, Params]:
    """Return leaves of each data set by its name; of the only one, whose name is empty."""
    return {"": leaves} if isinstance(next(iter(leaves.values())), Tensor) else leaves


def is_off(factors: Tensor, sigma: float | Tensor) -> Tensor:
    """Return whether factors (*B, J) of a selection function's terms are beyond 3 sigma, (*B,)."""
    return (factors.abs() > 3 * column(torch.as_tensor(sigma))).any(-1)
