"""Amounts that add up, sampled: their shares have a known distribution."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from toys import Toy, assert_quantiles, unbounded, worst_error

from torusimaging_torch.inference.convergence import ess_bulk
from torusimaging_torch.inference.nuts import nuts
from torusimaging_torch.numerics.params import Layout


class AmountsOfOneTotal(Toy):
    """Amounts whose sum is 10 to a thousandth, with Dirichlet's shares; parameters are their logs.

    In the logs of two amounts or more that is a thin shell, bent on the scale of the whole.
    """

    def __init__(self, alpha):
        self.alpha, n = alpha, len(alpha)
        self.amounts, self.layout = torch.arange(n), Layout((("x",),), (n,))
        self.logarithmic = torch.ones(n, dtype=torch.bool)

    def __call__(self, x):
        return (self.alpha * x).sum(-1) - 0.5 * ((x.exp().sum(-1) - 10) / 0.01) ** 2

    def data_information(self, x):
        slope = x.exp() / 0.01
        return slope.unsqueeze(-1) * slope.unsqueeze(-2)

    def penalty_hessian(self, x):
        return torch.zeros_like(self.data_information(x))


@pytest.mark.slow
def test_amounts_that_stand_for_each_other():
    alpha = torch.tensor([1.5, 0.8, 3.0, 2.0, 1.0]).double()
    box = unbounded(5)
    start = torch.full((5,), 2.0).log().double()
    chains = nuts(AmountsOfOneTotal(alpha), box, start, num_samples=600, num_warmup=300, seed=4)
    assert not chains.divergences.any()
    assert ess_bulk(chains.x).min() > 150
    amounts = chains.x[0].exp()
    share = (amounts / amounts.sum(-1, keepdim=True)).numpy()
    truth = stats.beta(alpha, alpha.sum() - alpha)
    error = worst_error(chains)
    assert (abs(share.mean(0) - truth.mean()) < 4 * error * truth.std()).all()
    assert_quantiles(share, truth, error)
