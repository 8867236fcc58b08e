r"""Acceleration and mass density from the shape of the contours.

Along a contour of constant r the motion obeys :math:`a = v\,dv/dq`. In the limit :math:`v \to 0`,
with :math:`c_m = \cos m\theta_e` there,

.. math::

    a(q) = -\Omega_0^2 (q - q_0) \frac{1 + \sum_m c_m (e_m + r_e e_m')}
                                      {1 + \sum_m c_m (e_m (1 - m^2) + r_e e_m')}

at :math:`r_e = |q - q_0|\sqrt{\Omega_0}` (Price-Whelan et al. 2025, ApJ 979, 115, Section 2). With
another transform than the ellipse, its own acceleration takes the place of
:math:`-\Omega_0^2 (q - q_0)`: the fraction is what the distortion adds. In one dimension Poisson's
equation gives the density :math:`\rho = -(da/dq)/(4\pi G)` and the surface density within
:math:`|q|`, :math:`\Sigma = |a|/(2\pi G)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.numerics.params import Params, batch_shape, column, function_params
from torusimaging_torch.torus.distortion import Harmonics
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.transform import Axis, Transform

__all__ = [
    "acceleration",
    "acceleration_gradient",
    "acceleration_with_gradient",
    "axis_cosine",
    "density",
    "gradient_at_radius",
    "potential",
    "surface_density",
]


class _Ratio(NamedTuple):
    """The fraction in a(q), numerator and denominator, and what it multiplies."""

    axis: Axis
    numerator: Tensor
    denominator: Tensor
    d_numerator: Tensor  # by r_e
    d_denominator: Tensor


def axis_cosine(convention: str, m: int, offset: Tensor) -> Tensor | float:
    """Return cos(m theta_e) on the position axis."""
    if convention == "vp":
        return torch.where(offset < 0, (-1.0) ** m, 1.0).to(offset.dtype)
    # At theta_e = +-pi/2 an odd harmonic vanishes: it says nothing about the acceleration there.
    return 0.0 if m % 2 else (-1.0) ** (m // 2)


def _ratio(torus: OrbitalTorus, pos: Tensor, params: Params) -> _Ratio:
    axis = torus.transform.axis(pos, *torus.transform.frame(params))
    terms = torus.distortion.derivatives(axis.r_e, function_params(params, "e_params"))
    return _ratio_at(torus.transform.convention, axis, terms)


def _ratio_at(convention: str, axis: Axis, terms: Harmonics) -> _Ratio:
    """Return the fraction at elliptical radii, on the side of the offset's sign."""
    r_e = axis.r_e
    numerator, denominator = torch.ones_like(r_e), torch.ones_like(r_e)
    d_numerator, d_denominator = torch.zeros_like(r_e), torch.zeros_like(r_e)
    for m, (e, slope, curvature) in terms.items():
        c = axis_cosine(convention, m, axis.offset)
        growth, d_growth = e + r_e * slope, 2 * slope + r_e * curvature
        numerator = numerator + c * growth
        denominator = denominator + c * (growth - m**2 * e)
        d_numerator = d_numerator + c * d_growth
        d_denominator = d_denominator + c * (d_growth - m**2 * slope)
    return _Ratio(axis, numerator, denominator, d_numerator, d_denominator)


def acceleration(torus: OrbitalTorus, pos: Tensor, params: Params) -> Tensor:
    r"""Return the acceleration a(q) in the limit of zero velocity.

    Parameters
    ----------
    torus
        The model.
    pos
        Positions in model units, with shape (*B, N).
    params
        Nested dictionary of tensors.

    Returns
    -------
    Tensor
        Acceleration in model units, with shape (*B, N).

    Notes
    -----
    In the "pv" convention an odd harmonic has :math:`c_m = 0`: it makes contours that are not
    perpendicular to the position axis, for which the limit does not exist; this is the part of
    it that is symmetric in velocity.
    """
    return _acceleration(_ratio(torus, pos, params))


def acceleration_gradient(torus: OrbitalTorus, pos: Tensor, params: Params) -> Tensor:
    """Return the derivative of `acceleration` by position, in closed form, with shape (*B, N)."""
    return _gradient(_ratio(torus, pos, params))


def gradient_at_radius(
    transform: Transform, r_e: Tensor, terms: Harmonics, frame: Sequence[Tensor]
) -> Tensor:
    r"""Return da/dq at the position above pos0 where the radius is r_e, with shape (*B, N).

    At a knot the radius is exactly the knot, which a position would miss by rounding.

    Parameters
    ----------
    transform
        The transform.
    r_e
        Elliptical radii with shape (*B, N).
    terms
        Each e_m and its first two derivatives there, by order.
    frame
        The transform's parameters.
    """
    return _gradient(_ratio_at(transform.convention, transform.axis_at(r_e, *frame), terms))


def _acceleration(f: _Ratio) -> Tensor:
    return f.axis.acceleration * f.numerator / f.denominator


def _gradient(f: _Ratio) -> Tensor:
    change = (f.d_numerator * f.denominator - f.numerator * f.d_denominator) / f.denominator**2
    return f.axis.gradient * f.numerator / f.denominator + f.axis.turn * change


def acceleration_with_gradient(
    torus: OrbitalTorus, pos: Tensor, params: Params
) -> tuple[Tensor, Tensor]:
    """Return `acceleration` and `acceleration_gradient`, (*B, N) each, for the price of one."""
    f = _ratio(torus, pos, params)
    return _acceleration(f), _gradient(f)


def density(torus: OrbitalTorus, pos: Tensor, params: Params, G: float) -> Tensor:
    """Return the mass density from Poisson's equation in one dimension, with shape (*B, N).

    ``G`` is the gravitational constant in the units of the model.
    """
    return -acceleration_gradient(torus, pos, params) / (4 * math.pi * G)


def surface_density(torus: OrbitalTorus, pos: Tensor, params: Params, G: float) -> Tensor:
    """Return the surface density between -pos and pos, seen from the centre, shape (*B, N)."""
    return acceleration(torus, pos, params).abs() / (2 * math.pi * G)


def potential(torus: OrbitalTorus, pos: Tensor, params: Params, n_nodes: int = 64) -> Tensor:
    """Return the potential, zero at pos0.

    It is the transform's own where nothing is distorted, and else found by Gauss-Legendre
    quadrature of the acceleration.

    Parameters
    ----------
    torus, pos, params
        As in `acceleration`.
    n_nodes
        Number of nodes between pos0 and each position.

    Returns
    -------
    Tensor
        The potential in model units, with shape (*B, N).
    """
    if not torus.distortion.orders:
        return torus.transform.potential(pos, *torus.transform.frame(params))
    nodes, weights = (
        torch.as_tensor(a, dtype=pos.dtype, device=pos.device)
        for a in np.polynomial.legendre.leggauss(n_nodes)
    )
    centre = column(params["pos0"])
    half = (pos - centre) / 2
    points = centre.unsqueeze(-1) + half.unsqueeze(-1) * (1 + nodes)
    flat = points.reshape(*batch_shape(params), -1)
    a = acceleration(torus, flat, params).reshape(points.shape)
    return -half * (a @ weights)
