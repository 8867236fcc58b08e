"""Points, units and a model of plain functions that the tests of the model's front share."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem

from torusimaging_torch.model import TorusImaging1D

PC = UnitSystem(u.pc, u.Gyr, u.Msun, u.radian)
POS = np.array([-0.6, 0.0, 0.4, 0.9]) * u.kpc
VEL = np.array([10.0, -20.0, 0.0, 30.0]) * u.km / u.s
QUANTITIES = {
    "get_acceleration": u.kpc / u.Myr**2,
    "get_acceleration_deriv": u.Myr**-2,
    "get_density": u.Msun / u.kpc**3,
    "get_surface_density": u.Msun / u.kpc**2,
    "get_potential": u.kpc**2 / u.Myr**2,
}


def tensor(x):
    return torch.tensor(np.array(x), dtype=torch.float64)


def straight(r, start, slope):
    return start + slope * r


def bent(r_e, a):
    return a * r_e**2


OWN = {
    "pos0": 0.02,
    "vel0": -0.001,
    "ln_Omega0": -2.5,
    "e_params": {2: {"a": 1.2}},
    "label_params": {"start": 0.1, "slope": 2.0},
}


def own_model(**kwargs):
    return TorusImaging1D(straight, {2: bent}, **kwargs)
