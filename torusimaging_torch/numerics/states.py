"""States: dataclasses of tensors, or of such dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

__all__ = ["map_tensors"]

State = TypeVar("State")


def map_tensors(fun: Callable[..., Tensor], state: State, *others: State) -> State:
    """Return the state whose tensors are what a function makes of those of one or more states.

    A tensor alone is a state as well.

    Examples
    --------
    >>> map_tensors(torch.add, torch.tensor(1.0), torch.tensor(2.0))
    tensor(3.)
    """
    if isinstance(state, Tensor):
        alone: Any = fun(state, *others)
        return alone
    whole: Any = state
    names = [field.name for field in fields(whole)]
    every = (state, *others)
    return type(whole)(*(map_tensors(fun, *(getattr(s, name) for s in every)) for name in names))
