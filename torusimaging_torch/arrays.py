"""The array of NumPy, whatever is in it."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

__all__ = ["Array"]

Array: TypeAlias = NDArray[Any]
"""Of numbers, truth values or texts, as a function's docstring says."""
