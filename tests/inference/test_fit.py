"""The bounded optimum: SciPy finds none better, and neighbours in a batch do not matter."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy import optimize

from disks import (
    bounds_of,
    draw,
    make_model,
    penalty,
    repeat,
    stack,
    start_of,
    truth_of,
)
from torusimaging_torch.inference.coordinates import Coordinates, Problems
from torusimaging_torch.inference.fit import Fit, fit, held_by_bound
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.likelihoods.penalty import no_regularization
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout, batch_shape
from torusimaging_torch.tensors import bounds_to_tensors, data_to_tensors

objectives = pytest.mark.parametrize("objective", ["gaussian", "poisson"])


def problem(objective, data, bounds=None, start=None, model=None):
    """Return posterior, box and a start inside it."""
    model = make_model() if model is None else model
    p = model.border.params(start_of(objective) if start is None else start)
    layout = Layout.of(p)
    likelihood = make_likelihood(objective)
    tensors = data_to_tensors(data, likelihood.observed)
    pixels = Pixels.clean(likelihood, tensors, len(batch_shape(p)))
    lower, upper = bounds_to_tensors(bounds_of(objective) if bounds is None else bounds)
    like = torch.empty(0, dtype=torch.float64)
    low, high = layout.fill(lower, -torch.inf, like), layout.fill(upper, torch.inf, like)
    box = Box(low, high, layout.names)
    posterior = Posterior(model, likelihood, layout, pixels)
    return posterior, box, box.nudge_inside(layout.flatten(p))


def value_and_gradient(posterior):
    def fun(x):
        x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = -posterior(x)
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    return fun


def scipys_best(posterior, box, x0):
    """Return the highest ln L - R that SciPy's bounded optimizers reach from ``x0``.

    Parameters are counted in their errors, or SciPy would stop early.
    """
    information = posterior.information(x0).diagonal().clamp(min=1.0)
    scale = information.rsqrt().numpy()
    fun = value_and_gradient(posterior)

    def scaled(w):
        value, gradient = fun(w * scale)
        return value, gradient * scale

    lower, upper = box.lower.numpy() / scale, box.upper.numpy() / scale
    bounds = list(zip(lower, upper, strict=True))
    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 0.0, "gtol": 1e-7, "maxcor": 30}
    found = optimize.minimize(
        scaled, x0.numpy() / scale, jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    return -found.fun


@functools.cache
def solved(objective, seed=0):
    posterior, box, x0 = problem(objective, draw(make_model(), objective, seed))
    return posterior, box, x0, fit(posterior, box, x0)


# -- the optimum -----------------------------------------------------------------------------


@objectives
def test_scipy_finds_nothing_better(objective):
    posterior, box, _, result = solved(objective)
    assert bool(result.success)
    assert posterior(result.x).item() == pytest.approx(result.log_prob.item(), rel=1e-14)
    assert ((result.x >= box.lower) & (result.x <= box.upper)).all()
    truth = posterior.layout.flatten(posterior.model.border.params(truth_of(objective)))
    for x0 in (result.x, truth):
        assert scipys_best(posterior, box, x0) <= result.log_prob.item() + 1e-3


@objectives
def test_the_gradient_vanishes_in_units_of_the_errors(objective):
    posterior, box, _, result = solved(objective)
    around = Coordinates.around(Problems(posterior, None), box, box.inv(result.x), 1.0)
    w = torch.zeros_like(result.x, requires_grad=True)
    (gradient,) = torch.autograd.grad(posterior(box(around.whitening(w))), w)
    gain = 0.5 * gradient.square().sum().item()
    assert gain <= 1e-9
    assert result.expected_gain.item() == pytest.approx(gain, rel=0.05, abs=1e-12)


@objectives
def test_the_truth_is_recovered_within_its_errors(objective):
    posterior, _, _, result = solved(objective)
    truth = posterior.layout.flatten(posterior.model.border.params(truth_of(objective)))
    ahead = result.log_prob - posterior(truth)
    # The optimum lies above the truth by about half the number of parameters (and R's pull).
    assert 0 < ahead < 0.5 * len(truth) + posterior.penalty(truth)
    sigma = torch.linalg.inv(posterior.information(result.x)).diagonal().sqrt()
    names = posterior.layout.names
    for name in ("pos0", "vel0", "ln_Omega0"):
        i = names.index(name)
        assert abs(result.x[i] - truth[i]) < 5 * sigma[i], name


def entries(posterior, prefix):
    return [i for i, name in enumerate(posterior.layout.names) if name.startswith(prefix)]


@objectives
def test_the_fit_escapes_from_a_start_on_the_lower_bound(objective):
    """There the posterior is so flat that the foot of the box looks like an optimum."""
    posterior, box, x0, result = solved(objective)
    vals = entries(posterior, "e_params[2]")
    assert (x0[vals] < box.lower[vals] + 0.3).all()
    assert (result.x[vals] > -4).all()


@pytest.mark.parametrize("shift", [0.1, 0.5])
def test_other_starts_end_at_the_same_place(shift):
    posterior, box, x0, result = solved("gaussian")
    inside = box(box.inv(x0) + shift * torch.arange(len(x0)).remainder(3).sub(1))
    again = fit(posterior, box, inside)
    assert bool(again.success)
    assert again.log_prob.item() == pytest.approx(result.log_prob.item(), abs=1e-6)


def test_a_start_at_the_optimum_takes_no_step():
    posterior, box, _, result = solved("gaussian")
    again = fit(posterior, box, result.x)
    assert bool(again.success)
    assert again.nit == 0
    torch.testing.assert_close(again.x, result.x, rtol=1e-9, atol=1e-9)


# -- bounds ----------------------------------------------------------------------------------


def test_without_bounds():
    data = draw(make_model(), "gaussian")
    start = start_of("gaussian")
    start["e_params"] = {2: {"vals": np.full(4, -2.0)}, 4: {"vals": np.full(2, -2.0)}}
    posterior, box, x0 = problem("gaussian", data, bounds={}, start=start)
    result = fit(posterior, box, x0)
    assert bool(result.success)
    assert not result.at_bound.any()
    # The optimum is inside the usual bounds, so it is the same one.
    assert result.log_prob.item() == pytest.approx(solved("gaussian")[3].log_prob.item(), abs=1e-6)


def test_with_one_sided_bounds():
    data = draw(make_model(), "gaussian")
    lower = {"label_params": {"label_vals": np.array([-2.0, 0.0, 0.0, 0.0])}, "pos0": -0.3}
    upper = {"e_params": {2: {"vals": 10.0}, 4: {"vals": 10.0}}, "vel0": 0.05}
    start = start_of("gaussian")
    start["e_params"] = {2: {"vals": np.full(4, -2.0)}, 4: {"vals": np.full(2, -2.0)}}
    posterior, box, x0 = problem("gaussian", data, bounds=(lower, upper), start=start)
    result = fit(posterior, box, x0)
    assert bool(result.success)
    assert result.log_prob.item() == pytest.approx(solved("gaussian")[3].log_prob.item(), abs=1e-6)


def test_fixed_parameters_stay_and_the_others_are_optimal():
    data = draw(make_model(), "gaussian")
    bounds = bounds_of("gaussian")
    bounds["pos0"] = (0.05, 0.05)
    bounds["label_params"]["label_vals"] = (
        np.array([-2.0, 0.7, 0.0, 0.0]),
        np.array([2.0, 0.7, 10.0, 10.0]),
    )
    start = start_of("gaussian") | {"pos0": 0.05}
    start["label_params"] = {"label_vals": np.array([0.0, 0.7, 0.5, 0.5])}
    posterior, box, x0 = problem("gaussian", data, bounds=bounds, start=start)
    result = fit(posterior, box, x0)
    names = posterior.layout.names
    fixed = [names.index("pos0"), names.index("label_params.label_vals[1]")]
    assert bool(result.success)
    assert result.x[fixed].tolist() == [0.05, 0.7]
    assert not result.at_bound[fixed].any()
    assert result.log_prob < solved("gaussian")[3].log_prob
    assert scipys_best(posterior, box, result.x) <= result.log_prob.item() + 1e-3


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_an_optimum_on_a_bound_is_found_and_told(side):
    data = draw(make_model(), "gaussian")
    optimum = solved("gaussian")[3].x[-3].item()
    bounds = bounds_of("gaussian")
    bounds["ln_Omega0"] = (optimum + 0.1, -1.0) if side == "lower" else (-4.0, optimum - 0.1)
    start = start_of("gaussian") | {"ln_Omega0": np.mean(bounds["ln_Omega0"])}
    start["e_params"] = {2: {"vals": np.full(4, -2.0)}, 4: {"vals": np.full(2, -2.0)}}
    posterior, box, x0 = problem("gaussian", data, bounds=bounds, start=start)
    result = fit(posterior, box, x0)
    assert bool(result.success)
    held = [n for n, at in zip(posterior.layout.names, result.at_bound, strict=True) if at]
    assert held == ["ln_Omega0"]
    edge = box.lower[-3] if side == "lower" else box.upper[-3]
    assert result.x[-3].item() == pytest.approx(edge.item(), abs=2e-3)
    # On the bound itself SciPy can gain what a smooth bijection leaves: almost nothing.
    assert scipys_best(posterior, box, result.x) <= result.log_prob.item() + 1e-3


def test_which_entries_a_bound_holds():
    box = Box(torch.zeros(6).double(), torch.tensor([1.0, 1, 1, 1, np.inf, 0.0]).double())
    x = torch.tensor([0.001, 0.999, 0.001, 0.5, 1e-3, 0.0], dtype=torch.float64)
    # Gradients of the energy: against the bound, against it, away from it, inside, against.
    slope = torch.tensor([50.0, -50.0, -50.0, 50.0, 50.0, 50.0], dtype=torch.float64)
    got = held_by_bound(lambda x: -(slope * x).sum(-1), box, x)
    assert got.tolist() == [True, True, False, False, True, False]


# -- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_iter", [0, 1, 5, 15, 17])
def test_max_iter_is_kept_and_told(max_iter):
    posterior, box, x0, _ = solved("gaussian")
    result = fit(posterior, box, x0, max_iter=max_iter)
    assert result.nit == max_iter
    assert result.status == Status.MAX_ITER
    assert not result.success
    assert result.expected_gain > 1e-9
    assert result.log_prob.item() >= posterior(x0).item()


def test_max_iter_of_each_problem_of_a_batch():
    datas = [draw(make_model(), "gaussian", seed) for seed in range(3)]
    start = repeat(start_of("gaussian"), 3)
    posterior, box, x0 = problem("gaussian", stack(datas), start=start)
    # One of them starts where it ends.
    x0[1] = fit(posterior, box, x0).x[1]
    result = fit(posterior, box, x0, max_iter=4)
    assert result.nit.tolist() == [4, 0, 4]
    assert result.status.tolist() == [Status.MAX_ITER, Status.CONVERGED, Status.MAX_ITER]


def test_callback_sees_the_fit_get_better():
    posterior, box, x0, final = solved("gaussian")
    seen: list[Fit] = []
    result = fit(posterior, box, x0, callback=seen.append)
    values = [s.log_prob.item() for s in seen]
    assert (np.diff(values) > -1e-9).all()  # but for rounding
    assert torch.equal(seen[-1].x, result.x)
    assert torch.equal(result.x, final.x)
    assert [s.status.item() for s in seen[:-1]] != [Status.CONVERGED] * (len(seen) - 1)


def test_a_looser_tolerance_takes_fewer_steps():
    posterior, box, x0, result = solved("gaussian")
    loose = fit(posterior, box, x0, tol=1e-2)
    assert loose.nit < result.nit
    assert loose.expected_gain <= 1e-2
    assert result.log_prob - loose.log_prob < 0.1


def test_fits_with_very_many_nats_converge():
    """With errors so small the value of ln L has lost the digits of its last nats."""
    data = draw(make_model(), "gaussian")
    data["label_err"] = data["label_err"] / 100
    posterior, box, x0 = problem("gaussian", data)
    result = fit(posterior, box, x0)
    assert bool(result.success), Status(int(result.status)).message
    assert scipys_best(posterior, box, result.x) <= result.log_prob.item() * (1 - 1e-12) + 1e-3


def test_gradients_switched_off_by_the_caller_do_not_matter():
    posterior, box, x0, result = solved("gaussian")
    with torch.no_grad():
        again = fit(posterior, box, x0)
    assert again.log_prob.item() == pytest.approx(result.log_prob.item(), rel=1e-12)
    assert again.nit == result.nit
    assert not again.x.requires_grad


# -- batches ---------------------------------------------------------------------------------


def break_data(data, objective, how):
    """Return data on which a fit must fail: no usable pixel, or numbers that overflow."""
    key = "label" if objective == "gaussian" else "counts"
    value = np.nan if how == "nan" else 1e308
    return data | {key: np.full_like(data[key], value)}


@objectives
@pytest.mark.parametrize("how", ["nan", "overflow"])
def test_alone_and_beside_a_neighbour_that_fails(objective, how):
    n = 64 if (objective, how) == ("gaussian", "nan") else 6
    model = make_model()
    datas = [draw(model, objective, seed, n=7) for seed in range(n)]
    broken = 3
    datas[broken] = break_data(datas[broken], objective, how)
    start = repeat(start_of(objective), n)
    posterior, box, x0 = problem(objective, stack(datas), start=start, model=model)
    many = fit(posterior, box, x0)
    assert many.status[broken] != Status.CONVERGED
    assert many.success.sum() == n - 1
    for i in (0, n - 1):
        one_posterior, one_box, one_x0 = problem(objective, datas[i], model=model)
        one = fit(one_posterior, one_box, one_x0)
        assert many.status[i] == one.status
        assert many.log_prob[i].item() == pytest.approx(one.log_prob.item(), rel=1e-12)
        sigma = torch.linalg.inv(one_posterior.information(one.x)).diagonal().sqrt()
        assert ((many.x[i] - one.x).abs() / sigma).max() < 1e-6


def test_the_order_of_a_batch_does_not_matter():
    datas = [draw(make_model(), "gaussian", seed, n=8) for seed in range(6)]
    datas[4]["label"][:] = np.nan
    order = [3, 4, 0, 5, 1, 2]
    start = repeat(start_of("gaussian"), 6)
    one = fit(*problem("gaussian", stack(datas), start=start))
    other = fit(*problem("gaussian", stack([datas[i] for i in order]), start=start))
    assert torch.equal(one.status[order], other.status)
    good = other.success
    assert good.sum() == 5
    # Rounding depends on the place in the batch, and may make or spare a last step.
    assert (one.nit[order] - other.nit)[good].abs().max() <= 2
    torch.testing.assert_close(one.x[order][good], other.x[good], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.log_prob[order][good], other.log_prob[good], rtol=1e-12, atol=0)


def test_two_batch_dimensions():
    datas = [draw(make_model(), "gaussian", seed, n=8) for seed in range(4)]
    flat = stack(datas)
    posterior, box, x0 = problem("gaussian", flat, start=repeat(start_of("gaussian"), 4))
    one = fit(posterior, box, x0)
    shaped = {k: v.reshape(2, 2, -1) for k, v in flat.items()}
    other = fit(*problem("gaussian", shaped, start=repeat(start_of("gaussian"), 2, 2)))
    assert other.x.shape == (2, 2, 13)
    assert other.status.shape == (2, 2)
    torch.testing.assert_close(other.x.reshape(4, 13), one.x, rtol=1e-8, atol=1e-8)


def test_problems_with_knots_and_bounds_of_their_own():
    model = make_model(regularization_func=penalty())
    datas = [draw(model, "gaussian", seed, n=8) for seed in range(2)]
    bounds = bounds_of("gaussian")
    bounds["ln_Omega0"] = (np.array([-4.0, -3.0]), np.array([-1.0, -2.0]))
    start = repeat(start_of("gaussian"), 2)
    many = fit(*problem("gaussian", stack(datas), bounds=bounds, start=start))
    bounds["ln_Omega0"] = (-3.0, -2.0)
    one = fit(*problem("gaussian", datas[1], bounds=bounds))
    assert many.success.all()
    assert many.log_prob[1].item() == pytest.approx(one.log_prob.item(), rel=1e-10)


def test_without_regularization_the_floor_keeps_flat_directions_tame():
    """The outermost e values are hardly seen by the data; the fit must still end."""
    model = make_model(regularization_func=no_regularization)
    posterior, box, x0 = problem("gaussian", draw(model, "gaussian"), model=model)
    result = fit(posterior, box, x0)
    assert bool(result.success)
    assert result.x.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    posterior, box, x0, result = solved("gaussian")
    model = make_model().to("cuda")
    pixels = posterior.pixels
    moved = Pixels(
        pixels.pos.cuda(),
        pixels.vel.cuda(),
        tuple(o.cuda() for o in pixels.observed),
        None,
        pixels.n.cuda(),
        0,
    )
    there = Posterior(model, posterior.likelihood, posterior.layout, moved)
    again = fit(there, Box(box.lower.cuda(), box.upper.cuda(), box.names), x0.cuda())
    assert again.log_prob.item() == pytest.approx(result.log_prob.item(), abs=1e-6)
