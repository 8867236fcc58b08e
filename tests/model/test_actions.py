"""Actions, angles and periods against brute force, both ways, and their derivatives."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import chebval
from scipy.integrate import quad
from scipy.optimize import brentq
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.orbits.actions import (
    action_angle,
    orbit_of,
    orbit_shape,
    phase_space,
    radius_of_action,
)
from torusimaging_torch.orbits.contours import Contours
from torusimaging_torch.orbits.table import OrbitTable, can_be_tabulated
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineEFunction

OMEGA0, POS0, VEL0, SCALE = 0.08, 0.03, -0.002, 0.4


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


def smooth_e(r_e, a):
    return a * r_e**2 / (r_e**2 + SCALE**2)


def smooth_model(convention, amplitudes):
    """Return a model whose e functions have no knots, e_m = a_m r^2/(r^2 + SCALE^2)."""
    torus = OrbitalTorus(lambda r: r, dict.fromkeys(amplitudes, smooth_e), convention)
    params = {
        "pos0": tensor(POS0),
        "vel0": tensor(VEL0),
        "ln_Omega0": tensor(math.log(OMEGA0)),
        "e_params": {m: {"a": tensor(a)} for m, a in amplitudes.items()},
    }
    return torus, params


def spline_model(convention, signs, kind="cubic", seed=0, batch=(), size=-0.7):
    generator = torch.Generator().manual_seed(seed)
    e_funcs = {
        m: SplineEFunction(torch.linspace(0, 0.6, 6 if m < 3 else 4, dtype=torch.float64), s, kind)
        for m, s in signs.items()
    }

    def random(*shape):
        return torch.rand((*batch, *shape), generator=generator, dtype=torch.float64)

    params = {
        "pos0": 0.05 * random() - 0.02,
        "vel0": 0.005 * random(),
        "ln_Omega0": math.log(OMEGA0) + 0.1 * random(),
        "e_params": {
            m: {"vals": size - abs(m - 2) + 0.5 * random(f.spline.n_slopes)}
            for m, f in e_funcs.items()
        },
    }
    return OrbitalTorus(lambda r: r, e_funcs, convention), params


def random_stars(n, batch=(), seed=1, reach=0.9):
    generator = torch.Generator().manual_seed(seed)
    uniform = 2 * torch.rand(2, *batch, n, generator=generator, dtype=torch.float64) - 1
    return reach * uniform[0], reach * 0.08 * uniform[1]


# -- brute force ----------------------------------------------------------------------------------


class Contour:
    """The contour through a star, in plain numbers: nothing in common with the package."""

    def __init__(self, convention, amplitudes, pos, vel):
        self.convention, self.amplitudes = convention, amplitudes
        self.x, self.y = (vel - VEL0) / OMEGA0**0.5, (pos - POS0) * OMEGA0**0.5
        self.level = self.r(self.x, self.y)

    def r(self, x, y):
        """Return r, for complex numbers too."""
        r_e = (x * x + y * y) ** 0.5
        cos = (x if self.convention == "pv" else y) / r_e
        factor = 1
        for m, a in self.amplitudes.items():
            factor = factor + a * r_e**2 / (r_e**2 + SCALE**2) * chebval(cos, [0] * m + [1])
        return r_e * factor

    def point(self, phi):
        """Return x and y at the angle phi from the velocity axis."""
        cos, sin = math.cos(phi), math.sin(phi)
        r_e = brentq(lambda s: self.r(s * cos, s * sin).real - self.level.real, 1e-9, 3, xtol=1e-15)
        return r_e * cos, r_e * sin

    def area_rate(self, phi):
        x, y = self.point(phi)
        return (x * x + y * y) / 2

    def time_rate(self, phi):
        """Return dt/dphi = dy/(Omega0 x) along the contour, from the gradient by complex steps."""
        x, y = self.point(phi)
        r_x, r_y = self.r(x + 1e-30j, y).imag, self.r(x, y + 1e-30j).imag
        # The tangent (-r_y, r_x) turns by (x r_x + y r_y)/r_e^2 as it goes.
        return r_x * (x * x + y * y) / (x * r_x + y * r_y) / (OMEGA0 * x)

    def integrate(self, rate, start, end):
        return quad(rate, start, end, epsabs=1e-13, epsrel=1e-12, limit=400)[0]

    def action(self):
        return self.integrate(self.area_rate, -math.pi, math.pi) / (2 * math.pi)

    def period_and_angle(self):
        quarters = [-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi]
        period = sum(self.integrate(self.time_rate, *ends) for ends in pairwise(quarters))
        phi = math.atan2(self.y, self.x) % (2 * math.pi)
        ends = [*(q for q in (0, math.pi / 2, math.pi, 3 * math.pi / 2) if q < phi), phi]
        time = sum(self.integrate(self.time_rate, *pair) for pair in pairwise(ends))
        return period, 2 * math.pi * time / period


BRUTE_FORCE = [
    ("pv", {2: 0.3, 4: -0.05}),
    ("vp", {2: -0.25, 6: 0.01}),
    ("vp", {1: 0.15, 3: -0.04}),
    ("vp", {0: 0.1, 1: -0.1, 2: 0.1, 3: 0.03}),
]


@pytest.mark.parametrize(("convention", "amplitudes"), BRUTE_FORCE)
def test_actions_angles_and_periods_equal_brute_force(convention, amplitudes):
    torus, params = smooth_model(convention, amplitudes)
    pos, vel = random_stars(6)
    result = action_angle(torus, pos, vel, params)
    assert result.valid.all()
    for i in range(len(pos)):
        contour = Contour(convention, amplitudes, pos[i].item(), vel[i].item())
        period, angle = contour.period_and_angle()
        np.testing.assert_allclose(result.J[i], contour.action(), rtol=1e-8)
        np.testing.assert_allclose(result.T[i], period, rtol=1e-8)
        np.testing.assert_allclose(result.theta[i], angle, atol=1e-8)


def test_odd_order_in_pv_has_an_area_but_no_period():
    amplitudes = {1: 0.2, 2: 0.1, 3: 0.05}
    torus, params = smooth_model("pv", amplitudes)
    pos, vel = random_stars(5)
    result = action_angle(torus, pos, vel, params)
    expected = [
        Contour("pv", amplitudes, q.item(), v.item()).action()
        for q, v in zip(pos, vel, strict=True)
    ]
    np.testing.assert_allclose(result.J, expected, rtol=1e-8)
    assert result.valid.all()
    assert result.T.isnan().all()
    assert result.theta.isnan().all()


@pytest.mark.parametrize("convention", ["pv", "vp"])
@pytest.mark.parametrize("orders", [(), (2,), (1, 2)])
def test_harmonic_oscillator(convention, orders):
    if convention == "pv" and 1 in orders:
        pytest.skip("no angles for odd orders in pv")
    torus, params = smooth_model(convention, dict.fromkeys(orders, 0.0))
    pos, vel = random_stars(200)
    J, theta, T, valid = action_angle(torus, pos, vel, params)
    dq, dv = pos - POS0, vel - VEL0
    torch.testing.assert_close(J, (dv**2 / OMEGA0 + OMEGA0 * dq**2) / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(T, torch.full_like(T, 2 * math.pi / OMEGA0), rtol=1e-10, atol=0)
    angle = torch.atan2(dq * OMEGA0, dv).remainder(2 * math.pi)
    torch.testing.assert_close(theta, angle, rtol=0, atol=1e-10)
    assert valid.all()


def test_pv_and_vp_agree_on_the_same_contours():
    """Seen from the other axis, cos(m theta) becomes (-1)^(m/2) cos(m theta)."""
    stars = random_stars(300)
    pv = action_angle(*_with_stars(spline_model("pv", {2: 1.0, 4: -1.0, 6: 1.0}), stars))
    vp = action_angle(*_with_stars(spline_model("vp", {2: -1.0, 4: -1.0, 6: -1.0}), stars))
    assert pv.valid.float().mean() > 0.8
    for name in ("J", "T", "theta"):
        torch.testing.assert_close(
            getattr(pv, name), getattr(vp, name), rtol=1e-10, atol=1e-10, equal_nan=True
        )


def _with_stars(model, stars):
    torus, params = model
    return torus, *stars, params


def test_convergence_is_spectral_between_knots_and_algebraic_across():
    pos, vel = random_stars(50, reach=0.7)

    def error(model, n_grid):
        exact = action_angle(*_with_stars(model, (pos, vel)), n_grid=512)
        coarse = action_angle(*_with_stars(model, (pos, vel)), n_grid=n_grid)
        return (coarse.T / exact.T - 1).abs().nan_to_num(0).max().item()

    smooth = smooth_model("pv", {2: 0.3, 4: -0.05})
    assert error(smooth, 4) > 1e-5
    assert error(smooth, 32) < 1e-12
    cubic = spline_model("pv", {2: 1.0, 4: -1.0})
    quadratic = spline_model("pv", {2: 1.0, 4: -1.0}, "quadratic")
    assert error(cubic, 32) < 1e-5
    assert error(cubic, 128) < error(cubic, 32) / 16
    assert error(quadratic, 32) < 1e-3
    assert error(quadratic, 128) < error(quadratic, 32) / 4


# -- the way back, and along the orbit ------------------------------------------------------------

MODELS = [
    ("pv", {2: 1.0, 4: -1.0}),
    ("vp", {2: -1.0, 4: -1.0}),
    ("vp", {1: 1.0, 2: -1.0, 3: 1.0}),
]


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


# -- where there is no orbit ----------------------------------------------------------------------


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


# -- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["action_angle", "phase_space"])
@pytest.mark.parametrize(("convention", "signs"), [("pv", {2: 1.0}), ("vp", {1: 1.0, 2: -1.0})])
def test_derivatives_to_second_order(what, convention, signs):
    torus, params = spline_model(convention, signs)
    layout = Layout.of(params)
    pos, vel = random_stars(2, reach=0.5)
    n_grid = 4
    function = action_angle if what == "action_angle" else phase_space
    start = (pos, vel)
    if what == "phase_space":
        start = tuple(action_angle(torus, pos, vel, params, n_grid)[:2])

    def evaluate(first, second, vector):
        result = function(torus, first, second, layout.unflatten(vector), n_grid)
        # All of order one, so that one tolerance serves.
        units = (0.01, 1, 100) if what == "action_angle" else (1, 0.1)
        return tuple(value / unit for value, unit in zip(result[:3], units, strict=False))

    inputs = [x.detach().requires_grad_() for x in (*start, layout.flatten(params))]
    assert gradcheck(evaluate, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)
    assert gradgradcheck(evaluate, inputs, eps=1e-7, atol=1e-3, rtol=1e-4)


# -- batches and tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("tabulated", [False, True])
@pytest.mark.parametrize(
    ("convention", "signs"), [("pv", {2: 1.0, 4: -1.0}), ("vp", {1: 1.0}), ("pv", {1: 1.0})]
)
def test_batch_equals_one_by_one(convention, signs, tabulated):
    torus, params = spline_model(convention, signs, batch=(2, 2))
    pos, vel = random_stars(40, batch=(2, 2))

    def solve(p, q, v):
        return (
            OrbitTable.of(torus, p, 8, 64)(q, v) if tabulated else action_angle(torus, q, v, p, 8)
        )

    # The tables of a batch are refined together, within what they promise.
    tolerance = 4e-7 if tabulated else 1e-12
    together = solve(params, pos, vel)
    layout = Layout.of(params)
    vector = layout.flatten(params)
    for index in np.ndindex(2, 2):
        alone = solve(layout.unflatten(vector[index]), pos[index], vel[index])
        for new, old in zip(together, alone, strict=True):
            torch.testing.assert_close(
                new[index], old, rtol=tolerance, atol=tolerance, equal_nan=True
            )
    if not tabulated and convention == "vp":
        J, theta, _, valid = together
        back = phase_space(torus, J, theta, params, 8)
        torch.testing.assert_close(back[0][valid], pos[valid], rtol=0, atol=1e-9)
        shared = solve(params, pos[0, 0], vel[0, 0])
        torch.testing.assert_close(shared.J[0, 0], together.J[0, 0], equal_nan=True)


@pytest.mark.parametrize("kind", ["cubic", "quadratic"])
@pytest.mark.parametrize(("convention", "signs"), MODELS)
def test_table_equals_the_exact_path(convention, signs, kind):
    torus, params = spline_model(convention, signs, kind)
    pos, vel = random_stars(4000)
    exact = action_angle(torus, pos, vel, params)
    table = OrbitTable.of(torus, params)(pos, vel)
    assert torch.equal(exact.valid, table.valid)
    ok = exact.valid
    assert (table.J / exact.J - 1)[ok].abs().max() < 1e-6
    assert (table.T / exact.T - 1)[ok].abs().max() < 1e-6
    difference = (table.theta - exact.theta + math.pi).remainder(2 * math.pi) - math.pi
    assert difference[ok].abs().max() < 1e-6


def test_period_of_an_action_from_the_table():
    torus, params = spline_model("pv", {2: 1.0, 4: -1.0})
    exact = action_angle(torus, *random_stars(500), params)
    T = OrbitTable.of(torus, params).period(exact.J[exact.valid])
    torch.testing.assert_close(T, exact.T[exact.valid], rtol=1e-6, atol=0)
    assert OrbitTable.of(torus, params).period(tensor([1.0])).isnan().all()


@pytest.mark.parametrize("kind", ["cubic", "quadratic"])
@pytest.mark.parametrize(("convention", "signs"), MODELS)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_exact_path_is_the_same_without_gradients(convention, signs, kind, batch):
    """Where no gradient is wanted, splines are looked up."""
    torus, params = spline_model(convention, signs, kind, batch=batch)
    stars = random_stars(200, batch, reach=1.2)
    for name, expected in action_angle(torus, *stars, params)._asdict().items():
        with torch.no_grad():
            value = getattr(action_angle(torus, *stars, params), name)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11, equal_nan=True)


def test_model_without_knots_has_no_table():
    torus, params = smooth_model("pv", {2: 0.1})
    assert not can_be_tabulated(torus)
    with pytest.raises(ValueError, match="knots"):
        OrbitTable.of(torus, params)


def test_single_precision():
    torus, params = spline_model("pv", {2: 1.0})
    pos, vel = random_stars(200, reach=0.5)
    double = action_angle(torus, pos, vel, params)
    layout = Layout.of(params)
    single = layout.unflatten(layout.flatten(params).float())
    result = action_angle(torus.float(), pos.float(), vel.float(), single)
    assert result.J.dtype == torch.float32
    torch.testing.assert_close(result.J.double(), double.J, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(result.T.double(), double.T, rtol=1e-4, atol=0)


def test_number_of_nodes_is_checked():
    torus, params = smooth_model("pv", {2: 0.1})
    with pytest.raises(ValueError, match="N_grid"):
        action_angle(torus, *random_stars(2), params, 0)
