"""A checksum of a table that all file formats keep: of its numbers, texts, units and header."""

from __future__ import annotations

import hashlib
import json

import astropy.units as u
import numpy as np
from astropy.table import Column, Table

from torusimaging_torch.arrays import Array

__all__ = ["DIGEST", "is_sealed", "seal"]

DIGEST = "DIGEST"
"""The entry of the header that holds the checksum."""


def seal(table: Table) -> None:
    """Put the checksum of a table into its header; entries that come later are not in it.

    Examples
    --------
    >>> table = Table({"x": [1.0, 2.0]}, meta={"A": 1})
    >>> seal(table)
    >>> is_sealed(table)
    True
    >>> table["x"][0] = 1.5
    >>> is_sealed(table)
    False
    """
    named = sorted(str(key).upper() for key in table.meta if str(key).upper() != DIGEST)
    header = {str(key).upper(): value for key, value in table.meta.items()}
    table.meta[DIGEST] = json.dumps([named, _digest(table, {key: header[key] for key in named})])


def is_sealed(table: Table) -> bool:
    """Return whether a table is what was sealed; false if it never was."""
    header = {str(key).upper(): value for key, value in table.meta.items()}
    try:
        named, digest = json.loads(header[DIGEST])
        return bool(digest == _digest(table, {key: header[key] for key in named}))
    except (KeyError, TypeError, ValueError):
        return False


def _digest(table: Table, header: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, default=str).encode())
    for name in sorted(table.colnames):
        column = table[name]
        unit = u.Unit(getattr(column, "unit", None) or "", parse_strict="silent")
        kind, shape, values = _plain(getattr(column, "value", column))
        digest.update(f"\n{name} {unit.to_string()} {kind} {shape}\n".encode())
        digest.update(values)
    return digest.hexdigest()


def _plain(column: Column | Array) -> tuple[str, tuple[int, ...], bytes]:
    """Return kind, shape and values of a column in a form that no file format changes."""
    array = np.ma.asarray(column)
    kind = array.dtype.kind
    if kind in "OSU":
        texts = [x.decode() if isinstance(x, bytes) else x for x in array.filled("").flat]
        return "text", array.shape, json.dumps([str(x).rstrip(" ") for x in texts]).encode()
    if kind == "f":
        numbers = array.filled(np.nan).astype(array.dtype.newbyteorder("<"))
        numbers[np.isnan(numbers)] = np.nan  # of which there are many
        return f"f{array.dtype.itemsize}", array.shape, numbers.tobytes()
    return kind, array.shape, array.filled().astype("<i8").tobytes()
