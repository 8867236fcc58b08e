"""A batch of three fits, one of which failed."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest

import disks
from torusimaging_torch.batch import fit_many
from torusimaging_torch.results import BatchResult

SETTINGS = {
    "label_knots": 4,
    "e_knots": {2: 5, 4: 3},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0, 4: 1.0},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
}


@pytest.fixture(scope="session")
def batch() -> BatchResult:
    data = [disks.draw(disks.make_model(), "gaussian", seed=i, n=12) for i in range(3)]
    data[1]["label"] = np.full_like(data[1]["label"], np.nan)
    columns = {"R_g": [7.0, 8.0, 9.0] * u.kpc, "population": ["thin", "", "thick"], "n": [1, 2, 3]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one of three fits did not converge
        return fit_many(data, **SETTINGS, names=["a", "b b", "c'"], columns=columns, progress=False)
