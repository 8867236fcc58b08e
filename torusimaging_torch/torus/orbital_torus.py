"""The orbital torus model: where a star is in phase space tells its orbit, and that its label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.params import Layout, Params, Path, function_params
from torusimaging_torch.torus.distortion import FourierDistortion
from torusimaging_torch.torus.elliptical import EllipticalTransform
from torusimaging_torch.torus.radial_function import RadialFunction, as_function
from torusimaging_torch.torus.transform import Transform

__all__ = ["LabelFunctions", "OrbitalTorus"]


class LabelFunctions(nn.Module):
    """The label functions of several data sets on one torus, by name.

    Parameters
    ----------
    functions
        For each name a function of the distorted radius.
    """

    knots = None
    logarithmic: tuple[str, ...] = ()

    def __init__(self, functions: Mapping[str, Callable[..., Tensor]]) -> None:
        super().__init__()
        self.functions = nn.ModuleDict({name: as_function(f) for name, f in functions.items()})

    def forward(self, r: Tensor, **params: Tensor) -> Tensor:
        """Refuse: the label of which data set is wanted is not told."""
        raise ValueError(self.without_knots)

    @property
    def without_knots(self) -> str:
        """Whom to ask instead."""
        names = sorted(self.functions)
        return f"the model has labels of {names}: ask one, as model.part({names[0]!r})"

    def __getitem__(self, name: str) -> RadialFunction:
        """Return the function of one data set."""
        if name not in self.functions:
            raise KeyError(f"no data set {name!r}: the model has {sorted(self.functions)}")
        return cast(RadialFunction, self.functions[name])


class OrbitalTorus(nn.Module):
    """The label that the model predicts at a position and velocity.

    Everything fixed (knots, signs, the angle convention) is in the module; the parameters are an
    argument. With a batch of parameters, scalars have shape (*B,), vectors (*B, K), and positions
    and velocities (*B, N).

    Parameters
    ----------
    label_func
        The label as a function of the distorted radius, called as ``label_func(r,
        **label_params)``.
    e_funcs
        The function e_m for each order m, called as ``e_funcs[m](r_e, **e_params[m])``.
    convention
        The elliptical angle's convention, "pv" or "vp".
    transform
        What takes the place of the elliptical transform, with a convention of its own.

    Notes
    -----
    A scalar parameter of one's own function reaches it with shape (*B, 1), so that it broadcasts.
    """

    def __init__(
        self,
        label_func: Callable[..., Tensor],
        e_funcs: Mapping[int, Callable[..., Tensor]],
        convention: str = "pv",
        transform: Transform | None = None,
    ) -> None:
        super().__init__()
        self.transform = transform or EllipticalTransform(convention)
        self.distortion = FourierDistortion(e_funcs)
        self.label_func = as_function(label_func)

    @property
    def labels(self) -> LabelFunctions:
        """The label functions of several data sets.

        Raises
        ------
        ValueError
            If there is one alone.
        """
        functions: nn.Module = self.label_func
        if not isinstance(functions, LabelFunctions):
            raise ValueError("the model has one label function, of no name: make it of several")
        return functions

    @property
    def label_functions(self) -> dict[str, RadialFunction]:
        """The label functions by the names of their data sets, by "" where there is one alone."""
        functions: nn.Module = self.label_func
        if isinstance(functions, LabelFunctions):
            return {name: functions[name] for name in functions.functions}
        return {"": self.label_func}

    def part(self, name: str) -> OrbitalTorus:
        """Return the same torus with the label of one data set alone; its modules are shared."""
        return self.with_label(self.labels[name])

    def with_label(self, label_func: nn.Module) -> OrbitalTorus:
        """Return the same torus with another label function; all other modules are shared."""
        torus = OrbitalTorus(lambda r: r, self.distortion.e_funcs, transform=self.transform)
        torus.label_func = cast(RadialFunction, label_func)
        return torus

    @property
    def convention(self) -> str:
        """The elliptical angle's convention, "pv" or "vp"."""
        return self.transform.convention

    def logarithmic_in(self, layout: Layout) -> Tensor:
        """Return which parameters are logarithms of what labels depend on linearly, shape (P,).

        The functions and the transform say so of theirs; see `RadialFunction`.
        """
        functions: dict[Path, RadialFunction | Transform] = {
            ("label_params",): self.label_func,
            (): self.transform,
        }
        functions |= {("e_params", m): f for m, f in self.distortion.e_funcs.items()}
        flags = []
        for path, size in zip(layout.paths, layout.sizes, strict=True):
            function = functions.get(path[:-1])
            is_log = function is not None and path[-1] in function.logarithmic
            flags += [is_log] * (1 if size is None else size)
        return torch.tensor(flags)

    def amounts_in(self, layout: Layout) -> Tensor:
        """Return the places of logarithms of amounts that add up, neighbours side by side, (n,)."""
        places, start = torch.arange(layout.size), 0
        for path, size in zip(layout.paths, layout.sizes, strict=True):
            width = 1 if size is None else size
            if path == (self.transform.amounts,):
                # A constant density is a sheet without end: it stands behind the highest one.
                return places[start : start + width].roll(-1)
            start += width
        return places[:0]

    def forward(self, pos: Tensor, vel: Tensor, params: Params) -> Tensor:
        """Return the label at each position and velocity, with shape (*B, N).

        Parameters
        ----------
        pos, vel
            Position and velocity in model units, with shape (*B, N).
        params
            Nested dictionary of tensors with the transform's keys (pos0, vel0, ln_Omega0),
            e_params and label_params.
        """
        return self.label_func(
            self.radius(pos, vel, params), **function_params(params, "label_params")
        )

    def radius(self, pos: Tensor, vel: Tensor, params: Params) -> Tensor:
        """Return the distorted radius r, with shape (*B, N)."""
        r_e, cos = self.polar(pos, vel, params)
        return self.distortion(r_e, cos, function_params(params, "e_params"))

    def polar(self, pos: Tensor, vel: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Return the elliptical radius and the cosine of the elliptical angle, (*B, N) each."""
        return self.transform.polar(pos, vel, *self.transform.frame(params))
