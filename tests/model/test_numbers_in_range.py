"""Settings that are numbers: 0 is not taken for the default, and nonsense is named."""

from __future__ import annotations

import math

import pytest

import disks
from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many

WIDTHS = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}
TORUS = {"label_knots": 4, "e_knots": {2: 4}, **WIDTHS}
MODEL = disks.make_model()
DATA = disks.draw(MODEL, "gaussian", seed=0, n=12)

POSITIVE = ["label_knots_spacing_power", "e_knots_spacing_power", "re_max_factor", *WIDTHS]
NONSENSE = pytest.mark.parametrize("value", [0, -1, math.nan])


@NONSENSE
@pytest.mark.parametrize("name", [*POSITIVE, "dacc_dpos_scale"])
def test_widths_and_powers_of_a_torus_are_positive(name, value):
    value = {2: value} if name.endswith("sigmas") else value
    with pytest.raises(ValueError, match=rf"{name}.* must be positive, got"):
        TorusImaging1DSpline.auto_init(DATA, **TORUS | {name: value})
    with pytest.raises(ValueError, match=rf"{name}.* must be positive, got"):
        fit_many([DATA], progress=False, **TORUS | {name: value})


@NONSENSE
@pytest.mark.parametrize(
    "name",
    ["label_smooth_sigma", "ln_rho_sigma", "e_sigma", "label_knots_spacing_power", "re_max_factor"],
)
def test_widths_and_powers_of_a_potential_are_positive(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be positive, got"):
        TorusImaging1DPotential.auto_init(DATA, **{name: value})


def test_a_penalty_without_a_wall_is_one():
    TorusImaging1DSpline.auto_init(DATA, **TORUS, dacc_strength=0)
    with pytest.raises(ValueError, match="dacc_strength must be zero or positive, got -1"):
        TorusImaging1DSpline.auto_init(DATA, **TORUS, dacc_strength=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tol", -1), ("tol", math.nan), ("max_iter", -1), ("max_iter", 1.5), ("history", 0)],
)
def test_how_a_fit_ends_is_a_number_that_makes_sense(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        MODEL.optimize(disks.start(), "gaussian", disks.BOUNDS, **DATA, **{name: value})
    with pytest.raises(ValueError, match=f"{name} must be"):
        fit_many([DATA], progress=False, **TORUS, **{name: value})


def test_no_iteration_is_a_number_of_iterations():
    with pytest.warns(RuntimeWarning, match="did not converge"):
        _, state = MODEL.optimize(disks.start(), "gaussian", disks.BOUNDS, max_iter=0, **DATA)
    assert state.iter_num == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_samples", 0),
        ("num_warmup", -1),
        ("num_chains", 0),
        ("max_tree_depth", 0),
        ("target_accept", 1),
        ("seed", -1),
    ],
)
def test_a_sampler_has_numbers_that_make_sense(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        MODEL.sample(DATA, disks.truth(), disks.BOUNDS, **{name: value})
