"""With quadratic splines every number equals upstream's: its stored answers, and live."""

from __future__ import annotations

import copy
import importlib.util
from functools import partial
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.model_spline import regularization_func_default
from torusimaging_torch.numerics.params import Layout, map_leaves

DATA = Path(__file__).parents[1] / "reference"


def load_script():
    """Return the script that made the stored answers; it needs upstream to ask, not to read."""
    path = DATA / "make_upstream_answers.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


SCRIPT = load_script()


def read_stored():
    """Return the stored problems and upstream's answers to them, by name."""
    problems, answers = {}, {}
    with np.load(DATA / "upstream_answers.npz") as packed:
        stored = SCRIPT.unpack(packed)
    for key, value in stored.items():
        name, rest = key.split("/", 1)
        where = answers if rest.startswith("answer/") else problems
        where.setdefault(name, {})[rest.removeprefix("answer/")] = value
    return problems, answers


PROBLEMS, ANSWERS = read_stored()
EVEN = [name for name in PROBLEMS if name.startswith("even")]


def our_model(problem, setting=None):
    penalty = None
    if setting is not None:
        kwargs = SCRIPT.problem_penalty(problem, setting)
        penalty = partial(regularization_func_default, **kwargs)
    return TorusImaging1DSpline(
        **SCRIPT.problem_model(problem),
        regularization_func=penalty,
        e_spline="quadratic",
        label_spline="quadratic",
    )


def assert_equal(ours, answer, tolerance=1e-10):
    """Compare to 1e-10 of each value, or of 1e-3 of the largest where values cross zero."""
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    floor = 1e-3 * tolerance * np.abs(answer).max()
    assert_allclose(ours, answer, rtol=tolerance, atol=floor)


def value_and_gradient(function, params, data):
    """Return the value, and the gradient in sorted-key order, by autograd through the leaves."""
    leaves = map_leaves(lambda x: torch.tensor(x, requires_grad=True), params)
    value = function(leaves, **data)
    value.backward()
    return value, Layout.of(leaves).flatten(map_leaves(lambda leaf: leaf.grad, leaves))


def check_geometry(problem, answer):
    model, params = our_model(problem), SCRIPT.problem_params(problem)
    pos, vel = (problem[key][: SCRIPT.N_GEOMETRY] for key in ("pos", "vel"))
    centre = {key: params[key] for key in ("pos0", "vel0", "ln_Omega0")}
    r_e, theta_e = model._get_elliptical_coords(pos, vel, **centre)
    assert_equal(r_e, answer["r_e"])
    assert_equal(theta_e, answer["theta_e"])
    public = model.compute_elliptical(pos * u.kpc, vel * u.kpc / u.Myr, params)
    assert_equal(public[0].to_value(u.kpc * (u.rad / u.Myr) ** 0.5), answer["r_e"])
    assert_equal(public[1].to_value(u.rad), answer["theta_e"])
    es = model._get_es(answer["r_e"], params["e_params"])
    assert sorted(es) == SCRIPT.problem_orders(problem)
    for m, e in es.items():
        assert_equal(e, answer[f"e_{m}"])
    r = model._get_r(answer["r_e"], answer["theta_e"], params["e_params"])
    assert_equal(r, answer["r"])


def check_label(problem, answer):
    model, params = our_model(problem), SCRIPT.problem_params(problem)
    pos, vel = problem["pos"], problem["vel"]
    assert_equal(model._get_label(pos, vel, params), answer["label"])
    in_km_s = (vel * u.kpc / u.Myr).to(u.km / u.s)
    assert_equal(model.get_label((pos * u.kpc).to(u.pc), in_km_s, params), answer["label"])


def check_likelihoods(problem, answer):
    model = our_model(problem)
    for name, label, data in (
        ("ln_gaussian_likelihood", "label_vals", SCRIPT.gaussian_data(problem)),
        ("ln_poisson_likelihood", "ln_counts_vals", SCRIPT.poisson_data(problem)),
    ):
        params = SCRIPT.problem_params(problem, label)
        value, gradient = value_and_gradient(getattr(model, name), params, data)
        assert_equal(value, answer[name])
        assert_equal(gradient, answer[f"{name}_grad"])


def check_acceleration(problem, answer):
    model, params = our_model(problem), SCRIPT.problem_params(problem)
    pos = problem["acc_pos"]
    acc = model.get_acceleration(pos * u.kpc, params)
    assert_equal(acc.to_value(u.kpc / u.Myr**2), answer["acc"])
    dacc = model.get_acceleration_deriv(pos * u.kpc, params)
    assert_equal(dacc.to_value(u.Myr**-2), answer["dacc"])
    assert_equal(model._get_dacc_dpos_vmap(pos, params), answer["dacc"])


def check_penalty(problem, answer):
    model = our_model(problem)
    params = map_leaves(torch.as_tensor, SCRIPT.problem_params(problem))
    ours = [
        regularization_func_default(model, params, **SCRIPT.problem_penalty(problem, i))
        for i in range(len(SCRIPT.PENALTIES))
    ]
    assert_equal(torch.stack(ours), answer["penalties"])


def check_objectives(problem, answer):
    model = our_model(problem, int(problem["seed"]) % len(SCRIPT.PENALTIES))
    for name, label, data in (
        ("objective_gaussian", "label_vals", SCRIPT.gaussian_data(problem)),
        ("objective_poisson", "ln_counts_vals", SCRIPT.poisson_data(problem)),
    ):
        params = SCRIPT.problem_params(problem, label)
        value, gradient = value_and_gradient(getattr(model, name), params, data)
        assert_equal(value, answer[name])
        assert_equal(gradient, answer[f"{name}_grad"])


CHECKS = [check_geometry, check_label, check_likelihoods]
CHECKS_OF_EVEN = [check_acceleration, check_penalty, check_objectives]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_equals_stored_answers(name, check):
    check(PROBLEMS[name], ANSWERS[name])


@pytest.mark.parametrize("check", CHECKS_OF_EVEN)
@pytest.mark.parametrize("name", EVEN)
def test_equals_stored_answers_of_even_orders(name, check):
    check(PROBLEMS[name], ANSWERS[name])


def test_stored_problems_are_those_of_the_script():
    assert len(EVEN) == 20
    for name, expected in SCRIPT.all_problems().items():
        assert set(PROBLEMS[name]) == set(expected)
        for key, value in expected.items():
            assert_allclose(PROBLEMS[name][key], value, rtol=1e-13, err_msg=f"{name}/{key}")


def test_stored_problems_put_everything_to_the_test():
    beyond = [p["label_knots"][-1] < ANSWERS[n]["r_e"].max() for n, p in PROBLEMS.items()]
    assert all(beyond)
    slopes = [p["label_vals"][1:] for p in PROBLEMS.values()]
    assert any((s > 0).any() and (s < 0).any() for s in slopes)
    # The wall against negative densities is felt: more than the other terms' rounding.
    assert all(
        a["penalties"][3] > 1.01 * a["penalties"][1] for n, a in ANSWERS.items() if n in EVEN
    )


def test_equals_upstream_live():
    jax = pytest.importorskip("jax")
    pytest.importorskip("torusimaging")
    # One model with few knots: upstream takes long to compile.
    problem = SCRIPT.make_problem(1002, (2, 4), n_points=60, n_knots=(3, 3))
    problems = [problem, SCRIPT.vary(problem, 1), SCRIPT.vary(problem, 2)]
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        ask = SCRIPT.ask_upstream(problem)
        answers = [ask(problem) for problem in problems]
    finally:
        jax.config.update("jax_enable_x64", before)
    for problem, answer in zip(problems, answers, strict=True):
        for check in CHECKS + CHECKS_OF_EVEN:
            check(problem, answer)


# --- the harmonic oscillator of upstream's own tests ----------------------------------------------

# Upstream's start there, by running its auto_init on the file.
SHO_LABEL_VALS = np.array([0.04416788861003728] + 7 * [0.3205356119347216])
SHO_START = 4.93929409510301
SHO_UPSTREAM_OPTIMUM = 0.9542298524210944


@pytest.fixture(scope="module")
def sho(shared_data):
    """Return the binned data with units, and the usable pixels alone."""
    with np.load(shared_data / "upstream_sho_test_data.npz") as stored:
        binned = dict(stored)
    binned["pos"] = binned["pos"] * u.kpc
    binned["vel"] = binned["vel"] * u.kpc / u.Myr
    label, label_err = binned["label"], binned["label_err"]
    usable = np.isfinite(label) & np.isfinite(label_err) & (label_err > 0)
    keys = ("pos", "vel", "label", "label_err")
    return binned, {key: binned[key][usable] for key in keys}


@pytest.fixture(scope="module")
def sho_model(sho):
    return TorusImaging1DSpline.auto_init(
        sho[0],
        label_knots=8,
        e_knots={2: 8},
        label_l2_sigma=1.0,
        label_smooth_sigma=0.5,
        e_l2_sigmas={2: 0.5},
        e_smooth_sigmas={2: 0.5},
        knots="upstream",
        e_spline="quadratic",
        label_spline="quadratic",
    )


@pytest.fixture(scope="module")
def sho_start(sho_model):
    params = copy.deepcopy(sho_model[2])
    params["e_params"] = {2: {"vals": np.full(7, -16.0)}}
    params["label_params"] = {"label_vals": SHO_LABEL_VALS}
    return params | {"ln_Omega0": np.log(0.07), "pos0": 0.1, "vel0": 0.005}


def test_upstream_knots_on_the_oscillator(sho_model):
    model = sho_model[0]
    assert_allclose(model.label_knots, np.linspace(0, 0.43048348863935015, 8), rtol=1e-12)
    assert_allclose(model.e_knots[2], model.label_knots, rtol=1e-15)
    assert model.e_signs == {2: 1.0}


def test_objective_at_upstream_start_on_the_oscillator(sho, sho_model, sho_start):
    assert len(sho[1]["pos"]) == 14_952
    value = sho_model[0].objective_gaussian(sho_start, **sho[1])
    assert float(value) == pytest.approx(SHO_START, rel=1e-12)
    # Pixels that cannot be used do not count, and km/s are honoured.
    data = {key: sho[0][key] for key in sho[1]} | {"vel": sho[0]["vel"].to(u.km / u.s)}
    value = sho_model[0].objective_gaussian(sho_start, **data)
    assert float(value) == pytest.approx(SHO_START, rel=1e-12)


@pytest.mark.parametrize("start", ["upstream", "auto_init"])
def test_optimum_on_the_oscillator_is_not_above_upstream(sho, sho_model, sho_start, start):
    model, bounds, init_params = sho_model
    params0 = sho_start if start == "upstream" else init_params
    result = model.optimize(params0, "gaussian", bounds, **sho[1])
    assert result.state.success
    assert result.state.fun_val <= SHO_UPSTREAM_OPTIMUM
    assert result.state.fun_val == pytest.approx(0.95422923, abs=1e-8)
    p = result.params
    assert float(p["ln_Omega0"]) == pytest.approx(-2.52541, abs=1e-4)
    assert float(p["pos0"]) == pytest.approx(5.544e-4, abs=1e-5)
    assert float(p["vel0"]) == pytest.approx(-6.74e-5, abs=1e-6)
