"""Stars whose contour is no orbit: they are found, and leave the others alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from orbit_models import random_stars, smooth_model, spline_model, tensor

from torusimaging_torch.orbits.actions import action_angle
from torusimaging_torch.orbits.contours import Contours
from torusimaging_torch.orbits.table import OrbitTable


def test_stars_whose_contour_leaves_the_last_knot_are_not_valid():
    torus, params = spline_model("pv", {2: 1.0, 4: -1.0})
    pos, vel = random_stars(3000, reach=1.6)
    J, theta, T, valid = action_angle(torus, pos, vel, params)
    contours = Contours.of(torus, params, 128)
    r = torus.radius(pos, vel, params)
    cos = torch.linspace(-1, 1, 101, dtype=torch.float64)
    edge = torus.distortion(torch.full_like(cos, 0.6), cos, params["e_params"]).amin()
    torch.testing.assert_close(contours.limit, edge, rtol=1e-6, atol=0)
    r_e, _ = torus.polar(pos, vel, params)
    assert torch.equal(valid, (r <= edge) & (r_e <= 0.6))
    assert 0.1 < valid.float().mean() < 0.9
    for values in (J, theta, T):
        assert torch.equal(values.isfinite(), valid)


def test_stars_on_contours_that_cross_are_not_valid():
    torus, params = smooth_model("pv", {2: -0.9})
    pos, vel = random_stars(2000, reach=3.0)
    valid = action_angle(torus, pos, vel, params).valid
    r_e = torch.linspace(1e-4, 3, 3000, dtype=torch.float64)
    first = torch.inf
    for theta in np.linspace(0, np.pi / 2, 61):
        cos = torch.full_like(r_e, math.cos(theta))
        falls = torus.distortion.dr_dre(r_e, cos, params["e_params"]) <= 0
        if falls.any():
            first = min(first, r_e[falls][0].item())
    assert first < 1
    cos = torch.linspace(-1, 1, 201, dtype=torch.float64)
    edge = torus.distortion(torch.full_like(cos, first), cos, params["e_params"]).amin()
    inside = (torus.radius(pos, vel, params) <= edge) & (torus.polar(pos, vel, params)[0] <= first)
    assert (valid == inside).float().mean() > 0.99
    assert 0.01 < valid.float().mean() < 0.9


@pytest.mark.parametrize("tabulated", [False, True])
def test_unusable_stars_leave_the_others_alone(tabulated):
    torus, params = spline_model("pv", {2: 1.0})
    pos, vel = random_stars(8, reach=0.4)
    pos[1], vel[2], pos[3], vel[4] = torch.nan, torch.inf, 1e12, -torch.inf
    pos[5], vel[5] = params["pos0"], params["vel0"]
    if tabulated:
        result = OrbitTable.of(torus, params)(pos, vel)
    else:
        result = action_angle(torus, pos, vel, params)
    bad = tensor([0, 1, 1, 1, 1, 0, 0, 0]).bool()
    assert torch.equal(result.valid, ~bad)
    for values in (result.J, result.theta, result.T):
        assert torch.equal(values.isnan(), bad)
    assert result.J[5] == 0
    assert result.theta[5] == 0
    torch.testing.assert_close(result.T[5], 2 * math.pi / params["ln_Omega0"].exp())


def test_derivatives_are_finite_where_the_batch_has_unusable_stars():
    torus, params = spline_model("pv", {2: 1.0})
    pos, vel = random_stars(6, reach=0.4)
    pos[0], vel[1], pos[2] = torch.nan, torch.inf, 1e9
    pos[3], vel[3] = params["pos0"], params["vel0"]
    pos.requires_grad_()
    vals = params["e_params"][2]["vals"].requires_grad_()
    result = action_angle(torus, pos, vel, params)
    total = sum(getattr(result, name)[result.valid].sum() for name in ("J", "T", "theta"))
    for gradient in torch.autograd.grad(total, [pos, vals]):
        assert gradient.isfinite().all()
