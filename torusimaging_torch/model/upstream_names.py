"""Private names of upstream's class that its users rely on: on bare tensors, in model units."""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.model.border import Fronted
from torusimaging_torch.numerics.params import Params, function_params
from torusimaging_torch.torus.acceleration import acceleration_gradient
from torusimaging_torch.units import Numbers

__all__ = [
    "get_dacc_dpos",
    "get_elliptical_coords",
    "get_es",
    "get_pos",
    "get_r",
    "get_vel",
]


def _bare(model: Fronted, value: object) -> Tensor:
    return model.border.tensor(value, "argument", None)


def get_elliptical_coords(
    model: Fronted, pos: Numbers, vel: Numbers, pos0: Numbers, vel0: Numbers, ln_Omega0: Numbers
) -> tuple[Tensor, Tensor]:
    """Return the elliptical radius and angle."""
    numbers = (_bare(model, x) for x in (pos, vel, pos0, vel0, ln_Omega0))
    return model.torus.transform(*numbers)


def get_es(model: Fronted, r_e: Numbers, e_params: Params) -> dict[int, Tensor]:
    """Return each e_m, by order."""
    tensors = model.border.params({"e_params": e_params})["e_params"]
    return model.torus.distortion.es(_bare(model, r_e), tensors)


def get_r(model: Fronted, r_e: Numbers, theta_e: Numbers, e_params: Params) -> Tensor:
    """Return the distorted radius."""
    tensors = model.border.params({"e_params": e_params})["e_params"]
    return model.torus.distortion(_bare(model, r_e), _bare(model, theta_e).cos(), tensors)


def get_pos(
    model: Fronted, r: Numbers, theta_e: Numbers, params: Params, Bisection_kwargs: object = None
) -> Tensor:
    """Return the position at a distorted radius and an elliptical angle."""
    return _phase_space(model, r, theta_e, params)[0]


def get_vel(
    model: Fronted, r: Numbers, theta_e: Numbers, params: Params, Bisection_kwargs: object = None
) -> Tensor:
    """Return the velocity at a distorted radius and an elliptical angle."""
    return _phase_space(model, r, theta_e, params)[1]


def _phase_space(
    model: Fronted, r: Numbers, theta_e: Numbers, params: Params
) -> tuple[Tensor, Tensor]:
    p = model.border.params(params)
    r, theta_e = torch.broadcast_tensors(_bare(model, r), _bare(model, theta_e))
    r_e = model.torus.distortion.invert(r, theta_e.cos(), function_params(p, "e_params"))
    return model.torus.transform.inverse(r_e, theta_e, *model.torus.transform.frame(p))


def get_dacc_dpos(model: Fronted, pos: Numbers, params: Params) -> Tensor:
    """Return the derivative of the acceleration by position."""
    pos, p = model.border.tensor(pos, "pos", "length"), model.border.params(params)
    return acceleration_gradient(model.torus, pos, p)
