"""Actions by the ways of today: the potential is known, and each star's orbit is followed in it.

galpy's `actionAngleVertical` integrates in one dimension, as ours does, with quadrature in Python;
gala's O2GF (Sanders & Binney 2014) fits a generating function to an orbit in three dimensions. Both
are handed gala's Milky Way, in which the mock's stars were made; ours know the stars alone.
"""

from __future__ import annotations

from collections.abc import Callable

import astropy.units as u
import numpy as np
from astropy.table import QTable
from gala.potential import MilkyWayPotential2022

__all__ = ["PEERS"]

# Where the mock's stars move up and down, and for how long gala follows them.
_R = 8.3 * u.kpc
_STEP, _STEPS = 1 * u.Myr, 4000
# galpy's units, which gala's translation of the potential takes, too.
_RO, _VO = 8 * u.kpc, 220 * u.km / u.s


def galpy_vertical(stars: QTable) -> QTable:
    """Return J, theta and T of stars in galpy's vertical potential."""
    from galpy.actionAngle import actionAngleVertical
    from galpy.potential import toVerticalPotential

    known = MilkyWayPotential2022().as_interop("galpy")
    vertical = toVerticalPotential(known, (_R / _RO).to_value(u.one), phi=0.0)
    compute = actionAngleVertical(pot=vertical).actionsFreqsAngles
    z, v = (stars["z"] / _RO).to_value(u.one), (stars["v_z"] / _VO).to_value(u.one)
    found = [[float(np.squeeze(x)) for x in compute(*star)] for star in zip(z, v, strict=True)]
    J, Omega, theta = np.transpose(found)
    return QTable({"J": J * _RO * _VO, "theta": theta * u.rad, "T": _period(Omega * _VO / _RO)})


def gala_o2gf(stars: QTable) -> QTable:
    """Return J, theta and T of stars that move around the Galaxy on nearly circular orbits."""
    from gala.dynamics import PhaseSpacePosition, find_actions_o2gf

    galaxy = MilkyWayPotential2022()
    circular = galaxy.circular_velocity(u.Quantity([_R, 0 * _R, 0 * _R]))[0]
    z, v = stars["z"].astype(float), stars["v_z"].astype(float)
    start = PhaseSpacePosition(
        u.Quantity([_R + 0 * z, 0 * z, z]), u.Quantity([0 * v, circular + 0 * v, v])
    )
    orbits = galaxy.integrate_orbit(start, dt=_STEP, n_steps=_STEPS)
    found = find_actions_o2gf(orbits, N_max=6)
    J, angle, Omega = (found[name][:, 2] for name in ("actions", "angles", "freqs"))
    return QTable({"J": J, "theta": angle, "T": _period(Omega / u.rad)})


def _period(Omega: u.Quantity) -> u.Quantity:
    return (2 * np.pi / np.abs(Omega)).to(u.Myr)


PEERS: dict[str, Callable[[QTable], QTable]] = {
    "galpy, vertical, the potential known": galpy_vertical,
    "gala, O2GF in three dimensions, the potential known": gala_o2gf,
}
