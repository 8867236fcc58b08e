"""Steps that a GPU records and replays: the same as without, in any company of calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.numerics.replay import Replayed


@dataclass(frozen=True)
class Pair:
    """Two numbers of a sequence."""

    old: Tensor
    new: Tensor


def step(pair: Pair) -> Pair:
    """Return the next two of Fibonacci's numbers."""
    return Pair(pair.new, pair.old + pair.new)


def test_steps_go_on_from_each_other(device):
    one = torch.ones(3, dtype=torch.float64, device=device)
    replayed, state = Replayed(step), Pair(one, one)
    for expected in (2.0, 3.0, 5.0, 8.0, 13.0):
        state = replayed(state)
        assert state.new.tolist() == [expected] * 3
    assert one.tolist() == [1.0] * 3


def test_steps_may_begin_anew(device):
    one = torch.ones(2, dtype=torch.float64, device=device)
    replayed = Replayed(step)
    for _ in range(4):
        state = replayed(Pair(one, one))
    assert state.old.tolist() == [1.0, 1.0]
    assert state.new.tolist() == [2.0, 2.0]


def test_a_step_that_cannot_be_recorded_is_made_every_time(device):
    def halt(pair: Pair) -> Pair:
        return step(pair) if float(pair.new[0]) < 5 else pair

    one = torch.ones(1, dtype=torch.float64, device=device)
    replayed, state = Replayed(halt), Pair(one, one)
    for _ in range(8):
        state = replayed(state)
    assert state.new.tolist() == [5.0]
