"""Small disks drawn from the model's own family, for tests of fits: model, truth, start, data."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import astropy.units as u
import numpy as np
import torch

from torusimaging_torch.model_spline import TorusImaging1DSpline, regularization_func_default

OMEGA0 = 0.08
EXTENT = 0.35

BOUNDS = {
    "pos0": (-0.3, 0.3),
    "vel0": (-0.05, 0.05),
    "ln_Omega0": (-4.0, -1.0),
    "e_params": {2: {"vals": (-16.0, 10.0)}, 4: {"vals": (-16.0, 10.0)}},
    "label_params": {
        "label_vals": (np.array([-2.0, 0.0, 0.0, 0.0]), np.array([2.0, 10.0, 10.0, 10.0]))
    },
}


def penalty(**changes: Any) -> partial:
    keywords = {
        "label_l2_sigma": 1.0,
        "label_smooth_sigma": 0.5,
        "e_l2_sigmas": {2: 1.0, 4: 1.0},
        "e_smooth_sigmas": {2: 0.5, 4: 0.5},
    }
    return partial(regularization_func_default, **(keywords | changes))


def make_model(e_spline="cubic", label_spline="quadratic", convention="pv", **kwargs: Any):
    """Return a model with 4 knots in the label, 5 in e_2 and 3 in e_4."""
    signs = {2: 1.0, 4: -1.0} if convention == "pv" else {2: -1.0, 4: -1.0}
    return TorusImaging1DSpline(
        np.linspace(0, EXTENT, 4),
        {2: np.linspace(0, EXTENT, 5), 4: np.linspace(0, EXTENT, 3)},
        signs,
        kwargs.pop("regularization_func", penalty()),
        elliptical_angle_convention=convention,
        e_spline=e_spline,
        label_spline=label_spline,
        **kwargs,
    )


def truth() -> dict[str, Any]:
    return {
        "pos0": 0.02,
        "vel0": -0.001,
        "ln_Omega0": math.log(OMEGA0),
        "e_params": {2: {"vals": [-1.0, -0.8, -0.9, -1.2]}, 4: {"vals": [-3.5, -3.0]}},
        "label_params": {"label_vals": [0.05, 0.9, 0.8, 0.6]},
    }


def start() -> dict[str, Any]:
    """Return a start where upstream has its own: e on the lower bound."""
    return {
        "pos0": 0.0,
        "vel0": 0.0,
        "ln_Omega0": math.log(0.06),
        "e_params": {2: {"vals": np.full(4, -16.0)}, 4: {"vals": np.full(2, -16.0)}},
        "label_params": {"label_vals": np.array([0.0, 0.5, 0.5, 0.5])},
    }


def grid(n=16) -> dict[str, u.Quantity]:
    """Return pixel centres that cover the knots."""
    z = EXTENT / math.sqrt(OMEGA0) * 0.8
    v = EXTENT * math.sqrt(OMEGA0) * 0.8
    pos, vel = np.meshgrid(np.linspace(-z, z, n), np.linspace(-v, v, n))
    return {"pos": pos * u.kpc, "vel": (vel * u.kpc / u.Myr).to(u.km / u.s)}


def draw(model, objective: str, seed=0, n=16, params=None) -> dict[str, Any]:
    """Return a binned disk: labels with Gaussian errors, or star counts."""
    rng = np.random.default_rng(seed)
    data = grid(n)
    with torch.no_grad():
        label = model.get_label(data["pos"], data["vel"], params or truth_of(objective)).numpy()
    if objective == "poisson":
        return data | {"counts": rng.poisson(np.exp(label)).astype(float)}
    err = rng.uniform(0.01, 0.03, label.shape)
    return data | {"label": rng.normal(label, err), "label_err": err}


def truth_of(objective: str) -> dict[str, Any]:
    """Return the truth; for star counts the label is the log-density, which falls."""
    if objective == "gaussian":
        return truth()
    return truth() | {"label_params": {"label_vals": [6.0, -8.0, -12.0, -15.0]}}


def start_of(objective: str) -> dict[str, Any]:
    if objective == "gaussian":
        return start()
    return start() | {"label_params": {"label_vals": np.array([5.0, -9.0, -9.0, -9.0])}}


def bounds_of(objective: str) -> dict[str, Any]:
    bounds = copy.deepcopy(BOUNDS)
    if objective == "poisson":
        lower, upper = np.array([0.0, -50, -50, -50]), np.array([10.0, 0.0, 0.0, 0.0])
        bounds["label_params"]["label_vals"] = (lower, upper)
    return bounds


def stack(datas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch of disks, with shape (B, N)."""
    return {k: np.stack([d[k].reshape(-1) for d in datas]) for k in datas[0]}


def repeat(params: dict[str, Any], *batch: int) -> dict[str, Any]:
    """Return the same parameters for every problem of a batch."""
    return {
        k: repeat(v, *batch)
        if isinstance(v, dict)
        else np.broadcast_to(np.asarray(v, float), (*batch, *np.shape(v))).copy()
        for k, v in params.items()
    }
