"""Potentials against closed forms, finite differences and gala itself."""

from __future__ import annotations

import pickle

import astropy.units as u
import gala.potential as gp
import numpy as np
import pytest
from astropy.constants import G
from gala.units import galactic
from scipy.integrate import quad

from torusimaging_torch.simulate.potentials import (
    Z_LIMIT,
    HarmonicOscillator,
    IsothermalSheet,
    VerticalPotential,
    milky_way,
)

R_SUN = 8.3 * u.kpc
POTENTIALS = {
    "oscillator": HarmonicOscillator(0.08 * u.rad / u.Myr),
    "sheet": IsothermalSheet(20 * u.km / u.s, 300 * u.pc),
    "galaxy": milky_way(R_SUN),
}
Z = np.array([-30.0, -2.0, -0.3, 1e-6, 0.05, 0.7, 5.0, 90.0])


@pytest.fixture(params=POTENTIALS)
def potential(request):
    return POTENTIALS[request.param]


def gala_at(quantity, z, R=8.3):
    """Evaluate a method of gala's potential at (R, 0, z), in kpc and Myr."""
    place = np.zeros((3, np.size(z)))
    place[0], place[2] = R, z
    galaxy = POTENTIALS["galaxy"].gala_potential
    return getattr(galaxy, quantity)(place * u.kpc).decompose(galactic).value


def test_force_is_the_slope_of_the_potential(potential):
    for z in (-3.0, -0.2, 0.01, 0.4, 8.0):
        work, _ = quad(potential.bare_acceleration, 0, z, epsabs=0, epsrel=1e-12)
        np.testing.assert_allclose(potential.bare_potential(np.array(z)), -work, rtol=1e-10)


def test_gradient_is_the_slope_of_the_force(potential):
    z = Z[np.abs(Z) > 0.01]
    h = 1e-3 * np.abs(z)
    force = potential.bare_acceleration
    slope = (8 * (force(z + h) - force(z - h)) - force(z + 2 * h) + force(z - 2 * h)) / (12 * h)
    # sech^2 is too small to difference far outside the sheet
    floor = 1e-12 * np.abs(potential.bare_gradient(np.array(0.0)))
    np.testing.assert_allclose(potential.bare_gradient(z), slope, rtol=1e-8, atol=floor)


def test_symmetry_and_the_origin(potential):
    phi, force = potential.bare_potential, potential.bare_acceleration
    np.testing.assert_allclose(phi(Z), phi(-Z), rtol=1e-14)
    np.testing.assert_allclose(force(Z), -force(-Z), rtol=1e-14)
    assert potential.bare_potential(np.array(0.0)) == 0
    assert potential.bare_acceleration(np.array(0.0)) == 0


def test_relative_accuracy_near_zero(potential):
    tiny = np.array([1e-9, 1e-7])
    omega2 = -potential.bare_gradient(np.array(0.0))
    np.testing.assert_allclose(potential.bare_acceleration(tiny), -omega2 * tiny, rtol=1e-10)
    np.testing.assert_allclose(potential.bare_potential(tiny), omega2 * tiny**2 / 2, rtol=1e-10)


def test_height_inverts_launch_speed(potential):
    speed = potential.launch_speed(Z)
    np.testing.assert_allclose(potential.height(speed), Z, rtol=1e-12)
    assert potential.height(np.array(0.0)) == 0
    beyond = potential.launch_speed(np.array(Z_LIMIT)) * 1.01
    assert np.isnan(potential.height(beyond))


def test_isothermal_sheet_density_is_spitzers():
    sigma, z0 = 20 * u.km / u.s, 300 * u.pc
    z = np.linspace(-1, 1, 11) * u.kpc
    expected = sigma**2 / (2 * np.pi * G * z0**2) / np.cosh((z / z0).to_value("")) ** 2
    sheet = POTENTIALS["sheet"]
    # gala's and astropy's G differ in the fifth digit between releases of CODATA
    np.testing.assert_allclose(
        sheet.density(z).to_value("Msun/pc3"), expected.to_value("Msun/pc3"), rtol=1e-4
    )
    column, _ = quad(lambda x: sheet.density(x * u.kpc).value, -0.5, 0.5)
    np.testing.assert_allclose(sheet.surface_density(0.5 * u.kpc).value, column, rtol=1e-10)


def test_oscillator_density_is_uniform():
    density = POTENTIALS["oscillator"].density([0.0, 3.0] * u.kpc)
    expected = (0.08 / u.Myr) ** 2 / (4 * np.pi * G)
    np.testing.assert_allclose(
        density.to_value("Msun/pc3"), expected.to_value("Msun/pc3"), rtol=1e-4
    )


def test_table_agrees_with_gala():
    z = np.concatenate([np.geomspace(1e-4, 99, 401), -np.geomspace(1e-3, 30, 50)])
    galaxy = POTENTIALS["galaxy"]
    np.testing.assert_allclose(
        galaxy.bare_acceleration(z), gala_at("acceleration", z)[2], rtol=1e-12
    )
    np.testing.assert_allclose(galaxy.bare_gradient(z), -gala_at("hessian", z)[2, 2], rtol=1e-9)
    far = z[np.abs(z) > 0.1]  # nearer, the difference of gala's two energies has few digits
    rise = gala_at("energy", far) - gala_at("energy", np.zeros(1))
    np.testing.assert_allclose(galaxy.bare_potential(far), rise, rtol=1e-10)


def test_quantities_come_out_in_any_shape():
    pos = np.array([[100.0, -200.0]]) * u.pc
    galaxy = POTENTIALS["galaxy"]
    acceleration = galaxy.acceleration(pos)
    assert acceleration.shape == (1, 2)
    assert acceleration.unit.is_equivalent("km/s2")
    np.testing.assert_array_equal(acceleration.value, galaxy.acceleration([[0.1, -0.2]]).value)
    assert galaxy.potential(pos).unit.is_equivalent("km2/s2")
    assert galaxy.acceleration_gradient(pos).unit.is_equivalent("1/s2")
    assert 30 < galaxy.surface_density(1 * u.kpc).to_value("Msun/pc2") < 100


def test_pickle_keeps_every_number(potential):
    copy = pickle.loads(pickle.dumps(potential))
    np.testing.assert_array_equal(copy.bare_acceleration(Z), potential.bare_acceleration(Z))


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: HarmonicOscillator(80 * u.km / u.s), u.UnitConversionError, "Omega"),
        (lambda: HarmonicOscillator(-0.1 / u.Myr), ValueError, "Omega"),
        (lambda: HarmonicOscillator([0.1, 0.2] / u.Myr), ValueError, "Omega"),
        (lambda: IsothermalSheet(20 * u.km / u.s, 1 * u.Myr), u.UnitConversionError, "z0"),
        (lambda: IsothermalSheet(0 * u.km / u.s, 1 * u.kpc), ValueError, "sigma"),
        (lambda: VerticalPotential("Milky Way", R_SUN), TypeError, "gala_potential"),
        (lambda: milky_way(8 * u.Myr), u.UnitConversionError, "R must"),
        (lambda: milky_way(-8 * u.kpc), ValueError, "R must"),
        (lambda: POTENTIALS["sheet"].density(1 * u.Myr), u.UnitConversionError, "pos"),
    ],
)
def test_bad_arguments_are_named(build, error, match):
    with pytest.raises(error, match=match):
        build()


def test_potentials_that_cannot_be_tabulated_are_refused():
    disk = {"m": 5e10 * u.Msun, "units": galactic}
    razor_thin = gp.KuzminPotential(a=3 * u.kpc, **disk)
    with pytest.raises(ValueError, match="too sharp"):
        VerticalPotential(razor_thin, R_SUN)
    tilt = np.array([[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]])
    tilted = gp.MiyamotoNagaiPotential(a=3 * u.kpc, b=0.3 * u.kpc, R=tilt, **disk)
    with pytest.raises(ValueError, match="must point to z = 0"):
        VerticalPotential(tilted, R_SUN)
    shifted = gp.MiyamotoNagaiPotential(
        a=3 * u.kpc, b=0.3 * u.kpc, origin=[0, 0, -1e-4] * u.kpc, **disk
    )
    with pytest.raises(ValueError, match="must be symmetric"):
        VerticalPotential(shifted, R_SUN)
