"""Draws of amounts that stand for each other: their sum is what is known."""

from __future__ import annotations

import pytest
import torch

from torusimaging_torch.inference.draws import balances_of, covariance_root, vector_samples
from torusimaging_torch.inference.fisher import cramer_rao_bound
from torusimaging_torch.inference.laplace import laplace_check
from torusimaging_torch.numerics.box import Box

# Two sheets of matter whose sum is known to 2 per cent, and their ratio to a factor of e^2.
SUM, RATIO = 0.02, 2.0
X = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
LOGARITHMIC = torch.tensor([False, True, True])
AMOUNTS = torch.tensor([1, 2])


def covariance() -> torch.Tensor:
    """Return that of another parameter, and of the logs of both."""
    same, other = torch.tensor([0.0, 1.0, 1.0]).double(), torch.tensor([0.0, 0.5, -0.5]).double()
    own = torch.diag(torch.tensor([0.25, 0.0, 0.0]).double())
    return own + SUM**2 * torch.outer(same, same) + RATIO**2 * torch.outer(other, other)


def draw(size: int, root: torch.Tensor, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return vector_samples(X, root, size, generator, LOGARITHMIC, amounts=AMOUNTS, **options)


def test_the_sum_is_known_as_well_in_draws_as_to_first_order():
    draws = draw(4000, covariance_root(covariance()))
    total = draws[:, 1:].exp().sum(-1)
    assert float(total.log().std()) == pytest.approx(SUM, rel=0.05)
    assert float((draws[:, 1] - draws[:, 2]).std()) == pytest.approx(RATIO, rel=0.05)
    assert float(draws[:, 0].std()) == pytest.approx(0.5, rel=0.05)
    assert float(total.median()) == pytest.approx(2, rel=2e-3)


def test_as_slopes_alone_they_are_not():
    generator = torch.Generator().manual_seed(1)
    draws = vector_samples(X, covariance_root(covariance()), 4000, generator, LOGARITHMIC)
    assert float(draws[:, 1:].exp().sum(-1).log().std()) > 5 * SUM


def test_small_errors_are_those_of_the_covariance():
    small = 1e-6 * covariance()
    found = torch.cov(draw(20_000, covariance_root(small)).mT)
    torch.testing.assert_close(found, small, rtol=0.05, atol=2e-8)


def test_bounds_are_kept_and_a_batch_is_its_problems():
    edge = torch.tensor([3.1, 1.5, 1.5], dtype=torch.float64)
    box = Box(-edge, edge)
    draws = draw(500, covariance_root(covariance()), box=box)
    assert draws[:, 1:].abs().max() == 1.5
    assert draws[:, 0].max() > 3.2  # what is no logarithm is drawn as it comes
    roots = torch.stack([covariance_root(c * covariance()) for c in (1.0, 0.1)])
    normal = torch.Generator().manual_seed(4)
    both = vector_samples(X.expand(2, 3), roots, 5, normal, LOGARITHMIC, amounts=AMOUNTS)
    again = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(4), dtype=X.dtype)
    for i, root in enumerate(roots):
        step, balances = again[:, i] @ root.mT, balances_of(X, root, AMOUNTS)
        expected = balances(balances.inverse(X) + balances.push(step))
        torch.testing.assert_close(both[:, i, 1:], expected[:, 1:])


def test_what_is_held_stays_and_the_rest_are_moved():
    root = covariance_root(covariance())
    root[2] = 0
    draws = draw(50, root)
    assert (draws[:, 2] == X[2]).all()
    assert draws[:, 1].std() > 0.5
    root[1] = 0
    assert (draw(50, root)[:, 1:] == X[1:]).all()


def test_the_check_of_the_bound_draws_them_so():
    balances = balances_of(X, covariance_root(covariance()), AMOUNTS)
    there = balances.inverse(X)
    push = balances.push(torch.eye(3, dtype=X.dtype)).mT
    precision = torch.linalg.inv(push @ covariance() @ push.mT)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        t = balances.inverse(x) - there
        return -0.5 * torch.einsum("...i,ij,...j->...", t, precision, t)

    bound = cramer_rao_bound(torch.linalg.inv(covariance()))
    found = {}
    for name, amounts in (("so", AMOUNTS), ("plain", None)):
        generator = torch.Generator().manual_seed(3)
        found[name] = laplace_check(log_density, X, bound, 1000, generator, amounts=amounts)
    assert found["so"].ess == pytest.approx(1000)
    assert found["plain"].ess < 200
