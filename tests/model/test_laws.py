"""Laws that hold whatever the numbers: reflections, shifts, units, weights, order, company.

ln L at random parameters and pixels, of both models and both kinds of data, to 1e-10 of the sum of
its terms.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from gala.units import UnitSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline

RELATIVE = 1e-10
KNOTS = np.array([0.0, 0.15, 0.3, 0.45])
N = 30
PARSEC = UnitSystem(u.pc, u.Myr, u.Msun, u.rad)
KM_S = UnitSystem(u.kpc, u.kpc / (u.km / u.s), u.Msun, u.rad)  # speeds in km/s

laws = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)
both_models = pytest.mark.parametrize("kind", ["torus", "potential", "hybrid"])
both_data = pytest.mark.parametrize("objective", ["gaussian", "poisson"])


def make(kind, convention="pv", **more):
    """Return a model of each kind, without a penalty."""
    radius = u.kpc * (u.rad / u.Myr) ** 0.5
    if kind == "torus":
        signs = {2: 1.0, 4: -1.0}
        knots = dict.fromkeys(signs, KNOTS * radius)
        more["elliptical_angle_convention"] = convention
        return TorusImaging1DSpline(KNOTS * radius, knots, signs, **more)
    e_knots = {2: KNOTS * radius} if kind == "hybrid" else None
    heights, Omega = [0.2, 0.6, 1.5] * u.kpc, 0.07 * u.rad / u.Myr
    return TorusImaging1DPotential(KNOTS * radius, heights, Omega, e_knots=e_knots, **more)


def draw(kind, seed):
    """Return parameters, with units where they have any."""
    rng = np.random.default_rng(seed)
    params = {
        "pos0": rng.normal(0, 0.05) * u.kpc,
        "vel0": rng.normal(0, 2) * u.km / u.s,
        "label_params": {"label_vals": rng.uniform(0.1, 1.0, 4)},
    }
    if kind == "torus":
        params["ln_Omega0"] = rng.normal(-2.6, 0.2)
        params["e_params"] = {m: {"vals": rng.normal(-1.5, 0.5, 3)} for m in (2, 4)}
    else:
        params["ln_rho"] = rng.normal(17, 1, 4)
    if kind == "hybrid":
        params["e_params"] = {2: {"vals": rng.normal(0, 0.2, 3)}}
    return params


def pixels(objective, seed):
    """Return pixels with units, in no order."""
    rng = np.random.default_rng(seed + 1)
    data = {
        "pos": rng.uniform(-1.2, 1.2, N) * u.kpc,
        "vel": rng.uniform(-60, 60, N) * u.km / u.s,
    }
    if objective == "poisson":
        return data | {"counts": rng.poisson(3.0, N).astype(float)}
    return data | {"label": rng.normal(0.4, 0.2, N), "label_err": rng.uniform(0.05, 0.3, N)}


def ln_l(model, params, data, objective):
    """Return ln L, and the size of its terms."""
    posterior, vector = model.posterior_at(params, data, objective)
    pixels = posterior.pixels
    label = model.torus(pixels.pos, pixels.vel, posterior.layout.unflatten(vector))
    terms = posterior.likelihood.terms(label, *pixels.observed)
    return float(posterior(vector)), float(terms.abs().sum())


def assert_same(one, other):
    assert other[0] == pytest.approx(one[0], abs=RELATIVE * max(one[1], 1.0))


@both_models
@both_data
@laws
@given(seed=seeds)
def test_reflections(kind, objective, seed):
    model, params, data = make(kind), draw(kind, seed), pixels(objective, seed)
    expected = ln_l(model, params, data, objective)
    for axis, centre in (("pos", "pos0"), ("vel", "vel0")):
        turned = params | {centre: -params[centre]}
        assert_same(expected, ln_l(model, turned, data | {axis: -data[axis]}, objective))


@both_models
@both_data
@laws
@given(seed=seeds, shift=st.floats(-0.5, 0.5), kick=st.floats(-20, 20))
def test_shifts(kind, objective, seed, shift, kick):
    model, params, data = make(kind), draw(kind, seed), pixels(objective, seed)
    shift, kick = shift * u.kpc, kick * u.km / u.s
    moved = params | {"pos0": params["pos0"] + shift, "vel0": params["vel0"] + kick}
    there = data | {"pos": data["pos"] + shift, "vel": data["vel"] + kick}
    assert_same(ln_l(model, params, data, objective), ln_l(model, moved, there, objective))


@both_models
@both_data
@laws
@given(seed=seeds)
def test_order_duplicates_and_weights(kind, objective, seed):
    model, params, data = make(kind), draw(kind, seed), pixels(objective, seed)
    expected = ln_l(model, params, data, objective)
    order = np.random.default_rng(seed).permutation(N)
    mixed = {name: values[order] for name, values in data.items()}
    assert_same(expected, ln_l(model, params, mixed, objective))
    halves = {name: np.concatenate([x, x]) for name, x in data.items()}
    share = np.random.default_rng(seed).uniform(0.1, 0.9, N)
    halves["weight"] = np.concatenate([share, 1 - share])
    assert_same(expected, ln_l(model, params, halves, objective))
    twice = {name: np.concatenate([x, x]) for name, x in data.items()}
    assert_same((2 * expected[0], 2 * expected[1]), ln_l(model, params, twice, objective))


@both_data
@laws
@given(seed=seeds)
def test_unit_systems(objective, seed):
    """The torus alone: the log densities of a potential are bare numbers of its own units."""
    params, data = draw("torus", seed), pixels(objective, seed)
    expected = ln_l(make("torus"), params, data, objective)
    in_pc = {
        name: x.to(u.pc if name == "pos" else u.pc / u.Myr) if name in ("pos", "vel") else x
        for name, x in data.items()
    }
    assert_same(expected, ln_l(make("torus"), params, in_pc, objective))
    for system, length, time in ((PARSEC, 1e3, 1.0), (KM_S, 1.0, None)):
        if time is None:
            time = (1 * u.Myr).to_value(u.kpc / (u.km / u.s))
        own = {**params, "ln_Omega0": params["ln_Omega0"] - np.log(time)}
        # Slopes are by elliptical radius: length over the root of time.
        scale = length / np.sqrt(time)
        own["e_params"] = {
            m: {"vals": leaf["vals"] - np.log(scale)} for m, leaf in params["e_params"].items()
        }
        vals = params["label_params"]["label_vals"] / np.r_[1.0, np.full(3, scale)]
        own["label_params"] = {"label_vals": vals}
        assert_same(expected, ln_l(make("torus", units=system), own, data, objective))


@both_data
@laws
@given(seed=seeds)
def test_conventions_are_each_others_mirror(objective, seed):
    """At a frequency of one, positions and velocities change places."""
    params, data = draw("torus", seed), pixels(objective, seed)
    pos, vel = data["pos"].to_value(u.kpc), data["vel"].to_value(u.km / u.s) / 60
    params |= {"pos0": 0.02, "vel0": -0.01, "ln_Omega0": 0.0}
    here = ln_l(make("torus"), params, data | {"pos": 0.3 * pos, "vel": 0.3 * vel}, objective)
    params |= {"pos0": -0.01, "vel0": 0.02}
    there = data | {"pos": 0.3 * vel, "vel": 0.3 * pos}
    assert_same(here, ln_l(make("torus", "vp"), params, there, objective))


@both_models
@laws
@given(seed=seeds, factor=st.floats(0.1, 10), offset=st.floats(-3, 3))
def test_labels_on_another_scale(kind, seed, factor, offset):
    model, params, data = make(kind), draw(kind, seed), pixels("gaussian", seed)
    vals = factor * params["label_params"]["label_vals"]
    vals[0] += offset
    scaled = data | {"label": factor * data["label"] + offset}
    scaled["label_err"] = factor * data["label_err"]
    found = ln_l(model, params | {"label_params": {"label_vals": vals}}, scaled, "gaussian")
    assert_same(ln_l(model, params, data, "gaussian"), found)


@both_models
@both_data
@laws
@given(seed=seeds)
def test_a_problem_among_others_is_what_it_is_alone(kind, objective, seed):
    model, several = make(kind), range(3)
    every = [draw(kind, seed + i) for i in several]
    data = [pixels(objective, seed + i) for i in several]
    alone = [ln_l(model, p, d, objective) for p, d in zip(every, data, strict=True)]
    bare = [model.border.params(p) for p in every]

    def stacked(leaves):
        if isinstance(leaves[0], dict):
            return {key: stacked([one[key] for one in leaves]) for key in leaves[0]}
        return torch.stack(leaves)

    together = {name: np.stack([d[name] for d in data]) for name in data[0]}
    posterior, vector = model.posterior_at(stacked(bare), together, objective)
    for one, value in zip(alone, posterior(vector).tolist(), strict=True):
        assert value == pytest.approx(one[0], abs=RELATIVE * max(one[1], 1.0))
