"""Quick selections, and candidates with scores that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
from gala.units import galactic
from numpy.random import SeedSequence

import disks
from torusimaging_torch.cross_validation import select
from torusimaging_torch.cross_validation.candidates import make_candidates
from torusimaging_torch.cross_validation.folds import make_folds

PENALTY: dict[str, Any] = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5, "e_l2_sigmas": 1.0}
SETTINGS: dict[str, Any] = {
    **PENALTY,
    "label_knots": 3,
    "e_knots": {2: 3},
    "e_smooth_sigmas": {2: 0.5},
}
COUNTS = {"objective": "poisson", "label_l2_sigma": 50.0, "label_smooth_sigma": 20.0}
GRID = {"e_smooth_sigmas": [0.1, 0.5]}
MODEL = disks.make_model()


def run(data, grid=GRID, **changes):
    varied = grid if isinstance(grid, dict) else set().union(*grid)
    settings = {k: v for k, v in SETTINGS.items() if k not in varied}
    return select(data, grid, **({"n_folds": 2, "progress": False} | settings | changes))


def folds_of(data, objective="gaussian", n_folds=3, kind="pixels", seed=None):
    return make_folds(data, objective, n_folds, kind, seed or SeedSequence(0), galactic)


def candidates(**grid):
    settings = {k: v for k, v in SETTINGS.items() if k not in grid} | {"units": galactic}
    return make_candidates(grid, settings, "gaussian")


def scores(deltas, n=400, spread=1.0, seed=0) -> np.ndarray:
    """Return log-likelihoods whose differences from the first candidate have mean and spread."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(deltas), n))
    noise = (noise - noise.mean(1, keepdims=True)) / noise.std(1, ddof=1, keepdims=True)
    common = 10 * rng.standard_normal(n)
    own = np.array(deltas)[:, None] + spread * noise
    own[0] = 0.0
    return common - own
