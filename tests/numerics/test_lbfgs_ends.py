"""How the L-BFGS ends, and what it takes: statuses, limits, types, arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from minimized import converged, reversed_gradient, rosenbrock, starts
from torch import Tensor

from torusimaging_torch.numerics.lbfgs import minimize
from torusimaging_torch.numerics.minimum import Status

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


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
