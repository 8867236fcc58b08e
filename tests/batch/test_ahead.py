"""What is read while the device works."""

from __future__ import annotations

import threading

import pytest

from torusimaging_torch.batch.ahead import ahead


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_the_next_one_is_made_while_the_last_is_used():
    made = [threading.Event() for _ in range(4)]

    def items():
        for i, event in enumerate(made):
            event.set()
            yield i

    for i in ahead(items()):
        if i < 3:
            assert made[i + 1].wait(10)
        if i < 2:
            assert not made[i + 2].wait(0.02)
    assert threads() == 0


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        raise ValueError("no more")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="no more"):
        next(found)
    assert threads() == 0


def test_who_stops_early_leaves_no_thread():
    found = ahead(iter(range(5)))
    assert next(found) == 0
    found.close()
    assert threads() == 0
