"""A column of a table: numbers, texts or truth values, and which of them are missing."""

from __future__ import annotations

from decimal import Decimal

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array

__all__ = ["is_missing", "is_number", "kind_of", "read_column"]


# What objects may be that are numbers; parquet has decimals.
_NUMBERS = (int, float, np.number, Decimal)


def read_column(table: Table, name: str) -> Array | u.Quantity:
    """Return a column of a table: an array, or a Quantity if the column has a unit.

    What is missing (masked, null) is nan among numbers, and None among texts and truth values,
    which are objects then. Texts have no blanks at their end: FITS fills them up with these.

    Raises
    ------
    KeyError
        If there is no such column; the message lists those that there are.
    ValueError
        If the column's unit is not one that astropy knows.

    Examples
    --------
    >>> from astropy.table import MaskedColumn
    >>> read_column(Table({"n": MaskedColumn([1, 2], mask=[False, True])}), "n")
    array([ 1., nan])
    """
    if name not in table.colnames:
        raise KeyError(f"no column {name!r}: the table has {', '.join(table.colnames)}")
    column = table[name]
    unit = getattr(column, "unit", None)
    values = _with_missing(np.ma.asarray(getattr(column, "value", column)))
    if unit is None or unit == u.dimensionless_unscaled:
        return values
    if isinstance(unit, u.UnrecognizedUnit):
        raise ValueError(f"column {name!r} has the unknown unit '{unit}': say which it is")
    if kind_of(values) != "number":
        return values
    return u.Quantity(values, unit, dtype=float, subok=True)


def is_number(text: str) -> bool:
    """Return whether a text is a number.

    Examples
    --------
    >>> is_number("0.5"), is_number("0,5")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def kind_of(values: object) -> str:
    """Return what an array holds: "number", "text" or "truth"; "" if nothing or something else.

    Examples
    --------
    >>> kind_of(np.array([1, 2])), kind_of(np.array(["a", None], object))
    ('number', 'text')
    """
    plain = np.asarray(getattr(values, "value", values))
    if plain.dtype.kind != "O":
        return {"b": "truth", **dict.fromkeys("iuf", "number"), **dict.fromkeys("SU", "text")}.get(
            plain.dtype.kind, ""
        )
    types = {type(x) for x in plain.flat if not _is_null(x)}
    if types and types <= {str, np.str_, bytes}:
        return "text"
    if types and types <= {bool, np.bool_}:
        return "truth"
    return "number" if types and all(issubclass(t, _NUMBERS) for t in types) else ""


def is_missing(values: object) -> Array:
    """Return which of a column's values, as `read_column` has them, are missing."""
    plain = np.asarray(getattr(values, "value", values))
    if plain.dtype.kind == "O":
        return _nulls(plain)
    return plain != plain  # of all others nan alone is not itself


def _is_null(x: object) -> bool:
    # None, nan as pandas has it among texts, and its NA and NaT, whose library need not be here.
    if x is None or type(x).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(x, (float, np.floating)) and bool(x != x)


def _nulls(values: Array) -> Array:
    return np.array([_is_null(x) for x in values.flat], dtype=bool).reshape(values.shape)


def _with_missing(values: Array) -> Array:
    """Return a plain array of a masked one, with what is missing told by its values."""
    plain, mask = np.ma.getdata(values), np.ma.getmaskarray(values)
    kind = kind_of(plain)
    if plain.dtype.kind == "O":
        mask = mask | _nulls(plain)
    if kind == "number":
        return _numbers(plain, mask)
    if kind == "text":
        return _texts(plain, mask)
    if plain.dtype.kind == "O" and mask.all():  # of no kind: numbers none of which is there
        return np.full(plain.shape, np.nan)
    if not mask.any():
        return plain.astype(bool) if kind == "truth" else plain
    return _objects(plain, mask)


def _numbers(plain: Array, mask: Array) -> Array:
    if plain.dtype.kind != "O" and not mask.any():
        return plain
    kind = plain.dtype if plain.dtype.kind == "f" else np.dtype(float)
    found = np.where(mask, 0, plain).astype(kind)
    found[mask] = np.nan
    return found


def _texts(plain: Array, mask: Array) -> Array:
    if plain.dtype.kind == "O":
        plain = np.where(mask, "", plain)
        plain = np.array([x.decode(errors="replace") if isinstance(x, bytes) else x for x in plain])
    if plain.dtype.kind == "S":
        plain = np.char.decode(plain, "utf-8", "replace")
    plain = np.char.rstrip(plain.astype(str), " ")
    return _objects(plain, mask) if mask.any() else plain


def _objects(plain: Array, mask: Array) -> Array:
    found = plain.astype(object)
    found[mask] = None
    return found
