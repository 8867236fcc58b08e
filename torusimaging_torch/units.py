"""The border between quantities with units and bare tensors: every conversion happens here.

Inside, everything is a tensor in the model's unit system (kpc, Myr, solar mass and radian by
default). A `~astropy.units.Quantity` that comes in is converted, one of the wrong dimension raises
and names the argument; a bare number or array is taken to be in the model's units already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias, TypedDict

import astropy.units as u
import numpy as np
import torch
from astropy.utils.masked import Masked
from gala.units import UnitSystem, galactic
from torch import Tensor

from torusimaging_torch.arrays import Array

__all__ = [
    "LEAVES",
    "PARAM_KINDS",
    "Binned",
    "BinnedData",
    "Bins",
    "Bounds",
    "Hold",
    "Knots",
    "LabelKnots",
    "Labels",
    "Numbers",
    "Place",
    "Priors",
    "as_unit_system",
    "gravitational_constant",
    "label_values",
    "of_one_data_set",
    "to_quantity",
    "to_tensor",
    "unit_of",
    "with_unit",
]


class Place(TypedDict):
    """Type and device, as arguments of `torch.Tensor.to`."""

    dtype: torch.dtype
    device: torch.device


Numbers: TypeAlias = u.Quantity | Tensor | Array | Sequence[Any] | float
"""What becomes a tensor: numbers with a unit, or such as are in model units."""

Labels: TypeAlias = Numbers | Mapping[str, Numbers]
"""A label of each star, or several by name; so are their errors, scatters and weights."""

BinnedData: TypeAlias = Mapping[str, Any]
"""Binned data as `torusimaging_torch.data` returns them, by name: pos, vel, label, label_err."""

Binned: TypeAlias = dict[str, Any]
"""The same, as whoever made them has them."""

Bins: TypeAlias = Mapping[str, Numbers] | Sequence[Numbers]
"""Edges of pixels in position and velocity: a dictionary with pos and vel, or both in order."""

Bounds: TypeAlias = Mapping[str, Any] | tuple[Mapping[str, Any], Mapping[str, Any]] | None
"""Pairs of lower and upper bounds by parameter, nested like them, or a pair of dictionaries."""

Knots: TypeAlias = Numbers
"""How many knots a function has, or where they are."""

LabelKnots: TypeAlias = Knots | Mapping[str, Knots]
"""Those of the label's function, or of several by name."""

Priors: TypeAlias = Mapping[Any, Any]
"""What is known of parameters, nested like them or by name; see `optimize`."""

Hold: TypeAlias = Mapping[Any, Any] | Sequence[str]
"""Parameters that are known: values, nested like them or by name, or names alone."""

# Powers of (length, time, mass, angle) for each kind of number that crosses the border.
_KINDS: dict[str, tuple[float, float, float, float]] = {
    "length": (1, 0, 0, 0),
    "velocity": (1, -1, 0, 0),
    "time": (0, 1, 0, 0),
    "angle": (0, 0, 0, 1),
    "frequency": (0, -1, 0, 1),
    "action": (2, -1, 0, 0),
    # r_e^2 = q^2 Omega0 + v^2 / Omega0, with Omega0 an angle per time
    "elliptical radius": (1, -0.5, 0, 0.5),
    "acceleration": (1, -2, 0, 0),
    "acceleration gradient": (0, -2, 0, 0),
    "potential": (2, -2, 0, 0),
    "density": (-3, 0, 1, 0),
    "surface density": (-2, 0, 1, 0),
}

# The kind of each leaf of a parameter dictionary that has a dimension.
PARAM_KINDS = {"pos0": "length", "vel0": "velocity"}
LEAVES = {"pos0", "vel0", "ln_Omega0", "ln_rho", "e_params", "label_params", "selection_params"}
"""What a dictionary of parameters may have, of any model."""


def as_unit_system(units: object) -> UnitSystem:
    """Return a gala unit system, from one or from a sequence of its base units.

    Raises
    ------
    TypeError
        If it is a name.
    ValueError
        If its angle is not the radian, in which frequencies and angles are.
    """
    if isinstance(units, str):
        raise TypeError(
            f"units must be a gala UnitSystem, such as gala.units.galactic, got {units!r}"
        )
    system = units if isinstance(units, UnitSystem) else UnitSystem(units)
    if system["angle"] != u.radian:
        raise ValueError(
            f"units must have the radian as their angle, got '{system['angle']}': convert results, "
            "which are Quantities, to other angles"
        )
    return system


def unit_of(kind: str | None, units: UnitSystem = galactic) -> u.UnitBase:
    """Return the unit of a kind of number in a unit system.

    Parameters
    ----------
    kind
        "length", "velocity", "time", "angle", "frequency", "action", "elliptical radius",
        "acceleration", "acceleration gradient", "potential", "density" or "surface density"; None
        for a pure number.
    units
        The unit system.
    """
    if kind is None:
        return u.dimensionless_unscaled
    return _composed(kind, *_bases(units))


def _bases(units: UnitSystem) -> tuple[u.UnitBase, ...]:
    return tuple(units[name] for name in ("length", "time", "mass", "angle"))


@cache
def _composed(kind: str, *bases: u.UnitBase) -> u.UnitBase:
    unit = u.dimensionless_unscaled
    for base, power in zip(bases, _KINDS[kind], strict=True):
        unit = unit * base**power
    return unit


def gravitational_constant(units: UnitSystem = galactic) -> float:
    """Return G in a unit system."""
    return _gravitational_constant(*_bases(units))


@cache
def _gravitational_constant(*bases: u.UnitBase) -> float:
    # Every fit asks for it, and working it out takes as long as ten evaluations.
    return float(UnitSystem(*bases).get_constant("G"))


def _in_model_units(
    value: u.Quantity, name: str, kind: str | None, units: UnitSystem
) -> Array | float:
    unit = unit_of(kind, units)
    try:
        # An angle is a number to a dynamicist: frequencies may come in rad/Myr or in 1/Myr.
        with np.errstate(over="ignore"):  # infinite, as what it is multiplied by would make it
            return value.to_value(unit, equivalencies=u.dimensionless_angles())
    except u.UnitConversionError:
        raise u.UnitConversionError(
            f"{name} must be a {kind or 'pure number'} that converts to '{unit}', got unit "
            f"'{value.unit}'; pass a Quantity with the right dimension, or a bare array in '{unit}'"
        ) from None


def with_unit(value: object) -> Any:
    """Make a Quantity of a table column, which carries its unit as an attribute; masked is nan.

    Raises
    ------
    TypeError
        If it has a unit of another package than astropy, or masks or a unit and no numbers.
    """
    if isinstance(value, Masked):
        value = _real(value).astype(float).filled(np.nan)
    if not hasattr(value, "unit") and hasattr(value, "units"):
        raise TypeError(
            f"a {type(value).__name__} has units of another package, which would be lost: give an "
            "astropy Quantity"
        )
    unit = getattr(value, "unit", None)
    if unit is None or isinstance(value, u.Quantity):
        return value
    numbers = _real(np.ma.asarray(value)).astype(float)
    return u.Quantity(np.ma.filled(numbers, np.nan), unit, subok=True)


def _real(value: Any) -> Any:
    """Return an array as it is, if it holds real numbers, or truth values."""
    kind = value.dtype.kind
    texts = kind == "O" and any(isinstance(x, (str, bytes)) for x in np.ma.getdata(value).flat)
    if kind not in "biufO" or texts:
        raise TypeError(f"its kind is {'texts' if texts else value.dtype.name}")
    return value


def to_tensor(
    value: Any,
    name: str,
    kind: str | None,
    units: UnitSystem = galactic,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    copy: bool = True,
) -> Tensor:
    """Turn a Quantity, array, number or tensor into a tensor in model units.

    A tensor keeps its device (unless ``device`` is given) and its place in the autograd graph.

    Parameters
    ----------
    value
        What the user passed. Anything without a unit is in model units already.
    name
        The argument's name, for the error message.
    kind
        See `unit_of`.
    units, dtype, device
        Unit system, floating-point type and device of the result.
    copy
        Whether an array stays the caller's own; without, the tensor may be a view of it.

    Raises
    ------
    astropy.units.UnitConversionError
        If the Quantity has another dimension.
    TypeError
        If the value is not numeric.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise TypeError(f"{name} must be numbers, got a tensor of {value.dtype}")
        # Autograd takes no tensor from inference mode, but it takes a copy.
        value = value.clone() if value.is_inference() else value
        return value.to(dtype=dtype, device=device if device is not None else value.device)
    if value is None:  # which NumPy would take for nan
        raise TypeError(f"{name} must be numbers, got None")
    try:
        value = with_unit(value)
    except TypeError as error:
        raise TypeError(f"{name} must be numbers: {error}") from None
    if isinstance(value, u.Quantity):
        value = _in_model_units(value, name, kind, units)
    try:
        if np.ma.isMaskedArray(value):  # as floats first: integers have no nan
            value = np.ma.filled(_real(value).astype(np.float64), np.nan)
        _real(np.asarray(value))
        array = np.ascontiguousarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers, got {type(value).__name__}: {error}") from None
    array = array.reshape(np.shape(value))  # ascontiguousarray makes a scalar one-dimensional
    # A tensor cannot tell that it must not be written to.
    own = copy or not array.flags.writeable
    make = torch.tensor if own else torch.as_tensor
    return make(array, dtype=dtype, device=device)


def of_one_data_set(binned: BinnedData) -> BinnedData:
    """Return binned data of one data set as they are; refuse several, and anything else.

    Raises
    ------
    ValueError
        If there are no positions and velocities.
    """
    if not {"pos", "vel"} <= set(binned):
        raise ValueError(
            f"expected binned data of one data set, with pos and vel, got {sorted(binned)}; of "
            "several pass one, and its part of a model or a result, as model.part(name)"
        )
    return binned


def label_values(
    label: Any, label_err: Any = None, name: str = "label_err"
) -> tuple[Any, Any, u.UnitBase | None]:
    """Strip the unit (dex, Gyr, ...) from labels and their errors, the same for both.

    Errors are called ``name`` in messages.

    Returns
    -------
    label, label_err, unit
        Bare values, the error in the label's unit; ``unit`` is None if the label had none.

    Raises
    ------
    astropy.units.UnitConversionError
        If the error's unit does not convert to the label's.
    """
    label, label_err = with_unit(label), with_unit(label_err)
    unit = label.unit if isinstance(label, u.Quantity) else None
    if isinstance(label_err, u.Quantity):
        target = unit if unit is not None else u.dimensionless_unscaled
        try:
            label_err = label_err.to_value(target)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"{name} must have the unit of label ('{target}'), got '{label_err.unit}'"
            ) from None
    return (label if unit is None else label.value), label_err, unit


def to_quantity(tensor: Tensor, kind: str | None, units: UnitSystem = galactic) -> u.Quantity:
    """Turn a tensor in model units into a Quantity (detached, on the host)."""
    return u.Quantity(tensor.detach().cpu().numpy(), unit_of(kind, units), copy=True)
