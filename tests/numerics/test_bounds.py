"""The box: a bijection in every case, its Jacobian, starts on a bound, and Pyro."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import expit
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.numerics.box import Box

INF = np.inf
LOWER = [-16.0, -INF, 2.0, -INF, 0.5, 0.0]
UPPER = [10.0, 3.0, INF, INF, 0.5, 1e-6]
NAMES = ["two", "upper", "lower", "none", "fixed", "narrow"]
FREE = [0, 1, 2, 3, 5]


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.fixture
def box():
    return Box(tensor(LOWER), tensor(UPPER), NAMES)


def test_each_case_equals_its_formula(box):
    u = np.array([0.7, -0.3, 1.2, 5.0, 9.0, -2.0])
    expected = [
        -16 + 26 * expit(0.7),
        3 - np.exp(0.3),
        2 + np.exp(1.2),
        5.0,
        0.5,
        1e-6 * expit(-2.0),
    ]
    np.testing.assert_allclose(box(tensor(u)).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("size", [0.1, 3.0, 15.0])
def test_there_and_back(box, size):
    u = size * torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = box(u)
    assert ((x >= tensor(LOWER)) & (x <= tensor(UPPER))).all()
    torch.testing.assert_close(box(box.inv(x)), x, rtol=1e-12, atol=1e-12)
    if size <= 3:
        back = box.inv(x)
        torch.testing.assert_close(back[:, FREE], u[:, FREE], rtol=1e-8, atol=1e-8)
        assert (back[:, 4] == 0).all()


def test_it_increases(box):
    u = torch.linspace(-5, 5, 101, dtype=torch.float64).unsqueeze(-1).expand(101, 6)
    assert (box(u).diff(dim=0)[:, FREE] > 0).all()


@pytest.mark.parametrize("size", [1.0, 20.0, 800.0])
def test_large_coordinates_stay_finite(box, size):
    for sign in (1, -1):
        u = torch.full((6,), sign * size, dtype=torch.float64, requires_grad=True)
        x = box(u)
        ok = torch.ones(6, dtype=torch.bool)
        # An exponential away from a single bound may overflow in its own entry, in no other.
        ok[2 if sign > 0 else 1] = size < 700
        assert x[ok].isfinite().all()
        (gradient,) = torch.autograd.grad(x[ok].sum(), u)
        assert gradient[ok].isfinite().all()
        assert box.slope(u.detach())[ok].isfinite().all()


def test_slope_and_log_jacobian_equal_autograd(box):
    u = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(box, u)
    torch.testing.assert_close(torch.diag(box.slope(u)), jacobian, rtol=1e-12, atol=0)
    expected = jacobian.diagonal()[FREE].log().sum()
    torch.testing.assert_close(box.log_abs_det_jacobian(u, box(u)), expected, rtol=1e-12, atol=0)


def test_gradcheck(box):
    u = torch.randn(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u.requires_grad_()
    assert gradcheck(box, (u,))
    assert gradgradcheck(box, (u,))
    assert gradcheck(box.log_slope, (u,))


def test_inverse_gradcheck(box):
    x = box(tensor([[0.3, -0.5, 0.2, 1.0, 0.0, 0.4]]))[:, :5].requires_grad_()
    narrow = Box(tensor(LOWER[:5]), tensor(UPPER[:5]))
    assert gradcheck(narrow.inv, (x,))


def test_batches_have_bounds_of_their_own():
    lower = tensor([[0.0, 1.0], [-INF, 2.0]])
    box = Box(lower, tensor([5.0, 3.0]))
    u = tensor([[0.5, -0.5], [0.5, -0.5]])
    got = box(u)
    for i in range(2):
        torch.testing.assert_close(got[i], Box(lower[i], tensor([5.0, 3.0]))(u[i]))
    assert box.log_abs_det_jacobian(u, got).shape == (2,)


# -- starts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [LOWER, UPPER])
def test_starts_on_a_bound_are_moved_inside(box, where):
    start = torch.where(tensor(where).isfinite(), tensor(where), 2.5)
    start[4] = 0.5
    moved = box.nudge_inside(start)
    assert ((moved > tensor(LOWER)) & (moved < tensor(UPPER)))[FREE].all()
    assert moved[4] == 0.5
    assert box.inv(moved).isfinite().all()
    assert (box.slope(box.inv(moved))[FREE] > 0).all()
    assert abs(moved[0] - start[0]) == pytest.approx(0.26)


def test_starts_well_inside_stay_where_they_are(box):
    start = tensor([-3.0, 0.0, 5.0, 100.0, 0.5, 5e-7])
    assert torch.equal(box.nudge_inside(start), start)


def test_rounding_beyond_a_bound_is_forgiven(box):
    start = tensor([10 + 1e-9, 0.0, 2 - 1e-10, 0.0, 0.5, -1e-16])
    assert (box.nudge_inside(start)[FREE] < tensor(UPPER)[FREE]).all()


@pytest.mark.parametrize(("entry", "value"), [(0, -17.0), (1, 3.1), (2, 1.9), (4, 0.6), (5, 2e-6)])
def test_starts_outside_name_the_entry(box, entry, value):
    start = tensor([0.0, 0.0, 5.0, 0.0, 0.5, 5e-7])
    start[entry] = value
    with pytest.raises(ValueError, match=f"^{NAMES[entry]} .*lies outside its bounds"):
        box.nudge_inside(start)


def test_nan_starts_name_the_entry(box):
    start = tensor([0.0, 0.0, 5.0, np.nan, 0.5, 5e-7])
    with pytest.raises(ValueError, match=r"^none \[nan\] lies outside"):
        box.nudge_inside(start)


def test_one_start_of_a_batch_outside_is_found(box):
    start = tensor([0.0, 0.0, 5.0, 0.0, 0.5, 5e-7]).repeat(3, 1)
    start[1, 2] = 0.0
    with pytest.raises(ValueError, match="^lower "):
        box.nudge_inside(start)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(1.0, 0.0), (np.nan, 1.0), (0.0, np.nan), (INF, INF), (-INF, -INF), (INF, -INF)],
)
def test_bounds_that_make_no_sense_name_the_entry(lower, upper):
    with pytest.raises(ValueError, match="^pos0 "):
        Box(tensor([0.0, lower]), tensor([1.0, upper]), ["vel0", "pos0"])


def test_entries_without_names_are_numbered():
    with pytest.raises(ValueError, match="^entry 1 "):
        Box(tensor([0.0, 1.0]), tensor([1.0, 0.0]))


# -- torch.distributions and Pyro ------------------------------------------------------------


def test_a_transformed_normal_is_a_logit_normal():
    box = Box(tensor([-1.0, 2.0]), tensor([3.0, INF]))
    base = torch.distributions.Independent(
        torch.distributions.Normal(tensor([0.0, 0.0]), tensor([1.0, 1.0])), 1
    )
    x = torch.distributions.TransformedDistribution(base, [box])
    point = tensor([0.7, 2.6])
    z = (0.7 + 1) / 4
    expected = stats.norm.logpdf(np.log(z / (1 - z))) - np.log(4 * z * (1 - z))
    expected += stats.lognorm.logpdf(0.6, 1.0)
    assert x.log_prob(point).item() == pytest.approx(expected, rel=1e-12)


def test_pyro_samples_lie_inside_and_have_a_density():
    box = Box(tensor(LOWER[:4]), tensor(UPPER[:4]))
    base = dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0).to_event(1)
    x = dist.TransformedDistribution(base, [box])
    sample = x.sample((100,))
    assert ((sample > box.lower) & (sample < box.upper)).all()
    assert x.log_prob(sample).shape == (100,)
    assert x.log_prob(sample).isfinite().all()


def test_float32_stays():
    box = Box(tensor(LOWER).float(), tensor(UPPER).float())
    u = torch.zeros(6)
    assert box(u).dtype == box.inv(box(u)).dtype == box.slope(u).dtype == torch.float32
