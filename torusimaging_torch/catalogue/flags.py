"""Columns of flags: whole numbers, each bit of which says something."""

from __future__ import annotations

import ast
from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array

__all__ = ["any_flag", "read_flags"]


def read_flags(args: Sequence[ast.expr]) -> tuple[str, list[int]]:
    """Return the column and the bits that the arguments of ``flag(COLUMN, BIT, ...)`` name.

    Raises
    ------
    ValueError
        If they are not a column and numbers from 0 to 63.
    """
    match args:
        case [ast.Name(id=name), _, *_]:
            pass
        case [ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str() as name)]), _, *_]:
            pass
        case _:
            raise ValueError("flag() needs the name of a column and the numbers of bits")
    return name, [_bit(node) for node in args[1:]]


def _bit(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as bit) if 0 <= bit < 64 and not isinstance(bit, bool):
            return bit
    raise ValueError(f"'{ast.unparse(node)}' is not the number of a bit, from 0 to 63")


def any_flag(table: Table, name: str, bits: Sequence[int]) -> Array:
    """Return where any of some bits of a column is set, with shape (N,); where masked, none is.

    Raises
    ------
    KeyError
        If there is no such column; the message lists those that there are.
    ValueError
        If it does not hold whole numbers.

    Examples
    --------
    >>> from astropy.table import Table
    >>> any_flag(Table({"STARFLAG": [0, 8, 5]}), "STARFLAG", [0, 3])
    array([False,  True,  True])
    """
    if name not in table.colnames:
        raise KeyError(f"no column {name!r}: the table has {', '.join(table.colnames)}")
    values = np.ma.filled(np.ma.asarray(table[name]), 0)
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise ValueError(f"flag() needs whole numbers, column {name!r} has '{values.dtype}'")
    wanted = np.array(sum(1 << bit for bit in set(bits)), dtype=np.uint64)
    return (values.astype(np.uint64) & wanted) != 0
