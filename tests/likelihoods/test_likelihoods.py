"""Likelihoods against scipy.stats; masks, weights and gradients beside bad pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.likelihoods import LIKELIHOODS, GaussianLikelihood, PoissonLikelihood


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    model = rng.normal(0.3, 1.0, (2, 50))
    err = rng.uniform(0.1, 0.5, (2, 50))
    return {
        "model": model,
        "err": err,
        "label": rng.normal(model, err),
        "counts": rng.poisson(np.exp(model)).astype(float),
        "weight": rng.uniform(0.5, 2.0, (2, 50)),
    }


def gaussian(pixels):
    terms = stats.norm.logpdf(pixels["label"], pixels["model"], pixels["err"])
    return terms + np.log(pixels["err"]) + 0.5 * np.log(2 * np.pi)


def poisson(pixels):
    return stats.poisson.logpmf(pixels["counts"], np.exp(pixels["model"]))


# What each likelihood observes, SciPy's answer pixel by pixel, and a value that says nothing.
CASES = {
    "gaussian": (["label", "err"], gaussian),
    "poisson": (["counts"], poisson),
}
cases = pytest.mark.parametrize("name", list(CASES))


def evaluate(name, pixels, weighted=False):
    observed, _ = CASES[name]
    arguments = [tensor(pixels[k]) for k in ("model", *observed)]
    weight = tensor(pixels["weight"]) if weighted else None
    return LIKELIHOODS[name]()(*arguments, weight=weight)


@cases
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_equal_scipy(name, pixels, weighted):
    terms = CASES[name][1](pixels) * (pixels["weight"] if weighted else 1)
    np.testing.assert_allclose(evaluate(name, pixels, weighted).numpy(), terms.sum(-1), rtol=1e-12)


def test_pixels_without_stars_say_something(pixels):
    pixels["counts"][:] = 0
    expected = -np.exp(pixels["model"]).sum(-1)
    np.testing.assert_allclose(evaluate("poisson", pixels).numpy(), expected, rtol=1e-13)
    assert PoissonLikelihood().usable(tensor([0.0, -1.0, np.nan, np.inf, 0.5])).tolist() == [
        True,
        False,
        False,
        False,
        True,
    ]


BAD = [
    ("gaussian", "label", np.nan),
    ("gaussian", "label", np.inf),
    ("gaussian", "err", np.nan),
    ("gaussian", "err", np.inf),
    ("gaussian", "err", 0.0),
    ("gaussian", "err", -0.1),
    ("poisson", "counts", np.nan),
    ("poisson", "counts", np.inf),
    ("poisson", "counts", -1.0),
]


@pytest.mark.parametrize(("name", "key", "value"), BAD)
@pytest.mark.parametrize("weighted", [False, True])
def test_bad_pixels_count_as_zero(name, key, value, weighted, pixels):
    pixels[key][1, 3:6] = value
    good = np.delete(np.arange(50), [3, 4, 5])
    fewer = {k: v[1, good] for k, v in pixels.items()}
    got = evaluate(name, pixels, weighted)[1]
    assert got.item() == pytest.approx(evaluate(name, fewer, weighted).item(), rel=1e-13)


@pytest.mark.parametrize(("name", "key", "value"), BAD)
def test_bad_pixels_do_not_poison_gradients(name, key, value, pixels):
    pixels[key][1, 3] = value
    model = tensor(pixels["model"]).requires_grad_()
    observed = [tensor(pixels[k]) for k in CASES[name][0]]
    likelihood = LIKELIHOODS[name]()
    (first,) = torch.autograd.grad(likelihood(model, *observed).sum(), model, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), model)
    assert first[1, 3] == second[1, 3] == 0
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert (second != 0).sum() == 99


def test_a_bad_pixel_with_an_overflowing_expectation_does_not_poison_gradients():
    model = tensor([1.0, 1e4]).requires_grad_()
    value = PoissonLikelihood()(model, tensor([2.0, np.nan]))
    value.backward()
    assert value.isfinite()
    np.testing.assert_allclose(model.grad.numpy(), [2 - np.e, 0], rtol=1e-14)


@cases
def test_information_is_the_expected_curvature(name, pixels):
    """The Hessian of -ln L by the model label, at observations equal to what is expected."""
    pixels["counts"] = np.exp(pixels["model"])
    observed = [tensor(pixels[k][0]) for k in CASES[name][0]]
    model = tensor(pixels["model"][0])
    likelihood = LIKELIHOODS[name]()
    hessian = torch.autograd.functional.hessian(lambda x: -likelihood(x, *observed), model)
    information = likelihood.curvature(model, *observed)
    torch.testing.assert_close(hessian, torch.diag(information), rtol=1e-12, atol=0)


@cases
def test_gradcheck(name, pixels):
    observed = [tensor(pixels[k]) for k in CASES[name][0]]
    model = tensor(pixels["model"]).requires_grad_()
    weight = tensor(pixels["weight"]).requires_grad_()
    likelihood = LIKELIHOODS[name]()

    def fun(model, weight):
        return likelihood(model, *observed, weight=weight)

    assert gradcheck(fun, (model, weight))
    assert gradgradcheck(fun, (model, weight))


@cases
def test_batch_shapes_broadcast(name, pixels):
    """One set of pixels serves a batch of models."""
    observed = [tensor(pixels[k][0]) for k in CASES[name][0]]
    model = tensor(pixels["model"])
    got = LIKELIHOODS[name]()(model, *observed)
    assert got.shape == (2,)
    assert got[1].item() == pytest.approx(LIKELIHOODS[name]()(model[1], *observed).item())


@cases
def test_float32_stays(name, pixels):
    arguments = [tensor(pixels[k]).float() for k in ("model", *CASES[name][0])]
    assert LIKELIHOODS[name]()(*arguments).dtype == torch.float32
    assert LIKELIHOODS[name]().curvature(*arguments).dtype == torch.float32


def test_names_of_what_is_observed():
    assert GaussianLikelihood.observed == ("label", "label_err")
    assert PoissonLikelihood.observed == ("counts",)
