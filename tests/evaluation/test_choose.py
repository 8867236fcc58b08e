"""Who works a posterior out, and who does not, and why."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from problems import by, make_problem

from disks import BOUNDS, bounds_of, draw, make_model, start, start_of
from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline
from torusimaging_torch.evaluation import IMPLEMENTATIONS
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.gaussian import GaussianLikelihood
from torusimaging_torch.torus.at_knots import KnotMaps
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineLabelFunction


def evaluated_by(posterior):
    return Posterior(
        posterior.model, posterior.likelihood, posterior.layout, posterior.pixels
    ).evaluated_by


def test_numba_is_taken_where_it_is_installed():
    assert evaluated_by(make_problem()[0]) == "numba"


def test_torch_is_taken_where_it_is_not(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    posterior, _ = make_problem()
    assert evaluated_by(posterior) == "torch"
    with pytest.raises(ValueError, match=r'pip install "torusimaging-torch\[fast\]"'):
        by(posterior, "numba").evaluation  # noqa: B018


def test_single_precision_is_for_torch():
    model = make_model().to(torch.float32)
    data = draw(model, "gaussian")
    posterior, x = model.posterior_at(start(), data)
    assert x.dtype == torch.float32
    assert posterior.evaluated_by == "torch"
    value, gradient = posterior.value_and_gradient(x)
    expected = by(posterior, "autograd").value_and_gradient(x)
    torch.testing.assert_close(value, expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"double precision on the CPU, got torch.float32 on cpu"):
        by(posterior, "numba").evaluation  # noqa: B018


def test_unknown_names():
    posterior, _ = make_problem(evaluation="jax")
    with pytest.raises(ValueError, match=r"one of \['torch', 'numba', .*\], got 'jax'"):
        posterior.evaluation  # noqa: B018


class OwnLikelihood(GaussianLikelihood):
    def terms(self, model_label, *observed):
        return 2 * super().terms(model_label, *observed)


class OwnLabel(SplineLabelFunction):
    def forward(self, r, label_vals):
        return super().forward(r, label_vals) ** 2


class OwnTorus(OrbitalTorus):
    def radius(self, pos, vel, params):
        return 1.1 * super().radius(pos, vel, params)


def own_likelihood(posterior):
    posterior.likelihood = OwnLikelihood()


def own_label(posterior):
    model = posterior.model
    model.torus.label_func = OwnLabel(model.label_knots)
    model.knot_maps = KnotMaps(model.torus)


def own_torus(posterior):
    posterior.model.torus.__class__ = OwnTorus


def hook(posterior):
    posterior.model.torus.label_func.register_forward_hook(lambda m, x, y: 2 * y)


def own_forward(posterior):
    label_func = posterior.model.torus.label_func
    label_func.forward = lambda r, label_vals: label_vals[..., 0] * r.sin()


def data_with_gradients(posterior):
    posterior.pixels.pos.requires_grad_()


def knots_with_gradients(posterior):
    posterior.model.torus.label_func.spline.knots.requires_grad_()


CHANGES = {
    own_likelihood: "the likelihood is a OwnLikelihood",
    own_label: "label_func is a OwnLabel",
    own_torus: "the torus is a OwnTorus",
    hook: "label_func has hooks, or a forward of its own",
    own_forward: "label_func has hooks, or a forward of its own",
    data_with_gradients: "data or knots require gradients",
    knots_with_gradients: "data or knots require gradients",
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_was_changed_goes_by_autograd(change):
    posterior, x = make_problem()
    change(posterior)
    again = by(posterior, None)
    assert again.evaluated_by == f"autograd ({CHANGES[change]})"
    torch.testing.assert_close(again(x), by(posterior, "autograd")(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match=f'evaluation="torch" needs .* but {CHANGES[change]}'):
        by(posterior, "torch").evaluation  # noqa: B018


def test_gradients_by_the_data_are_not_lost():
    posterior, x = make_problem()
    pos = posterior.pixels.pos.requires_grad_()
    again = by(posterior, None)
    (gradient,) = torch.autograd.grad(again(x), pos)
    assert gradient.abs().sum() > 0


def test_functions_of_ones_own_go_by_autograd():
    model = TorusImaging1D(lambda r, a, b: a + b * r.tanh(), {2: lambda r, c: c * r})
    params = {
        "pos0": 0.0,
        "vel0": 0.0,
        "ln_Omega0": -2.5,
        "e_params": {2: {"c": 0.1}},
        "label_params": {"a": 0.0, "b": 1.0},
    }
    found = model.optimize(params, "gaussian", **draw(make_model(), "gaussian"))
    assert found.state.success
    assert found.state.evaluation == "autograd (label_func is a Function)"


class OwnModel(TorusImaging1DSpline):
    """A model of one's own, with the same functions."""


def test_a_derived_model_has_its_likelihood_by_formulas():
    model = make_model()
    model.__class__ = OwnModel
    posterior, _ = model.posterior_at(start(), draw(model, "gaussian"))
    assert posterior.evaluated_by == "numba"


def test_the_state_says_who_did_it():
    model = make_model()
    data = draw(model, "gaussian")
    for who in ("torch", "numba", "autograd"):
        state = model.optimize(start(), "gaussian", BOUNDS, evaluation=who, **data).state
        assert state.evaluation.split()[0] == who
    state = model.optimize(start(), "gaussian", BOUNDS, **data).state
    assert state.evaluation == "numba"


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
def test_all_reach_the_same_optimum(objective):
    model = make_model(e_spline="cubic")
    datas = [draw(model, objective, seed, n=12) for seed in range(2)]
    bounds = bounds_of(objective)
    for data in datas:
        ends = {
            who: model.optimize(start_of(objective), objective, bounds, evaluation=who, **data)
            for who in ("autograd", "torch", "numba")
        }
        best = ends.pop("autograd")
        n_pixels = np.size(data["pos"])
        for found in ends.values():
            assert found.state.status == best.state.status
            assert abs(found.state.fun_val - best.state.fun_val) * n_pixels < 1e-7
            # What is still to be had is 1e-9 nats: less than 1e-4 of an error.
            assert abs(found.params["ln_Omega0"] - best.params["ln_Omega0"]) < 1e-6


def test_formulas_are_named_by_the_module():
    assert IMPLEMENTATIONS == ("torch", "numba", "triton", "autograd")
