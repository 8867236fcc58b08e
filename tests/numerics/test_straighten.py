"""Straight coordinates: a bijection onto the box, like its own to first order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.straighten import StraightBox, foot

INF = torch.inf
LOWER = [-16.0, -INF, -16.0, 0.0, 0.5]
UPPER = [10.0, INF, 10.0, INF, 0.5]
LOGARITHMIC = [True, True, False, False, True]
REFERENCE = [-1.0, -2.0, 3.0, 0.4, 0.5]


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.fixture
def plain():
    return Box(tensor(LOWER), tensor(UPPER))


@pytest.fixture(params=[-20.0, -3.0, 0.0, 1.0, 3.0])
def tau(request):
    return request.param


@pytest.fixture
def straight(plain, tau):
    return StraightBox(plain, plain.inv(tensor(REFERENCE)), torch.tensor(LOGARITHMIC), tau)


def test_it_agrees_with_the_box_to_first_order_at_the_reference(plain, straight):
    u = plain.inv(tensor(REFERENCE))
    torch.testing.assert_close(straight(u), plain(u), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(straight.slope(u), plain.slope(u), rtol=1e-13, atol=0)
    torch.testing.assert_close(straight.plain(u), u, rtol=1e-14, atol=1e-14)


def test_slopes_are_the_soft_rectifier(straight, tau):
    """Without bounds the coordinate of the box is the log slope itself."""
    t = np.linspace(-10, 10, 41)
    z = tau + np.log1p(np.exp(tau)) * (1 + np.exp(-tau)) * (t + 2.0)
    expected = -2.0 + np.log(np.logaddexp(0, z) / np.logaddexp(0, tau))
    got = straight(tensor(REFERENCE).expand(41, -1).clone().index_fill_(1, torch.tensor(1), 0.0)
                   + tensor(t)[:, None] * tensor([0, 1.0, 0, 0, 0]))[:, 1]  # fmt: skip
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_entries_that_are_no_logarithms_are_those_of_the_box(plain, straight):
    t = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = ~torch.tensor(LOGARITHMIC)
    assert torch.equal(straight(t)[:, others], plain(t)[:, others])
    assert torch.equal(straight.log_slope(t)[:, others], plain.log_slope(t)[:, others])
    assert (straight(t)[:, 4] == 0.5).all()


def test_there_and_back(straight):
    x = torch.rand(200, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.stack([-15.9 + 25.8 * x[:, 0], -30 + 60 * x[:, 1], -15.9 + 25 * x[:, 2],
                     x[:, 3], 0 * x[:, 4] + 0.5], -1)  # fmt: skip
    torch.testing.assert_close(straight(straight.inv(x)), x, rtol=1e-9, atol=1e-9)


def test_it_increases_and_stays_finite(straight):
    t = torch.linspace(-1e4, 1e4, 4001, dtype=torch.float64).unsqueeze(-1).expand(-1, 5)
    x = straight(t)[:, :3]
    assert x.isfinite().all()
    assert (x.diff(dim=0) >= 0).all()
    assert straight.log_slope(t)[:, :3].isfinite().all()


def test_log_jacobian_equals_autograd(straight):
    t = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(straight, t)
    torch.testing.assert_close(torch.diag(straight.slope(t)), jacobian, rtol=1e-12, atol=0)
    expected = jacobian.diagonal()[:4].log().sum()
    torch.testing.assert_close(straight.log_abs_det_jacobian(t, t), expected)


def test_gradcheck(straight):
    t = torch.randn(2, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t[0, 1] = -20.0  # in the tail
    t.requires_grad_()
    assert gradcheck(straight, (t,))
    assert gradgradcheck(straight, (t,))
    assert gradcheck(straight.log_slope, (t,))


def test_each_problem_of_a_batch_has_its_own_reference(plain):
    flags = torch.tensor(LOGARITHMIC)
    center = plain.inv(torch.stack([tensor(REFERENCE), tensor([2.0, 1.0, 0.0, 1.0, 0.5])]))
    t = torch.randn(2, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    both = StraightBox(plain, center, flags, 1.0)(t)
    for i in range(2):
        one = StraightBox(plain, center[i], flags, 1.0)(t[i])
        torch.testing.assert_close(both[i], one, rtol=1e-13, atol=1e-14)


def test_each_entry_has_its_own_place_on_the_rectifier(plain):
    flags, center = torch.tensor(LOGARITHMIC), plain.inv(tensor(REFERENCE))
    tau = tensor([3.0, -8.0, 0.0, 0.0, 1.0])
    t = torch.randn(20, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    both = StraightBox(plain, center, flags, tau)(t)
    for i in range(5):
        one = StraightBox(plain, center, flags, float(tau[i]))(t)
        torch.testing.assert_close(both[:, i], one[:, i], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_rectifier_bends_at_one_standard_error_or_higher(tau):
    significance = tensor([0.0, 1e-6, 0.3, 1.0, 100.0, INF, torch.nan])
    got = foot(significance, tau)
    assert got.isfinite().all()
    # In units of the rectifier's scale a lost slope is as large as in its standard errors.
    assert np.logaddexp(0, got[1:4].numpy()).tolist() == pytest.approx([1e-6, 0.3, 1.0], rel=1e-12)
    assert got[4:].tolist() == pytest.approx([tau] * 3, rel=1e-14)


@pytest.mark.parametrize("far", [0.0, 3.0, -40.0, -800.0])
def test_values_with_their_slopes_are_those_by_autograd(plain, straight, far):
    for box in (plain, straight):
        t = (plain.inv(tensor(REFERENCE)) + far).clamp(max=600.0).requires_grad_()
        x, slope = box.with_slope(t.detach())
        (expected,) = torch.autograd.grad(box(t).sum(), t)
        torch.testing.assert_close(x, box(t.detach()), rtol=1e-14, atol=1e-300)
        torch.testing.assert_close(slope, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("far", [0.0, 3.0, -40.0, -800.0])
def test_the_slopes_of_log_slopes_are_those_by_autograd(plain, straight, far):
    for box in (plain, straight):
        t = (plain.inv(tensor(REFERENCE)) + far).requires_grad_()
        (expected,) = torch.autograd.grad(box.log_slope(t).sum(), t)
        *with_slope, log_slope, bend = box.jet(t.detach())
        torch.testing.assert_close(bend, expected, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(box.bend(t.detach()), bend, rtol=0, atol=0)
        torch.testing.assert_close(log_slope, box.log_slope(t.detach()), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(tuple(with_slope), box.with_slope(t.detach()))
        assert gradcheck(box.bend, (t,))


def test_some_problems_of_a_batch(plain, tau):
    center = plain.inv(tensor(REFERENCE)).expand(3, -1) + tensor([[0.0], [0.1], [0.2]])
    box = StraightBox(plain, center, torch.tensor(LOGARITHMIC), tau)
    rows = torch.tensor([2, 0])
    found, every = box.take(rows).with_slope(center[rows] - 1), box.with_slope(center - 1)
    for mine, ours in zip(found, every, strict=True):
        torch.testing.assert_close(mine, ours[rows], rtol=1e-14, atol=0)
