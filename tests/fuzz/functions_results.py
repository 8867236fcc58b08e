"""Results, batches, cross-validation and figures, each with arguments that are good."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cache
from typing import Any

import astropy.units as u
import matplotlib.pyplot as plt
import numpy as np
from functions_model import BOUNDS, KNOTS, L_Z, LABELS, MODEL, PARAMS, POS, WIDTHS

import disks
from torusimaging_torch import TorusImaging1DSpline, plot
from torusimaging_torch.batch import fit_many
from torusimaging_torch.cross_validation import select
from torusimaging_torch.model import to_numpy
from torusimaging_torch.results import (
    FitResult,
    derived_quantities,
    profiles,
    rotation_curve,
    summarize,
    to_gala,
    to_galpy,
)


def _fit(model: Any, params: Any) -> FitResult:
    data = disks.draw(model, "gaussian", n=10)
    fit = model.optimize(params, "gaussian", BOUNDS, **data)
    covariance = model.get_crlb(fit.params, data, hessian="expected", bounds=BOUNDS).numpy()
    return FitResult(model, to_numpy(fit.params), BOUNDS, fit.state, "gaussian", {}, covariance)


def _columns(table: Any) -> list[Any]:
    """Return the columns of a table that hold numbers."""
    return [table[name] for name in table.colnames if table[name].dtype.kind in "bif"]


def _drawn(function: Any) -> Any:
    """Draw a figure, and return nothing but that it was drawn."""

    def draw(*args: Any, **kwargs: Any) -> float:
        try:
            function(*args, **kwargs)
        finally:
            plt.close("all")
        return 1.0

    return draw


def _quiet(function: Any) -> Any:
    """Return a function whose fits may end early without a word."""

    def run(**given: Any) -> Any:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", RuntimeWarning)
            return function(**given)

    return run


def _many(label_knots, e_knots, max_iter, **data):
    scales = {**WIDTHS, "progress": False, "max_iter": max_iter}
    found = fit_many([data], label_knots=label_knots, e_knots={2: e_knots}, **scales)
    return found.values["x"]


def _selected(n_folds, seed, folds):
    scales = {name: value for name, value in WIDTHS.items() if name != "label_l2_sigma"}
    rest = {"label_knots": 3, "e_knots": {2: 3}, "max_iter": 3, "progress": False}
    grid = {"label_l2_sigma": [0.1, 1.0]}
    return select(LABELS, grid, n_folds=n_folds, seed=seed, folds=folds, **rest, **scales).score


# Made when asked for: nothing is fitted or differentiated while tests are collected.
@cache
def _result() -> FitResult:
    return _fit(MODEL, PARAMS)


@cache
def _radial() -> FitResult:
    model = TorusImaging1DSpline(KNOTS, {2: KNOTS}, {2: -1.0}, elliptical_angle_convention="vp")
    params: dict[str, Any] = {
        "pos0": 8.0,
        "vel0": 0.0,
        "ln_Omega0": -3.3,
        "e_params": {2: {"vals": [-5.0] * 2}},
        "label_params": {"label_vals": [0.0, 1.0, 1.0]},
    }
    return FitResult(model, params, {}, _result().state, "gaussian", {}, 1e-6 * np.eye(8))


@cache
def _batch() -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return fit_many(
            {"a": LABELS, "b": LABELS}, label_knots=3, e_knots={2: 3}, progress=False, **WIDTHS
        )


@cache
def _samples() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODEL.sample(LABELS, PARAMS, BOUNDS, num_samples=8, num_warmup=4, max_tree_depth=1)


@cache
def _check() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MODEL.check_laplace(PARAMS, LABELS, size=50)


def _of(made: Any, method: str) -> Any:
    """Return a method of something that is made when the method is called."""
    return lambda **given: getattr(made(), method)(**given)


BOUND = 1e-6 * np.eye(13)  # of as many parameters as PARAMS has
COVARIANCE = np.array([[1.0, 0.2], [0.2, 0.5]])
HEIGHT = 1.1 * u.kpc
# Each function with arguments that are good.
FUNCTIONS = {
    "FitResult": (
        lambda covariance: (
            FitResult(
                MODEL, _result().params, BOUNDS, _result().state, "gaussian", {}, covariance
            ).covariance
        ),
        {"covariance": BOUND},
    ),
    "FitResult.draw": (_of(_result, "draw"), {"size": 3, "seed": 1}),
    "FitResult.interval": (_of(_result, "interval"), {"name": "Omega0"}),
    "FitResult.measured": (_of(_result, "measured"), {"name": "Omega0"}),
    "FitResult.quantity": (_of(_result, "quantity"), {"name": "Omega0"}),
    "FitResult.predict": (lambda **binned: _result().predict(binned), LABELS),
    "FitResult.profiles": (lambda pos: _columns(_result().profiles(pos)), {"pos": POS}),
    "BatchResult.profiles": (
        lambda pos_grid: _batch().profiles(pos_grid)["density"],
        {"pos_grid": POS},
    ),
    "BatchResult.take": (lambda rows: _batch().take(rows).values["x"], {"rows": [1, 0]}),
    "BatchResult.model_of": (
        lambda rows: _batch().model_of(rows).label_knots,
        {"rows": [1, 0]},
    ),
    "Samples.to_array": (_of(_samples, "to_array"), {"names": ["pos0", "vel0"]}),
    "LaplaceCheck.to_params": (_of(_check, "to_params"), {"size": 3, "seed": 1}),
    "AtKnots.e": (lambda m: MODEL.at_knots(PARAMS).e(m), {"m": 2}),
    "profiles": (
        lambda pos_grid, params: profiles(MODEL, params, pos_grid)["density"],
        {"pos_grid": POS, "params": PARAMS},
    ),
    "profiles with errors": (
        lambda covariance: _columns(profiles(MODEL, PARAMS, POS, covariance, bounds=BOUNDS)),
        {"covariance": BOUND},
    ),
    "derived_quantities": (
        lambda height, baryons: _columns(derived_quantities(_result(), height, baryons=baryons)),
        {"height": HEIGHT, "baryons": 50.0 * u.Msun / u.pc**2},
    ),
    "rotation_curve": (
        lambda R, L_z: _columns(rotation_curve(_radial(), R, L_z)),
        {"R": [7.5, 8.0, 8.5] * u.kpc, "L_z": L_Z},
    ),
    "summarize": (lambda height: _columns(summarize(_batch(), height)), {"height": HEIGHT}),
    "to_gala": (
        lambda height, n: to_gala(_result(), height, n) and 1.0,
        {"height": 0.5 * u.kpc, "n": 65},
    ),
    "to_galpy": (
        lambda height, n, ro, vo: to_galpy(_result(), height, n, ro, vo) and 1.0,
        {"height": 0.5 * u.kpc, "n": 65, "ro": 8.0 * u.kpc, "vo": 220.0 * u.km / u.s},
    ),
    "fit_many": (_quiet(_many), {"label_knots": 3, "e_knots": 3, "max_iter": 3, **LABELS}),
    "select": (_quiet(_selected), {"n_folds": 2, "seed": 1, "folds": "pixels"}),
    "plot_acceleration_density": (
        _drawn(lambda pos_grid: plot.plot_acceleration_density(MODEL, PARAMS, pos_grid)),
        {"pos_grid": POS},
    ),
    "plot_cov_ellipse": (
        _drawn(plot.plot_cov_ellipse),
        {"mean": np.zeros(2), "cov": COVARIANCE, "nstd": 1.0},
    ),
    "plot_cov_corner": (
        _drawn(plot.plot_cov_corner),
        {"cov": COVARIANCE, "mean": np.zeros(2)},
    ),
    "plot_frequency_curve": (
        _drawn(lambda J: plot.plot_frequency_curve(MODEL, PARAMS, J)),
        {"J": np.array([0.001, 0.004]) * u.kpc**2 / u.Myr},
    ),
}
