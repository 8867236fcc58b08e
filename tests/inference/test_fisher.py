"""Fisher information and Cramer-Rao bound, against finite differences, JAX and closed forms."""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import torch

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.draws import error_samples
from torusimaging_torch.inference.fisher import (
    bound_at,
    cramer_rao_bound,
    fisher_information,
)
from torusimaging_torch.model_spline import regularization_func_default
from torusimaging_torch.numerics.params import Layout

HERE = Path(__file__).parents[1] / "reference"
_spec = importlib.util.spec_from_file_location("hess", HERE / "make_upstream_hessian.py")
problem = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problem)

BOUNDS = {
    "pos0": (-1.0, 1.0),
    "vel0": (-0.1, 0.1),
    "ln_Omega0": (-4.0, -1.0),
    "e_params": {m: {"vals": (-6.0, 2.0)} for m in (2, 4)},
}
OBSERVED = {"gaussian": ("label", "label_err"), "poisson": ("counts",)}


def make_model(penalty: bool = True, spline: str = "quadratic") -> TorusImaging1DSpline:
    function = partial(regularization_func_default, **problem.PENALTY) if penalty else None
    return TorusImaging1DSpline(**problem.KNOTS, regularization_func=function, e_spline=spline)


def make_data(objective: str = "gaussian") -> dict:
    data = problem.make_data()
    return {key: data[key] for key in ("pos", "vel", *OBSERVED[objective])}


def make_posterior(objective: str = "gaussian", penalty: bool = True, spline: str = "quadratic"):
    model = make_model(penalty, spline)
    return model.posterior_at(problem.make_params(), make_data(objective), objective)


@pytest.fixture(scope="module")
def fitted():
    """Return a model with a fit in its own bounds."""
    model = make_model(spline="cubic")
    bounds = {
        "pos0": (-1.0, 1.0),
        "vel0": (-0.1, 0.1),
        "e_params": {m: {"vals": (-12.0, 5.0)} for m in (2, 4)},
    }
    data = make_data()
    result = model.optimize(problem.make_params(), "gaussian", bounds, **data)
    assert result.state.success
    return model, result.params, data, bounds


# -- the Hessian -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBSERVED)
@pytest.mark.parametrize("penalty", [True, False])
@pytest.mark.parametrize("spline", ["quadratic", "cubic"])
def test_hessian_equals_finite_differences_of_the_gradient(objective, penalty, spline):
    posterior, x = make_posterior(objective, penalty, spline)

    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(-posterior(x), x)[0]

    # Small, since a quadratic spline's third derivative jumps where a pixel crosses a knot.
    steps = 1e-5 * torch.eye(len(x), dtype=x.dtype) * x.abs().clamp(min=1e-2)
    # Richardson: the error of a central difference falls with the fourth power of its step.
    columns = []
    for step in steps:
        one = (gradient(x + step) - gradient(x - step)) / (2 * step.sum())
        two = (gradient(x + step / 2) - gradient(x - step / 2)) / step.sum()
        columns.append((4 * two - one) / 3)
    found = fisher_information(posterior, x)
    scale = found.diagonal().abs().sqrt()
    difference = (found - torch.stack(columns, -1)) / (scale * scale[:, None])
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("objective", OBSERVED)
@pytest.mark.parametrize("penalty", [True, False])
def test_hessian_equals_that_of_jax(objective, penalty):
    answers = np.load(HERE / "upstream_hessian.npz")
    expected = answers[objective] + (answers["R"] if penalty else 0)
    information = make_model(penalty).get_crlb(
        problem.make_params(), make_data(objective), objective, inv=True
    )
    scale = np.sqrt(np.abs(np.diag(expected)))
    assert np.abs((information.numpy() - expected) / np.outer(scale, scale)).max() < 1e-9


def test_batched_hessian_equals_singles():
    posterior, x = make_posterior()
    rows = x + 0.01 * torch.randn(3, 2, len(x), generator=torch.Generator().manual_seed(1)).double()
    found = batched_hessian(posterior, rows)
    for row, hessian in zip(
        rows.reshape(-1, len(x)), found.reshape(-1, len(x), len(x)), strict=True
    ):
        torch.testing.assert_close(hessian, batched_hessian(posterior, row), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
@pytest.mark.parametrize("fun", [lambda x: 0 * x.detach().sum(-1), lambda x: x.sum(-1)])
def test_hessian_of_what_does_not_bend_is_zero(fun, shape):
    x = torch.ones(shape, dtype=torch.float64)
    assert torch.equal(batched_hessian(fun, x), torch.zeros(*shape, 3, dtype=torch.float64))


def test_kinds_of_hessian():
    posterior, x = make_posterior()
    full, data = (fisher_information(posterior, x, kind) for kind in ("full", "data"))
    torch.testing.assert_close(full - data, posterior.penalty_hessian(x))
    expected = fisher_information(posterior, x, "expected")
    assert torch.linalg.eigvalsh(expected).min() > 0
    with pytest.raises(ValueError, match="one of full, data, expected, got 'exact'"):
        fisher_information(posterior, x, "exact")
    with pytest.raises(ValueError, match="hessian must be one of full, .*sandwich, got 'exact'"):
        bound_at(posterior, x, "exact")


@pytest.mark.parametrize("objective", OBSERVED)
def test_sandwich_is_the_scatter_of_penalized_estimates(objective):
    posterior, x = make_posterior(objective)
    inverse = np.linalg.inv(fisher_information(posterior, x, "expected").numpy())
    expected = inverse @ posterior.data_information(x).numpy() @ inverse
    bound = bound_at(posterior, x, "sandwich")
    scale = np.sqrt(np.diag(expected))
    assert np.abs((bound.covariance.numpy() - expected) / np.outer(scale, scale)).max() < 1e-9
    torch.testing.assert_close(bound.root @ bound.root.mT, bound.covariance)
    # The penalty narrows it.
    assert (bound.sigma < bound_at(posterior, x, "expected").sigma).all()


def test_sandwich_is_the_bound_where_there_is_no_penalty():
    posterior, x = make_posterior(penalty=False)
    held = torch.zeros_like(x, dtype=torch.bool)
    held[2] = True
    found, expected = (bound_at(posterior, x, kind, held) for kind in ("sandwich", "expected"))
    scale = expected.sigma * expected.sigma.unsqueeze(-1)
    difference = (found.covariance - expected.covariance) / scale
    assert difference.nan_to_num().abs().max() < 1e-6
    assert found.covariance[2].isnan().all()


def test_expected_information_is_the_full_one_where_the_data_are_perfect():
    model = make_model(penalty=False)
    data = make_data()
    data["label"] = model.get_label(data["pos"], data["vel"], problem.make_params())
    kinds = [
        model.get_crlb(problem.make_params(), data, inv=True, hessian=kind)
        for kind in ("full", "expected")
    ]
    torch.testing.assert_close(*kinds, rtol=1e-10, atol=1e-8)


def test_expected_information_has_no_negative_curvature_far_from_the_optimum():
    posterior, x = make_posterior("poisson")
    x = x + 0.5
    assert torch.linalg.eigvalsh(fisher_information(posterior, x, "full")).min() < 0
    expected = fisher_information(posterior, x, "expected")
    assert torch.linalg.eigvalsh(expected).min() > -1e-12 * expected.diagonal().max()


# -- the bound -------------------------------------------------------------------------------------


def random_information(size: int = 5) -> torch.Tensor:
    root = torch.randn(size, 8, generator=torch.Generator().manual_seed(2)).double()
    return root @ root.mT


def test_bound_is_the_inverse_whatever_the_units():
    information = random_information()
    torch.testing.assert_close(cramer_rao_bound(information).covariance, information.inverse())
    scale = torch.tensor([1e-9, 1e3, 1.0, 1e8, 1e-2], dtype=torch.float64)
    bound = cramer_rao_bound(information * scale * scale[:, None])
    torch.testing.assert_close(bound.sigma * scale, information.inverse().diagonal().sqrt())
    assert bound.positive_definite
    assert not bound.undefined.any()


def test_held_parameters_are_left_out_of_the_inversion():
    information = random_information()
    held = torch.tensor([False, True, False, False, False])
    bound = cramer_rao_bound(information, held)
    free = ~held
    torch.testing.assert_close(
        bound.covariance[free][:, free], information[free][:, free].inverse()
    )
    assert bound.covariance[1].isnan().all()
    assert bound.covariance[:, 1].isnan().all()
    assert bound.positive_definite
    assert torch.equal(bound.undefined, held)


def test_parameters_without_curvature_are_nan_and_the_others_unharmed():
    information = random_information()
    information[2], information[:, 2] = 0, 0
    bound = cramer_rao_bound(information)
    keep = [0, 1, 3, 4]
    torch.testing.assert_close(
        bound.covariance[keep][:, keep], information[keep][:, keep].inverse()
    )
    assert bound.undetermined.tolist() == [False, False, True, False, False]
    assert bound.covariance[2, 2].isnan()
    assert not bound.positive_definite


def test_a_sum_that_alone_is_determined_leaves_both_its_terms_without_a_bound():
    # Parameters 0 and 1 enter as their sum, 2 by itself.
    jacobian = torch.tensor([[1.0, 1.0, 0.5], [2.0, 2.0, -1.0], [0.0, 0.0, 3.0]]).double()
    bound = cramer_rao_bound(jacobian.mT @ jacobian)
    assert bound.undetermined.tolist() == [True, True, False]
    known = jacobian[:, 1:].mT @ jacobian[:, 1:]
    torch.testing.assert_close(bound.covariance[2, 2], known.inverse()[1, 1])


def test_negative_curvature_is_reported():
    bound = cramer_rao_bound(torch.diag(torch.tensor([2.0, -1.0, 4.0], dtype=torch.float64)))
    assert not bound.positive_definite
    torch.testing.assert_close(
        bound.sigma, torch.tensor([0.5**0.5, torch.nan, 0.5]).double(), equal_nan=True
    )


def test_what_its_bounds_say_more_of_is_undetermined_unless_a_prior_holds_it():
    data = torch.diag(torch.tensor([1e4, 1 / 0.6**2, 1e-6], dtype=torch.float64))
    width = torch.tensor([0.02, 0.5, torch.inf], dtype=torch.float64)
    bound = cramer_rao_bound(data, width=width)
    assert bound.undetermined.tolist() == [False, True, False]
    assert bound.sigma.isnan().tolist() == [False, True, False]
    assert bound.positive_definite
    prior = torch.diag(torch.tensor([0, 1 / 0.1**2, 0], dtype=torch.float64))
    assert not cramer_rao_bound(data + prior, width=width).undetermined.any()
    known = torch.tensor([False, True, False])
    assert not cramer_rao_bound(data, known=known, width=width).undetermined.any()


def test_bound_of_a_problem_does_not_depend_on_its_neighbours():
    good, bad = random_information(), torch.full((5, 5), torch.nan, dtype=torch.float64)
    bound = cramer_rao_bound(torch.stack([good, bad, -good]))
    alone = cramer_rao_bound(good).covariance
    torch.testing.assert_close(bound.covariance[0], alone, rtol=1e-9, atol=1e-12)
    assert bound.positive_definite.tolist() == [True, False, False]
    assert bound.covariance[1:].isnan().all()


def test_error_samples_have_the_bound_as_their_covariance():
    information, mean = random_information(), torch.arange(5, dtype=torch.float64)
    held = torch.tensor([False, False, False, True, False])
    bound = cramer_rao_bound(information, held)
    draws = error_samples(mean, bound, 40_000, torch.Generator().manual_seed(3))
    assert (draws[:, 3] == 3).all()
    sigma = bound.sigma.nan_to_num(1.0)
    scaled = ((draws - mean) / sigma)[:, ~held]
    covariance = (bound.covariance / sigma / sigma[:, None])[~held][:, ~held]
    assert scaled.mean(0).abs().max() < 4 / 200
    assert (torch.cov(scaled.mT) - covariance).abs().max() < 4 * 2**0.5 / 200


# -- on the model ----------------------------------------------------------------------------------


def test_uncertainties_have_the_shapes_of_the_parameters(fitted):
    model, params, data, _ = fitted
    covariance = model.get_crlb(params, data)
    sigma = model.get_crlb_uncertainties(params, data)
    layout = Layout.of(params)
    assert Layout.of(sigma) == layout
    assert sigma["pos0"].ndim == 0
    torch.testing.assert_close(layout.flatten(sigma), covariance.diagonal().sqrt())
    information = model.get_crlb(params, data, inv=True)
    torch.testing.assert_close(
        covariance @ information, torch.eye(layout.size).double(), rtol=0, atol=1e-6
    )


def test_units_of_the_data_do_not_matter(fitted):
    model, params, data, _ = fitted
    pos, vel = data["pos"] * u.kpc, data["vel"] * u.kpc / u.Myr
    with_units = {**data, "pos": pos.to(u.pc), "vel": vel.to(u.km / u.s)}
    torch.testing.assert_close(
        model.get_crlb(params, with_units), model.get_crlb(params, data), rtol=1e-8, atol=0
    )


def test_bound_of_a_batch_equals_singles(fitted):
    model, params, data, _ = fitted
    layout = Layout.of(params)
    vector = layout.flatten(params)
    rows = vector * torch.tensor([1.0, 1.001, 0.999]).double()[:, None]
    covariance = model.get_crlb(layout.unflatten(rows), data)
    for row, found in zip(rows, covariance, strict=True):
        single = model.get_crlb(layout.unflatten(row), data)
        torch.testing.assert_close(found, single, rtol=1e-6, atol=1e-12)


def test_error_samples_are_reproducible_and_leave_the_global_random_state(fitted):
    model, params, data, _ = fitted
    state = torch.get_rng_state()
    samples = model.get_crlb_error_samples(params, data, size=3, seed=5)
    arrays = model.get_crlb_error_samples(params, data, size=3, seed=5, list_of_samples=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(samples) == 3
    assert samples[0]["ln_Omega0"].ndim == 0
    assert arrays["e_params"][2]["vals"].shape == (3, 4)
    for i, sample in enumerate(samples):
        assert torch.equal(sample["e_params"][2]["vals"], arrays["e_params"][2]["vals"][i])
    other = model.get_crlb_error_samples(params, data, size=3, seed=6)
    assert not torch.equal(other[0]["pos0"], samples[0]["pos0"])


def test_parameter_on_its_bound_is_nan_and_named(fitted):
    model, params, data, bounds = fitted
    # The fit wants another frequency than these bounds allow.
    tight = {**bounds, "ln_Omega0": (float(params["ln_Omega0"]) + 1.0, 0.0)}
    result = model.optimize({**params, "ln_Omega0": -1.0}, "gaussian", tight, **data)
    assert result.state.at_bound == ("ln_Omega0",)
    with pytest.warns(RuntimeWarning, match=r"on a bound: ln_Omega0\)"):
        sigma = model.get_crlb_uncertainties(result.params, data, bounds=tight, hessian="expected")
    assert sigma["ln_Omega0"].isnan()
    assert sigma["pos0"] > 0
    with pytest.warns(RuntimeWarning, match="on a bound"):
        samples = model.get_crlb_error_samples(
            result.params, data, size=2, bounds=tight, hessian="expected", list_of_samples=False
        )
    assert samples["ln_Omega0"].isnan().all()
    assert samples["pos0"].isfinite().all()


def test_parameters_that_the_data_leave_open_are_nan_and_named():
    model = make_model(penalty=False)
    # Nothing lies beyond the second of the label's knots.
    data = make_data()
    inner = np.hypot(4 * data["vel"], 0.3 * data["pos"]) < 0.1
    data = {key: value[inner] for key, value in data.items()}
    with pytest.warns(RuntimeWarning, match=r"undetermined: .*label_params.label_vals\[3\]"):
        sigma = model.get_crlb_uncertainties(problem.make_params(), data, hessian="expected")
    assert sigma["label_params"]["label_vals"][3].isnan()
    assert sigma["label_params"]["label_vals"][0] > 0


def test_no_warning_where_all_is_determined(fitted):
    model, params, data, bounds = fitted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.get_crlb(params, data, bounds=bounds).isfinite().all()


@pytest.mark.parametrize("kwargs", [{"objective": "cauchy"}, {"hessian": "exact"}])
def test_unknown_choices_raise(kwargs, fitted):
    model, params, data, _ = fitted
    with pytest.raises(ValueError, match="must be one of"):
        model.get_crlb(params, data, **kwargs)
