"""Whatever is given, the answer is right, or an error of a documented type names the argument.

Nothing that was given is changed, and no warning of another library comes out. A short search by
default; ``make fuzz`` looks for much longer.
"""

from __future__ import annotations

import copy
import os
import warnings

import astropy.units as u
import hostile
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import disks
from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.results import profiles

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SEARCH = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

# What errors may be: of which astropy's about units are kinds.
DOCUMENTED = (ValueError, TypeError, KeyError)

MODEL, GRID = disks.make_model(), disks.grid(6)
PARAMS = disks.truth()
LABELS = disks.draw(MODEL, "gaussian", seed=0, n=6)
COUNTS = disks.draw(MODEL, "poisson", seed=0, n=6)
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


def optimize(params, bounds=None, **data):
    return MODEL.optimize(params, "gaussian", bounds, max_iter=2, **data).params


def bin_label(pos, vel, label, label_err):
    return get_binned_label(pos, vel, label, BINS, label_err=label_err)["label"]


def init(cls, **settings):
    def start(**data):
        return cls.auto_init(data, **settings)[2]

    return start


WIDTHS = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
WIDTHS |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}
# Each function with arguments that are good.
FUNCTIONS = {
    "get_label": (MODEL.get_label, {"pos": POS, "vel": VEL, "params": PARAMS}),
    "compute_elliptical": (MODEL.compute_elliptical, {"pos": POS, "vel": VEL, "params": PARAMS}),
    "get_acceleration": (MODEL.get_acceleration, {"pos": POS, "params": PARAMS}),
    "get_density": (MODEL.get_density, {"pos": POS, "params": PARAMS}),
    "get_surface_density": (MODEL.get_surface_density, {"pos": POS, "params": PARAMS}),
    "get_potential": (MODEL.get_potential, {"pos": POS, "params": PARAMS}),
    "compute_action_angle": (
        lambda pos, vel, params: MODEL.compute_action_angle(pos, vel, params)["J"],
        {"pos": POS, "vel": VEL, "params": PARAMS},
    ),
    "profiles": (
        lambda pos_grid, params: profiles(MODEL, params, pos_grid)["density"],
        {"pos_grid": POS, "params": PARAMS},
    ),
    "objective_gaussian": (MODEL.objective_gaussian, {"params": PARAMS, **LABELS}),
    "objective_poisson": (MODEL.objective_poisson, {"params": PARAMS, **COUNTS}),
    "get_crlb": (
        lambda params, **data: MODEL.get_crlb(params, data, hessian="expected"),
        {"params": PARAMS, **LABELS},
    ),
    "optimize": (optimize, {"params": PARAMS, **LABELS}),
    "get_binned_label": (bin_label, STARS),
    "get_binned_counts": (
        lambda pos, vel: get_binned_counts(pos, vel, BINS)["counts"],
        {name: STARS[name] for name in ("pos", "vel")},
    ),
    "auto_init": (init(TorusImaging1DSpline, label_knots=3, e_knots={2: 3}, **WIDTHS), LABELS),
    "auto_init of a potential": (init(TorusImaging1DPotential, n_components=3), LABELS),
}


def numbers(value):
    """Return all numbers of an answer, in one array."""
    if isinstance(value, dict):
        return np.concatenate([numbers(leaf) for _, leaf in iter_leaves(value)])
    if isinstance(value, tuple):
        return np.concatenate([numbers(one) for one in value])
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return np.ravel(np.asarray(getattr(value, "value", value), dtype=float))


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (torch.Tensor, np.ndarray)):
        first, second = (
            x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in (one, other)
        )
        first, second = np.ma.getdata(first), np.ma.getdata(second)
        first, second = (np.asarray(getattr(x, "value", x)) for x in (first, second))
        return first.dtype == second.dtype and bool(np.all((first == second) | (first != first)))
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or one == other


def copied(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return {k: copied(v) for k, v in value.items()} if isinstance(value, dict) else _copy(value)


def _copy(value):
    return value if type(value) is object else copy.deepcopy(value)


def call(function, arguments, changed):
    """Call a function, and judge how it ends; return the numbers of its answer, if it has one."""
    before = {name: copied(value) for name, value in arguments.items()}
    answer, text = None, None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            answer = numbers(function(**arguments))
        except DOCUMENTED as error:
            text = str(error)
    assert text is None or any(name in text for name in names_of(changed)), f"names nothing: {text}"
    leaked = [
        w for w in told if "site-packages" in w.filename or "/torusimaging_torch/" in w.filename
    ]
    assert not leaked, [f"{w.category.__name__}: {w.message} ({w.filename})" for w in leaked]
    for name, value in before.items():
        assert same(value, arguments[name]), f"{name} was changed"
    return answer


# Words that stand for an argument in an error about several.
SYNONYMS = {"usable pixel", "data", "shape", "stars", "pixel", "bins"}


def names_of(changed):
    return {*changed, *SYNONYMS, *PARAMS, *PARAMS["label_params"], "vals", "params", "e_params"}


REFERENCE = {}


def reference(name):
    if name not in REFERENCE:
        function, arguments = FUNCTIONS[name]
        REFERENCE[name] = call(function, arguments, ())
    return REFERENCE[name]


def arrays(name):
    return sorted(set(FUNCTIONS[name][1]) - {"params"})


pytestmark = pytest.mark.filterwarnings("ignore")
functions = pytest.mark.parametrize("name", FUNCTIONS)
N_EACH = settings(SEARCH, max_examples=max(EXAMPLES // 6, 4))


@functions
@N_EACH
@given(data=st.data())
def test_the_form_of_numbers_does_not_matter(name, data):
    function, arguments = FUNCTIONS[name]
    which = data.draw(st.sampled_from(arrays(name)))
    how = data.draw(hostile.harmless)
    value = hostile.HARMLESS[how](arguments[which])
    found = call(function, {**arguments, which: value}, (which,))
    assert found is not None, "refused"
    expected = reference(name)
    # What is decided by a number, such as the pixel of a star, may be decided otherwise in 32 bits.
    tolerance = 1e-3 if how == "float32" else 1e-7
    scale = np.nanmax(np.abs(expected))
    close = np.isclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    assert close.mean() > (0.7 if how == "float32" else 0.999)


@functions
@N_EACH
@given(data=st.data())
def test_what_is_hostile_is_answered_or_named(name, data):
    function, arguments = FUNCTIONS[name]
    changes = {}
    for which in data.draw(
        st.lists(st.sampled_from(arrays(name)), min_size=1, max_size=2, unique=True)
    ):
        changes[which] = hostile.HOSTILE[data.draw(hostile.hostile)](arguments[which])
    call(function, {**arguments, **changes}, changes)


@pytest.mark.parametrize("kind", hostile.PARAMS)
@pytest.mark.parametrize("name", [n for n, (_, given) in FUNCTIONS.items() if "params" in given])
def test_parameters_that_are_not_the_models_are_named(name, kind):
    function, arguments = FUNCTIONS[name]
    changed = hostile.change_of_parameters(kind, PARAMS)
    answer = call(function, {**arguments, "params": changed}, ("params", "pos1", "omega"))
    harmless = {"extra order", "missing order"}  # of functions that look at what they need
    if kind in ("missing", "short leaf", "text", "wrong unit", "None", "a list") and (
        kind != "short leaf" or name in ("get_label", "objective_gaussian", "optimize")
    ):
        assert answer is None or kind in harmless


@pytest.mark.parametrize("kind", hostile.BOUNDS)
def test_bounds_that_make_no_sense_are_named(kind):
    arguments = {"params": PARAMS, "bounds": hostile.BOUNDS[kind], **LABELS}
    answer = call(optimize, arguments, ("bound", "omega", "lower"))
    assert (answer is not None) == (kind == "infinite")
