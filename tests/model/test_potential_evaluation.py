"""The posterior of a model with a potential: closed formulas against autograd."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from potential_models import CORRECTION, KNOTS, make, truth

from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.model_potential import regularization_func_potential


def problem(model, params, objective="gaussian", batch=(), seed=0, grid=False, evaluation=None):
    """Return a posterior, parameters and data: of stars, or of pixels in a grid of their own."""
    rng = np.random.default_rng(seed)
    shape = (*batch, 60)
    data = {"pos": rng.uniform(-1, 1, shape), "vel": rng.uniform(-0.06, 0.06, shape)}
    if grid:  # of three to six positions
        data["pos"] = data["pos"][..., :6].repeat(10, axis=-1)
        data["pos"][0] = data["pos"][0] if not batch else np.resize(data["pos"][0, :3], 60)
    data["pos"][..., 0] = 0.02  # in the midplane
    if objective == "gaussian":
        data |= {"label": rng.normal(size=shape), "label_err": rng.uniform(0.1, 0.3, shape)}
    else:
        data |= {"counts": rng.poisson(3.0, shape).astype(float)}
    data["weight"] = rng.uniform(0.5, 1.5, shape)
    if batch:
        params = model.border.samples([params] * batch[0])
        params["ln_rho"] = params["ln_rho"] + torch.tensor(rng.normal(0, 0.2, (batch[0], 4)))
    return model.posterior_at(params, data, objective, evaluation), params, data


def penalty(orders=()):
    return partial(
        regularization_func_potential,
        label_smooth_sigma=0.4,
        ln_rho_mean=17.0,
        ln_rho_sigma=1.5,
        e_sigmas=dict.fromkeys(orders, 0.3),
    )


@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("who", ["torch", "numba"])
def test_formulas_equal_autograd(objective, hybrid, batch, grid, who):
    model = make(
        e_knots=KNOTS if hybrid else None, regularization_func=penalty(KNOTS if hybrid else ())
    )
    params = truth(**(CORRECTION if hybrid else {}))
    (posterior, x), p, data = problem(model, params, objective, batch, grid=grid, evaluation=who)
    assert posterior.evaluated_by == who
    auto, _ = model.posterior_at(p, data, objective, "autograd")
    value, gradient = posterior.value_and_gradient(x)
    expected = auto.value_and_gradient(x)
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(posterior(x), expected[0], rtol=1e-12, atol=1e-12)
    size = float(expected[1].abs().max())
    torch.testing.assert_close(gradient, expected[1], rtol=1e-11, atol=1e-12 * size)
    information = auto.data_information(x)
    size = float(information.abs().max())
    torch.testing.assert_close(
        posterior.data_information(x), information, rtol=1e-9, atol=1e-12 * size
    )
    hessian = auto.hessian(x)
    size = float(hessian.abs().max())
    torch.testing.assert_close(posterior.hessian(x), hessian, rtol=1e-9, atol=1e-11 * size)
    penalty_hessian = auto.penalty_hessian(x)
    torch.testing.assert_close(
        posterior.penalty_hessian(x), penalty_hessian, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("who", ["torch", "numba"])
def test_rows_are_problems_of_the_batch(who):
    model = make(regularization_func=penalty())
    (posterior, x), _, _ = problem(model, truth(), batch=(3,), grid=True, evaluation=who)
    rows = torch.tensor([2, 0])
    some = posterior.value_and_gradient(x[rows], rows)
    every = posterior.value_and_gradient(x)
    for a, b in zip(some, every, strict=True):
        torch.testing.assert_close(a, b[rows], rtol=1e-12, atol=1e-9)


def test_the_hessian_goes_through_the_seam():
    model = make(regularization_func=penalty())
    (posterior, x), p, data = problem(model, truth())
    auto, _ = model.posterior_at(p, data, "gaussian", "autograd")
    found = torch.autograd.functional.hessian(posterior, x)
    size = float(found.abs().max())
    torch.testing.assert_close(found, batched_hessian(auto, x), rtol=1e-9, atol=1e-11 * size)


def test_log_densities_are_logarithms_to_the_fit():
    (posterior, _), _, _ = problem(make(e_knots=KNOTS), truth(**CORRECTION))
    assert isinstance(posterior, Posterior)
    names = [n for n, log in zip(posterior.layout.names, posterior.logarithmic, strict=True) if log]
    assert names == [f"ln_rho[{i}]" for i in range(4)]
