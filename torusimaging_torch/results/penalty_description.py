"""Penalties and other values as a file holds them, and back; functions are told by their names."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.likelihoods.penalty import (
    PenaltyFunction,
    PenaltyOfMany,
    SumOfPenalties,
    no_regularization,
    regularization_func_default,
    regularization_func_label,
)
from torusimaging_torch.likelihoods.potential_penalty import regularization_func_potential
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.model.data_sets import JointPenalty
from torusimaging_torch.numerics.params import Params, map_leaves

__all__ = ["NamedPenalty", "describe_penalty", "find_penalty", "plain", "with_numbers"]

_NAMES: dict[str, PenaltyFunction] = {
    "none": no_regularization,
    "default": regularization_func_default,
    "potential": regularization_func_potential,
    "label": regularization_func_label,
}

# The default penalty, with arguments of its own for each problem of a batch.
_OF_MANY = "default of many"
# Penalties that are made of others, or of numbers.
_JOINT, _SUM, _NORMAL = "of each data set", "sum", "normal"


@dataclass(frozen=True)
class NamedPenalty:
    """A penalty known by name; imported when it is called, so that reading a file runs no code.

    Attributes
    ----------
    name
        Where it is, as ``module:function``; None if that was not known when the file was written.
    keywords
        Its arguments beyond (model, params).
    trusted
        Whether it may be imported if it is of another package than this one.
    """

    name: str | None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    trusted: bool = True

    def __call__(self, model: object, params: Params) -> Tensor:
        """Return the penalty.

        Raises
        ------
        RuntimeError
            If there is no such function to import, or it comes from a file that is not trusted.
        """
        ours = __name__.partition(".")[0]
        if not self.trusted and str(self.name).partition(":")[0].partition(".")[0] != ours:
            raise RuntimeError(
                f"the penalty of this fit is {self.name!r}, code that a file has named: read the "
                "file with trust=True if you know where it comes from, or set "
                "model.regularization_func to the function itself"
            )
        try:
            function = _import(self.name)
        except (ImportError, AttributeError, ValueError) as error:
            raise RuntimeError(
                f"cannot import the penalty of this fit, {self.name!r} ({error}): set "
                "model.regularization_func to the function itself"
            ) from None
        return function(model, params, **self.keywords)


def _import(name: str | None) -> PenaltyFunction:
    if name is None:
        raise ValueError("it was not an importable function")
    module, _, path = name.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


def describe_penalty(function: PenaltyFunction) -> dict[str, Any]:
    """Return name and keyword arguments of a penalty, as plain values.

    Parameters
    ----------
    function
        A function, or a `functools.partial` of one with keyword arguments. One that cannot be
        imported by its name (a lambda, a method) has the name None.
    """
    if isinstance(function, NamedPenalty):
        return {"name": function.name, "keywords": plain(function.keywords)}
    if isinstance(function, PenaltyOfMany):
        return {"name": _OF_MANY, "keywords": plain(function.arguments)}
    if isinstance(function, JointPenalty):
        each = {name: describe_penalty(own) for name, own in function.functions.items()}
        return {"name": _JOINT, "keywords": each}
    if type(function) is SumOfPenalties:
        parts = [describe_penalty(part) for part in function.penalties]
        return {"name": _SUM, "keywords": {"penalties": parts}}
    if isinstance(function, NormalPenalty):
        return {"name": _NORMAL, "keywords": plain(vars(function))}
    keywords: Mapping[str, object] = {}
    if isinstance(function, functools.partial) and not function.args:
        keywords = function.keywords
        function = function.func
    for name, known in _NAMES.items():
        if function is known:
            return {"name": name, "keywords": plain(keywords)}
    name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    try:
        found = _import(name) is function
    except (ImportError, AttributeError, ValueError):
        found = False
    return {"name": name if found else None, "keywords": plain(keywords)}


def find_penalty(described: Mapping[str, Any]) -> PenaltyFunction:
    """Return the penalty that `describe_penalty` described."""
    name = described["name"]
    if name == _JOINT:
        return JointPenalty({key: find_penalty(x) for key, x in described["keywords"].items()})
    keywords = with_numbers(described["keywords"])
    if name == _SUM:
        return SumOfPenalties(tuple(find_penalty(part) for part in keywords["penalties"]))
    if name == _NORMAL:
        mean, sigma = (
            torch.tensor(keywords[key], dtype=torch.float64) for key in ("mean", "sigma")
        )
        return NormalPenalty(tuple(keywords["path"]), keywords["size"], mean, sigma)
    if name == _OF_MANY:
        values = functools.partial(torch.tensor, dtype=torch.float64)
        return PenaltyOfMany(map_leaves(values, keywords))
    if name not in _NAMES:
        return NamedPenalty(name, keywords, bool(described.get("trusted", True)))
    function = _NAMES[name]
    return functools.partial(function, **keywords) if keywords else function


def plain(value: object) -> Any:
    """Turn tensors, arrays and tuples into numbers and lists, and what is left into texts."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and not isinstance(value, u.Quantity):
        return value.tolist()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def with_numbers(value: object) -> Any:
    """Turn keys that are whole numbers, which JSON makes texts, back into numbers."""
    if isinstance(value, Mapping):
        pairs = ((str(key), with_numbers(item)) for key, item in value.items())
        return {int(key) if key.isdecimal() else key: item for key, item in pairs}
    return [with_numbers(item) for item in value] if isinstance(value, list) else value
