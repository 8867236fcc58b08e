"""Private names of upstream's class that its users rely on, as thin methods on bare tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.model.border import ModelBorder
from torusimaging_torch.numerics.params import Params, function_params
from torusimaging_torch.torus.acceleration import acceleration_gradient

__all__ = ["UpstreamNames"]


class UpstreamNames(ModelBorder):
    """Methods with upstream's private names; everything in model units."""

    def _bare(self, value: Any) -> Tensor:
        return self._tensor(value, "argument", None)

    def _get_label(self, pos: Any, vel: Any, params: Params) -> Tensor:
        pos, vel = self._tensor(pos, "pos", "length"), self._tensor(vel, "vel", "velocity")
        return self.torus(pos, vel, self._params(params))

    def _get_elliptical_coords(
        self, pos: Any, vel: Any, pos0: Any, vel0: Any, ln_Omega0: Any
    ) -> tuple[Tensor, Tensor]:
        return self.torus.transform(*map(self._bare, (pos, vel, pos0, vel0, ln_Omega0)))

    def _get_es(self, r_e: Any, e_params: Params) -> dict[int, Tensor]:
        tensors = self._params({"e_params": e_params})["e_params"]
        return self.torus.distortion.es(self._bare(r_e), tensors)

    def _get_r(self, r_e: Any, theta_e: Any, e_params: Params) -> Tensor:
        tensors = self._params({"e_params": e_params})["e_params"]
        return self.torus.distortion(self._bare(r_e), self._bare(theta_e).cos(), tensors)

    def _get_pos(
        self, r: Any, theta_e: Any, params: Params, Bisection_kwargs: Any = None
    ) -> Tensor:
        return self._phase_space(r, theta_e, params)[0]

    def _get_vel(
        self, r: Any, theta_e: Any, params: Params, Bisection_kwargs: Any = None
    ) -> Tensor:
        return self._phase_space(r, theta_e, params)[1]

    def _phase_space(self, r: Any, theta_e: Any, params: Params) -> tuple[Tensor, Tensor]:
        p = self._params(params)
        r, theta_e = torch.broadcast_tensors(self._bare(r), self._bare(theta_e))
        r_e = self.torus.distortion.invert(r, theta_e.cos(), function_params(p, "e_params"))
        return self.torus.transform.inverse(r_e, theta_e, p["pos0"], p["vel0"], p["ln_Omega0"])

    def _get_dacc_dpos_vmap(self, pos: Any, params: Params) -> Tensor:
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        return acceleration_gradient(self.torus, pos, p)
