"""Numbers in their ranges, or an error that names the argument: 0 is a number, not a default."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_all", "not_negative", "one_of", "positive", "whole"]

Value = TypeVar("Value")


def whole(value: Any, name: str, at_least: int) -> int:
    """Return a whole number.

    Raises
    ------
    ValueError
        If it is not whole, or too small.

    Examples
    --------
    >>> whole(3, "size", at_least=1)
    3
    """
    is_whole = isinstance(value, float) and value.is_integer()
    try:
        number = int(value) if is_whole else operator.index(value)
    except TypeError:
        number = at_least - 1
    if isinstance(value, bool) or number < at_least:
        raise ValueError(f"{name} must be a whole number, at least {at_least}, got {value!r}")
    return number


def one_of(value: object, name: str, words: Collection[str]) -> str:
    """Return a word, if it is one of several.

    Raises
    ------
    ValueError
        If it is none of them, or no word at all.

    Examples
    --------
    >>> one_of("pv", "convention", ("pv", "vp"))
    'pv'
    """
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {tuple(words)}, got {value!r}")
    return value


def positive(value: Value, name: str) -> Value:
    """Return a number, or an array of numbers, if all are positive; infinity is.

    Raises
    ------
    ValueError
        If one is not.
    """
    return _checked(value, name, "positive", lambda x: x > 0)


def not_negative(value: Value, name: str) -> Value:
    """Return a number, or an array of numbers, if none is negative or nan.

    Raises
    ------
    ValueError
        If one is.
    """
    return _checked(value, name, "zero or positive", lambda x: x >= 0)


def _checked(value: Value, name: str, what: str, test: Callable[[Tensor], Tensor]) -> Value:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
        good = bool(test(numbers).all()) and numbers.numel() > 0
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good or isinstance(value, bool) or getattr(value, "unit", None) is not None:
        got = value.item() if isinstance(value, np.generic) else value  # -1.0, not np.float64(-1.0)
        raise ValueError(f"{name} must be {what}, got {got!r}")
    return value


def check_all(
    arguments: Mapping[str, object], kinds: Mapping[str, Callable[[object, str], object]]
) -> None:
    """Check numbers by name, each a number or several by key; None is no number, and passes.

    Parameters
    ----------
    arguments
        Numbers, or dictionaries of them.
    kinds
        What each has to be, `positive` or `not_negative`, by name; others are left alone.

    Raises
    ------
    ValueError
        If one is not; the message names it.
    """
    for name, kind in kinds.items():
        value = arguments.get(name)
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]
        for key, part in parts:
            if part is not None:
                kind(part, name if key is None else f"{name}[{key!r}]")
