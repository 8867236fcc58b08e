"""A fit inside a loss: derivatives of the optimum against refits and against autograd's check."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import gradcheck

from disks import BOUNDS, bounds_of, draw, make_model, start_of, truth
from torusimaging_torch.numerics.params import Layout

TOL = 1e-13


def tensors(model, data):
    names = {"pos": "length", "vel": "velocity", "label": None, "label_err": None, "counts": None}
    return {k: model.border.tensor(v, k, names[k]).flatten() for k, v in data.items()}


def problem(objective="gaussian"):
    model = make_model()
    data = tensors(model, draw(model, objective, n=8))
    return model, data


def fitted(model, data, objective="gaussian", bounds="usual", **kwargs):
    """Return the optimum as a vector, from where it is nearly."""
    chosen = bounds_of(objective) if bounds == "usual" else bounds
    start = kwargs.pop("start", start_of(objective))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rounding can be felt at such a tolerance
        params, state = model.optimize(
            start, objective, chosen, tol=TOL, differentiable=True, **data, **kwargs
        )
    return Layout.of(params).flatten(params), state


def differences(model, data, name, direction, objective="gaussian", h=1e-2):
    """Return how the optimum moves along a direction of the data: by refits on either side."""
    x = {}
    for side in (-1, 1):
        x[side], _ = fitted(model, data | {name: data[name] + side * h * direction}, objective)
    return (x[1] - x[-1]).detach() / (2 * h)


def along(x, leaf, direction):
    """Return the derivatives of a vector along a direction of what it depends on."""
    rows = [torch.autograd.grad(x[i], leaf, retain_graph=True)[0] for i in range(len(x))]
    return torch.stack([(row * direction).sum() for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("gaussian", "label"),
        ("gaussian", "label_err"),
        ("gaussian", "pos"),
        ("gaussian", "vel"),
        ("gaussian", "weight"),
        ("poisson", "counts"),
    ],
)
def test_derivatives_are_those_of_refits(objective, name):
    model, data = problem(objective)
    data["weight"] = torch.linspace(0.5, 1.5, len(data["pos"])).double()
    rng = torch.Generator().manual_seed(1)
    direction = torch.randn(len(data["pos"]), generator=rng, dtype=torch.float64)
    direction = direction * data[name].abs().mean() * 0.1
    leaf = data[name].clone().requires_grad_()
    x, state = fitted(model, data | {name: leaf}, objective)
    plain, _ = model.optimize(start_of(objective), objective, bounds_of(objective), **data)
    torch.testing.assert_close(x.detach(), Layout.of(plain).flatten(plain), rtol=1e-4, atol=1e-4)
    expected = differences(model, data, name, direction, objective)
    found = along(x, leaf, direction)
    at_bound = torch.tensor([n in state.at_bound for n in Layout.of(plain).names])
    assert (found[at_bound] == 0).all()
    scale = float(expected[~at_bound].detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-5 * scale)


def test_gradcheck_of_a_loss_with_a_fit_inside():
    model, data = problem()
    at_optimum, _ = model.optimize(start_of("gaussian"), "gaussian", BOUNDS, **data)

    def loss(label):
        x, _ = fitted(model, data | {"label": label}, start=at_optimum)
        return x[-3:]  # the frequency and where the midplane is

    label = data["label"].clone().requires_grad_()
    assert gradcheck(loss, (label,), eps=1e-4, atol=1e-5, rtol=1e-3, fast_mode=True)


def test_a_batch_is_its_problems():
    model, data = problem()
    labels = torch.stack([data["label"], data["label"] + 0.02 * data["pos"]])
    batch = {k: v.expand(2, -1) for k, v in data.items()} | {"label": labels.requires_grad_()}
    params = start_of("gaussian")
    many = _repeated(model, params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found, _ = model.optimize(
            many, "gaussian", bounds_of("gaussian"), tol=TOL, differentiable=True, **batch
        )
    (slope,) = torch.autograd.grad(found["ln_Omega0"].sum(), labels)
    for i in range(2):
        leaf = labels[i].detach().requires_grad_()
        x, _ = fitted(model, data | {"label": leaf})
        names = Layout.of(model.border.params(params)).names
        (expected,) = torch.autograd.grad(x[names.index("ln_Omega0")], leaf)
        torch.testing.assert_close(slope[i], expected, rtol=1e-3, atol=1e-7)


def _repeated(model, params):
    layout = Layout.of(model.border.params(params))
    vector = layout.flatten(model.border.params(params))
    return layout.unflatten(vector.expand(2, -1).clone())


def test_a_fit_that_did_not_converge_has_no_derivatives():
    model, data = problem()
    leaf = data["label"].clone().requires_grad_()
    with pytest.warns(RuntimeWarning, match="did not converge"):
        params, _ = model.optimize(
            start_of("gaussian"), "gaussian", BOUNDS, max_iter=2, differentiable=True,
            **data | {"label": leaf},
        )  # fmt: skip
    (slope,) = torch.autograd.grad(params["pos0"], leaf)
    assert params["pos0"].isfinite()
    assert slope.isnan().all()


@pytest.mark.parametrize("name", ["pos", "vel", "label", "label_err", "weight"])
@pytest.mark.parametrize("evaluation", [None, "autograd"])
def test_without_it_the_fit_is_cut_off(name, evaluation):
    model, data = problem()
    data["weight"] = torch.ones_like(data["pos"])
    data[name] = data[name].clone().requires_grad_()
    params, _ = model.optimize(truth(), "gaussian", BOUNDS, evaluation=evaluation, **data)
    assert not params["pos0"].requires_grad


def test_knots_that_require_gradients_leave_no_trace_in_a_fit():
    model, data = problem()
    knots = model.torus.label_func.spline.knots.requires_grad_()
    params, state = model.optimize(truth(), "gaussian", BOUNDS, **data)
    assert "autograd" in state.evaluation
    assert knots.requires_grad
    assert not params["pos0"].requires_grad
