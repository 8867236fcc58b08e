"""Whatever is given, the answer is right, or an error of a documented type names the argument.

Nothing that was given is changed, and no warning of another library comes out. A short search by
default; ``make fuzz`` looks for much longer.
"""

from __future__ import annotations

import copy
import os
import warnings
from types import ModuleType

import functions_data
import functions_model
import functions_results
import hostile
import numpy as np
import pytest
import torch
from functions_model import LABELS, PARAMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import torusimaging_torch as oti
from torusimaging_torch.numerics.params import iter_leaves

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SEARCH = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,  # a short search is the same for everybody
)

# What errors may be: of which astropy's about units are kinds.
DOCUMENTED = (ValueError, TypeError, KeyError)

# Each function with arguments that are good.
FUNCTIONS = {
    **functions_model.FUNCTIONS,
    **functions_data.FUNCTIONS,
    **functions_results.FUNCTIONS,
}
optimize = FUNCTIONS["TorusImaging1DSpline.optimize"][0]


def numbers(value):
    """Return all numbers of an answer, in one array."""
    if isinstance(value, dict):
        return np.concatenate([numbers(leaf) for _, leaf in iter_leaves(value)])
    if isinstance(value, (tuple, list)):
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
SYNONYMS = {
    "knots",
    "condition",
    "column",
    "usable pixel",
    "data",
    "shape",
    "stars",
    "pixel",
    "bins",
}


def names_of(changed):
    return {*changed, *SYNONYMS, *PARAMS, *PARAMS["label_params"], "vals", "params", "e_params"}


REFERENCE = {}


def reference(name):
    if name not in REFERENCE:
        function, arguments = FUNCTIONS[name]
        REFERENCE[name] = call(function, arguments, ())
    return REFERENCE[name]


def arrays(name):
    return sorted(
        which
        for which, value in FUNCTIONS[name][1].items()
        if isinstance(value, (np.ndarray, torch.Tensor))
    )


def choices(name):
    """Return the arguments that are a number, a text, or a list of these."""
    return sorted(set(FUNCTIONS[name][1]) - set(arrays(name)) - {"params", "e_params", "bounds"})


pytestmark = pytest.mark.filterwarnings("ignore")
with_arrays = pytest.mark.parametrize("name", [name for name in FUNCTIONS if arrays(name)])
with_choices = pytest.mark.parametrize("name", [name for name in FUNCTIONS if choices(name)])
with_params = pytest.mark.parametrize(
    "name", [name for name, (_, given) in FUNCTIONS.items() if given.get("params") is PARAMS]
)
N_EACH = settings(SEARCH, max_examples=max(EXAMPLES // 12, 4))


@with_arrays
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


@with_arrays
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


@with_choices
@N_EACH
@given(data=st.data())
def test_choices_that_make_no_sense_are_answered_or_named(name, data):
    function, arguments = FUNCTIONS[name]
    which = data.draw(st.sampled_from(choices(name)))
    value = hostile.CHOICES[data.draw(st.sampled_from(sorted(hostile.CHOICES)))]
    call(function, {**arguments, which: value}, (which,))


@pytest.mark.parametrize("kind", hostile.PARAMS)
@pytest.mark.parametrize(
    "name", [n for n, (_, given) in FUNCTIONS.items() if given.get("params") is PARAMS]
)
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


# What is public and not searched, and why.
NOT_SEARCHED = {
    "sampling takes seconds, and reads what `get_crlb` reads": {"sample", "mcmc_run_label"},
    "penalties are called with a model by fits": {
        "regularization_func_default",
        "regularization_func_potential",
    },
    "drawn from fits and data that other functions have read": {
        "plot_action_contours",
        "plot_batch",
        "plot_data_model_residual",
        "plot_data_models_residual",
        "plot_profiles",
        "plot_selection",
        "plot_spline_functions",
    },
    "made of what other functions return": {
        "JointSubsamples",
        "Selection",
        "merge",
        "of_pixels",
        "part",
        "to_numpy",
    },
    "of the e_m model in radii alone, or its start": {
        "TorusImaging1DPotential.estimate_init_params",
        "TorusImaging1DPotential.get_circular_velocity",
        "TorusImaging1DPotential.get_guiding_radius",
        "TorusImaging1DPotential.get_radial_force",
    },
}


def public():
    """Yield the names of all public functions, and of the methods of both models."""
    for name in oti.__all__:
        module = getattr(oti, name)
        if isinstance(module, ModuleType):
            yield from (one for one in module.__all__ if callable(getattr(module, one)))
    for model in (oti.TorusImaging1DSpline, oti.TorusImaging1DPotential):
        own = [name for name in dir(model) if name[0] != "_" and not hasattr(torch.nn.Module, name)]
        yield from (f"{model.__name__}.{name}" for name in own if callable(getattr(model, name)))


def test_nothing_public_is_forgotten():
    searched = {name.partition(" ")[0] for name in FUNCTIONS}
    searched |= {name.partition(".")[0] for name in searched}
    known = searched.union(*NOT_SEARCHED.values())
    assert {x for x in public() if x not in known and x.partition(".")[2] not in known} == set()
