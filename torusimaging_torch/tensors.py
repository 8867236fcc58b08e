"""Dictionaries of parameters, bounds and data as tensors in model units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from gala.units import UnitSystem, galactic
from torch import Tensor

from torusimaging_torch.numerics.params import Nested, Params, map_leaves
from torusimaging_torch.units import PARAM_KINDS, BinnedData, Bounds, label_values, to_tensor

__all__ = ["bounds_to_tensors", "data_to_tensors", "device_of", "params_to_tensors"]


def params_to_tensors(
    params: Params,
    units: UnitSystem = galactic,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Nested:
    """Turn every leaf of a parameter dictionary into a tensor in model units.

    ``pos0`` and ``vel0`` may be Quantities; the other leaves are pure numbers.

    Raises
    ------
    astropy.units.UnitConversionError
        If ``pos0`` is not a length or ``vel0`` not a speed.
    TypeError
        If the parameters are not a nested dictionary of numbers.
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            "params must be a dictionary with keys 'pos0', 'vel0', 'ln_Omega0', 'e_params' and "
            f"'label_params', got {type(params).__name__}"
        )

    def convert(name: str, value: object) -> Nested | Tensor:
        if isinstance(value, Mapping):
            return map_leaves(lambda leaf: convert(name, leaf), value)
        kind = PARAM_KINDS.get(name)
        return to_tensor(value, name, kind, units, dtype=dtype, device=device)

    return {name: convert(name, value) for name, value in params.items()}


def bounds_to_tensors(
    bounds: Bounds,
    units: UnitSystem = galactic,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> tuple[Nested, Nested]:
    """Turn bounds into a dictionary of lower and one of upper bounds, in model units.

    Parameters
    ----------
    bounds
        A nested dictionary whose leaves are (lower, upper) pairs, or a pair of dictionaries.
    units, dtype, device
        Unit system, floating-point type and device of the result.

    Raises
    ------
    ValueError
        If a leaf is not a pair.
    TypeError
        If the bounds are neither of the two.
    """
    split: Sequence[Params]
    if isinstance(bounds, Mapping):
        split = [map_leaves(partial(_side, index), bounds) for index in (0, 1)]
    elif isinstance(bounds, (tuple, list)) and len(bounds) == 2:
        split = list(bounds)
    else:
        raise TypeError(
            "bounds must be a dictionary of (lower, upper) pairs or a pair of dictionaries, got "
            f"{type(bounds).__name__}"
        )
    lower, upper = (params_to_tensors(b, units, dtype=dtype, device=device) for b in split)
    return lower, upper


def _side(index: int, pair: Any) -> Any:
    if not hasattr(pair, "__len__") or len(pair) != 2:
        raise ValueError(f"a bound must be a pair (lower, upper), got {pair!r}")
    return pair[index]


# What may stand in a dictionary of binned data; an objective takes what it needs from it.
_DATA_KINDS = {
    "pos": "length",
    "vel": "velocity",
    "label": None,
    "label_err": None,
    "counts": None,
    "weight": None,
    "exposure": None,
    "selection_terms": None,
    "selection_error": None,
    "label_covariance": None,
}

_OPTIONAL = ("weight", "exposure", "selection_terms")


def device_of(data: BinnedData) -> torch.device:
    """Return where data lie: on the device of the first tensor off the CPU, else on the CPU."""
    devices = [x.device for x in data.values() if isinstance(x, Tensor)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


def data_to_tensors(
    data: BinnedData,
    observed: Sequence[str],
    units: UnitSystem = galactic,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    copy: bool = True,
) -> dict[str, Tensor]:
    """Turn the data that a likelihood needs into tensors in model units.

    Parameters
    ----------
    data
        Positions "pos", velocities "vel", and what is observed: "label" and "label_err", or
        "counts"; if wanted "weight", and what `torusimaging_torch.data.with_selection` adds, the
        "exposure" and "selection_terms". What else binned data have is left aside; the
        "label_covariance" is for `torusimaging_torch.model.correlation`.
    observed
        Names of what the likelihood observes.
    units, dtype, device
        Unit system, floating-point type and device of the result.
    copy
        Whether arrays stay the caller's own; without, tensors may be views of them.

    Raises
    ------
    TypeError
        If something is missing or has an unknown name.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.
    """
    needed = ["pos", "vel", *observed]
    missing, unknown = set(needed) - set(data), set(data) - set(_DATA_KINDS) - set(observed)
    if missing or unknown:
        raise TypeError(
            f"data must have {needed}, got {sorted(data)}: missing {sorted(missing)}, "
            f"unknown {sorted(unknown)}"
        )
    data = dict(data)
    if {"label", "label_err"} <= set(observed):
        data["label"], data["label_err"], _ = label_values(data["label"], data["label_err"])
    wanted = needed + [name for name in _OPTIONAL if data.get(name) is not None]
    place: Any = {"dtype": dtype, "device": device, "copy": copy}
    return {
        name: to_tensor(data[name], name, _DATA_KINDS.get(name), units, **place) for name in wanted
    }
