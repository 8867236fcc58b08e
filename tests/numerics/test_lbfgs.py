"""The batched L-BFGS: optima against SciPy and closed forms; independence of batch mates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from torusimaging_torch.numerics.lbfgs import Minimum, Status, minimize

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def rosenbrock(x: Tensor, height: float | Tensor = 100.0) -> Tensor:
    valley = x[..., 1:] - x[..., :-1] ** 2
    return ((1 - x[..., :-1]) ** 2).sum(-1) + height * (valley**2).sum(-1)


def beale(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def booth(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2


def quartic(x: Tensor) -> Tensor:
    shift = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    return ((x - shift) ** 4 + 0.5 * (x - 1) ** 2).sum(-1)


def reversed_gradient(x: Tensor) -> Tensor:
    """Value of |x|^2 with the gradient of -|x|^2: every promised descent climbs."""
    square = (x * x).sum(-1)
    return 2 * square.detach() - square


class LogisticRegression:
    """Penalized logistic regressions on random data, one per batch element."""

    def __init__(self, n_problems: int, n_features: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        spread = torch.logspace(-0.5, 1, n_features, dtype=torch.float64)
        self.features = normal(n_problems, 150, n_features) * spread
        logits = (self.features * normal(n_problems, 1, n_features)).sum(-1) / 5
        self.classes = (logits + normal(n_problems, 150) > 0).double()

    def __call__(self, x: Tensor, rows: slice | int = slice(None)) -> Tensor:
        logits = (self.features[rows] * x[..., None, :]).sum(-1)
        loss = torch.nn.functional.softplus(logits) - self.classes[rows] * logits
        return loss.sum(-1) + 0.05 * (x * x).sum(-1)


def scipy_minimize(fun, x0: Tensor, method: str = "L-BFGS-B"):
    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(x, requires_grad=True)
        value = fun(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    # The stopping rule of `minimize` at gain_tol = 1e-8, as far as SciPy's maximum norm can say it.
    gtol = math.sqrt(2e-8 / x0.numel())
    options = {"gtol": gtol, "maxiter": 5000}
    if method == "L-BFGS-B":
        options |= {"ftol": 0, "maxfun": 20000}
    return scipy.optimize.minimize(
        value_and_grad, x0.numpy(), jac=True, method=method, options=options
    )


def converged(result: Minimum) -> bool:
    gain = (result.grad**2).sum(-1) / 2
    return bool((result.status == Status.CONVERGED).all() and (gain <= 1e-8).all())


def starts(*shape: int, seed: int = 1, scale: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n_dim", [2, 3, 7, 20])
def test_rosenbrock_reaches_a_minimum(n_dim: int) -> None:
    result = minimize(rosenbrock, starts(40, n_dim), gain_tol=1e-16, max_iter=500)
    assert (result.status == Status.CONVERGED).all()
    # From four dimensions on there is a second, local minimum near x_1 = -1, of value about 4.
    at_global = result.fun < 1
    assert at_global.double().mean() > 0.5
    np.testing.assert_allclose(result.x[at_global], 1, atol=1e-6)
    assert (result.x[~at_global][:, 0] + 1).abs().lt(0.1).all()


def test_steep_rosenbrock() -> None:
    heights = torch.logspace(0, 5, 11, dtype=torch.float64)
    result = minimize(
        lambda x: rosenbrock(x, heights), starts(11, 2), gain_tol=1e-14, max_iter=2000
    )
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x, 1, atol=1e-5)


@pytest.mark.parametrize(("fun", "n_dim"), [(beale, 2), (booth, 2), (quartic, 5)])
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS"])
def test_equals_scipy_on_classical_functions(fun, n_dim: int, method: str) -> None:
    x0 = starts(8, n_dim, scale=0.4)
    result = minimize(fun, x0, gain_tol=1e-14)
    assert converged(result)
    for b in range(8):
        reference = scipy_minimize(fun, x0[b], method)
        np.testing.assert_allclose(result.x[b], reference.x, atol=2e-3)
        np.testing.assert_allclose(result.fun[b], reference.fun, atol=1e-7)
        assert result.fun[b] <= reference.fun + 1e-12


def test_booth_solution_is_exact() -> None:
    result = minimize(booth, starts(5, 2), gain_tol=1e-18)
    np.testing.assert_allclose(result.x, np.tile([1.0, 3.0], (5, 1)), atol=1e-8)


def test_logistic_regression_equals_scipy_in_as_many_evaluations() -> None:
    fun = LogisticRegression(20)
    x0 = torch.zeros(20, 6, dtype=torch.float64)
    result = minimize(fun, x0)
    assert converged(result)
    references = [scipy_minimize(lambda x, b=b: fun(x, b), x0[b]) for b in range(20)]
    np.testing.assert_allclose(result.fun, [r.fun for r in references], atol=1e-7)
    np.testing.assert_allclose(result.x, np.stack([r.x for r in references]), atol=1e-3)
    assert result.nfev.sum() <= 1.1 * sum(r.nfev for r in references)


def test_rosenbrock_needs_no_more_evaluations_than_scipy() -> None:
    x0 = starts(20, 5)
    result = minimize(rosenbrock, x0)
    assert converged(result)
    assert result.nfev.sum() <= 1.1 * sum(scipy_minimize(rosenbrock, x).nfev for x in x0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_ill_conditioned_quadratic(offset: float) -> None:
    curvature = torch.logspace(-3, 3, 8, dtype=torch.float64)
    centre = starts(8, seed=2)
    result = minimize(
        lambda x: offset + 0.5 * (curvature * (x - centre) ** 2).sum(-1),
        starts(30, 8),
        gain_tol=1e-14,
        max_iter=2000,
    )
    assert (result.status == Status.CONVERGED).all()
    # |g|^2/2 bounds the excess over the minimum by its value over the least curvature.
    np.testing.assert_allclose(result.fun, offset, rtol=0, atol=1e-14 / 1e-3 + 1e-12 * offset)


def test_slopes_lead_on_where_rounding_hides_the_decrease() -> None:
    curvature = torch.logspace(-1, 1, 6, dtype=torch.float64)
    # Values are multiples of 1.5e-8: the last four decades of the gain cannot be seen in them.
    result = minimize(
        lambda x: 1e8 + 0.5 * (curvature * x * x).sum(-1), starts(50, 6), gain_tol=1e-12
    )
    assert (result.status == Status.CONVERGED).all()


def test_flat_directions_are_left_alone() -> None:
    x0 = starts(10, 4)
    result = minimize(
        lambda x: (x[..., 0] + x[..., 1] - 1) ** 2 + x[..., 2] ** 4, x0, gain_tol=1e-14
    )
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x[:, 0] + result.x[:, 1], 1, atol=1e-6)
    np.testing.assert_array_equal(result.x[:, 3], x0[:, 3])
    np.testing.assert_allclose(result.x[:, 0] - result.x[:, 1], x0[:, 0] - x0[:, 1], atol=1e-12)


def test_logarithmic_barrier() -> None:
    """For sum(x - c ln x) the minimum is at x = c; ln is nan for negative x."""
    c = torch.tensor([1e-4, 0.1, 1.0, 30.0], dtype=torch.float64)
    x0 = starts(20, 4).abs() + 0.1
    result = minimize(lambda x: (x - c * x.log()).sum(-1), x0, gain_tol=1e-16)
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x, c.expand(20, 4), rtol=1e-5)


def test_nan_outside_a_ball() -> None:
    def fun(x: Tensor) -> Tensor:
        inside = (x * x).sum(-1) < 4
        return torch.where(inside, rosenbrock(x), torch.nan)

    result = minimize(fun, 0.5 * torch.nn.functional.normalize(starts(30, 3), dim=-1))
    assert converged(result)
    np.testing.assert_allclose(result.x, 1, atol=1e-3)


def test_gradient_that_is_nan_is_a_forbidden_point() -> None:
    """The value goes on falling below zero, where the root is masked, but the gradient is nan."""

    def fun(x: Tensor) -> Tensor:
        return (x - 0.2 * torch.where(x > 0, x.sqrt(), 0)).sum(-1)

    result = minimize(fun, torch.full((2, 1), 0.5, dtype=torch.float64), gain_tol=1e-14)
    assert converged(result)
    np.testing.assert_allclose(result.x, 0.01, rtol=1e-6)


def test_infinite_value_is_stepped_back_from() -> None:
    """The first steps, in search of an end to a long slope, land where the value overflows."""
    result = minimize(lambda x: ((x**8).exp() - 1e6 * x).sum(-1), torch.zeros(3, 1).double())
    assert converged(result)
    root = scipy.optimize.brentq(lambda x: 8 * x**7 * np.exp(x**8) - 1e6, 1, 2)
    np.testing.assert_allclose(result.x, root, rtol=1e-6)


def test_kink_is_approached() -> None:
    """No gradient vanishes at the minimum of |x|_1, but the line search closes in on it."""
    result = minimize(lambda x: x.abs().sum(-1), starts(20, 2), gain_tol=0.0)
    assert (result.fun < 1e-3).all()


class Mixed:
    """Rosenbrocks of several heights, and among them forbidden, unbounded and lying problems."""

    def __init__(self) -> None:
        self.kind = torch.arange(64) % 8
        self.height = torch.logspace(0, 3, 64, dtype=torch.float64)

    def __call__(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        kind, fun = self.kind[rows], rosenbrock(x, self.height[rows])
        fun = torch.where(kind == 1, torch.nan, fun)
        fun = torch.where(kind == 2, x.log().sum(-1), fun)  # nan at once, or down to the border
        fun = torch.where(kind == 3, -x.exp().sum(-1), fun)
        fun = torch.where(kind == 4, reversed_gradient(x), fun)
        return torch.where(kind == 5, (x - 1e8 * x).sum(-1), fun)


def test_result_does_not_depend_on_batch_mates() -> None:
    fun, x0 = Mixed(), starts(64, 4)
    x0[7] = torch.nan
    together = minimize(fun, x0)
    sound = (fun.kind == 0) | (fun.kind >= 6) & (torch.arange(64) != 7)
    assert (together.status[sound] == Status.CONVERGED).all()
    assert (together.status[fun.kind == 1] == Status.NON_FINITE).all()
    assert (together.status[fun.kind == 4] == Status.LINE_SEARCH_FAILED).all()
    assert together.status[7] == Status.NON_FINITE
    for b in [*sound.nonzero().flatten().tolist(), 1, 4, 7]:
        rows = slice(b, b + 1)
        alone = minimize(lambda x, rows=rows: fun(x, rows), x0[rows])
        assert alone.status == together.status[b]
        for mine, ours in ((alone.fun[0], together.fun[b]), (alone.x[0], together.x[b])):
            torch.testing.assert_close(mine, ours, rtol=1e-12, atol=1e-20, equal_nan=True)


def test_order_within_the_batch_changes_nothing() -> None:
    fun, x0 = LogisticRegression(16), starts(16, 6)
    result = minimize(fun, x0)
    fun.features, fun.classes = fun.features.flip(0), fun.classes.flip(0)
    flipped = minimize(fun, x0.flip(0))
    torch.testing.assert_close(result.x, flipped.x.flip(0), rtol=1e-10, atol=1e-12)
    assert torch.equal(result.status, flipped.status.flip(0))


def test_finished_problems_are_frozen() -> None:
    seen: list[Minimum] = []
    result = minimize(rosenbrock, starts(20, 3), callback=seen.append)
    for b in range(20):
        history = [m for m in seen if m.status[b] != Status.RUNNING]
        assert all(
            torch.equal(m.x[b], result.x[b]) and m.nfev[b] == result.nfev[b] for m in history
        )
    assert result.nfev.min() < result.nfev.max()


def test_finished_problem_is_shown_its_last_point() -> None:
    shown: list[Tensor] = []

    def fun(x: Tensor) -> Tensor:
        shown.append(x.detach().clone())
        return rosenbrock(x)

    result = minimize(fun, torch.tensor([[1.0, 1.0], [-1.2, 1.0]]).double())
    assert result.nfev[0] == 1
    assert all(torch.equal(x[0], torch.ones(2).double()) for x in shown)


def test_values_never_rise() -> None:
    seen: list[Minimum] = []
    minimize(lambda x: 1e6 + rosenbrock(x), starts(20, 3), callback=seen.append)
    values = torch.stack([m.fun for m in seen])
    # Where rounding dominates the slopes decide; a value may then rise by rounding errors.
    assert (values.diff(dim=0) <= 100 * 2.3e-16 * 1e6).all()
    assert (values[1:] <= values[0]).all()


@pytest.mark.parametrize("max_iter", [0, 1, 5])
def test_max_iter(max_iter: int) -> None:
    x0 = starts(6, 4)
    result = minimize(rosenbrock, x0, max_iter=max_iter)
    assert (result.status == Status.MAX_ITER).all()
    assert (result.nit == max_iter).all()
    assert (result.fun <= rosenbrock(x0)).all()


@pytest.mark.parametrize("max_eval", [1, 2, 9])
def test_max_eval(max_eval: int) -> None:
    x0 = starts(6, 4)
    result = minimize(rosenbrock, x0, max_eval=max_eval)
    assert (result.status == Status.MAX_EVAL).all()
    assert (result.nfev == max_eval).all()
    assert (result.fun <= rosenbrock(x0)).all()


def test_stopped_within_a_line_search_the_best_point_is_kept() -> None:
    """Along a long gentle slope the first trials go down without an end of the search."""
    x0 = torch.tensor([1000.0], dtype=torch.float64)
    result = minimize(lambda x: 1e-6 * (x**2).sum(-1), x0, gain_tol=0.0, max_eval=4)
    assert result.nit == 0
    assert result.fun < 1e-6 * 1000**2
    torch.testing.assert_close(result.fun, 1e-6 * (result.x**2).sum(-1))


def test_line_search_failure_keeps_the_start() -> None:
    x0 = starts(3, 4)
    result = minimize(reversed_gradient, x0)
    assert (result.status == Status.LINE_SEARCH_FAILED).all()
    assert torch.equal(result.x, x0)
    assert (result.nit == 0).all()
    assert (result.nfev <= 31).all()


def test_failed_search_restarts_from_steepest_descent() -> None:
    """One line search, and the next one at first, meet nan alone; then the way is free again."""
    calls = 0

    def fun(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value = rosenbrock(x)
        return torch.where(torch.tensor(5 < calls <= 25), torch.nan, value)

    result = minimize(fun, torch.tensor([-1.2, 1.0]).double())
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(result.x, 1, atol=1e-3)


def test_non_finite_start_is_reported_as_it_is() -> None:
    x0 = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [torch.nan, 1.0]], dtype=torch.float64)
    result = minimize(lambda x: (x - x.log()).sum(-1), x0)
    expected = [Status.CONVERGED, Status.NON_FINITE, Status.NON_FINITE]
    assert result.status.tolist() == expected
    np.testing.assert_array_equal(result.x[1:], x0[1:])
    assert result.nfev[1:].tolist() == [1, 1]


def test_start_at_the_minimum() -> None:
    result = minimize(rosenbrock, torch.ones(3, 4, dtype=torch.float64))
    assert converged(result)
    assert (result.nit == 0).all()
    assert (result.nfev == 1).all()


def test_tolerance_per_problem() -> None:
    x0 = starts(1, 4).expand(2, 3, 4)
    tol = torch.tensor([[1e-2], [1e-14]], dtype=torch.float64)
    result = minimize(rosenbrock, x0, gain_tol=tol)
    assert (result.nfev[0] < result.nfev[1]).all()
    assert ((result.grad**2).sum(-1) / 2 <= tol).all()


def test_evaluations_are_counted() -> None:
    calls = 0

    def fun(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return rosenbrock(x)

    result = minimize(fun, starts(9, 3))
    assert result.nfev.max() == calls
    assert (result.nfev > result.nit).all()
    for b, x0 in enumerate(starts(9, 3)):
        calls = 0
        assert minimize(fun, x0).nfev == calls == result.nfev[b]


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,), (2, 1, 2)])
def test_batch_shapes(batch: tuple[int, ...]) -> None:
    seen = set()

    def fun(x: Tensor) -> Tensor:
        seen.add(tuple(x.shape))
        return rosenbrock(x)

    result = minimize(fun, starts(*batch, 3))
    assert seen == {(*batch, 3)}
    assert result.x.shape == result.grad.shape == (*batch, 3)
    for part in (result.fun, result.status, result.nit, result.nfev):
        assert part.shape == batch
    assert result.status.dtype == torch.int64
    assert converged(result)
    torch.testing.assert_close(result.fun, rosenbrock(result.x), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "gain_tol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_dtype_and_device_follow_the_start(
    device: str, dtype: torch.dtype, gain_tol: float
) -> None:
    x0 = starts(10, 3).to(device, dtype)
    result = minimize(rosenbrock, x0, gain_tol=gain_tol)
    for part in (result.x, result.fun, result.grad):
        assert part.dtype == dtype
        assert part.device == x0.device
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x.cpu(), 1, atol=2e-2 if dtype == torch.float32 else 1e-5)


def test_default_dtype_does_not_matter() -> None:
    x0 = starts(5, 3)
    expected = minimize(rosenbrock, x0)
    assert torch.get_default_dtype() == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        result = minimize(rosenbrock, x0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(result.x, expected.x)
    assert result.x.dtype == torch.float64


@pytest.mark.parametrize("history", [1, 3, 30])
def test_history_length(history: int) -> None:
    assert converged(minimize(rosenbrock, starts(5, 4), history=history, max_iter=1000))


def test_start_is_not_modified_and_result_has_no_graph() -> None:
    x0 = starts(4, 3).requires_grad_()
    before = x0.detach().clone()
    result = minimize(rosenbrock, x0)
    assert torch.equal(x0, before)
    assert x0.grad is None
    assert not result.x.requires_grad
    with torch.no_grad():
        assert torch.equal(minimize(rosenbrock, x0).x, result.x)


def test_every_status_has_a_message() -> None:
    messages = [status.message for status in Status]
    assert len(set(messages)) == len(Status) == 6
    assert all(messages)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="x0 must be a floating-point tensor"):
        minimize(rosenbrock, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="x0 must have shape"):
        minimize(rosenbrock, torch.tensor(1.0))
    with pytest.raises(ValueError, match="history must be"):
        minimize(rosenbrock, torch.zeros(3), history=0)
    with pytest.raises(ValueError, match=r"one value per problem, \(2,\), got \(\)"):
        minimize(lambda x: rosenbrock(x).sum(), torch.zeros(2, 3))


def test_what_rounding_hides_is_not_asked_for():
    """On a large constant no lower point can be told from the same one: that is the end."""

    def fun(x):
        return 1e6 + 0.5 * ((x - 1) ** 2 * torch.tensor([1.0, 3.0]).double()).sum(-1)

    result = minimize(fun, torch.zeros(2, dtype=torch.float64), gain_tol=0.0)
    assert result.status == Status.CONVERGED
    assert (result.x - 1).abs().max() < 1e-4
