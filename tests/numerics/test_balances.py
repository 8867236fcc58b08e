"""Balances: a bijection that keeps volumes, in which sums are coordinates."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian

from torusimaging_torch.numerics.balances import Balances, best_known, halves, one_by_one

SHARES = [
    [1.0],
    [0.5, 0.5],
    [0.02, 0.68, 0.05, 0.25],
    [1 - 6e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6],
    [1 / 7] * 7,
]
PLACES = [4, 1, 7, 2, 9, 0, 5]


@pytest.fixture(params=SHARES, ids=len)
def share(request):
    return torch.tensor(request.param, dtype=torch.float64)


@pytest.fixture(params=["halves", "one by one"])
def balances(share, request):
    nodes = one_by_one(len(share)) if request.param == "one by one" else halves(share.tolist())
    n = len(share)
    generator = torch.Generator().manual_seed(n)
    center, rate = torch.rand(2, n, generator=generator, dtype=torch.float64) + 0.5
    return Balances(torch.tensor(PLACES[:n]), center, rate, share, nodes)


def points(*shape):
    return 2 * torch.randn(*shape, 10, generator=torch.Generator().manual_seed(3)).double()


def ln_amounts(balances, u):
    return balances.rate * (u[..., balances.places] - balances.center) + balances.share.log()


def test_there_and_back(balances):
    t = points(4, 5)
    torch.testing.assert_close(balances.inverse(balances(t)), t, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(balances(balances.inverse(t)), t, rtol=1e-12, atol=1e-12)


def test_the_first_coordinate_is_the_log_of_the_total(balances):
    t = points(6)
    total = ln_amounts(balances, balances(t)).exp().sum(-1)
    torch.testing.assert_close(t[:, balances.places[0]], total.log(), rtol=1e-12, atol=1e-12)


def test_the_second_one_is_the_log_ratio_of_the_halves():
    share = torch.tensor([0.1, 0.25, 0.15, 0.5], dtype=torch.float64)
    zero, one = torch.zeros(4).double(), torch.ones(4).double()
    balances = Balances(torch.arange(4), zero, one, share, halves(share.tolist()))
    u = torch.tensor([0.3, -0.2, 0.7, 0.1], dtype=torch.float64)
    amounts = share * u.exp()
    expected = amounts[:3].sum().log() - amounts[3].log()
    torch.testing.assert_close(balances.inverse(u)[1], expected)
    assert balances.inverse(torch.zeros(4).double())[1] == pytest.approx(0.0, abs=1e-15)


def test_other_entries_stay(balances):
    t = points(3)
    others = torch.ones(10, dtype=torch.bool).index_fill(0, balances.places, False)
    assert torch.equal(balances(t)[:, others], t[:, others])


def test_volumes_stay(balances):
    """But for the rates, which are constant."""
    determinant = torch.linalg.det(jacobian(balances, points()))
    expected = balances.rate.prod().reciprocal()
    torch.testing.assert_close(determinant.abs(), expected, rtol=1e-11, atol=0)


def test_gradients(balances):
    t = points(2).requires_grad_()
    assert gradcheck(balances, (t,))
    assert gradgradcheck(balances, (t,))
    by_u = points(2).flip(-1)
    (expected,) = torch.autograd.grad(balances(t), t, by_u)
    found = balances.pull(by_u, t.detach())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_batch_has_shares_of_its_own():
    share = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], dtype=torch.float64)
    center, rate = points(2)[:, :3], points(2)[:, 3:6].exp()
    every = Balances(torch.tensor([5, 2, 0]), center, rate, share, one_by_one(3))
    t = points(4, 2)
    for i, rows in enumerate(torch.tensor([[0], [1]])):
        alone = every.take(rows)
        torch.testing.assert_close(alone(t[:, rows]), every(t)[:, rows])
        torch.testing.assert_close(alone.inverse(t[:, rows]), every.inverse(t)[:, rows])
        torch.testing.assert_close(alone.pull(t[:, rows], t[:, rows]), every.pull(t, t)[:, rows])
        assert alone.share.tolist() == [share[i].tolist()]


def test_far_amounts_stay_finite(balances):
    t = points(2) * 400
    assert balances(t).isfinite().all()
    assert balances.inverse(t).isfinite().all()


def test_no_amounts_are_left_alone():
    none = torch.zeros(0).double()
    balances, t = Balances(none.long(), none, none, none, []), points(2)
    for found in (balances(t), balances.inverse(t), balances.pull(t, t)):
        assert torch.equal(found, t)


def test_a_step_is_pushed_as_the_derivative_says(balances):
    u = torch.zeros(10, dtype=torch.float64)
    u[balances.places] = balances.center
    step = points(4)
    expected = step @ jacobian(balances.inverse, u).mT
    torch.testing.assert_close(balances.push(step), expected, rtol=1e-12, atol=1e-12)


def test_no_other_shares_are_known_better():
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    # Amounts that stand for each other: a mean is known, differences are not.
    covariance = root @ root.mT + 100 * (torch.eye(5) - 0.2)
    share = best_known(covariance)
    assert share.sum() == pytest.approx(1)
    variance = share @ covariance @ share
    others = torch.rand(500, 5, generator=generator, dtype=torch.float64)
    others /= others.sum(-1, keepdim=True)
    assert (torch.einsum("ni,ij,nj->n", others, covariance, others) >= variance).all()


def test_units_of_amounts_do_not_matter_and_none_vanishes():
    covariance = torch.tensor([[1.0, 0.999], [0.999, 1.0]], dtype=torch.float64)
    scale = torch.tensor([1.0, 10.0], dtype=torch.float64)
    share = best_known(covariance * scale[:, None] * scale)
    assert share.tolist() == pytest.approx([1.0, 1e-6], abs=1e-6)
    assert share.min() > 0
