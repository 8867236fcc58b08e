"""Nothing is left behind by fits: no tensors, no modules, no open files."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch

import disks
from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.results import FitResult

# TORUSIMAGING_LEAK_FITS=1000 makes some thousands of them.
N_FITS, N_ROUNDS = int(os.environ.get("TORUSIMAGING_LEAK_FITS", "10")), 5
SCALES = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}
FILES = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def data():
    return disks.draw(disks.make_model(), "gaussian", seed=0, n=10)


def one_fit(data, folder):
    """Fit, and do with it what users do."""
    model, bounds, start = TorusImaging1DSpline.auto_init(data, 3, {2: 3}, **SCALES)
    params, state = model.optimize(start, "gaussian", bounds, **data)
    covariance = model.get_crlb(params, data, bounds=bounds)
    result = FitResult(model, params, bounds, state, "gaussian", {}, covariance)
    result.profiles([0.1, 0.5] * u.kpc)
    result.write(folder / "fit.ecsv")
    FitResult.read(folder / "fit.ecsv")
    model.compute_action_angle([0.1] * u.kpc, [5] * u.km / u.s, params)


def many_fits(data, folder):
    sheets, bounds, start = TorusImaging1DPotential.auto_init(data, n_components=3)
    sheets.optimize(start, "gaussian", bounds, **data)
    fit_many([data, data], label_knots=3, e_knots={2: 3}, progress=False, **SCALES)


def alive():
    """Return how many tensors and modules there are, and open files where that can be told."""
    gc.collect()
    # By type: isinstance would wake up other libraries' lazy objects.
    kinds = [type(x) for x in gc.get_objects()]
    tensors = sum(issubclass(kind, torch.Tensor) for kind in kinds)
    modules = sum(issubclass(kind, torch.nn.Module) for kind in kinds)
    return tensors, modules, len(list(FILES.iterdir())) if FILES.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("work", [one_fit, many_fits])
def test_nothing_is_left_behind(work, data, tmp_path):
    for _ in range(3):
        work(data, tmp_path)  # caches fill
    counts = [alive()]
    for _ in range(N_ROUNDS):
        for _ in range(N_FITS // N_ROUNDS):
            work(data, tmp_path)
        counts.append(alive())
    # What other tests left may go in some round; what a fit leaves comes in each.
    grown = np.median(np.diff(counts, axis=0), axis=0)
    assert not grown.any(), counts
