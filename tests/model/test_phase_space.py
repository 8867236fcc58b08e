"""From actions and angles back to stars, and stars along their orbits."""

from __future__ import annotations

import math

import pytest
import torch
from orbit_models import MODELS, random_stars, spline_model, tensor

from torusimaging_torch.orbits.actions import (
    action_angle,
    orbit_of,
    orbit_shape,
    phase_space,
    radius_of_action,
)
from torusimaging_torch.orbits.contours import Contours


@pytest.mark.parametrize("kind", ["cubic", "quadratic"])
@pytest.mark.parametrize(("convention", "signs"), MODELS)
def test_round_trip_closes(convention, signs, kind):
    torus, params = spline_model(convention, signs, kind)
    pos, vel = random_stars(500)
    J, theta, _, valid = action_angle(torus, pos, vel, params)
    back = phase_space(torus, J, theta, params)
    assert valid.float().mean() > 0.5
    for new, old, scale in zip(back, (pos, vel), (1, 0.08), strict=True):
        assert torch.equal(new.isfinite(), valid)
        torch.testing.assert_close(new[valid], old[valid], rtol=0, atol=1e-8 * scale)


def test_round_trip_at_the_centre_and_the_last_contour():
    torus, params = spline_model("pv", {2: 1.0})
    contours = Contours.of(torus, params, 32)
    J = orbit_shape(contours, torch.stack([contours.limit * 0, contours.limit])).J
    r = radius_of_action(contours, J)
    torch.testing.assert_close(r, torch.stack([contours.limit * 0, contours.limit]))
    pos, vel = phase_space(torus, J[:1], tensor([1.0]), params)
    torch.testing.assert_close(pos[0], params["pos0"])
    torch.testing.assert_close(vel[0], params["vel0"])
    assert phase_space(torus, 1.01 * J[1:], tensor([1.0]), params)[0].isnan().all()
    assert phase_space(torus, -J[1:], tensor([1.0]), params)[0].isnan().all()


@pytest.mark.parametrize(("convention", "signs"), MODELS)
def test_velocity_is_the_rate_of_change_of_position_along_an_orbit(convention, signs):
    torus, params = spline_model(convention, signs)
    pos, vel = random_stars(20, reach=0.6)
    n_grid = 256
    T = action_angle(torus, pos, vel, params, n_grid).T
    h = 0.01
    t = tensor([-h, 0.0, h, 20.0 - h, 20.0, 20.0 + h])
    q, v = orbit_of(torus, pos, vel, params, t, n_grid)
    torch.testing.assert_close(q[:, 1], pos, rtol=0, atol=1e-10)
    torch.testing.assert_close(v[:, 1], vel, rtol=0, atol=1e-11)
    for k in (1, 4):
        rate = (q[:, k + 1] - q[:, k - 1]) / (2 * h)
        # Velocities are relative to vel0: the frame in which the disk is at rest.
        torch.testing.assert_close(rate, v[:, k] - params["vel0"], rtol=0, atol=2e-7)
    label = torus.radius(q.T, v.T, params)
    torch.testing.assert_close(label, torus.radius(pos, vel, params).expand_as(label))
    for i in range(3):
        again, _ = orbit_of(torus, pos[i : i + 1], vel[i : i + 1], params, T[i : i + 1], n_grid)
        torch.testing.assert_close(again[0, 0], pos[i], rtol=0, atol=1e-9)


def test_angle_is_zero_at_the_midplane_moving_up_and_grows():
    torus, params = spline_model("vp", {1: 1.0, 2: -1.0})
    pos = params["pos0"].expand(2)
    vel = params["vel0"] + tensor([0.02, -0.02])
    theta = action_angle(torus, pos, vel, params).theta
    assert min(theta[0], 2 * math.pi - theta[0]) < 1e-12
    assert 1 < theta[1] < 5  # an odd order makes the two halves differ
    later = orbit_of(torus, pos, vel, params, tensor([5.0]))
    new = action_angle(torus, later[0][:, 0], later[1][:, 0], params)
    step = (new.theta - theta).remainder(2 * math.pi)
    torch.testing.assert_close(step, 2 * math.pi * 5 / new.T, rtol=1e-9, atol=0)
