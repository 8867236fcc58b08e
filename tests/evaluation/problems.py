"""Posteriors of all kinds on few pixels: for tests of who works them out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.likelihoods.penalty import regularization_func_default
from torusimaging_torch.numerics.params import Layout

ORDERS = {"none": {}, "even": {2: 5, 4: 3}, "all": {0: 3, 1: 4, 3: 2}}
"""Numbers of knots by order."""


def penalty(orders: Mapping[int, int], **changes: Any) -> partial:
    keywords = {
        "label_l2_sigma": 1.3,
        "label_smooth_sigma": 0.4,
        "e_l2_sigmas": {m: 0.7 + 0.1 * m for m in orders},
        "e_smooth_sigmas": {m: 0.5 + 0.1 * m for m in orders},
        "dacc_dpos_scale": 0.5,
        "dacc_strength": 3.0,
    }
    return partial(regularization_func_default, **(keywords | changes))


def make_problem(
    orders: str = "even",
    e_spline: str = "cubic",
    label_spline: str = "quadratic",
    convention: str = "pv",
    objective: str = "gaussian",
    *,
    evaluation: str | None = None,
    batch: tuple[int, ...] = (),
    weighted: bool = False,
    own_knots: bool = False,
    n: int = 40,
    seed: int = 0,
    **changes: Any,
) -> tuple[Posterior, Tensor]:
    """Return a posterior with pixels on both sides of the last knots, and a vector."""
    rng = np.random.default_rng(seed)
    n_knots = ORDERS[orders]
    stretch = rng.uniform(0.8, 1.2, (*batch, 1)) if own_knots else np.ones(1)
    signs = {m: (-1.0) ** (i % 2) for i, m in enumerate(n_knots)}
    model = TorusImaging1DSpline(
        stretch * np.linspace(0, 1, 5) ** 1.2,
        {m: stretch * np.linspace(0, 1, k) ** 1.1 for m, k in n_knots.items()},
        signs,
        changes.pop("regularization_func", penalty(n_knots, **changes)),
        elliptical_angle_convention=convention,
        e_spline=e_spline,
        label_spline=label_spline,
    )
    likelihood, shape = make_likelihood(objective), (*batch, n)
    pos, vel = rng.uniform(-1.2, 1.2, shape), rng.uniform(-0.9, 0.9, shape)
    seen = rng.poisson(3.0, shape) if objective == "poisson" else rng.normal(0.5, 0.5, shape)
    observed = {"gaussian": (seen, rng.uniform(0.2, 0.6, shape)), "poisson": (seen,)}[objective]
    data = dict(zip(("pos", "vel", *likelihood.observed), (pos, vel, *observed), strict=True))
    if weighted:
        data["weight"] = rng.uniform(0.5, 2.0, shape)
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in data.items()}
    params = {
        "pos0": rng.normal(0, 0.05, batch),
        "vel0": rng.normal(0, 0.05, batch),
        "ln_Omega0": rng.normal(0.1, 0.1, batch),
        "e_params": {m: {"vals": rng.normal(-2, 0.5, (*batch, k - 1))} for m, k in n_knots.items()},
        "label_params": {"label_vals": rng.uniform(0.2, 0.9, (*batch, 5))},
    }
    if not n_knots:
        del params["e_params"]
    p = model.border.params(params)
    layout = Layout.of(p)
    pixels = Pixels.clean(likelihood, tensors, len(batch))
    posterior = Posterior(model, likelihood, layout, pixels, evaluation, torch.Size(batch))
    return posterior, layout.flatten(p)


def by(posterior: Posterior, evaluation: str) -> Posterior:
    """Return the same posterior, worked out by somebody else."""
    parts = posterior.model, posterior.likelihood, posterior.layout, posterior.pixels
    return Posterior(*parts, evaluation, posterior.batch)
