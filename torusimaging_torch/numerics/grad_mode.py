"""Functions that differentiate, called where gradients are switched off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

__all__ = ["with_autograd"]

P = ParamSpec("P")
R = TypeVar("R")


def with_autograd(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function differentiate in `torch.inference_mode` and `torch.no_grad`, too.

    Both forbid it otherwise, and what is fitted does not depend on the mode of the caller.

    Examples
    --------
    >>> @with_autograd
    ... def slope(x):
    ...     leaf = torch.tensor(x, requires_grad=True)
    ...     return torch.autograd.grad(leaf**2, leaf)[0]
    >>> with torch.inference_mode():
    ...     slope(3.0)
    tensor(6.)
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return run
