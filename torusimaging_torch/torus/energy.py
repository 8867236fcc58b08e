r"""Acceleration and density by energies of contours: another reading of the same orbits.

A contour that turns at height z crosses the midplane at the radius :math:`r_x` on the velocity
axis, so that :math:`\Phi(z) = \Omega r_x^2/2`. With the radius :math:`r_y` on the position axis,
and :math:`c_m` and :math:`d_m` the cosines of :math:`m \theta_e` on both,

.. math::

    r_x \left(1 + \sum d_m e_m(r_x)\right) = r_y \left(1 + \sum c_m e_m(r_y)\right), \quad
    a(z) = a_0(z)\,\frac{r_x}{r_y}\,
    \frac{1 + \sum c_m (e_m + r_y e_m')}{1 + \sum d_m (e_m + r_x e_m')}

where :math:`a_0` is the acceleration of the transform alone. The formula of `acceleration` looks at
a contour's curvature where it turns, this one at both its ends. For exact orbits they agree; they
differ by what the harmonics cannot follow. This one is unsafe where no data are near the velocity
axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import Params, function_params
from torusimaging_torch.torus.acceleration import axis_cosine
from torusimaging_torch.torus.distortion import Harmonics
from torusimaging_torch.torus.orbital_torus import OrbitalTorus

__all__ = ["energy_forces"]


class _Growth(NamedTuple):
    """dr/dr_e along an axis, and its derivative by r_e."""

    value: Tensor
    slope: Tensor


def energy_forces(torus: OrbitalTorus, pos: Tensor, params: Params) -> tuple[Tensor, Tensor]:
    """Return the acceleration and its derivative by position, with shape (*B, N) each.

    Parameters
    ----------
    torus
        The model.
    pos
        Positions in model units, with shape (*B, N).
    params
        Nested dictionary of tensors.
    """
    transform, e_params = torus.transform, function_params(params, "e_params")
    axis = transform.axis(pos, *transform.frame(params))
    r_y, distortion = axis.r_e, torus.distortion
    if not distortion.orders:
        return axis.acceleration, axis.gradient
    cos = torch.where(axis.offset < 0, -1.0, 1.0).to(r_y.dtype)
    on_y, on_x = (cos, 0 * cos) if transform.convention == "vp" else (0 * cos, torch.ones_like(cos))
    r_x = distortion.invert(distortion(r_y, on_y, e_params), on_x, e_params)
    up = distortion.derivatives(r_y, e_params)
    across = distortion.derivatives(r_x, e_params)
    c = {m: axis_cosine(transform.convention, m, axis.offset) for m in distortion.orders}
    d = {m: _velocity_cosine(transform.convention, m) for m in distortion.orders}
    N, D = _growth(up, c, r_y), _growth(across, d, r_x)
    center = r_y == 0
    ratio = torch.where(center, 1.0, r_x / torch.where(center, 1.0, r_y))
    fraction = N.value / D.value
    # How the ratio of the radii changes with r_y; at the centre by the slopes alone.
    bent = (fraction - ratio) / torch.where(center, 1.0, r_y)
    limit = sum(((c[m] - d[m]) * slope for m, (_, slope, _) in up.items()), torch.zeros_like(r_y))
    bent = torch.where(center, limit, bent)
    change = bent * fraction + ratio * (N.slope - fraction**2 * D.slope) / D.value
    a = axis.acceleration * ratio * fraction
    return a, axis.gradient * ratio * fraction + axis.turn * change


def _velocity_cosine(convention: str, m: int) -> float:
    """Return cos(m theta_e) on the velocity axis."""
    if convention == "pv":
        return 1.0
    return 0.0 if m % 2 else (-1.0) ** (m // 2)


def _growth(terms: Harmonics, cosines: Mapping[int, Tensor | float], r_e: Tensor) -> _Growth:
    value, slope = torch.ones_like(r_e), torch.zeros_like(r_e)
    for m, (e, d_e, d2_e) in terms.items():
        value = value + cosines[m] * (e + r_e * d_e)
        slope = slope + cosines[m] * (2 * d_e + r_e * d2_e)
    return _Growth(value, slope)
