"""The names that users import: what is there, what it is called with, and what loading it costs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import get_origin

import pytest

import torusimaging_torch
from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline, data, model_spline, plot

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(torusimaging_torch.__path__, "torusimaging_torch.")
    if not info.name.endswith("__main__")
)

# Upstream 0.1's names with their arguments in order, as its API page gives them and its package
# shows when run. Whoever comes from there passes these by position or by name.
METHODS = {
    "auto_init": "binned_data label_knots e_knots e_signs regularization_func units"
    " label_knots_spacing_power e_knots_spacing_power re_max_factor",
    "estimate_init_params": "binned_data bounds",
    "check_e_funcs": "e_params r_e_max",
    "compute_elliptical": "pos vel params",
    "get_label": "pos vel params",
    "get_acceleration": "pos params",
    "get_acceleration_deriv": "pos params",
    "ln_gaussian_likelihood": "params pos vel label label_err",
    "ln_poisson_likelihood": "params pos vel counts",
    "objective_gaussian": "params pos vel label label_err",
    "objective_poisson": "params pos vel counts",
    "optimize": "params0 objective bounds",
    "unpack_bounds": "bounds",
    "compute_action_angle": "pos vel params N_grid Bisection_kwargs",
    "get_crlb": "params data objective inv",
    "get_crlb_uncertainties": "params data objective",
    "get_crlb_error_samples": "params data objective size seed list_of_samples",
    "mcmc_run_label": "binned_data p0 bounds rng_seed num_steps num_warmup",
    "_get_label": "pos vel params",
    "_get_r": "r_e theta_e e_params",
    "_get_pos": "r theta_e params Bisection_kwargs",
    "_get_vel": "r theta_e params Bisection_kwargs",
    "_get_es": "r_e e_params",
    "_get_elliptical_coords": "pos vel pos0 vel0 ln_Omega0",
    "_get_dacc_dpos_vmap": "pos params",
}
NEW_METHODS = {
    "get_density": "pos params",
    "get_surface_density": "pos params",
    "get_potential": "pos params",
    "compute_phase_space": "J theta params",
    "orbit": "pos vel params t",
    "check_laplace": "params data objective",
}
FUNCTIONS = {
    data.get_binned_counts: "pos vel bins units",
    data.get_binned_label: "pos vel label bins moment label_err units s s_N_thresh",
    data.estimate_Omega: "binned_data",
    plot.plot_data_models_residual: "binned_data model params_fit params_init"
    " smooth_residual vlim_residual residual_normalization usys",
    plot.plot_data_model_residual: "binned_data model params_fit params_init"
    " smooth_residual vlim_residual residual_normalization usys",
    plot.plot_spline_functions: "model params",
    plot.plot_cov_corner: "cov mean labels subplots_kw ellipse_kw",
    plot.plot_cov_ellipse: "mean cov nstd ax",
    model_spline.regularization_func_default: "model params label_l2_sigma label_smooth_sigma"
    " e_l2_sigmas e_smooth_sigmas dacc_dpos_scale dacc_strength",
}


def positional(function: object) -> list[str]:
    """Return the names of the arguments that may be given by position, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def test_top_level_names():
    assert set(torusimaging_torch.__all__) == {
        "TorusImaging1D",
        "TorusImaging1DPotential",
        "TorusImaging1DSpline",
        "__citation__",
        "__version__",
        "batch",
        "catalogue",
        "cross_validation",
        "data",
        "model",
        "model_helpers",
        "model_potential",
        "model_spline",
        "plot",
        "results",
        "simulate",
    }
    assert all(hasattr(torusimaging_torch, name) for name in torusimaging_torch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'modle'"):
        torusimaging_torch.modle  # noqa: B018


@pytest.mark.parametrize(("name", "arguments"), (METHODS | NEW_METHODS).items())
def test_methods_take_upstreams_arguments(name, arguments):
    method = getattr(
        TorusImaging1DSpline(label_knots=[0.0, 1.0], e_knots={2: [0.0, 1.0]}, e_signs={2: 1.0}),
        name,
    )
    assert positional(method)[: len(arguments.split())] == arguments.split()


@pytest.mark.parametrize(
    ("function", "arguments"), FUNCTIONS.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_functions_take_upstreams_arguments(function, arguments):
    assert positional(function)[: len(arguments.split())] == arguments.split()


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (
            TorusImaging1D,
            "label_func e_funcs regularization_func units elliptical_angle_convention",
        ),
        (
            TorusImaging1DSpline,
            "label_knots e_knots e_signs regularization_func units elliptical_angle_convention",
        ),
    ],
)
def test_constructors_take_upstreams_arguments(cls, arguments):
    assert positional(cls) == arguments.split()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_and_its_public_things_are_documented(module):
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    for name in loaded.__all__:
        thing = getattr(loaded, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or get_origin(thing):
            continue  # Python 3.10 takes types with arguments for classes
        assert inspect.getdoc(thing), f"{module}.{name} has no docstring"
        for method, value in vars(thing).items() if inspect.isclass(thing) else ():
            if inspect.isfunction(value) and not method.startswith("_"):
                assert inspect.getdoc(getattr(thing, method)), (
                    f"{module}.{name}.{method} has no docstring"
                )


# A fit of pixels that lie on ellipses.
A_FIT = """
import torch
from torusimaging_torch import TorusImaging1DPotential
grid = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-0.08, 0.08, 9), indexing="xy")
pos, vel = (x.double() for x in grid)
label = (0.07 * pos.square() + vel.square() / 0.07).sqrt()
data = {"pos": pos, "vel": vel, "label": label, "label_err": 0.01 + 0 * label}
model, bounds, start = TorusImaging1DPotential.auto_init(data)
assert model.optimize(start, "gaussian", bounds, **data).state.success
"""


def test_importing_stays_light():
    """What takes long to load is loaded when it is needed; so it is with SymPy and a fit."""
    steps = {
        "import torusimaging_torch": {"torch", "astropy", "gala", "scipy"},
        "from torusimaging_torch import data": {"matplotlib", "pyro", "gala.potential"},
        "from torusimaging_torch import TorusImaging1DSpline": {"matplotlib", "gala.dynamics"},
        A_FIT: {"sympy", "scipy.stats", "matplotlib", "pyro"},
        "from torusimaging_torch import plot": {"matplotlib.pyplot", "pyro", "gala.potential"},
    }
    script = "import sys\n" + "\n".join(
        f"{statement}\nprint({i}, *sorted({absent!r} & set(sys.modules)))"
        for i, (statement, absent) in enumerate(steps.items())
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["0", "1", "2", "3", "4"]
