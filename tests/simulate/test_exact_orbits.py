"""Exact orbits against closed forms, SciPy's quadrature and direct integration of the motion."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from scipy.integrate import quad, solve_ivp

from torusimaging_torch.simulate import exact_orbits
from torusimaging_torch.simulate.exact_orbits import (
    VerticalOrbits,
    exact_action_angle,
    exact_phase_space,
)
from torusimaging_torch.simulate.potentials import HarmonicOscillator, IsothermalSheet, milky_way

OMEGA = 0.08
OSCILLATOR = HarmonicOscillator(OMEGA * u.rad / u.Myr)
SHEET = IsothermalSheet(20 * u.km / u.s, 300 * u.pc)
GALAXY = milky_way(8.3 * u.kpc)
POTENTIALS = {"oscillator": OSCILLATOR, "sheet": SHEET, "galaxy": GALAXY}
KPC_MYR = u.kpc / u.Myr
TURN = 2 * np.pi


@pytest.fixture(params=POTENTIALS)
def potential(request):
    return POTENTIALS[request.param]


def some_stars(n=500, seed=4):
    rng = np.random.default_rng(seed)
    return 0.6 * rng.standard_normal(n) * u.kpc, 25 * rng.standard_normal(n) * u.km / u.s


def angle_between(a, b):
    return np.abs(np.mod(a - b + np.pi, TURN) - np.pi)


def test_oscillator_closed_form():
    z, v = some_stars()
    stars = exact_action_angle(z, v, OSCILLATOR)
    q, p = z.value, v.to_value(KPC_MYR)
    np.testing.assert_allclose(stars["J"].value, (q**2 * OMEGA + p**2 / OMEGA) / 2, rtol=1e-10)
    np.testing.assert_allclose(stars["T"].value, TURN / OMEGA, rtol=1e-10)
    np.testing.assert_allclose(stars["Omega"].to_value("rad/Myr"), OMEGA, rtol=1e-10)
    assert angle_between(stars["theta"].value, np.arctan2(q * OMEGA, p)).max() < 1e-10


def quadrature(potential, height):
    """J and T of the orbit that turns at a height, with z = height sin(x) in the integrals."""
    energy = potential.bare_potential(np.array(height))

    def speed(x):
        rest = energy - potential.bare_potential(np.array(height * np.sin(x)))
        return np.sqrt(2 * max(rest, 0.0))

    def action(x):
        return height * np.cos(x) * speed(x)

    # The last stretch to the turning point is left to the constant force there.
    edge = np.pi / 2 - 1e-3
    inner, _ = quad(lambda x: height * np.cos(x) / speed(x), 0, edge, epsabs=0, epsrel=1e-12)
    fall = height * (1 - np.sin(edge))
    force = -potential.bare_acceleration(np.array(height - fall / 6))  # exact to second order
    J, _ = quad(action, 0, np.pi / 2, epsabs=0, epsrel=1e-11)
    return 2 / np.pi * J, 4 * (inner + np.sqrt(2 * fall / force))


@pytest.mark.parametrize("height", [0.003, 0.2, 0.9, 4.0])
def test_action_and_period_against_quad(potential, height):
    stars = exact_action_angle(height * u.kpc, 0 * u.km / u.s, potential)
    J, T = quadrature(potential, height)
    np.testing.assert_allclose(stars["J"].value, J, rtol=1e-9)
    np.testing.assert_allclose(stars["T"].value, T, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("z", "v"), [(0.01, 3.0), (-0.5, -20.0), (2.5, 40.0)])
def test_orbit_integration_in_gala(z, v):
    def motion(_, state):
        place = np.array([8.3, 0, state[0]]) * u.kpc
        force = GALAXY.gala_potential.acceleration(place)[2, 0].to_value("kpc/Myr2")
        return [state[1], force]

    start = [z, (v * u.km / u.s).to_value(KPC_MYR)]
    star = exact_action_angle(z * u.kpc, v * u.km / u.s, GALAXY)
    T = star["T"].value[0]
    times = np.linspace(0, T, 8)
    path = solve_ivp(motion, (0, T), start, method="DOP853", rtol=1e-11, atol=1e-13, t_eval=times).y
    np.testing.assert_allclose(path[:, -1], start, atol=1e-9 * np.abs(path).max())
    later = exact_action_angle(path[0] * u.kpc, path[1] * KPC_MYR, GALAXY)
    np.testing.assert_allclose(later["J"].value, star["J"].value[0], rtol=1e-9)
    advance = later["theta"].value - star["theta"].value
    assert angle_between(advance, TURN * times / T).max() < 1e-8


def test_angle_convention(potential):
    pos, vel = [0, 0.4, 0, -0.4] * u.kpc, [10, 0, -10, 0] * u.km / u.s
    theta = exact_action_angle(pos, vel, potential)["theta"].to_value("rad")
    np.testing.assert_allclose(theta, [0, np.pi / 2, np.pi, 3 * np.pi / 2], atol=1e-12)


def test_round_trip(potential):
    z, v = some_stars()
    stars = exact_action_angle(z, v, potential)
    back = exact_phase_space(stars["J"], stars["theta"], potential)
    np.testing.assert_allclose(back["z"].to_value("kpc"), z.value, atol=1e-10)
    np.testing.assert_allclose(back["v_z"].to_value("km/s"), v.value, atol=1e-8)
    np.testing.assert_allclose(back["T"].value, stars["T"].value, rtol=1e-10)


def test_period_is_the_slope_of_energy_over_action(potential):
    w = np.linspace(0.004, 0.09, 40)
    orbits = VerticalOrbits(potential, 0.1)
    assert orbits.accuracy < 1e-11
    h = 1e-4
    slope = (orbits.action(w + h) - orbits.action(w - h)) / (2 * h)
    np.testing.assert_allclose(TURN * slope / w, orbits.period(w), rtol=1e-4)


def test_answer_does_not_depend_on_other_stars():
    z, v = some_stars(20)
    together = exact_action_angle(np.append(z, 60 * u.kpc), np.append(v, 100 * u.km / u.s), GALAXY)
    alone = exact_action_angle(z[0], v[0], GALAXY)
    for name, tolerance in {"J": 1e-10, "T": 1e-10, "theta": 1e-9}.items():
        np.testing.assert_allclose(together[name][0].value, alone[name][0].value, rtol=tolerance)


def test_star_at_rest():
    star = exact_action_angle(0 * u.kpc, 0 * u.km / u.s, GALAXY)
    omega = np.sqrt(-GALAXY.bare_gradient(np.array(0.0)))
    assert star["J"].value[0] == 0
    assert star["theta"].value[0] == 0
    np.testing.assert_allclose(star["Omega"].value, omega, rtol=1e-9)
    assert exact_phase_space(0.0, 1.0, GALAXY)["z"].value[0] == 0


def test_unbound_and_missing_stars_are_nan():
    pos = [0.1, 0.1, np.nan, 5000.0] * u.kpc
    vel = [10.0, 900.0, 10.0, 0.0] * u.km / u.s
    with pytest.warns(UserWarning, match="2 stars are unbound"):
        stars = exact_action_angle(pos, vel, GALAXY)
    for name in ("J", "theta", "T", "Omega"):
        np.testing.assert_array_equal(np.isfinite(stars[name]), [True, False, False, False])


def test_a_table_that_is_too_coarse_says_so(monkeypatch):
    monkeypatch.setattr(exact_orbits, "_MAX_KNOTS", 128)
    with pytest.warns(UserWarning, match="accurate to"):
        orbits = VerticalOrbits(GALAXY, float(GALAXY.launch_speed(np.array(90.0))))
    assert orbits.accuracy > 1e-11


def test_grids_and_units():
    pos, vel = np.meshgrid([-300.0, 0, 300.0] * u.pc, [0.01, 0.02] * KPC_MYR)
    grid = exact_action_angle(pos, vel, SHEET)
    assert grid["J"].shape == (2, 3)
    bare = exact_action_angle(pos.to_value("kpc"), vel.to_value(KPC_MYR), SHEET)
    np.testing.assert_allclose(grid["J"].value, bare["J"].value, rtol=1e-13)
    assert grid["J"].unit.is_equivalent("kpc km/s")


def test_shared_mock_has_these_actions(shared_data):
    mock = QTable.read(shared_data / "disk_mock_stars.fits")[:20_000]
    stars = exact_action_angle(mock["z"], mock["v_z"], GALAXY)
    # The mock's own tables are coarser than ours: SciPy's quadrature sides with ours to 1e-12.
    np.testing.assert_allclose(mock["J"].value, stars["J"].value, rtol=2e-4)
    np.testing.assert_allclose(mock["T"].value, stars["T"].value, rtol=3e-5)
    assert angle_between(mock["theta"].value, stars["theta"].value).max() < 1e-5


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: exact_action_angle(1 * u.Myr, 0 * KPC_MYR, SHEET), u.UnitConversionError, "pos"),
        (lambda: exact_action_angle(1 * u.kpc, 1 * u.kpc, SHEET), u.UnitConversionError, "vel"),
        (lambda: exact_action_angle(np.ones(3), np.ones(2), SHEET), ValueError, "pos and vel"),
        (lambda: exact_action_angle(0.1, 0.1, "sheet"), TypeError, "potential"),
        (lambda: exact_phase_space(1 * u.kpc, 0.0, SHEET), u.UnitConversionError, "J must"),
        (lambda: exact_phase_space(-1.0, 0.0, SHEET), ValueError, "negative"),
        (lambda: exact_phase_space(np.nan, 0.0, SHEET), ValueError, "finite"),
        (lambda: exact_phase_space(1e9, 0.0, SHEET), ValueError, "J must be below"),
        (lambda: exact_phase_space(0.1, 0.0, None), TypeError, "potential"),
    ],
)
def test_bad_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
