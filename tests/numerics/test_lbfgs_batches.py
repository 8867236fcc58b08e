"""Many problems at once in the L-BFGS: none depends on its batch mates."""

from __future__ import annotations

import pytest
import torch
from minimized import LogisticRegression, converged, reversed_gradient, rosenbrock, starts
from torch import Tensor

from torusimaging_torch.numerics.lbfgs import minimize
from torusimaging_torch.numerics.minimum import Minimum, Status


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
