"""One option has one name: Python, batches, cross-validation and the command line agree."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
from gala.units import galactic

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch.settings import BatchSettings
from torusimaging_torch.command.arguments import make_parser
from torusimaging_torch.cross_validation.candidates import make_candidates
from torusimaging_torch.likelihoods.penalty import regularization_func_default
from torusimaging_torch.likelihoods.potential_penalty import regularization_func_potential
from torusimaging_torch.settings import ModelSettings, Settings, default_of, option_of

NEEDED = inspect.Parameter.empty
AUTO_INIT = {
    "torus": inspect.signature(TorusImaging1DSpline.auto_init).parameters,
    "potential": inspect.signature(TorusImaging1DPotential.auto_init).parameters,
}
OPTIMIZE = inspect.signature(TorusImaging1DSpline.optimize).parameters
PENALTIES = {
    name
    for function in (regularization_func_default, regularization_func_potential)
    for name in inspect.signature(function).parameters
}
# What an analysis or a batch alone can choose: its pixels, errors, stars, and how it runs.
OF_AN_ANALYSIS = {
    "model", "pos_max", "vel_max", "n_bins", "s", "uncertainty", "num_samples", "selection",
    "selection_error", "weak_priors", "outliers", "dacc_scale",
}  # fmt: skip
OF_A_BATCH = {
    "model", "objective", "uncertainty", "hessian", "multistart", "seed", "dtype", "init",
    "penalty_arguments",
}  # fmt: skip


def known(name):
    """Return whether a name is one of those of upstream's functions."""
    return name in PENALTIES or any(name in p for p in (*AUTO_INIT.values(), OPTIMIZE))


@pytest.mark.parametrize(("cls", "own"), [(Settings, OF_AN_ANALYSIS), (BatchSettings, OF_A_BATCH)])
def test_names_are_those_of_the_functions(cls, own):
    names = {one.name for one in fields(cls)}
    assert own <= names
    assert [name for name in names - own if not known(name)] == []


def test_defaults_of_a_batch_are_those_of_single_fits():
    """All but what differs between both models, and what units say."""
    differ = ("label_knots", "e_knots", "label_spline", "tol")
    for one in fields(BatchSettings):
        for parameters in (*AUTO_INIT.values(), OPTIMIZE):
            if one.name not in parameters or one.name in differ:
                continue
            expected = parameters[one.name].default
            if expected is not NEEDED:
                assert default_of(one) == expected, one.name
    named = inspect.signature(fit_many).parameters
    for name in ("label_knots", "e_knots", "objective"):
        assert named[name].default == BatchSettings.__dataclass_fields__[name].default


def test_an_analysis_changes_no_other_defaults():
    """What an analysis chooses otherwise than `auto_init` is chosen on purpose, and stands here."""
    otherwise = {
        one.name
        for one in fields(ModelSettings)
        if default_of(one) != default_of(Settings.__dataclass_fields__[one.name])
    }
    shape = {"e_knots", "e_knots_spacing_power", "label_spline"}
    assert otherwise == {"model", "priors", "hold"} | shape


def test_cross_validation_takes_what_batches_take():
    grid = {"label_knots": [3, 4], "e_knots_spacing_power": [0.5, 1.0]}
    rest = {"e_knots": {2: 3}, "label_l2_sigma": 1.0, "label_smooth_sigma": 1.0}
    rest |= {"e_l2_sigmas": 1.0, "e_smooth_sigmas": 1.0}
    assert len(make_candidates(grid, {**rest, "units": galactic}, "gaussian")) == 4


@pytest.mark.parametrize("command", ["fit", "batch", "demo"])
def test_options_are_those_of_the_settings(command):
    parser = make_parser()[1][command]
    options = {a.option_strings[-1]: a for a in vars(parser)["_actions"] if a.option_strings}
    every = {option_of(one): one for one in fields(Settings)}
    shared = {name for name in every if name in options and name != "--selection"}
    assert len(shared) > (20 if command != "demo" else 1)
    for name in shared:
        assert options[name].dest == every[name].name
        if every[name].metadata["choices"]:
            assert set(options[name].choices) <= set(every[name].metadata["choices"])
    if command == "fit":
        missing = set(every) - set(options)
        assert missing == {"--weak-priors"}  # which can be refused: --no-weak-priors
        assert "--no-weak-priors" in options


def test_every_setting_is_described_in_its_class():
    for cls in (ModelSettings, Settings, BatchSettings):
        for one in fields(cls):
            words = one.metadata["help"]
            assert len(words) > 10
            assert words[1:] in cls.__doc__
