"""A model's penalty by formulas, where it is one that they know."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.evaluation.penalties import NoPenalty, PenaltyForm, merged
from torusimaging_torch.evaluation.penalty_maps import (
    default_penalty,
    label_penalty,
    normal_penalty,
    potential_penalty,
)
from torusimaging_torch.evaluation.placed_torus import PlacedTorus
from torusimaging_torch.likelihoods.penalty import (
    PenalizedModel,
    PenaltyFunction,
    PenaltyOfMany,
    SumOfPenalties,
    no_regularization,
    regularization_func_default,
    regularization_func_label,
)
from torusimaging_torch.likelihoods.potential_penalty import regularization_func_potential
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.numerics.params import Path

__all__ = ["penalty_form"]

_PACKAGE = __name__.partition(".")[0] + "."


def penalty_form(
    function: PenaltyFunction, model: PenalizedModel, parts: PlacedTorus, places: Mapping[Path, int]
) -> PenaltyForm | None:
    """Return a penalty by formulas, or None if it is none that they know.

    Parameters
    ----------
    function
        The model's penalty, or a part of it.
    model
        The model.
    parts, places
        Its torus, and where each leaf begins in the vector.
    """
    functions, coefficients = parts.functions, parts.coefficients
    if function is no_regularization:
        return NoPenalty()
    if type(function) is SumOfPenalties:
        forms = [penalty_form(each, model, parts, places) for each in function.penalties]
        known = [form for form in forms if form is not None]
        return merged(known) if len(known) == len(forms) else None
    if (found := _arguments_of(regularization_func_label, function, coefficients.sign)) is not None:
        return label_penalty(functions, coefficients, found)
    if type(function) is NormalPenalty:
        first = places[function.path]
        last = first + (1 if function.size is None else function.size)
        return normal_penalty(
            coefficients, range(first, last), *_columns(function, coefficients.sign)
        )
    arguments = _arguments_of(regularization_func_potential, function, coefficients.sign)
    if arguments is not None:
        orders = model.torus.distortion.orders
        return potential_penalty(functions, orders, coefficients, places, arguments)
    arguments = _arguments_of(regularization_func_default, function, coefficients.sign)
    # A model may say otherwise what its functions are at their knots.
    ours = getattr(type(model), "at_knots", penalty_form).__module__.startswith(_PACKAGE)
    if arguments is None or not ours:
        return None
    return default_penalty(
        functions,
        model.torus.distortion.orders,
        model.torus.convention,
        coefficients,
        parts.formulas.tables,
        places,
        arguments,
    )


def _columns(prior: NormalPenalty, like: Tensor) -> list[Tensor]:
    """Return mean and sigma of a prior, with shape (B or 1, K or 1)."""
    width = 1 if prior.size is None else prior.size
    every = [torch.as_tensor(x, dtype=like.dtype) for x in (prior.mean, prior.sigma)]
    return [(x.reshape(-1, width) if x.ndim else x.reshape(1, 1)).to(like) for x in every]


def _arguments_of(known: object, function: object, like: Tensor) -> Mapping[str, Any] | None:
    """Return the arguments of a known penalty, if a function is that, where a tensor is."""
    if type(function) is PenaltyOfMany:
        mine = (function.function or regularization_func_default) is known
        return function.to(like).arguments if mine else None
    if type(function) is partial and function.func is known:
        return None if function.args else function.keywords
    return None
