"""Results, batches, cross-validation and figures, each with arguments that are good."""

from __future__ import annotations

import contextlib
import io
import warnings
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


RESULT = _fit(MODEL, PARAMS)
_RADIAL = TorusImaging1DSpline(KNOTS, {2: KNOTS}, {2: -1.0}, elliptical_angle_convention="vp")
_RADIAL_PARAMS = {
    "pos0": 8.0,
    "vel0": 0.0,
    "ln_Omega0": -3.3,
    "e_params": {2: {"vals": [-5.0] * 2}},
}
_RADIAL_PARAMS["label_params"] = {"label_vals": [0.0, 1.0, 1.0]}
RADIAL = FitResult(_RADIAL, _RADIAL_PARAMS, {}, RESULT.state, "gaussian", {}, 1e-6 * np.eye(8))
with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter("ignore")
    BATCH = fit_many(
        {"a": LABELS, "b": LABELS}, label_knots=3, e_knots={2: 3}, progress=False, **WIDTHS
    )
    SAMPLES = MODEL.sample(LABELS, PARAMS, BOUNDS, num_samples=8, num_warmup=4, max_tree_depth=1)
    CHECK = MODEL.check_laplace(PARAMS, LABELS, size=50)
AT_KNOTS = MODEL.at_knots(PARAMS)
TRAINED = MODEL.as_module(PARAMS, BOUNDS)
COVARIANCE = np.array([[1.0, 0.2], [0.2, 0.5]])
HEIGHT = 1.1 * u.kpc
# Each function with arguments that are good.
FUNCTIONS = {
    "FitResult": (
        lambda covariance: (
            FitResult(
                MODEL, RESULT.params, BOUNDS, RESULT.state, "gaussian", {}, covariance
            ).covariance
        ),
        {"covariance": RESULT.covariance},
    ),
    "FitResult.draw": (RESULT.draw, {"size": 3, "seed": 1}),
    "FitResult.interval": (RESULT.interval, {"name": "Omega0"}),
    "FitResult.measured": (RESULT.measured, {"name": "Omega0"}),
    "FitResult.quantity": (RESULT.quantity, {"name": "Omega0"}),
    "FitResult.predict": (lambda **binned: RESULT.predict(binned), LABELS),
    "FitResult.profiles": (lambda pos: _columns(RESULT.profiles(pos)), {"pos": POS}),
    "BatchResult.profiles": (
        lambda pos_grid: BATCH.profiles(pos_grid)["density"],
        {"pos_grid": POS},
    ),
    "BatchResult.take": (lambda rows: BATCH.take(rows).values["x"], {"rows": [1, 0]}),
    "BatchResult.model_of": (
        lambda rows: BATCH.model_of(rows).label_knots,
        {"rows": [1, 0]},
    ),
    "Samples.to_array": (SAMPLES.to_array, {"names": ["pos0", "vel0"]}),
    "LaplaceCheck.to_params": (CHECK.to_params, {"size": 3, "seed": 1}),
    "AtKnots.e": (AT_KNOTS.e, {"m": 2}),
    "profiles": (
        lambda pos_grid, params: profiles(MODEL, params, pos_grid)["density"],
        {"pos_grid": POS, "params": PARAMS},
    ),
    "profiles with errors": (
        lambda covariance: _columns(profiles(MODEL, PARAMS, POS, covariance, bounds=BOUNDS)),
        {"covariance": RESULT.covariance},
    ),
    "derived_quantities": (
        lambda height, baryons: _columns(derived_quantities(RESULT, height, baryons=baryons)),
        {"height": HEIGHT, "baryons": 50.0 * u.Msun / u.pc**2},
    ),
    "rotation_curve": (
        lambda R, L_z: _columns(rotation_curve(RADIAL, R, L_z)),
        {"R": [7.5, 8.0, 8.5] * u.kpc, "L_z": L_Z},
    ),
    "summarize": (lambda height: _columns(summarize(BATCH, height)), {"height": HEIGHT}),
    "to_gala": (
        lambda height, n: to_gala(RESULT, height, n) and 1.0,
        {"height": 0.5 * u.kpc, "n": 65},
    ),
    "to_galpy": (
        lambda height, n, ro, vo: to_galpy(RESULT, height, n, ro, vo) and 1.0,
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
