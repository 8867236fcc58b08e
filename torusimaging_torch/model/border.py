"""What every front room of the model shares: its torus, its unit system, and the way in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem, galactic
from torch import Tensor, nn

from torusimaging_torch.likelihoods.penalty import no_regularization
from torusimaging_torch.numerics.params import Params, map_leaves
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.units import as_unit_system, params_to_tensors, to_quantity, to_tensor

__all__ = ["ModelBorder", "stack_samples"]


class ModelBorder(nn.Module):
    """A torus with a unit system and a penalty; see `torusimaging_torch.TorusImaging1D`."""

    def __init__(
        self,
        label_func: Callable[..., Tensor],
        e_funcs: Mapping[int, Callable[..., Tensor]],
        regularization_func: Callable[..., Any] | None = None,
        units: UnitSystem = galactic,
        elliptical_angle_convention: str = "pv",
    ) -> None:
        super().__init__()
        self.torus = OrbitalTorus(label_func, e_funcs, elliptical_angle_convention)
        self.units = as_unit_system(units)
        self.regularization_func = regularization_func or no_regularization
        # An empty buffer that follows .to(): what a model without knots computes in.
        self.register_buffer("_like", torch.empty(0, dtype=torch.float64), persistent=False)

    _like: Tensor

    @property
    def elliptical_angle_convention(self) -> str:
        """Convention of the elliptical angle, "pv" or "vp"."""
        return self.torus.convention

    @property
    def label_func(self) -> nn.Module:
        """The label function."""
        return self.torus.label_func

    @property
    def e_funcs(self) -> dict[int, nn.Module]:
        """The functions e_m, by order."""
        return self.torus.distortion.e_funcs

    @property
    def _place(self) -> dict[str, Any]:
        return {"dtype": self._like.dtype, "device": self._like.device}

    def _tensor(self, value: Any, name: str, kind: str | None) -> Tensor:
        return to_tensor(value, name, kind, self.units, **self._place)

    def _params(self, params: Params) -> dict[str, Any]:
        return params_to_tensors(params, self.units, **self._place)

    def _quantity(self, value: Tensor, kind: str | None) -> u.Quantity:
        return to_quantity(value, kind, self.units)


def stack_samples(params: Params | Sequence[Params]) -> Params:
    """Return samples as one dictionary whose leaves have a leading dimension."""
    if isinstance(params, Mapping):
        return params
    samples = list(params)
    if not samples:
        raise ValueError("params must have at least one sample, got an empty list")
    return map_leaves(lambda *leaves: _stack_leaves(leaves), samples[0], *samples[1:])


def _stack_leaves(leaves: Sequence[Any]) -> Any:
    if isinstance(leaves[0], u.Quantity):
        return u.Quantity(leaves)
    if isinstance(leaves[0], torch.Tensor):
        return torch.stack(list(leaves))
    return np.stack(leaves)
