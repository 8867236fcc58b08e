"""Between quantities and bare tensors: a unit system, a floating-point type and a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem, galactic
from torch import Tensor, nn

from torusimaging_torch.likelihoods.penalty import PenaltyFunction
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Nested, Params, map_leaves
from torusimaging_torch.tensors import bounds_to_tensors, data_to_tensors, params_to_tensors
from torusimaging_torch.torus.at_knots import KnotMaps
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.units import (
    LEAVES,
    BinnedData,
    Bounds,
    Place,
    as_unit_system,
    gravitational_constant,
    to_quantity,
    to_tensor,
)

__all__ = ["Border", "Fronted", "SomeModel", "Start", "stack_samples"]


class Border(nn.Module):
    """What a model does with numbers that come in, and with those that go out.

    It is a part of the model, so it follows ``model.to(...)``.

    Parameters
    ----------
    units
        The gala unit system of bare numbers.

    Examples
    --------
    >>> import astropy.units as u
    >>> Border().tensor(500 * u.pc, "pos", "length")
    tensor(0.5000, dtype=torch.float64)
    """

    like: Tensor
    """An empty tensor of the type and on the device in which the model computes."""

    def __init__(self, units: UnitSystem = galactic) -> None:
        super().__init__()
        self.units = as_unit_system(units)
        self.register_buffer("like", torch.empty(0, dtype=torch.float64), persistent=False)

    @property
    def place(self) -> Place:
        """Type and device, as arguments of `torch.Tensor.to`."""
        return {"dtype": self.like.dtype, "device": self.like.device}

    @property
    def G(self) -> float:
        """The gravitational constant in model units."""
        return gravitational_constant(self.units)

    def tensor(self, value: object, name: str, kind: str | None) -> Tensor:
        """Return numbers as a tensor in model units; see `torusimaging_torch.units.to_tensor`."""
        return to_tensor(value, name, kind, self.units, **self.place)

    def quantity(self, value: Tensor, kind: str | None) -> u.Quantity:
        """Return a tensor in model units as a quantity of a kind."""
        return to_quantity(value, kind, self.units)

    def params(self, params: Params) -> Nested:
        """Return parameters as a nested dictionary of tensors in model units.

        Raises
        ------
        ValueError
            If there is a key that no model knows.
        """
        if unknown := sorted(str(name) for name in params if name not in LEAVES):
            raise ValueError(
                f"params has unknown keys {unknown}: expected some of {sorted(LEAVES)}"
            )
        return params_to_tensors(params, self.units, **self.place)

    def samples(self, params: Params | Sequence[Params]) -> Nested:
        """Return the same as `params`, also from a list of samples, which become a batch."""
        return self.params(stack_samples(params))

    def data(self, data: BinnedData, observed: Sequence[str]) -> dict[str, Tensor]:
        """Return pos, vel, what a likelihood observes and the weights, if any, as tensors."""
        return data_to_tensors(data, observed, self.units, **self.place)

    def bounds(self, bounds: Bounds) -> tuple[Nested, Nested]:
        """Return lower and upper bounds as nested dictionaries of tensors."""
        return bounds_to_tensors(bounds or {}, self.units, **self.place)

    def box(self, bounds: Bounds, layout: Layout) -> Box:
        """Return bounds as a box of parameter vectors; what they leave out has none."""
        lower, upper = self.bounds(bounds)
        return Box(
            layout.fill(lower, -torch.inf, self.like),
            layout.fill(upper, torch.inf, self.like),
            layout.names,
        )

    def extra_repr(self) -> str:
        """Show units, type and device when printed."""
        base = ", ".join(self.units[name].to_string() for name in ("length", "time", "mass"))
        return f"{base}, {self.like.dtype}, {self.like.device}"


class Fronted(Protocol):
    """What functions of the model need of it."""

    torus: OrbitalTorus
    """The model on tensors."""
    border: Border
    """Its unit system, type and device."""
    regularization_func: PenaltyFunction
    """The penalty R in nats, called with the model and a dictionary of tensors."""
    knot_maps: KnotMaps | None
    """What gives its functions at their knots; None if one of them has no knots."""


SomeModel = TypeVar("SomeModel", bound=Fronted)

Start: TypeAlias = tuple[SomeModel, Nested, Nested]
"""A model, bounds and a start, as `auto_init` finds them."""


def stack_samples(params: Params | Sequence[Params]) -> Params:
    """Return samples as one dictionary whose leaves have a leading dimension."""
    if isinstance(params, Mapping):
        return params
    if not isinstance(params, Sequence) or not all(isinstance(one, Mapping) for one in params):
        raise TypeError(
            f"params must be a parameter dictionary or a list of these, got {type(params).__name__}"
        )
    samples = list(params)
    if not samples:
        raise ValueError("samples must have at least one parameter dictionary, got an empty list")
    return map_leaves(lambda *leaves: _stack_leaves(leaves), samples[0], *samples[1:])


def _stack_leaves(leaves: Sequence[Any]) -> Any:
    if isinstance(leaves[0], u.Quantity):
        return u.Quantity(leaves)
    if isinstance(leaves[0], torch.Tensor):
        return torch.stack(list(leaves))
    return np.stack(leaves)
