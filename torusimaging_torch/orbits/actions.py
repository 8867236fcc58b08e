r"""Actions, angles and periods of orbits that are contours of constant r, and the way back.

Areas are the same in the plane of :math:`(x, y)` and in that of position and velocity, so with the
closed contour :math:`r_e(\psi; r)` the action is :math:`J = \frac{1}{4\pi}\oint r_e^2\,d\psi`.
Along the contour :math:`dy = \Omega_0 x\,dt`. With :math:`\psi` measured from the position axis,
:math:`y = r_e\cos\psi` and :math:`x = r_e\sin\psi`, that is

.. math::

    \frac{dt}{d\psi} = -\frac{1}{\Omega_0}\left[1 - \cot\psi\,\frac{d\ln r_e}{d\psi}\right],
    \qquad
    \frac{d\ln r_e}{d\psi} = \frac{\sum_m m e_m \sin m\theta_e}{\partial r/\partial r_e}\,
    \frac{d\theta_e}{d\psi}.

In the "vp" convention :math:`\theta_e = \psi`, and
:math:`\sin m\psi/\sin\psi = U_{m-1}(\cos\psi)`, Chebyshev's polynomial of the second kind, removes
the singularity. In "pv" :math:`\theta_e = \pi/2 - \psi`, so an even m has
:math:`\cos m\theta_e = (-1)^{m/2}\cos m\psi` and the same formula holds with :math:`(-1)^{m/2} e_m`
for :math:`e_m`:

.. math::

    \frac{dt}{d\psi} = -\frac{1}{\Omega_0}\left[1 - \cos\psi\,
    \frac{\sum_m m s_m e_m U_{m-1}(\cos\psi)}{1 + \sum_m (e_m + r_e e_m')\cos m\theta_e}\right],
    \quad s_m = (-1)^{m/2}\ (\text{pv}),\ 1\ (\text{vp}).

An odd m in "pv" makes contours that are not symmetric under a change of the sign of velocity: there
the pole at :math:`v = 0` is real, and time along the contour does not exist; its area does.

Another transform than the ellipse has areas that are larger, by :math:`g = \sqrt{\Omega}\,dq/dy`, a
function of y: dt is g times as long, and with the bracket written p the action is
:math:`J = \frac{1}{2\pi}\oint x^2 g\,p\,d\psi`, that is the integral of v dq.

The bracket is an even periodic function, so equal weights over the contour converge exponentially
as long as it stays between knots, and its cosine series integrates term by term to the angle.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import Params, column, function_params
from torusimaging_torch.numerics.roots import increasing_root
from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.orbits.contours import Contours, ValueAndSlope, cos_theta_e, locate_stars
from torusimaging_torch.torus.orbital_torus import OrbitalTorus

__all__ = [
    "ActionAngle",
    "OrbitShape",
    "action_angle",
    "angle_of",
    "follow_on",
    "orbit_of",
    "orbit_shape",
    "phase_space",
    "place_on",
    "radius_of_action",
    "series_sum",
    "stars_on",
]


class OrbitShape(NamedTuple):
    """What depends on the contour alone.

    Attributes
    ----------
    J, T
        Action and period, with shape (*B, N).
    series
        Coefficients b_n of the angle, theta = theta(0) - psi - sum_n b_n sin(n step psi), n = 1,
        2, ..., with shape (*B, N, n).
    valid
        Whether the contour is an orbit of the model, (*B, N). All else is nan where it is not.
    """

    J: Tensor
    T: Tensor
    series: Tensor
    valid: Tensor


class ActionAngle(NamedTuple):
    """Action, angle (0 at pos0 moving up, in [0, 2 pi)), period, and validity, (*B, N) each."""

    J: Tensor
    theta: Tensor
    T: Tensor
    valid: Tensor


def _pace(contours: Contours, r_e: Tensor) -> tuple[Tensor, Tensor]:
    """Return -Omega0 dt/dpsi and dr/dr_e along contours, with the shape (*B, N, Q) of ``r_e``."""
    cos = contours.psi.cos()
    previous, current = torch.zeros_like(cos), torch.ones_like(cos)  # U_-1 and U_0
    second_kind = {0: previous}
    for m in range(1, max(contours.cosines, default=0) + 1):
        second_kind[m] = current
        previous, current = current, 2 * cos * current - previous
    slope, turn = torch.ones_like(r_e), torch.zeros_like(r_e)
    for m, (e, e_slope, _) in contours.harmonics(r_e).items():
        sign = 1 if contours.torus.convention == "vp" else (-1) ** (m // 2)
        slope = slope + (e + r_e * e_slope) * contours.cosines[m]
        turn = turn + e * (sign * m * cos * second_kind[m])
    return 1 - turn / slope, slope


def _action(contours: Contours, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return J of contours r (*B, N) and its derivative by r."""
    r_e = contours.trace(r)
    pace, slope = _pace(contours, r_e)
    stretch = contours.stretch(r_e)
    return _area(contours, r_e, pace, stretch), (stretch * r_e / slope).mean(-1)


def _area(contours: Contours, r_e: Tensor, pace: Tensor, stretch: Tensor | float) -> Tensor:
    """Return J from the radii of contours (*B, N, Q)."""
    if isinstance(stretch, float):
        return (r_e * r_e).mean(-1) / 2
    x = r_e * contours.psi.sin()
    return (x * x * stretch * pace).mean(-1)


def orbit_shape(contours: Contours, r: Tensor) -> OrbitShape:
    """Return action, period and angle series of the contours r, with shape (*B, N).

    Differentiable to second order (and third) by r and the parameters of the model.
    """
    inside = (r >= 0) & (r <= column(contours.limit))
    r_e = contours.trace(torch.where(inside, r, 0))
    pace, slope = _pace(contours, r_e)
    valid = inside & (slope > 0).all(-1)
    stretch = contours.stretch(r_e)
    J = torch.where(valid, _area(contours, r_e, pace, stretch), torch.nan)
    if not contours.has_angles:
        nan = torch.full_like(J, torch.nan)
        return OrbitShape(J, nan, nan.unsqueeze(-1), valid)
    # An orbit on which time runs backwards has neither a period nor, then, a meaning.
    valid = valid & (pace > 0).all(-1)
    pace = pace * stretch
    mean = pace.mean(-1, keepdim=True)
    n = torch.arange(1, pace.shape[-1], dtype=r.dtype, device=r.device) * contours.step
    series = (pace / mean) @ torch.cos(contours.psi.unsqueeze(-1) * n) * (2 / (pace.shape[-1] * n))
    transform = contours.torus.transform
    omega = column(transform.frequency(*transform.frame(contours.params)))
    T = 2 * math.pi / omega * mean.squeeze(-1)
    return OrbitShape(
        torch.where(valid, J, torch.nan),
        torch.where(valid, T, torch.nan),
        torch.where(valid.unsqueeze(-1), series, torch.nan),
        valid,
    )


def series_sum(series: Tensor, step: int, psi: Tensor) -> Tensor:
    """Return sum_n b_n sin(n step psi) by Clenshaw's recurrence, for b (*B, N, n), psi (*B, N)."""
    turn = step * psi
    twice_cos = 2 * turn.cos()
    ahead, current = torch.zeros_like(turn), torch.zeros_like(turn)
    for b in reversed(series.unbind(-1)):
        ahead, current = current, b + twice_cos * current - ahead
    return current * turn.sin()


def _angle_from_top(series: Tensor, step: int, psi: Tensor) -> Tensor:
    return psi + series_sum(series, step, psi)


def _top(series: Tensor, step: int) -> Tensor:
    """Return the angle at psi = 0, where the star turns at the top, from 0 at psi = pi/2."""
    quarter = series.new_full(series.shape[:-1], math.pi / 2)
    return quarter if step == 2 else _angle_from_top(series, step, quarter)


def angle_of(series: Tensor, step: int, psi: Tensor) -> Tensor:
    """Return theta in [0, 2 pi), zero at pos0 moving up and growing in time, shape (*B, N)."""
    theta = torch.remainder(_top(series, step) - _angle_from_top(series, step, psi), 2 * math.pi)
    return torch.where(theta < 2 * math.pi, theta, theta * 0)  # remainder rounds -1e-17 to 2 pi


def action_angle(
    torus: OrbitalTorus, pos: Tensor, vel: Tensor, params: Params, n_grid: int = 32
) -> ActionAngle:
    r"""Compute actions, angles and periods of stars.

    Parameters
    ----------
    torus
        The model.
    pos, vel
        Positions and velocities in model units, with shape (*B, N) or (N,).
    params
        Nested dictionary of tensors.
    n_grid
        Number of nodes per quarter of an orbit.

    Returns
    -------
    ActionAngle
        ``J``, ``theta``, ``T`` and ``valid``, with shape (*B, N), differentiable to second order
        by positions, velocities and parameters. All are nan where the star is not finite, or its
        contour is not an orbit within the model. With odd orders in "pv", ``theta`` and ``T`` are
        nan everywhere. At the centre, where every angle is right, ``theta`` is 0.
    """
    return stars_on(Contours.of(torus, params, n_grid), pos, vel)


def stars_on(contours: Contours, pos: Tensor, vel: Tensor) -> ActionAngle:
    """Compute `action_angle` with contours that were looked at before."""
    stars = locate_stars(contours, pos, vel)
    shape = orbit_shape(contours, stars.r)
    theta = angle_of(shape.series, contours.step, torch.where(shape.valid, stars.psi, 0))
    return ActionAngle(shape.J, theta, shape.T, shape.valid)


def radius_of_action(contours: Contours, J: Tensor) -> Tensor:
    """Return the r of contours with actions J (*B, N); nan where the model has none."""
    with torch.no_grad():
        levels = torch.minimum(contours.levels[..., ::16], contours.limit.unsqueeze(-1))
        actions, _ = _action(contours, levels)
    batch = broadcast_shapes(J.shape[:-1], levels.shape[:-1])
    n = levels.shape[-1]
    levels = levels.expand(*batch, n).contiguous()
    actions = actions.cummax(-1).values.expand(*batch, n).contiguous()
    J = J.expand(*batch, J.shape[-1])
    inside = (J >= 0) & (actions[..., -1:] * (1 + 1e-12) >= J)
    wanted = torch.where(inside, J, 0)
    index = torch.searchsorted(actions, wanted.detach().contiguous()).clamp(1, n - 1)
    lower, upper = levels.gather(-1, index - 1), levels.gather(-1, index)
    lower, upper = lower * (1 - 1e-12), upper * (1 + 1e-12)
    function = ValueAndSlope(lambda r: _action(contours, r))
    xtol = math.sqrt(torch.finfo(J.dtype).eps)
    r = increasing_root(function.value, wanted, lower, upper, fprime=function.slope, xtol=xtol)
    # Rounding must not push the last contour over the limit.
    r = torch.minimum(r, contours.limit.unsqueeze(-1))
    return torch.where(inside, r, torch.nan)


def _psi_at(series: Tensor, step: int, theta: Tensor) -> Tensor:
    """Return psi at angles theta, the inverse of `angle_of`."""
    target = _top(series, step) - theta
    target = target - 2 * math.pi * torch.round(target.detach() / (2 * math.pi))
    n = torch.arange(1, series.shape[-1] + 1, dtype=series.dtype, device=series.device) * step

    def angle(psi: Tensor) -> Tensor:
        return _angle_from_top(series, step, psi)

    def slope(psi: Tensor) -> Tensor:
        return 1 + (series * n * torch.cos(psi.unsqueeze(-1) * n)).sum(-1)

    end = math.pi * (1 + 1e-12)
    return increasing_root(angle, target, -end, end, fprime=slope)


def _place(contours: Contours, r: Tensor, series: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return position and velocity at angles theta on contours r, shapes (*B, N)."""
    torus, params = contours.torus, contours.params
    psi = _psi_at(series, contours.step, theta)
    inside = r.isfinite() & psi.isfinite()
    psi = torch.where(inside, psi, 0)
    upper = column(contours.r_e_limit) * (1 + 1e-12)
    r_e = torus.distortion.invert(
        torch.where(inside, r, 0),
        cos_theta_e(torus, psi),
        function_params(params, "e_params"),
        upper,
    )
    r_e = torch.where(inside, r_e, torch.nan)
    theta_e = psi if torus.convention == "vp" else math.pi / 2 - psi
    return torus.transform.inverse(r_e, theta_e, *torus.transform.frame(params))


def phase_space(
    torus: OrbitalTorus, J: Tensor, theta: Tensor, params: Params, n_grid: int = 32
) -> tuple[Tensor, Tensor]:
    """Compute positions and velocities at actions and angles: the inverse of `action_angle`.

    Parameters
    ----------
    torus, params, n_grid
        As in `action_angle`.
    J, theta
        Actions and angles (any real number), with the same shape (*B, N) or (N,).

    Returns
    -------
    pos, vel
        In model units, with shape (*B, N), differentiable; nan where the model has no orbit with
        that action, and everywhere for odd orders in "pv".
    """
    return place_on(Contours.of(torus, params, n_grid), J, theta)


def place_on(contours: Contours, J: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `phase_space` with contours that were looked at before."""
    r = radius_of_action(contours, J)
    shape = orbit_shape(contours, r)
    return _place(contours, r, shape.series, theta)


def orbit_of(
    torus: OrbitalTorus, pos: Tensor, vel: Tensor, params: Params, t: Tensor, n_grid: int = 32
) -> tuple[Tensor, Tensor]:
    """Follow stars along their contours in time.

    Parameters
    ----------
    torus, params, n_grid
        As in `action_angle`.
    pos, vel
        Where stars are at t = 0, with shape (*B, N).
    t
        Times with shape (K,).

    Returns
    -------
    pos, vel
        With shape (*B, N, K); nan for stars without a valid orbit.
    """
    return follow_on(Contours.of(torus, params, n_grid), pos, vel, t)


def follow_on(contours: Contours, pos: Tensor, vel: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `orbit_of` with contours that were looked at before."""
    stars = locate_stars(contours, pos, vel)
    shape = orbit_shape(contours, stars.r)
    theta0 = angle_of(shape.series, contours.step, torch.where(shape.valid, stars.psi, 0))
    theta = theta0.unsqueeze(-1) + 2 * math.pi * t / shape.T.unsqueeze(-1)
    k = t.shape[-1]
    series = shape.series.repeat_interleave(k, dim=-2)
    path = _place(contours, stars.r.repeat_interleave(k, dim=-1), series, theta.flatten(-2))
    return path[0].reshape(theta.shape), path[1].reshape(theta.shape)
