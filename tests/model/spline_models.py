"""Binned disks of three kinds, and the spline model that is made for each."""

from __future__ import annotations

from disks import draw, make_model, truth, truth_of
from torusimaging_torch.model_spline import TorusImaging1DSpline

SIGMAS = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0, 4: 1.0},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
}
E_KNOTS = {2: 5, 4: 3}


def falling():
    return truth() | {"label_params": {"label_vals": [0.5, -0.9, -0.8, -0.6]}}


DISKS = {
    "rising": ("gaussian", truth(), SIGMAS),
    "falling": ("gaussian", falling(), SIGMAS),
    "counts": (
        "poisson",
        truth_of("poisson"),
        SIGMAS | {"label_l2_sigma": 10.0, "label_smooth_sigma": 20.0},
    ),
}


def disk(kind, convention="pv", seed=0):
    objective, params, _ = DISKS[kind]
    return draw(make_model(convention=convention), objective, seed, params=params)


def auto(kind="rising", convention="pv", data=None, label_knots=4, e_knots=None, **kwargs):
    data = disk(kind, convention) if data is None else data
    if kwargs.get("regularization_func") is None:
        kwargs = DISKS[kind][2] | kwargs
    return TorusImaging1DSpline.auto_init(
        data,
        label_knots,
        E_KNOTS if e_knots is None else e_knots,
        elliptical_angle_convention=convention,
        **kwargs,
    )
