"""Sums over pixels against sums by hand, on the host and on a device."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from simulated import COARSE, COLUMNS, WINDOWS
from torusimaging_torch.data.many import bin_many
from torusimaging_torch.data.sums import DeviceSums, HostSums, pixel_sums

N = 30_000
bin_fe = partial(bin_many, groups=WINDOWS, bins=COARSE, **COLUMNS)


def test_pixel_sums_add_up_over_blocks_and_parts():
    rng = np.random.default_rng(5)
    pixel, weight = rng.integers(0, 40, 300_000), rng.normal(size=300_000)
    (whole,) = pixel_sums(pixel, 40, lambda block: (weight[block],))
    halves = [
        pixel_sums(pixel[part], 40, lambda block, part=part: (weight[part][block],))[0]
        for part in (slice(0, 100_001), slice(100_001, None))
    ]
    assert_allclose(whole, [weight[pixel == k].sum() for k in range(40)], rtol=0, atol=1e-10)
    assert_allclose(whole, sum(halves), rtol=0, atol=1e-10)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sums_on_a_device_are_those_of_the_host(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    rng = np.random.default_rng(0)
    shape = (2, 3, 30, 4)
    host, there = HostSums(shape), DeviceSums(shape, device)
    for group in (0, 1, 1):
        pixel = rng.integers(0, 30, 500).astype(np.int32)
        terms = rng.normal(size=(2, 500))
        copies = rng.poisson(1, (500, 4)).astype(np.uint8)
        for sums in (host, there):
            sums.add(group, pixel, lambda block, t=terms: (None, *t[:, block]), copies)
    assert_allclose(there.total(), host.total(), rtol=1e-12, atol=1e-12)
    expected = np.bincount(pixel, terms[0] * copies[:, 2], 30)
    assert_allclose(host.total()[1, 1, :, 2] - expected, there.total()[1, 1, :, 2] - expected)


def test_sums_without_copies_are_those_of_one_copy():
    rng = np.random.default_rng(1)
    pixel, term = rng.integers(0, 9, 100).astype(np.int32), rng.normal(size=100)
    made = [kind((1, 2, 9, 1), *more) for kind, *more in ((HostSums,), (DeviceSums, "cpu"))]
    for sums in made:
        sums.add(0, pixel, lambda block: (None, term[block]))
        assert_array_equal(sums.total()[0, 0, :, 0], np.bincount(pixel, minlength=9))
        assert_allclose(sums.total()[0, 1, :, 0], np.bincount(pixel, term, 9), rtol=1e-12)
