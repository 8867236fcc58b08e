"""Copies of stars: their distribution, and that neither chunks nor shards change a number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.random import SeedSequence
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chisquare, poisson

from torusimaging_torch.catalogue.resampling import Bootstrap, _poisson_table, bootstrap, jackknife

N = 20_000
ALL = [
    bootstrap(20, seed=1),
    jackknife(7, seed=1),
]
GOLDEN = {
    "poisson": [[0, 2, 0], [0, 3, 2], [1, 1, 2], [0, 0, 0]],
    "random": [8, 9, 0, 4, 7, 2, 5, 9],
}


@pytest.mark.parametrize("resampling", ALL, ids=["bootstrap", "jackknife"])
def test_chunks_do_not_change_a_number(resampling):
    whole = resampling.copies(0, N)
    ends = [0, 1, 18, 9_000, 9_001, N]
    parts = [resampling.copies(a, b) for a, b in pairwise(ends)]
    assert whole.shape == (N, resampling.n)
    assert_array_equal(np.concatenate(parts), whole)


def test_numbers_stay_as_they_were_published():
    assert_array_equal(bootstrap(3, seed=1).copies(10**10, 10**10 + 4), GOLDEN["poisson"])
    assert_array_equal(jackknife(10, seed=1).block(0, 8), GOLDEN["random"])


def test_more_resamplings_leave_the_first_ones_alone():
    few, many = (bootstrap(n, seed=3).copies(0, 100) for n in (3, 40))
    assert_array_equal(few, many[:, :3])


def test_copies_are_poisson_with_mean_and_variance_one():
    copies = bootstrap(20, seed=2).copies(0, N)
    observed = np.bincount(copies.ravel(), minlength=6)
    expected = poisson(1).pmf(np.arange(5))
    expected = np.append(expected, 1 - expected.sum()) * copies.size
    assert chisquare(np.append(observed[:5], observed[5:].sum()), expected).pvalue > 1e-3
    # 65536 equally likely cases: every one of them, for the moments of the distribution itself.
    table = _poisson_table().astype(int)
    assert len(table) == 1 << 16
    assert table.sum() == 1 << 16
    assert (table**2).sum() == 2 << 16
    shares = np.bincount(table) / (1 << 16)
    assert_allclose(shares, poisson(1).pmf(np.arange(len(shares))), rtol=0, atol=3e-4)


def test_stars_and_resamplings_are_independent():
    copies = bootstrap(40, seed=4).copies(0, N).astype(float) - 1.0
    between = copies.T @ copies / N - np.eye(40)
    neighbours = (copies[1:] * copies[:-1]).mean(axis=0)
    # 780 and 40 numbers of standard deviation N^-1/2
    assert np.abs(between - np.diag(np.diag(between))).max() < 4.5 / np.sqrt(N)
    assert np.abs(neighbours).max() < 4.5 / np.sqrt(N)


def test_jackknife_leaves_every_star_out_once():
    jack = jackknife(8)
    copies = jack.copies(0, N)
    assert_array_equal(copies.sum(axis=1), 7)
    assert_array_equal(np.argmin(copies, axis=1), jack.block(0, N))
    assert_allclose((copies == 0).sum(axis=0), N / 8, rtol=0.1)


def test_a_seed_from_the_system_is_reported():
    unseeded = bootstrap(3)
    assert unseeded.seed != bootstrap(3).seed
    assert_array_equal(bootstrap(3, seed=unseeded.seed).copies(0, 50), unseeded.copies(0, 50))


def test_children_of_a_seed_sequence_differ():
    one, two = (bootstrap(3, seed=child) for child in SeedSequence(9).spawn(2))
    assert one.seed != two.seed
    assert one == bootstrap(3, seed=SeedSequence(9).spawn(1)[0])
    assert one == Bootstrap(3, one.seed)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: bootstrap(0), "n must be a whole number of at least 1, got 0"),
        (lambda: bootstrap(2.5), "n must be a whole number"),
        (lambda: jackknife(1), "at least 2"),
        (lambda: bootstrap(2, seed=-1), "seed must be a whole number, not negative"),
        (lambda: bootstrap(2, seed="one"), "seed must be"),
    ],
)
def test_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make()
