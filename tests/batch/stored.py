"""Six subsamples for a store, and patience with other processes."""

from __future__ import annotations

import time

from test_fit_many import MODEL

import disks


def subsamples():
    return [disks.draw(MODEL, "gaussian", seed=i, n=9) for i in range(6)]


def wait_for(condition, seconds=60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
