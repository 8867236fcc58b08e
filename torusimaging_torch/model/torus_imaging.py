"""The model as an astronomer uses it: quantities in, quantities out, upstream's names."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import torch
from torch import Tensor

from torusimaging_torch.model.frequency_curve import FrequencyMethods
from torusimaging_torch.model.laplace_check import LaplaceMethods
from torusimaging_torch.model.upstream_names import UpstreamNames
from torusimaging_torch.numerics.params import Params
from torusimaging_torch.torus import acceleration as dynamics
from torusimaging_torch.torus.distortion import check_e_funcs
from torusimaging_torch.units import gravitational_constant

__all__ = ["TorusImaging1D"]


class TorusImaging1D(FrequencyMethods, LaplaceMethods, UpstreamNames):
    r"""An Orbital Torus Imaging model of one degree of freedom.

    Labels of stars are constant along orbits, so contours of the mean label in position and
    velocity are orbits. The model describes them as ellipses with a Fourier distortion,
    :math:`r = r_e (1 + \sum_m e_m(r_e) \cos m\theta_e)`, and the label as a function of r
    (Price-Whelan et al. 2021, arXiv:2012.00015; 2025, ApJ 979, 115).

    Parameters
    ----------
    label_func
        The label as a function of the distorted radius, called as ``label_func(r,
        **label_params)``, in torch operations.
    e_funcs
        For each order m the function :math:`e_m`, called as ``e_funcs[m](r_e, **e_params[m])``.
        Any set of non-negative orders works.
    regularization_func
        Called as ``regularization_func(model, params)``; returns the penalty R in nats that is
        taken off the log-likelihood. No penalty if not given. It may be replaced at any time.
    units
        The gala unit system of everything inside: kpc, Myr, solar mass and radian by default.
    elliptical_angle_convention
        "pv": the elliptical angle is zero on the velocity axis, as in upstream's 0.1; "vp": on
        the position axis, where odd orders are sound.

    Notes
    -----
    Parameters are a nested dictionary ``{"pos0", "vel0", "ln_Omega0", "e_params": {m: {...}},
    "label_params": {...}}`` of numbers, arrays, tensors or quantities. Leaves with shape (*B,), and
    vectors with shape (*B, K), make a batch of problems; positions and velocities then have shape
    (*B, N) or (N,). Without a batch they may have any shape. Anything without a unit is taken to be
    in the model's unit system.

    The model is a `torch.nn.Module`: ``model.to("cuda")`` and ``model.to(torch.float32)`` decide
    where and how precisely it computes.
    """

    def forward(self, pos: Any, vel: Any, params: Params) -> Tensor:
        """Return the label at each position and velocity; the same as `get_label`."""
        return self.get_label(pos, vel, params)

    def get_label(self, pos: Any, vel: Any, params: Params) -> Tensor:
        """Return the predicted label.

        Parameters
        ----------
        pos, vel
            Positions and velocities, with shape (*B, N).
        params
            Model parameters.

        Returns
        -------
        Tensor
            Labels with shape (*B, N), differentiable.

        Raises
        ------
        astropy.units.UnitConversionError
            If a quantity has the wrong dimension.
        """
        pos, vel = self._tensor(pos, "pos", "length"), self._tensor(vel, "vel", "velocity")
        return self.torus(pos, vel, self._params(params))

    def compute_elliptical(
        self, pos: Any, vel: Any, params: Params
    ) -> tuple[u.Quantity, u.Quantity]:
        r"""Return the elliptical radius r_e and the elliptical angle theta_e.

        Parameters
        ----------
        pos, vel
            Positions and velocities, with shape (*B, N).
        params
            Model parameters.

        Returns
        -------
        r_e, theta_e
            Quantities with shape (*B, N): in length (angle/time)^(1/2), since :math:`r_e^2` is a
            squared length times a frequency, and in angle from -pi to pi.
        """
        pos, vel = self._tensor(pos, "pos", "length"), self._tensor(vel, "vel", "velocity")
        p = self._params(params)
        r_e, theta_e = self.torus.transform(pos, vel, p["pos0"], p["vel0"], p["ln_Omega0"])
        return self._quantity(r_e, "elliptical radius"), self._quantity(theta_e, "angle")

    def get_acceleration(self, pos: Any, params: Params) -> u.Quantity:
        """Return the acceleration at ``pos`` (*B, N), in the limit of zero velocity."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        return self._quantity(dynamics.acceleration(self.torus, pos, p), "acceleration")

    def get_acceleration_deriv(self, pos: Any, params: Params) -> u.Quantity:
        """Return the derivative of the acceleration by position, at ``pos`` (*B, N)."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        gradient = dynamics.acceleration_gradient(self.torus, pos, p)
        return self._quantity(gradient, "acceleration gradient")

    def get_density(self, pos: Any, params: Params) -> u.Quantity:
        """Return the mass density at ``pos`` (*B, N), from Poisson's equation in one dimension.

        What the radial terms of the Poisson equation add is left out.
        """
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        G = gravitational_constant(self.units)
        return self._quantity(dynamics.density(self.torus, pos, p, G), "density")

    def get_surface_density(self, pos: Any, params: Params) -> u.Quantity:
        """Return the mass per area between -pos and pos, measured from the midplane pos0."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        G = gravitational_constant(self.units)
        return self._quantity(dynamics.surface_density(self.torus, pos, p, G), "surface density")

    def get_potential(self, pos: Any, params: Params) -> u.Quantity:
        """Return the potential at ``pos`` (*B, N), zero at the midplane pos0."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        return self._quantity(dynamics.potential(self.torus, pos, p), "potential")

    def check_e_funcs(self, e_params: Params, r_e_max: Any) -> tuple[Any, Any]:
        r"""Check that orbits do not cross, :math:`dr/dr_e > 0` out to ``r_e_max``.

        Parameters
        ----------
        e_params
            Parameters of each e function, by order.
        r_e_max
            Largest elliptical radius to look at, with shape (*B,).

        Returns
        -------
        valid, checks
            Whether all is well (a bool, or a tensor with shape (*B,)), and
            :math:`dr/dr_e - 1` on a grid of radii and angles as a NumPy array.
        """
        r_e_max = self._tensor(r_e_max, "r_e_max", "elliptical radius")
        tensors = self._params({"e_params": e_params})["e_params"]
        with torch.no_grad():
            valid, checks = check_e_funcs(self.torus.distortion, tensors, r_e_max)
        return (bool(valid) if valid.ndim == 0 else valid), checks.cpu().numpy()
