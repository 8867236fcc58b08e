"""A spline model as plain values, as a file holds them, and the same model built from these.

A penalty is described by its name, since functions cannot be written to files.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.likelihoods.penalty import (
    PenaltyOfMany,
    no_regularization,
    regularization_func_default,
)
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.numerics.params import Layout, map_leaves
from torusimaging_torch.units import as_unit_system

__all__ = [
    "NamedPenalty",
    "build_model",
    "describe_model",
    "describe_penalty",
    "find_penalty",
    "layout_of",
    "plain",
]

_NAMES: dict[str, Callable[..., Any]] = {
    "none": no_regularization,
    "default": regularization_func_default,
}

# The default penalty, with arguments of its own for each problem of a batch.
_OF_MANY = "default of many"


@dataclass(frozen=True)
class NamedPenalty:
    """A penalty known by name; imported when it is called, so that reading a file runs no code.

    Attributes
    ----------
    name
        Where it is, as ``module:function``; None if that was not known when the file was written.
    keywords
        Its arguments beyond (model, params).
    """

    name: str | None
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: Any, params: Any) -> Any:
        """Return the penalty.

        Raises
        ------
        RuntimeError
            If there is no such function to import.
        """
        try:
            function = _import(self.name)
        except (ImportError, AttributeError, ValueError) as error:
            raise RuntimeError(
                f"cannot import the penalty of this fit, {self.name!r} ({error}): set "
                "model.regularization_func to the function itself"
            ) from None
        return function(model, params, **self.keywords)


def _import(name: str | None) -> Callable[..., Any]:
    if name is None:
        raise ValueError("it was not an importable function")
    module, _, path = name.partition(":")
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing


def describe_penalty(function: Callable[..., Any]) -> dict[str, Any]:
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
    keywords: Mapping[str, Any] = {}
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


def find_penalty(described: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the penalty that `describe_penalty` described."""
    name, keywords = described["name"], described["keywords"]
    if name == _OF_MANY:
        values = functools.partial(torch.tensor, dtype=torch.float64)
        return PenaltyOfMany(map_leaves(values, keywords))
    if name not in _NAMES:
        return NamedPenalty(name, keywords)
    function = _NAMES[name]
    return functools.partial(function, **keywords) if keywords else function


def plain(value: Any) -> Any:
    """Turn tensors, arrays and tuples into numbers and lists, and what is left into texts."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and not isinstance(value, u.Quantity):
        return value.tolist()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def describe_model(model: TorusImaging1DSpline) -> dict[str, Any]:
    """Return all that makes a model, as numbers, texts, lists and dictionaries."""
    # The unit system may prefer some units (km/s for velocities) beyond the four it is made of.
    units = [unit.to_string() for unit in model.units.to_dict().values()]
    return {
        "units": units,
        "convention": model.elliptical_angle_convention,
        "dtype": str(model.border.like.dtype).removeprefix("torch."),
        "label_spline": model.label_spline,
        "label_knots": plain(model.label_knots),
        "e_spline": model.e_spline,
        "e_knots": plain(model.e_knots),
        "e_signs": plain(model.e_signs),
        "regularization": describe_penalty(model.regularization_func),
    }


def build_model(described: Mapping[str, Any]) -> TorusImaging1DSpline:
    """Build the model that `describe_model` described, the same to the last bit."""
    units = as_unit_system([u.Unit(name) for name in described["units"]])
    model = TorusImaging1DSpline(
        described["label_knots"],
        described["e_knots"],
        described["e_signs"],
        find_penalty(described["regularization"]),
        units,
        described["convention"],
        e_spline=described["e_spline"],
        label_spline=described["label_spline"],
    )
    return model.to(getattr(torch, described["dtype"]))


def layout_of(model: TorusImaging1DSpline) -> Layout:
    """Return how the parameters of a spline model are laid out."""
    one = torch.zeros(())
    e_params = {m: {"vals": one.expand(len(x) - 1)} for m, x in model.e_knots.items()}
    label_params = {"label_vals": one.expand(len(model.label_knots))}
    scalars = dict.fromkeys(("pos0", "vel0", "ln_Omega0"), one)
    return Layout.of({**scalars, "e_params": e_params, "label_params": label_params})
