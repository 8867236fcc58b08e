"""Every implementation of ln L - R and of its derivatives equals autograd."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from problems import ORDERS, by, make_problem, penalty
from torch.autograd import functional

from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.penalty import (
    Penalty,
    PenaltyOfMany,
    SumOfPenalties,
    no_regularization,
)
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.torus.sensitivity import label_jacobian

IMPLEMENTATIONS = ("torch", "numba")
SPLINES = ("cubic", "quadratic")
CASES = list(
    product(ORDERS, SPLINES, SPLINES, ("pv", "vp"), ("gaussian", "poisson"), IMPLEMENTATIONS)
)
implementations = pytest.mark.parametrize("who", IMPLEMENTATIONS)


def sizes(posterior, x):
    """Return the sums of the absolute terms in ln L, in its gradient and in its information."""
    pixels = posterior.pixels
    label, jacobian = label_jacobian(
        posterior.model.torus, pixels.pos, pixels.vel, x, posterior.layout
    )
    leaf = label.detach().requires_grad_()
    terms = posterior.likelihood.terms(leaf, *pixels.observed)
    weight = 1.0 if pixels.weight is None else pixels.weight
    (slope,) = torch.autograd.grad((terms * weight).sum(), leaf)
    curvature = posterior.likelihood.curvature(label, *pixels.observed) * weight
    jacobian = jacobian.abs()
    gradient = (jacobian * slope.abs().unsqueeze(-2)).sum(-1)
    information = (jacobian * curvature.unsqueeze(-2)) @ jacobian.mT
    return (terms * weight).abs().sum(-1), gradient, information


def assert_within(found, expected, size, rounding=1e-12):
    limit = rounding * (size + expected.abs() + 1)
    assert ((found - expected).abs() <= limit).all(), ((found - expected).abs() / limit).max()


def assert_equal_autograd(posterior, x, who):
    truth = by(posterior, "autograd")
    value_size, gradient_size, information_size = sizes(posterior, x)
    value, gradient = posterior.value_and_gradient(x)
    expected = truth.value_and_gradient(x)
    assert_within(value, expected[0], value_size)
    assert_within(gradient, expected[1], gradient_size)
    with torch.no_grad():
        assert_within(posterior(x), expected[0], value_size)
    # Second derivatives of a label add their own terms, each of the size of a gradient.
    second_size = information_size + gradient_size.unsqueeze(-1) + gradient_size.unsqueeze(-2)
    assert_within(posterior.data_information(x), truth.data_information(x), information_size)
    assert_within(posterior.data_hessian(x), truth.data_hessian(x), second_size)
    hessian = truth.penalty_hessian(x)
    assert_within(posterior.penalty_hessian(x), hessian, hessian.abs().amax((-1, -2), True))
    assert posterior.evaluation.name == who


@pytest.mark.parametrize(
    ("orders", "e_spline", "label_spline", "convention", "objective", "who"), CASES
)
def test_all_that_is_worked_out_equals_autograd(
    orders, e_spline, label_spline, convention, objective, who
):
    kind = orders, e_spline, label_spline, convention, objective
    posterior, x = make_problem(*kind, evaluation=who)
    assert_equal_autograd(posterior, x, who)


@implementations
@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
@pytest.mark.parametrize("own_knots", [False, True])
@pytest.mark.parametrize(
    ("e_spline", "batch"), [("cubic", (3,)), ("cubic", (2, 2)), ("quadratic", (3,))]
)
def test_batches_equal_autograd(who, objective, own_knots, e_spline, batch):
    posterior, x = make_problem(
        e_spline=e_spline,
        objective=objective,
        evaluation=who,
        batch=batch,
        own_knots=own_knots,
        weighted=True,
    )
    assert_equal_autograd(posterior, x, who)


PENALTIES = {
    "none": no_regularization,
    "normal": NormalPenalty(("e_params", 2, "vals"), 4, -1.0, 0.7),
    "of a number": NormalPenalty(("pos0",), None, 0.02, 0.7),
    "priors": SumOfPenalties(
        (
            penalty(ORDERS["even"]),
            NormalPenalty(("pos0",), None, 0.02, torch.tensor(0.7).double()),
            NormalPenalty(("e_params", 2, "vals"), 4, torch.linspace(-2, -1, 4).double(), 0.7),
        )
    ),
    "none and a prior": SumOfPenalties(
        (no_regularization, NormalPenalty(("vel0",), None, 0.02, 0.1))
    ),
    "own": lambda model, params: params["pos0"] ** 4 + params["label_params"]["label_vals"].sum(-1),
}


@implementations
@pytest.mark.parametrize("name", list(PENALTIES))
@pytest.mark.parametrize("batch", [(), (3,)])
def test_other_penalties_equal_autograd(who, name, batch):
    posterior, x = make_problem(evaluation=who, batch=batch, regularization_func=PENALTIES[name])
    assert_equal_autograd(posterior, x, who)
    assert posterior.evaluated_by == who + (" (the penalty by autograd)" if name == "own" else "")


@implementations
@pytest.mark.parametrize("e_spline", SPLINES)
def test_penalties_of_many_equal_autograd(who, e_spline):
    arguments = [
        {
            "label_l2_sigma": 1.0 + i,
            "label_smooth_sigma": 0.5 + i,
            "e_l2_sigmas": {2: 1.0 + i, 4: 2.0},
            "e_smooth_sigmas": {2: 0.5, 4: 0.6 + i},
            "dacc_dpos_scale": 0.3 + 0.1 * i,
            "dacc_strength": 1.0 * i,
        }
        for i in range(3)
    ]
    many = PenaltyOfMany.stack(arguments)
    posterior, x = make_problem(
        e_spline=e_spline, evaluation=who, batch=(3,), own_knots=True, regularization_func=many
    )
    assert_equal_autograd(posterior, x, who)
    rows = torch.tensor([2, 0])
    some = posterior.value_and_gradient(x[rows], rows)
    for found, expected in zip(some, posterior.value_and_gradient(x), strict=True):
        torch.testing.assert_close(found, expected[rows], rtol=1e-12, atol=1e-12)


@implementations
@pytest.mark.parametrize("strength", [0.0, 1e4])
def test_walls_that_are_absent_or_high(who, strength):
    posterior, x = make_problem(evaluation=who, dacc_strength=strength, dacc_dpos_scale=1e-3)
    assert_equal_autograd(posterior, x, who)


# -- where formulas could fail -----------------------------------------------------------------


def at_the_origin(posterior, pos, vel):
    """Put the pixels at given places, in a frame in which these are the coordinates."""
    pixels = posterior.pixels
    for name, value in (("pos", pos), ("vel", vel)):
        object.__setattr__(pixels, name, torch.as_tensor(value, dtype=torch.float64))


@implementations
@pytest.mark.parametrize("convention", ["pv", "vp"])
@pytest.mark.parametrize("orders", ["even", "all"])
def test_the_very_centre(who, convention, orders):
    posterior, x = make_problem(orders, convention=convention, n=3, evaluation=who)
    at_the_origin(posterior, [0.0, 0.0, 0.3], [0.0, -0.2, 0.0])
    for name in ("pos0", "vel0", "ln_Omega0"):
        x[posterior.layout.names.index(name)] = 0.0
    assert_equal_autograd(posterior, x, who)
    assert posterior.hessian(x).isfinite().all()


@implementations
@pytest.mark.parametrize("spline", SPLINES)
@pytest.mark.parametrize("orders", ["even", "none"])
def test_on_the_knots(who, spline, orders):
    posterior, x = make_problem(orders, spline, spline, n=5, evaluation=who)
    function = posterior.model.label_func
    if orders == "even":
        function = posterior.model.e_funcs[2]
    at_the_origin(posterior, function.knots, torch.zeros(5))
    for name in ("pos0", "vel0", "ln_Omega0"):
        x[posterior.layout.names.index(name)] = 0.0
    assert_equal_autograd(posterior, x, who)


@implementations
def test_far_beyond_the_last_knots(who):
    posterior, x = make_problem(label_spline="cubic", evaluation=who)
    at_the_origin(posterior, 30 * posterior.pixels.pos, posterior.pixels.vel)
    assert_equal_autograd(posterior, x, who)


@implementations
def test_many_knots_are_found_too(who, monkeypatch):
    monkeypatch.setitem(ORDERS, "even", {2: 40, 4: 3})
    posterior, x = make_problem(evaluation=who)
    assert_equal_autograd(posterior, x, who)


@implementations
def test_nan_is_no_number_for_its_own_problem_alone(who):
    posterior, x = make_problem(batch=(3,), evaluation=who)
    expected = posterior.value_and_gradient(x)
    x[1, 0] = torch.nan
    value, gradient = posterior.value_and_gradient(x)
    assert value.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(value[[0, 2]], expected[0][[0, 2]], rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient[[0, 2]], expected[1][[0, 2]], rtol=1e-11, atol=1e-11)


# -- batches and rows --------------------------------------------------------------------------


@implementations
@pytest.mark.parametrize("own_knots", [False, True])
def test_rows_are_problems_of_the_batch_and_those_alone(who, own_knots):
    posterior, x = make_problem(batch=(5,), own_knots=own_knots, weighted=True, evaluation=who)
    every = posterior.evaluation.curvature(x)
    rows = torch.tensor([4, 1, 2])
    some = posterior.evaluation.curvature(x[rows], rows)
    for i, row in enumerate(rows.tolist()):
        single = posterior.subset(torch.tensor([row]))
        alone = single.evaluation.curvature(x[[row]])
        for a, b, c in zip(some, every, alone, strict=True):
            torch.testing.assert_close(a[i], b[row], rtol=1e-12, atol=1e-11)
            torch.testing.assert_close(a[i], c[0], rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("who", [*IMPLEMENTATIONS, "autograd"])
def test_many_vectors_of_one_problem(who):
    posterior, x = make_problem(evaluation=who)
    many = x + 0.1 * torch.randn(4, len(x), generator=torch.Generator().manual_seed(0)).double()
    values, gradients = posterior.value_and_gradient(many)
    for row, value, gradient in zip(many, values, gradients, strict=True):
        expected = posterior.value_and_gradient(row)
        torch.testing.assert_close(value, expected[0], rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-11, atol=1e-11)


class OwnForEach(Penalty):
    """Another penalty for each problem."""

    def __init__(self, center):
        self.center = center

    def __call__(self, model, params):
        return 9 * (params["pos0"] - self.center) ** 2

    def subset(self, index):
        return OwnForEach(self.center[index])

    def to(self, like):
        return OwnForEach(self.center.to(like))


@pytest.mark.parametrize("who", [*IMPLEMENTATIONS, "autograd"])
@pytest.mark.parametrize("own", [False, True])
def test_problems_that_share_their_pixels_may_have_penalties_of_their_own(who, own):
    centers = torch.tensor([0.3, -0.2, 0.1]).double()
    one = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
    orders = {"e_l2_sigmas": {2: 1.0, 4: 2.0}, "e_smooth_sigmas": {2: 0.5, 4: 0.6}}
    many = PenaltyOfMany.stack([one | orders | {"dacc_strength": 5.0 * i} for i in range(3)])
    shared, x = make_problem(n=20)
    shared.model.regularization_func = OwnForEach(centers) if own else many
    parts = shared.model, shared.likelihood, shared.layout, shared.pixels
    posterior = Posterior(*parts, who, torch.Size([3]))
    x = torch.stack([x, x + 0.05, x - 0.05])
    expected = Posterior(*parts, "autograd", torch.Size([3])).value_and_gradient(x)
    for rows in (None, torch.tensor([2, 0])):
        index = slice(None) if rows is None else rows
        for a, b in zip(posterior.value_and_gradient(x[index], rows), expected, strict=True):
            torch.testing.assert_close(a, b[index], rtol=1e-11, atol=1e-11)


# -- the seam to autograd ----------------------------------------------------------------------


@implementations
@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradcheck_and_gradgradcheck(who, objective, batch):
    posterior, x = make_problem(
        objective=objective, evaluation=who, batch=batch, label_spline="cubic", n=6
    )
    x.requires_grad_()
    assert torch.autograd.gradcheck(posterior, x)
    assert torch.autograd.gradgradcheck(posterior, x)


@implementations
def test_the_hessian_of_autograd_goes_through_the_seam(who):
    posterior, x = make_problem(evaluation=who)
    expected = functional.hessian(by(posterior, "autograd"), x)
    ways = {
        "functional": functional.hessian(posterior, x),
        "vectorized": functional.hessian(posterior, x, vectorize=True),
        "jacrev": torch.func.jacrev(torch.func.jacrev(posterior))(x),
        "grad": torch.func.jacrev(torch.func.grad(posterior))(x),
        "forward": torch.func.hessian(posterior)(x),
        "formulas": posterior.hessian(x),
    }
    for name, found in ways.items():
        torch.testing.assert_close(
            found, expected, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@implementations
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_vmap(who, mode):
    posterior, x = make_problem(evaluation=who)
    many = torch.stack([x, x + 0.1, x - 0.05])
    expected = by(posterior, "autograd")(many).detach()
    with mode():
        torch.testing.assert_close(torch.vmap(posterior)(many), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(posterior(many), expected, rtol=1e-12, atol=0)


@implementations
def test_vmap_of_derivatives(who):
    posterior, x = make_problem(evaluation=who)
    posterior.decide()
    many, truth = torch.stack([x, x + 0.1, x - 0.05]), by(posterior, "autograd")
    found = torch.vmap(torch.func.grad(posterior))(many)
    torch.testing.assert_close(found, truth.value_and_gradient(many)[1], rtol=1e-10, atol=1e-10)
    expected = batched_hessian(truth, many)
    for hessian in (
        torch.vmap(torch.func.jacrev(torch.func.grad(posterior)))(many),
        batched_hessian(posterior, many),
    ):
        torch.testing.assert_close(hessian, expected, rtol=1e-10, atol=1e-10)


def test_within_a_transform_it_is_decided_for_autograd():
    posterior, x = make_problem()
    found = torch.func.grad(lambda x: make_problem()[0](x))(x)
    torch.testing.assert_close(found, posterior.value_and_gradient(x)[1], rtol=1e-10, atol=1e-10)

    def inside(x):
        posterior.decide()
        return posterior(x) if "transform" in posterior.evaluated_by else x.sum()

    torch.testing.assert_close(torch.func.grad(inside)(x), found, rtol=1e-10, atol=1e-10)


@implementations
def test_third_derivatives_are_refused(who):
    posterior, x = make_problem(evaluation=who)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(posterior(x), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match='evaluation="autograd"'):
        torch.autograd.grad((second * gradient).sum(), x)


@implementations
def test_autograd_goes_on_in_front_and_behind(who):
    posterior, x = make_problem(evaluation=who)
    posterior.decide()
    truth, t = by(posterior, "autograd"), torch.tensor(0.3, dtype=torch.float64)

    def along(posterior, t):
        return (posterior(x + t * x.sin()) / 10).tanh() * t

    for order in (torch.func.grad, lambda f: torch.func.grad(torch.func.grad(f))):
        found, expected = (order(lambda t, p=p: along(p, t))(t) for p in (posterior, truth))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
