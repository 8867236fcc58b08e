"""Pixels without holes, and the posterior's information against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from disks import bounds_of, draw, make_model, repeat, stack, truth, truth_of
from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods import GaussianLikelihood, PoissonLikelihood
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.likelihoods.penalty import no_regularization
from torusimaging_torch.model import TorusImaging1D
from torusimaging_torch.numerics.params import Layout, batch_shape
from torusimaging_torch.tensors import data_to_tensors

objectives = pytest.mark.parametrize("objective", ["gaussian", "poisson"])


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def pixels(*shape, seed=0):
    rng = np.random.default_rng(seed)
    names = ("pos", "vel", "label", "label_err")
    return {k: tensor(rng.uniform(0.1, 1, shape)) for k in names}


def posterior(model, objective, data, params):
    p = model.border.params(params)
    layout = Layout.of(p)
    likelihood = make_likelihood(objective)
    tensors = data_to_tensors(data, likelihood.observed, model.units)
    clean = Pixels.clean(likelihood, tensors, len(batch_shape(p)))
    return Posterior(model, likelihood, layout, clean), layout.flatten(p)


# -- pixels ----------------------------------------------------------------------------------


def test_whole_data_are_only_flattened():
    data = pixels(3, 4)
    clean = Pixels.clean(GaussianLikelihood(), data)
    assert torch.equal(clean.pos, data["pos"].reshape(-1))
    assert clean.weight is None
    assert (clean.n, clean.n_masked) == (12, 0)
    assert [len(o) for o in clean.observed] == [12, 12]


BAD = [
    ("pos", np.nan),
    ("vel", np.inf),
    ("label", np.nan),
    ("label_err", 0.0),
    ("label_err", -1.0),
    ("label_err", np.nan),
    ("weight", 0.0),
    ("weight", -1.0),
    ("weight", np.nan),
    ("weight", np.inf),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_bad_pixels_are_taken_out(key, value):
    data = pixels(12) | ({"weight": torch.ones(12).double()} if key == "weight" else {})
    data[key][5] = value
    clean = Pixels.clean(GaussianLikelihood(), data)
    assert (clean.n, clean.n_masked) == (11, 1)
    keep = np.delete(np.arange(12), 5)
    assert torch.equal(clean.pos, data["pos"][keep])
    assert torch.equal(clean.observed[0], data["label"][keep])


@pytest.mark.parametrize(("key", "value"), BAD)
def test_bad_pixels_of_a_batch_get_weight_zero(key, value):
    data = pixels(3, 12) | ({"weight": 2 * torch.ones(3, 12).double()} if key == "weight" else {})
    data[key][1, 5] = value
    clean = Pixels.clean(GaussianLikelihood(), data, n_batch=1)
    assert clean.n.tolist() == [12, 11, 12]
    assert clean.n_masked == 1
    assert clean.weight[1, 5] == 0
    assert (clean.weight == (2 if key == "weight" else 1)).sum() == 35
    for x in (clean.pos, clean.vel, *clean.observed):
        assert x.isfinite().all()


def test_nothing_left_is_refused():
    data = pixels(4) | {"label": torch.full((4,), np.nan)}
    with pytest.raises(ValueError, match="no usable pixel among 4"):
        Pixels.clean(GaussianLikelihood(), data)


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"same shape, got \{'pos': \(4,\)"):
        Pixels.clean(GaussianLikelihood(), pixels(4) | {"label": torch.ones(5)})


def test_numbers_are_spread():
    clean = Pixels.clean(GaussianLikelihood(), pixels(4) | {"label_err": tensor(0.5)})
    assert clean.observed[1].tolist() == [0.5] * 4


def test_the_callers_data_stay_as_they_are():
    data = pixels(3, 12)
    data["label"][1, 2] = np.nan
    before = {k: v.clone() for k, v in data.items()}
    Pixels.clean(GaussianLikelihood(), data, n_batch=1)
    for k, v in data.items():
        assert torch.equal(v.nan_to_num(-1), before[k].nan_to_num(-1))


def test_unknown_objective():
    assert isinstance(make_likelihood("poisson"), PoissonLikelihood)
    message = r"one of \['gaussian', 'poisson'\], got 'cauchy', or be a Likelihood"
    with pytest.raises(ValueError, match=message):
        make_likelihood("cauchy")


# -- values ----------------------------------------------------------------------------------


@objectives
def test_value_is_likelihood_minus_penalty(objective):
    model = make_model()
    data = draw(model, objective)
    post, x = posterior(model, objective, data, truth_of(objective))
    p = post.layout.unflatten(x)
    label = model.get_label(data["pos"], data["vel"], p)
    if objective == "gaussian":
        chi = (tensor(data["label"]) - label) / tensor(data["label_err"])
        ln_L = -0.5 * chi.square().sum()
    else:
        ln_L = torch.distributions.Poisson(label.exp()).log_prob(tensor(data["counts"])).sum()
    R = model.regularization_func(model, p)
    assert R > 0
    assert post(x).item() == pytest.approx((ln_L - R).item(), rel=1e-13)
    assert post.objective(x).item() == pytest.approx(-(ln_L - R).item() / 256, rel=1e-13)
    assert post.penalty(x).item() == pytest.approx(R.item(), rel=1e-13)


@objectives
def test_weights_repeat_pixels(objective):
    """A weight of two is the same pixel twice; a weight of zero is no pixel."""
    model = make_model()
    data = draw(model, objective)
    weight = np.ones((16, 16))
    weight[3], weight[5] = 2, 0
    weighted, x = posterior(model, objective, data | {"weight": weight}, truth_of(objective))
    rows = [i for i in range(16) if i != 5] + [3]
    twice, _ = posterior(
        model, objective, {k: v[rows] for k, v in data.items()}, truth_of(objective)
    )
    assert weighted(x).item() == pytest.approx(twice(x).item(), rel=1e-12)
    torch.testing.assert_close(weighted.information(x), twice.information(x), rtol=1e-9, atol=1e-6)


def brute_force_information(post, x, objective):
    def predicted(vector):
        params = post.layout.unflatten(vector)
        return post.model.torus(post.pixels.pos, post.pixels.vel, params)

    jacobian = torch.autograd.functional.jacobian(predicted, x)
    label = predicted(x)
    weight = post.pixels.observed[1] ** -2 if objective == "gaussian" else label.exp()
    return jacobian.mT @ torch.diag(weight) @ jacobian


@objectives
@pytest.mark.parametrize("e_spline", ["quadratic", "cubic"])
@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_data_information_equals_brute_force(objective, e_spline, convention):
    model = make_model(e_spline, convention=convention)
    data = draw(model, objective)
    post, x = posterior(model, objective, data, truth_of(objective))
    expected = brute_force_information(post, x, objective)
    torch.testing.assert_close(post.data_information(x), expected, rtol=1e-9, atol=1e-6)


def test_data_information_of_functions_of_ones_own():
    def label_func(r, slope, start):
        return start + slope * r

    model = TorusImaging1D(label_func, {0: lambda x, a: a * x, 3: lambda x, a: a * x**2})
    p = {
        "pos0": 0.01,
        "vel0": 0.001,
        "ln_Omega0": -2.5,
        "e_params": {0: {"a": 0.1}, 3: {"a": 0.2}},
        "label_params": {"slope": 2.0, "start": 0.1},
    }
    data = draw(make_model(), "gaussian")
    post, x = posterior(model, "gaussian", data, p)
    expected = brute_force_information(post, x, "gaussian")
    torch.testing.assert_close(post.data_information(x), expected, rtol=1e-9, atol=1e-6)
    batch, y = posterior(model, "gaussian", stack([data, data]), repeat(p, 2))
    for row in batch.data_information(y):
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-6)


@objectives
def test_information_near_the_truth_is_the_expected_hessian(objective):
    """With data equal to their expectation the Gauss-Newton matrix is the whole Hessian."""
    model = make_model(regularization_func=no_regularization)
    data = draw(model, objective)
    label = model.get_label(data["pos"], data["vel"], truth_of(objective)).numpy()
    data |= {"label": label} if objective == "gaussian" else {"counts": np.exp(label)}
    post, x = posterior(model, objective, data, truth_of(objective))
    hessian = -torch.autograd.functional.hessian(post, x)
    torch.testing.assert_close(post.information(x), hessian, rtol=1e-7, atol=1e-4)


def test_penalty_hessian_equals_torchs():
    model = make_model()
    post, x = posterior(model, "gaussian", draw(model, "gaussian"), truth())
    expected = torch.autograd.functional.hessian(post.penalty, x)
    assert expected.abs().max() > 1
    torch.testing.assert_close(post.penalty_hessian(x), expected, rtol=1e-9, atol=1e-9)


PENALTIES = {
    "none": no_regularization,
    "zero": lambda model, params: 0.0,
    "linear": lambda model, params: 3.0 * params["pos0"],
    "quadratic": lambda model, params: 3.0 * params["pos0"] ** 2,
}


@pytest.mark.parametrize("name", list(PENALTIES))
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_hessians_of_simple_penalties(name, batch):
    model = make_model(regularization_func=PENALTIES[name])
    data = draw(model, "gaussian", n=4)
    data = {k: np.broadcast_to(v.reshape(-1), (*batch, 16)) for k, v in data.items()}
    post, x = posterior(model, "gaussian", data, repeat(truth(), *batch))
    expected = torch.zeros(*batch, 13, 13, dtype=torch.float64)
    i = post.layout.names.index("pos0")
    expected[..., i, i] = 6.0 if name == "quadratic" else 0.0
    torch.testing.assert_close(post.penalty_hessian(x), expected)
    assert post(x).shape == batch


def test_hessian_without_gradients_switched_on():
    model = make_model()
    post, x = posterior(model, "gaussian", draw(model, "gaussian"), truth())
    expected = post.information(x)
    with torch.no_grad():
        torch.testing.assert_close(post.information(x), expected)


def test_batched_hessian_of_a_known_function():
    x = torch.rand((2, 3, 4), generator=torch.Generator().manual_seed(0)).double()

    def fun(x):
        return (x[..., 0] * x[..., 1] ** 2 + x[..., 3].sin()) * x[..., 0]

    got = batched_hessian(fun, x)
    for i in np.ndindex(2, 3):
        expected = torch.autograd.functional.hessian(fun, x[i])
        torch.testing.assert_close(got[i], expected)
        torch.testing.assert_close(batched_hessian(fun, x[i]), expected)


@objectives
@pytest.mark.parametrize("masked", [False, True])
def test_batch_equals_loop(objective, masked):
    model = make_model()
    datas = [draw(model, objective, seed) for seed in range(3)]
    if masked:
        key = "label" if objective == "gaussian" else "counts"
        datas[1][key][2:5] = np.nan
    p = repeat(truth_of(objective), 3)
    p["ln_Omega0"] += [0.0, 0.1, -0.1]
    many, x = posterior(model, objective, stack(datas), p)
    for i, data in enumerate(datas):
        one, _ = posterior(model, objective, data, truth_of(objective))
        assert many(x)[i].item() == pytest.approx(one(x[i]).item(), rel=1e-13)
        assert many.objective(x)[i].item() == pytest.approx(one.objective(x[i]).item(), rel=1e-13)
        information = one.information(x[i])
        torch.testing.assert_close(many.information(x)[i], information, rtol=1e-9, atol=1e-7)


@objectives
@pytest.mark.parametrize("label_spline", ["quadratic", "cubic"])
def test_masked_pixels_of_a_batch_cannot_overflow(objective, label_spline):
    """A steep label function must not be evaluated far outside of the data, where exp is inf."""
    model = make_model(label_spline=label_spline)
    data = draw(model, objective)
    data["label" if objective == "gaussian" else "counts"][2:5] = np.nan
    p = truth_of(objective) | {"label_params": {"label_vals": [1.0, -60.0, -40.0, 20.0]}}
    one, x = posterior(model, objective, data, p)
    many, xs = posterior(model, objective, stack([data, data]), repeat(p, 2))
    assert one(x).isfinite()
    torch.testing.assert_close(many(xs), one(x).expand(2), rtol=1e-12, atol=0)
    xs.requires_grad_()
    (gradient,) = torch.autograd.grad(many(xs).sum(), xs)
    assert gradient.isfinite().all()
    assert many.information(xs.detach()).isfinite().all()


@objectives
def test_a_problem_without_a_usable_pixel_is_not_finite(objective):
    """It has no likelihood, so that its fit fails rather than finds the penalty's optimum."""
    model = make_model()
    datas = [draw(model, objective, seed) for seed in range(2)]
    datas[1]["label" if objective == "gaussian" else "counts"][:] = np.nan
    post, x = posterior(model, objective, stack(datas), repeat(truth_of(objective), 2))
    assert post.pixels.n.tolist() == [256, 0]
    assert post(x).isfinite().tolist() == [True, False]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(post(x).sum(), x)
    assert gradient.isfinite().all(-1).tolist() == [True, False]


def test_bounds_of_the_disks_hold_their_truth():
    """What the other tests take for granted."""
    for objective in ("gaussian", "poisson"):
        low, high = make_model().unpack_bounds(bounds_of(objective))
        p = make_model().border.params(truth_of(objective))
        assert low["pos0"] < p["pos0"] < high["pos0"]
        vals = p["label_params"]["label_vals"]
        assert (low["label_params"]["label_vals"] < vals).all()
        assert (vals < high["label_params"]["label_vals"]).all()


@pytest.mark.slow
def test_compiled_it_gives_the_same(monkeypatch):
    """With the compiler's front end alone: its back end needs a C++ compiler and a minute."""
    calls = []

    def trace(function):
        calls.append(function)
        return torch._dynamo.optimize("eager")(function)

    monkeypatch.setattr(torch, "compile", trace)
    model = make_model()
    post, x = posterior(model, "gaussian", draw(model, "gaussian"), truth_of("gaussian"))
    expected = post(x)
    post.compile()
    torch.testing.assert_close(post(x), expected, rtol=1e-13, atol=0)
    assert calls == [post._ln_posterior]
