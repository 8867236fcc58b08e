"""The model as a layer to train: its parameters are those of a `torch.nn.Module`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Nested, Params, Path, iter_leaves, path_name
from torusimaging_torch.torus.acceleration import acceleration
from torusimaging_torch.torus.orbital_torus import OrbitalTorus

__all__ = ["BoxParametrization", "TrainableTorus"]


class BoxParametrization(nn.Module):
    """Keep a parameter in its box; what an optimizer moves is the unconstrained coordinate.

    Parameters
    ----------
    lower, upper
        Bounds with the parameter's shape, infinite where there is none.
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        self.register_buffer("lower", lower.clone())
        self.register_buffer("upper", upper.clone())
        self._box(validate_args=True)

    def _box(self, validate_args: bool = False) -> Box:
        low, high = torch.atleast_1d(self.lower), torch.atleast_1d(self.upper)
        return Box(low, high, validate_args=validate_args)

    def forward(self, u: Tensor) -> Tensor:
        """Return the parameter at an unconstrained coordinate."""
        return self._box()(torch.atleast_1d(u)).reshape(u.shape)

    def right_inverse(self, x: Tensor) -> Tensor:
        """Return the unconstrained coordinate of a parameter."""
        return self._box().inv(torch.atleast_1d(x)).reshape(x.shape)


class TrainableTorus(nn.Module):
    """Positions and velocities to labels, with bounded parameters that any optimizer can train.

    Parameters
    ----------
    torus
        The model. It is copied: training on one device leaves the original where it is.
    params
        Initial values, inside the bounds; nested dictionary of tensors.
    lower, upper
        Bounds, nested dictionaries of the same form.
    """

    def __init__(self, torus: OrbitalTorus, params: Params, lower: Params, upper: Params) -> None:
        super().__init__()
        self.torus = copy.deepcopy(torus)
        self._paths = {_attribute(path): path for path, _ in iter_leaves(params)}
        low, high = dict(iter_leaves(lower)), dict(iter_leaves(upper))
        for path, leaf in iter_leaves(params):
            name = _attribute(path)
            self.register_parameter(name, nn.Parameter(leaf.detach().clone()))
            box = BoxParametrization(low[path].expand_as(leaf), high[path].expand_as(leaf))
            parametrize.register_parametrization(self, name, box)

    def params(self) -> Nested:
        """Return the current parameters as the nested dictionary that the model takes."""
        params: dict[Any, Any] = {}
        for name, path in self._paths.items():
            branch = params
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = getattr(self, name)
        return params

    def forward(self, pos: Tensor, vel: Tensor) -> Tensor:
        """Return the label at positions and velocities in model units, with shape (*B, N).

        Raises
        ------
        TypeError
            If they are Quantities or arrays.
        """
        _check_tensors(pos=pos, vel=vel)
        return self.torus(pos, vel, self.params())

    def acceleration(self, pos: Tensor) -> Tensor:
        """Return the acceleration at positions in model units, with shape (*B, N).

        It may be a part of a loss, where it was measured in another way.

        Raises
        ------
        TypeError
            If they are Quantities or arrays.
        """
        _check_tensors(pos=pos)
        return acceleration(self.torus, pos, self.params())


def _check_tensors(**given: object) -> None:
    """Check types alone, which compilers do while they trace; single numbers are as good."""
    for name, x in given.items():
        if not isinstance(x, (Tensor, float, int)):
            raise TypeError(
                f"{name} must be a tensor in model units, got {type(x).__name__}: take its "
                f"unit off, as torch.as_tensor({name}.to_value(...)) does"
            )


def _attribute(path: Path) -> str:
    """Return a name that an attribute can have: ``e_params_2_vals``."""
    return path_name(path).replace("[", "_").replace("]", "").replace(".", "_")
