"""Positions of pixels, each once: there and back, for batches with grids of their own."""

from __future__ import annotations

import pytest
import torch

from torusimaging_torch.evaluation.levels import Levels


def grids() -> torch.Tensor:
    """Return positions (2, 30) of six and of two levels, in no order."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.linspace(-1, 1, 6).repeat(5), torch.tensor([0.3, -0.2]).repeat(15)]
    return torch.stack([row[torch.randperm(30, generator=generator)] for row in rows]).double()


def test_each_pixel_has_its_position():
    pos = grids()
    levels = Levels.of_pixels(pos)
    assert levels.pos.shape == (2, 6)
    assert torch.equal(levels.spread(levels.pos), pos)
    assert torch.equal(levels.pos[0], pos[0].unique())
    some = levels.of(torch.tensor([1])).part(slice(5, 9))
    assert torch.equal(some.spread(levels.pos[1:]), pos[1:, 5:9])


def test_the_way_back_is_the_transpose_of_the_way_there():
    levels, generator = Levels.of_pixels(grids()), torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    there, back = (levels.spread(x) * y).sum(-1), (x * levels.collect(y)).sum(-1)
    torch.testing.assert_close(there, back, rtol=1e-14, atol=0)


def test_a_grid_that_all_share_serves_any_number_of_problems():
    levels = Levels.of_pixels(grids()[:1])
    x = torch.arange(18.0).reshape(3, 6)
    assert torch.equal(levels.spread(x)[2], levels.spread(x[2:])[0])
    several = torch.arange(36.0).reshape(3, 2, 6)
    assert torch.equal(levels.spread(several)[:, 1], levels.spread(several[:, 1]))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_stars_stay_as_they_are(n):
    pos = torch.rand(2, n, dtype=torch.float64)
    levels = Levels.of_pixels(pos)
    assert levels.place is None
    assert torch.equal(levels.spread(pos), pos)
    assert torch.equal(levels.part(slice(1, 3)).pos, pos[:, 1:3])
