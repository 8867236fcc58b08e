"""A fit's potential in gala and galpy, against the fit itself and against quadrature."""

from __future__ import annotations

import math
import pickle

import astropy.units as u
import gala.dynamics as gd
import gala.potential as gp
import numpy as np
import pytest
from scipy.integrate import quad

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.results import FitResult, to_gala, to_galpy

HEIGHT = 0.7 * u.kpc


@pytest.fixture(scope="module")
def fit():
    model = TorusImaging1DSpline(np.linspace(0, 0.4, 4), {2: np.linspace(0, 0.4, 6)}, {2: 1.0})
    params = {
        "pos0": 0.02,
        "vel0": 0.0,
        "ln_Omega0": math.log(0.08),
        "e_params": {2: {"vals": np.full(5, -2.5)}},
        "label_params": {"label_vals": np.ones(4)},
    }
    state = OptState(True, 0.5, 10, 12, Status.CONVERGED, "converged", 0.0, (), 0)
    return FitResult(model, params, None, state, "gaussian")


def test_gala_has_the_accelerations_of_the_fit(fit):
    potential = to_gala(fit, HEIGHT)
    assert isinstance(potential, gp.PotentialBase)
    z = np.array([-0.61, -0.2, 0.013, 0.44, 0.69]) * u.kpc  # none of them in the table
    truth = fit.profiles(z + 0.02 * u.kpc)
    assert u.allclose(potential.acceleration(z[None])[0], truth["acceleration"], rtol=1e-6)
    assert u.allclose(potential.density(z[None]), truth["density"], rtol=1e-4)
    energy = potential.energy(z[None]).to(u.km**2 / u.s**2)
    assert u.allclose(energy, truth["potential"], rtol=1e-5)
    assert np.isnan(potential.acceleration([0.71] * u.kpc)).all()
    assert abs(potential.energy([0.0] * u.kpc).value[0]) < 1e-15
    again = pickle.loads(pickle.dumps(potential))
    assert u.allclose(again.acceleration(z[None]), potential.acceleration(z[None]), rtol=1e-15)


def test_an_orbit_in_gala_keeps_its_energy_and_period(fit):
    potential = to_gala(fit, HEIGHT)
    start = gd.PhaseSpacePosition(pos=[0.4] * u.kpc, vel=[0.0] * u.kpc / u.Myr)
    orbit = gp.Hamiltonian(potential).integrate_orbit(start, dt=0.05 * u.Myr, n_steps=4000)
    energy = np.ravel(orbit.energy().value)
    assert np.ptp(energy) < 1e-5 * energy[0]
    z = orbit.w()[0]
    down = np.flatnonzero((z[:-1] > 0) & (z[1:] <= 0))
    at = down + z[down] / (z[down] - z[down + 1])
    assert np.diff(at) * 0.05 == pytest.approx(period(fit, 0.4), rel=1e-4)


def energy_of(fit, z):
    """Return the fit's own potential at one height in kpc, in kpc^2/Myr^2."""
    value = fit.profiles([z + 0.02] * u.kpc)["potential"]
    return value.to_value(u.kpc**2 / u.Myr**2)[0]


def period(fit, height):
    top = energy_of(fit, height)

    def part(angle):  # z = height sin(angle) has no singularity at the turning point
        z = height * math.sin(angle)
        return height * math.cos(angle) / math.sqrt(2 * (top - energy_of(fit, z)))

    return 4 * quad(part, 0, math.pi / 2 - 1e-6, epsrel=1e-6)[0]


@pytest.mark.parametrize(
    ("height", "n", "message"),
    [
        (9 * u.kpc, 101, "the fit reaches"),
        (-1 * u.kpc, 101, "height must be one finite length above 0"),
        (HEIGHT, 100, "n must be odd"),
    ],
)
def test_tables_that_cannot_be(fit, height, n, message):
    with pytest.raises(ValueError, match=message):
        to_gala(fit, height, n)


@pytest.mark.filterwarnings("ignore:libgalpy", "ignore:.*galpy.*:DeprecationWarning")
def test_galpy_has_the_fit_and_its_actions(fit):
    pytest.importorskip("galpy")
    from galpy.actionAngle import actionAngleVertical
    from galpy.potential import evaluatelinearForces, linearPotential

    ro, vo = 8 * u.kpc, 220 * u.km / u.s
    potential = to_galpy(fit, HEIGHT, ro=ro, vo=vo)
    assert isinstance(potential, linearPotential)
    for z in (-0.61, 0.013, 0.44):
        truth = fit.profiles([z + 0.02] * u.kpc)["acceleration"][0]
        found = evaluatelinearForces(potential, z / 8.0, use_physical=False) * vo**2 / ro
        assert u.allclose(found, truth, rtol=1e-6)
    # The action of an orbit that turns at 0.4 kpc.
    top = energy_of(fit, 0.4)
    action = quad(lambda z: math.sqrt(max(2 * (top - energy_of(fit, z)), 0)), 0, 0.4, epsrel=1e-6)
    J = 4 * action[0] / (2 * math.pi) * (u.kpc**2 / u.Myr)
    speed = (math.sqrt(2 * top) * u.kpc / u.Myr / vo).to_value(u.one)
    found = actionAngleVertical(pot=potential)(0.0, speed) * ro * vo
    assert u.allclose(np.squeeze(found), J, rtol=1e-4)
