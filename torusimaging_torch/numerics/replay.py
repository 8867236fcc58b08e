"""Steps that are made again and again: recorded once on a GPU, and replayed without Python.

A step is some hundred small kernels, and launching each of them from Python takes longer than the
kernel itself. A CUDA graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from torusimaging_torch.numerics.states import map_tensors

__all__ = ["Replayed"]

State = TypeVar("State")


class Replayed(Generic[State]):
    """A step from a state to the next one of the same shapes.

    On a CUDA device the second call records the step, and all from then on replay it: what it
    reads beside the state must stay where it is, and it may not make the host wait. The state that
    a call returns is then overwritten by the next one. On other devices, and where recording fails,
    every call makes the step.

    Parameters
    ----------
    step
        Maps a dataclass of tensors, or of such dataclasses, to another one of the same type.

    Examples
    --------
    >>> double = Replayed(lambda x: 2 * x)
    >>> double(double(torch.tensor(1.0)))
    tensor(4.)
    """

    def __init__(self, step: Callable[[State], State]) -> None:
        self._step = step
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._state: State | None = None

    def __call__(self, state: State) -> State:
        """Return the next state."""
        self._calls += 1
        # The first call loads and compiles what a recording cannot.
        if self._calls == 2 and next(_tensors(state)).is_cuda:
            self._record(state)
        if self._graph is None or self._state is None:
            return self._step(state)
        if state is not self._state:
            _copy(self._state, state)
        self._graph.replay()
        return self._state

    def _record(self, state: State) -> None:
        graph, stream = torch.cuda.CUDAGraph(), _recording_stream(torch.cuda.current_device())
        kept = map_tensors(Tensor.clone, state)
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    _copy(kept, self._step(kept))
                finally:
                    graph.capture_end()
        except RuntimeError:  # a step that makes the host wait, or no memory: go on without
            torch.cuda.current_stream().wait_stream(stream)
            return
        torch.cuda.current_stream().wait_stream(stream)
        self._graph, self._state = graph, kept


@cache
def _recording_stream(device: int) -> torch.cuda.Stream:
    """Return the stream to record on: libraries keep memory for each stream that they see."""
    return torch.cuda.Stream(device)


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield the tensors of a state."""
    if isinstance(state, Tensor):
        yield state
    else:
        for field in fields(state):
            yield from _tensors(getattr(state, field.name))


def _copy(to: State, state: State) -> None:
    """Write a state into another one."""
    for old, new in zip(_tensors(to), _tensors(state), strict=True):
        old.copy_(new)
