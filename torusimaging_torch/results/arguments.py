"""What is asked of a result: positions, one height, some of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import astropy.units as u
import numpy as np
from gala.units import UnitSystem, galactic
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.units import to_quantity, to_tensor, with_unit

__all__ = ["Rows", "one_quantity", "positions", "some_rows"]


def positions(value: object, name: str, units: UnitSystem) -> Tensor:
    """Return positions in model units, with shape (N,).

    Raises
    ------
    ValueError
        If there is none, one is not finite, or they have another shape.
    """
    pos = to_tensor(value, name, "length", units)
    if pos.ndim != 1 or len(pos) == 0 or not bool(pos.isfinite().all()):
        raise ValueError(f"{name} must be finite positions with shape (N,), got {value}")
    return pos


def one_quantity(
    value: object, name: str, kind: str, units: UnitSystem = galactic, at_least: float = -np.inf
) -> u.Quantity:
    """Return one finite quantity, in its own unit, or in that of the model if it has none.

    Raises
    ------
    ValueError
        If it is not one finite number, or not above ``at_least``.
    """
    bare = to_tensor(value, name, kind, units).detach()
    if bare.ndim or not bool(bare.isfinite()) or not float(bare) > at_least:
        above = "" if at_least == -np.inf else f" above {at_least:g}"
        raise ValueError(f"{name} must be one finite {kind}{above}, got {value}")
    given = with_unit(value)
    return given if isinstance(given, u.Quantity) else to_quantity(bare, kind, units)


Rows: TypeAlias = int | slice | Sequence[int] | Sequence[bool] | Array | Tensor
"""Which rows: places, truth values for all, a slice, or one place."""


def some_rows(rows: Rows, n: int) -> Array | int:
    """Return the places of some of n rows with shape (N,), or that of one.

    Parameters
    ----------
    rows
        Places, booleans with shape (n,), a slice, or one place.
    n
        How many there are.

    Raises
    ------
    ValueError
        If they are none of these.
    IndexError
        If there is no such row.
    """
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().numpy()
    array = None if isinstance(rows, slice) else np.asarray(rows)
    if array is not None and array.size == 0:
        array = array.astype(int)
    truths = array is not None and array.dtype.kind == "b"
    if array is not None and (
        array.dtype.kind not in "iub" or array.ndim > 1 or (truths and array.shape != (n,))
    ):
        raise ValueError(f"rows must be places, or booleans with shape ({n},), got {rows!r}")
    found = np.arange(n)[rows if array is None else array].copy()  # torch takes no backward views
    return int(found) if found.ndim == 0 else found
