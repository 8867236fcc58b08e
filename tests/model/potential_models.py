"""A model with a potential inside and a hybrid, each with its parameters."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch import TorusImaging1DPotential

HEIGHTS = [0.15, 0.4, 1.2] * u.kpc
OMEGA = 0.08 * u.rad / u.Myr


def make(**kwargs):
    return TorusImaging1DPotential(np.linspace(0, 0.4, 5), HEIGHTS, OMEGA, **kwargs)


def truth(**changes):
    params = {
        "pos0": 20 * u.pc,
        "vel0": -1 * u.km / u.s,
        "ln_rho": [15.0, 18.3, 17.5, 16.5],
        "label_params": {"label_vals": [0.1, 0.9, 0.8, 0.7, 0.6]},
    }
    return params | changes


CORRECTION = {"e_params": {2: {"vals": [0.2, -0.15, 0.1]}}}
KNOTS = {2: [0, 0.15, 0.3, 0.45]}
MODELS = pytest.mark.parametrize(
    ("model", "params"),
    [(make(), truth()), (make(e_knots=KNOTS), truth(**CORRECTION))],
    ids=["potential", "hybrid"],
)
