"""One search at a time: every trial must land where the bracket and the theory say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from torusimaging_torch.numerics.line_search import (
    Point,
    Search,
    is_exhausted,
    judge,
    narrow,
    new_search,
    select,
    take,
)


def look(fun: Callable[[Tensor], Tensor], x: Tensor) -> Point:
    leaf = x.detach().requires_grad_()
    value = fun(leaf).sum(-1)
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    return Point.of(leaf.detach(), value.detach(), grad)


def start_at(point: Point, direction: Tensor) -> Search:
    return new_search(point, direction, (point.grad * direction).sum(-1))


def descend(fun: Callable[[Tensor], Tensor], x0: float, direction: float) -> list[Search]:
    """Search along a line from x0 until the trial is accepted."""
    start = look(fun, torch.tensor([[x0]], dtype=torch.float64))
    search = start_at(start, torch.tensor([[direction]], dtype=torch.float64))
    searches, accept = [search], torch.tensor(False)
    while not accept and not is_exhausted(search):
        trial = look(fun, start.x + search.step[:, None] * search.direction)
        judged = judge(search, trial, torch.tensor([-math.inf]).double())
        accept, search = judged.accept, narrow(search, trial, judged)
        searches.append(search)
    return searches


def test_cubic_interpolation_is_exact_for_a_cubic() -> None:
    """The first step overshoots; the next goes straight to the minimum of x^3 - x at 1/sqrt 3."""
    _, search, *_ = descend(lambda x: x**3 - x, 0.0, 1.5)
    np.testing.assert_allclose(1.5 * search.step, 1 / math.sqrt(3), rtol=1e-14)


def test_unbracketed_step_grows_fivefold_until_the_slope_gives_way() -> None:
    searches = descend(lambda x: (x - 1000) ** 2, 0.0, 1.0)
    assert [s.step.item() for s in searches[:-1]] == [1, 5, 25, 125]


def test_forbidden_trial_shrinks_the_step_tenfold() -> None:
    searches = descend(lambda x: -(1e-3 - x).log() - 1e6 * x, 0.0, 1.0)
    steps = [s.step.item() for s in searches[:4]]
    np.testing.assert_allclose(steps, [1, 0.1, 0.01, 1e-3])


@pytest.mark.parametrize("x0", [-3.0, 0.5, 10.0])
@pytest.mark.parametrize("length", [1e-6, 1e-2, 1.0, 1e4])
def test_accepted_step_satisfies_the_weak_wolfe_conditions(x0: float, length: float) -> None:
    def fun(x: Tensor) -> Tensor:
        return (x - 1).abs() ** 3 + (3 * x).sin()

    start = look(fun, torch.tensor([[x0]], dtype=torch.float64))
    direction = -length * start.grad[0, 0].sign().item()
    last = descend(fun, x0, direction)[-2]
    slope = direction * start.grad[0, 0]
    end = look(fun, start.x + last.step * direction)
    assert end.value <= start.value + 1e-4 * last.step * slope
    assert direction * end.grad >= 0.9 * slope


def test_climbing_search_is_exhausted() -> None:
    """A direction that only climbs ends with the start as best point, after 30 trials at most."""
    searches = descend(lambda x: 2 * (x * x).detach() - x * x, 2.0, 1.0)
    assert is_exhausted(searches[-1])
    assert searches[-1].low_point.x == 2.0
    assert len(searches) <= 31


def test_ceiling_admits_a_rise_by_rounding() -> None:
    """With the slope gone but the value up by rounding, the ceiling decides."""
    point = Point.of(torch.zeros(1, 1), torch.ones(1), -torch.ones(1, 1))
    search = start_at(point, torch.ones(1, 1))
    trial = Point.of(torch.ones(1, 1), torch.full((1,), 1.00001), torch.zeros(1, 1))
    assert not judge(search, trial, torch.ones(1)).accept
    assert judge(search, trial, torch.full((1,), 1.0001)).accept
    steep = Point.of(trial.x, trial.value, torch.ones(1, 1))
    assert not judge(search, steep, torch.full((1,), 1.0001)).accept


def test_select_picks_rows() -> None:
    new = Point.of(torch.ones(2, 3), torch.ones(2), torch.ones(2, 3))
    old = Point.of(torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 3))
    picked = select(torch.tensor([True, False]), new, old)
    assert picked.value.tolist() == [1, 0]
    assert picked.x.sum(-1).tolist() == [3, 0]
    assert take(torch.tensor([1, 0]), picked).value.tolist() == [0, 1]
