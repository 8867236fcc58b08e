"""The methods of both models, each with arguments that are good."""

from __future__ import annotations

import warnings
from typing import Any

import astropy.units as u
import numpy as np

import disks
from torusimaging_torch import (
    TorusImaging1D,
    TorusImaging1DPotential,
    TorusImaging1DSpline,
    model_helpers,
)
from torusimaging_torch.model import to_numpy

MODEL = disks.make_model()
PARAMS = disks.truth()
LABELS = disks.draw(MODEL, "gaussian", seed=0, n=6)
COUNTS = disks.draw(MODEL, "poisson", seed=0, n=6)
BOUNDS = {"ln_Omega0": (-4.0, -1.0)}
POTENTIAL, POTENTIAL_BOUNDS, _start = TorusImaging1DPotential.auto_init(
    LABELS, 3, 3, e_knots={2: 3}
)
POTENTIAL_PARAMS = to_numpy(_start)
RNG = np.random.default_rng(0)
STARS = {
    "pos": RNG.normal(0, 0.3, 400) * u.kpc,
    "vel": RNG.normal(0, 20, 400) * u.km / u.s,
    "label": RNG.normal(0.3, 0.1, 400),
    "label_err": np.full(400, 0.05),
}
BINS = {"pos": np.linspace(-1, 1, 6) * u.kpc, "vel": np.linspace(-60, 60, 6) * u.km / u.s}
POS = np.array([0.05, 0.2, 0.4]) * u.kpc
VEL = np.array([5.0, -3.0, 1.0]) * u.km / u.s
TIMES = np.array([0.0, 10.0, 50.0]) * u.Myr
J = np.array([0.001, 0.004, 0.008]) * u.kpc**2 / u.Myr
THETA = np.array([0.1, 2.0, 4.0]) * u.rad
L_Z = 1900.0 * u.kpc * u.km / u.s
WIDTHS: dict[str, Any] = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
WIDTHS |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}


def _init(cls: Any, **settings: Any) -> Any:
    return lambda **data: cls.auto_init(data, **settings)[2]


def _columns(table: Any) -> tuple[Any, ...]:
    """Return the columns of a table that hold numbers."""
    return tuple(table[name] for name in table.colnames if table[name].dtype.kind in "bif")


def methods(model: Any, params: Any) -> dict[str, Any]:
    """Return what a model is asked, by the method's name."""
    places = {"pos": POS, "params": params}
    stars = {"pos": POS, "vel": VEL, "params": params}
    labels, counts = {"params": params, **LABELS}, {"params": params, **COUNTS}

    def optimize(params, bounds=None, max_iter=2, objective="gaussian", **data):
        return model.optimize(params, objective, bounds, max_iter=max_iter, **data).params

    def samples(params, size, seed, **data):
        return model.get_crlb_error_samples(
            params, data, size=size, seed=seed, hessian="expected", list_of_samples=False
        )

    def laplace(params, size, seed, **data):
        return model.check_laplace(params, data, size=size, seed=seed).khat

    def outliers(params, rounds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that stops early says so
            return model.fit_outliers(params, STARS, BINS, rounds=rounds, max_iter=2).params

    def at(posterior, vector):
        return posterior(vector)

    def orbits(params, N_grid):
        return _columns(model.action_angle_function(params, 5, N_grid)(POS, VEL))

    return {
        "get_label": (model.get_label, stars),
        "forward": (model, stars),
        "compute_elliptical": (model.compute_elliptical, stars),
        "get_acceleration": (model.get_acceleration, places),
        "get_acceleration_deriv": (model.get_acceleration_deriv, places),
        "get_density": (model.get_density, places),
        "get_surface_density": (model.get_surface_density, places),
        "get_potential": (model.get_potential, places),
        "get_lowest_density": (model.get_lowest_density, {"params": params}),
        "compare_formulas": (model.compare_formulas, {"params": params}),
        "at_knots": (lambda params: model.at_knots(params).label, {"params": params}),
        "check_e_funcs": (
            lambda e_params, r_e_max: model.check_e_funcs(e_params, r_e_max)[1],
            {"e_params": params["e_params"], "r_e_max": np.array(0.3)},
        ),
        "ln_gaussian_likelihood": (model.ln_gaussian_likelihood, labels),
        "ln_poisson_likelihood": (model.ln_poisson_likelihood, counts),
        "objective_gaussian": (model.objective_gaussian, labels),
        "objective_poisson": (model.objective_poisson, counts),
        "unpack_bounds": (model.unpack_bounds, {"bounds": BOUNDS}),
        "optimize": (optimize, {**labels, "max_iter": 2, "objective": "gaussian"}),
        "fit_outliers": (outliers, {"params": params, "rounds": 1}),
        "as_module": (
            lambda params, bounds: model.as_module(params, bounds).params(),
            {"params": params, "bounds": BOUNDS if model is MODEL else POTENTIAL_BOUNDS},
        ),
        "posterior_at": (
            lambda params, objective, **data: at(*model.posterior_at(params, data, objective)),
            {**labels, "objective": "gaussian"},
        ),
        "get_crlb": (
            lambda params, hessian, **data: model.get_crlb(params, data, hessian=hessian),
            {**labels, "hessian": "expected"},
        ),
        "get_crlb_uncertainties": (
            lambda params, **data: model.get_crlb_uncertainties(params, data, hessian="expected"),
            labels,
        ),
        "get_crlb_error_samples": (samples, {**labels, "size": 3, "seed": 1}),
        "check_laplace": (laplace, {**labels, "size": 50, "seed": 1}),
        "compute_action_angle": (
            lambda pos, vel, params, N_grid, method: _columns(
                model.compute_action_angle(pos, vel, params, N_grid, method=method)
            ),
            {**stars, "N_grid": 32, "method": "auto"},
        ),
        "action_angle_function": (orbits, {"params": params, "N_grid": 32}),
        "compute_phase_space": (
            model.compute_phase_space,
            {"J": J, "theta": THETA, "params": params, "N_grid": 32},
        ),
        "orbit": (model.orbit, {"pos": POS[1], "vel": VEL[1], "params": params, "t": TIMES}),
        "compute_frequency_curve": (
            lambda params, J, N_grid: _columns(model.compute_frequency_curve(params, J, N_grid)),
            {"params": params, "J": J, "N_grid": 32},
        ),
    }


def _spline(label_knots, e_knots, sign):
    model = TorusImaging1DSpline(label_knots, {2: e_knots}, {2: sign})
    return model.label_knots, model.e_knots[2]


def _general(pos, vel, ln_Omega0):
    params = {"pos0": 0.0, "vel0": 0.0, "ln_Omega0": ln_Omega0, "e_params": {}}
    params["label_params"] = {"l0": 0.1, "l1": 0.5}
    return TorusImaging1D(lambda r, l0, l1: l0 + l1 * r, {}).get_label(pos, vel, params)


X = np.array([0.1, 0.4, 0.9])
_RICHARDS = {"t": X, "t0": 0.1, "B": 2.0, "C": 1.0, "nu": 0.5}
_CURVES: dict[str, dict[str, Any]] = {
    "monotonic_poly_func": {"x": X, "A": 1.0, "alpha": 0.3, "x0": 1.0, "c": 1.0},
    "monotonic_poly_func_alt": {"x": X, "f0": 0.1, "fx": 0.5, "alpha": 0.3, "x0": 1.0, "xval": 1.0},
    "custom_tanh_func": {"x": X, "A": 1.0, "alpha": 0.3, "x0": 1.0},
    "custom_tanh_func_alt": {"x": X, "f_xval": 0.5, "alpha": 0.3, "x0": 1.0, "xval": 1.0},
    "generalized_logistic_func": {**_RICHARDS, "A": 0.2, "K": 1.0},
    "generalized_logistic_func_alt": {**_RICHARDS, "F1": 0.4, "t1": 1.0},
    "monotonic_quadratic_spline": {"x": X, "y": np.array([0.2, 1.0, 2.0]), "x_eval": X + 0.05},
}
RADIAL = disks.make_model(convention="vp")
RADII = {"pos": [7.5, 8.0, 8.5] * u.kpc, "params": {**PARAMS, "pos0": 8.0}}
KNOTS = np.array([0.0, 0.1, 0.3])
# Each function with arguments that are good.
FUNCTIONS = {
    **{f"TorusImaging1DSpline.{k}": v for k, v in methods(MODEL, PARAMS).items()},
    **{name: (getattr(model_helpers, name), given) for name, given in _CURVES.items()},
    **{f"TorusImaging1DPotential.{k}": v for k, v in methods(POTENTIAL, POTENTIAL_PARAMS).items()},
    "TorusImaging1DSpline.estimate_init_params": (
        lambda **data: MODEL.estimate_init_params(data),
        LABELS,
    ),
    "TorusImaging1DSpline.get_radial_force": (RADIAL.get_radial_force, {**RADII, "L_z": L_Z}),
    "TorusImaging1DSpline.get_circular_velocity": (
        RADIAL.get_circular_velocity,
        {**RADII, "L_z": L_Z},
    ),
    "TorusImaging1DSpline.get_guiding_radius": (
        RADIAL.get_guiding_radius,
        {"params": RADII["params"]},
    ),
    "TorusImaging1D": (
        _general,
        {"pos": POS, "vel": VEL, "ln_Omega0": -2.5},
    ),
    "TorusImaging1DSpline": (_spline, {"label_knots": KNOTS, "e_knots": KNOTS, "sign": 1.0}),
    "TorusImaging1DPotential": (
        lambda label_knots, heights, Omega: (
            TorusImaging1DPotential(label_knots, heights, Omega).heights
        ),
        {"label_knots": KNOTS, "heights": POS, "Omega": 0.08 * u.rad / u.Myr},
    ),
    "TorusImaging1DSpline.auto_init": (
        _init(TorusImaging1DSpline, label_knots=3, e_knots={2: 3}, **WIDTHS),
        LABELS,
    ),
    "TorusImaging1DPotential.auto_init": (
        _init(TorusImaging1DPotential, label_knots=6, n_components=3),
        LABELS,
    ),
    "TorusImaging1DSpline.auto_init of knots": (
        lambda label_knots, e_knots, power: TorusImaging1DSpline.auto_init(
            LABELS, label_knots, {2: e_knots}, label_knots_spacing_power=power, **WIDTHS
        )[2],
        {"label_knots": 3, "e_knots": 3, "power": 1.0},
    ),
    "TorusImaging1DPotential.auto_init of knots": (
        lambda label_knots, n_components, heights: TorusImaging1DPotential.auto_init(
            LABELS, label_knots, n_components, heights
        )[2],
        {"label_knots": 3, "n_components": 3, "heights": POS},
    ),
    "TorusImaging1DPotential.penalty_scales": (
        lambda label_smooth_sigma, ln_rho_sigma, e_sigma: [
            np.ravel(value)
            for value in POTENTIAL.penalty_scales(
                label_smooth_sigma, ln_rho_sigma, e_sigma
            ).values()
            if not isinstance(value, dict)
        ],
        {"label_smooth_sigma": 0.5, "ln_rho_sigma": 2.0, "e_sigma": 0.1},
    ),
}
