"""Six fits that no store has seen, and a list of the shards that are fitted."""

from __future__ import annotations

import pytest
from stored import subsamples
from test_fit_many import run

from torusimaging_torch.batch import shard as batch_shard
from torusimaging_torch.results.batch_result import BatchResult


@pytest.fixture(scope="session")
def plain() -> BatchResult:
    return run(subsamples(), shard_size=2)


@pytest.fixture
def fitted(monkeypatch) -> list[int]:
    """Return the numbers of the shards that are fitted from now on."""
    numbers, real = [], batch_shard.fit_shard

    def counted(settings, shard, *place):
        numbers.append(shard.number)
        return real(settings, shard, *place)

    monkeypatch.setattr(batch_shard, "fit_shard", counted)
    return numbers
