"""The model as one class over plain functions: what is its own, and what follows it."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from pathlib import Path

import astropy.units as u
import pytest
import torch
from gala.units import UnitSystem

from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline
from torusimaging_torch.model import fitting, predictions
from torusimaging_torch.torus import acceleration as dynamics

PC = UnitSystem(u.pc, u.Myr, u.Msun, u.rad)
KNOTS = [0.0, 0.2, 0.4]
PARAMS = {
    "pos0": 0.01 * u.kpc,
    "vel0": 1.0 * u.km / u.s,
    "ln_Omega0": -2.6,
    "e_params": {2: {"vals": [-1.0, -2.0]}, 4: {"vals": [-3.0, -2.5]}},
    "label_params": {"label_vals": [0.1, 0.5, 0.7]},
}


def make(penalty=None, units=None) -> TorusImaging1DSpline:
    knots = {2: KNOTS, 4: [0.0, 0.1, 0.5]}
    settings = {"units": units} if units else {}
    return TorusImaging1DSpline(KNOTS, knots, {2: 1.0, 4: -1.0}, penalty, **settings)


def smooth(model, params):
    """A penalty of one's own, by the public names alone."""
    at = model.at_knots(params)
    wall = torch.nn.functional.softplus(at.acceleration_deriv() / 1e-4).sum(-1)
    return (
        wall
        + (at.label / 3).square().sum(-1)
        + sum((at.e(m) / 0.1).square().sum(-1) for m in (2, 4))
    )


def test_two_classes_of_ours_and_the_second_adds_constructors_alone():
    ours = [
        c for c in TorusImaging1DSpline.__mro__ if c.__module__.startswith("torusimaging_torch")
    ]
    assert ours == [TorusImaging1DSpline, TorusImaging1D]
    added = {name for name in vars(TorusImaging1DSpline) if not name.startswith("__")}
    assert added == {"auto_init", "e_signs"}


def test_methods_are_plain_functions_with_their_documentation():
    assert TorusImaging1D.optimize is fitting.optimize
    assert TorusImaging1D.get_label is TorusImaging1D.forward is predictions.get_label
    assert "maximize ln L - R" in inspect.getdoc(TorusImaging1DSpline.optimize)
    source = inspect.getsource(TorusImaging1D)
    methods = [n for n, f in vars(TorusImaging1D).items() if inspect.isfunction(f)]
    for name in set(methods) - {"__init__", "__repr__", "_apply"}:
        assert f" {name} = " in source, f"{name} is not in the table of contents"
        assert inspect.getdoc(getattr(TorusImaging1D, name))


def test_border_follows_the_model():
    model = make(units=PC)
    assert model.border.tensor(2 * u.kpc, "pos", "length") == 2000
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.border.units["length"] == u.pc
        assert other.border.tensor(2 * u.kpc, "pos", "length") == 2000
    single = copy.deepcopy(model).to(torch.float32)
    assert single.border.place == {"dtype": torch.float32, "device": torch.device("cpu")}
    assert single.border.params(PARAMS)["pos0"].dtype == torch.float32
    assert single.get_label(0.1 * u.kpc, 0 * u.km / u.s, PARAMS).dtype == torch.float32
    assert model.border.like.dtype == torch.float64
    assert not {name for name in model.state_dict() if name.startswith("border")}


def test_functions_at_knots():
    model = make()
    p = model.border.params(PARAMS)
    at = model.at_knots(PARAMS)
    assert at.radii.tolist() == [0.2, 0.4, 0.1, 0.5]
    torch.testing.assert_close(at.label, model.label_func(model.label_knots, **p["label_params"]))
    for m, knots in model.e_knots.items():
        torch.testing.assert_close(at.e(m), model.e_funcs[m](knots[1:], **p["e_params"][m]))
    pos = p["pos0"] + at.radii / (0.5 * p["ln_Omega0"]).exp()
    gradient = dynamics.acceleration_gradient(model.torus, pos, p)
    torch.testing.assert_close(at.acceleration_deriv(), gradient, rtol=1e-10, atol=0)
    assert model.knot_maps.label.maps.shape == (3, 3, 3)
    assert {m: x.maps.shape for m, x in model.knot_maps.e.items()} == dict.fromkeys("24", (3, 4, 3))


def test_a_penalty_of_ones_own_is_written_with_public_names():
    model = make(smooth)
    batch = model.border.samples([PARAMS, PARAMS])
    one, two = model.regularization_func(model, model.border.params(PARAMS)), smooth(model, batch)
    assert two.tolist() == pytest.approx([one.item()] * 2, rel=1e-12)
    x = torch.linspace(-0.5, 0.5, 9).double()
    data = {"pos": x, "vel": 0.05 * x.flip(0), "label": x.square(), "label_err": x * 0 + 0.1}
    posterior, vector = model.posterior_at(PARAMS, data)
    expected = model.objective_gaussian(PARAMS, **data)
    torch.testing.assert_close(posterior.objective(vector), expected)
    ln_likelihood = posterior.ln_likelihood(model.border.params(PARAMS))
    torch.testing.assert_close(posterior(vector), ln_likelihood - one)


def test_a_model_without_knots_says_so():
    model = TorusImaging1D(lambda r, a: a * r, {2: lambda r_e, b: b * r_e})
    assert model.e_knots == {}
    with pytest.raises(ValueError, match="no knots"):
        model.at_knots({})
    with pytest.raises(ValueError, match="no knots"):
        _ = model.label_knots


@pytest.mark.parametrize("base", [TorusImaging1D, TorusImaging1DSpline])
@pytest.mark.parametrize("name", ["get_label", "_get_r", "forward", "optimize"])
def test_overriding_a_method_warns(base, name):
    with pytest.warns(UserWarning, match=rf"Mine overrides {name}: .* does not call") as caught:
        type("Mine", (base,), {name: lambda self: None})
    assert Path(caught[0].filename) == Path(__file__)


def test_constructors_and_names_of_ones_own_are_free():
    body = {"__init__": lambda self: None, "auto_init": None, "my_plot": None, "extra_repr": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type("Mine", (TorusImaging1DSpline,), body)
