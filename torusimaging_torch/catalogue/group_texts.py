"""What a user says groups are: texts with a small grammar, columns, conditions, masks."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.conditions import columns_of, read_number
from torusimaging_torch.catalogue.groups import (
    Conditions,
    Crossed,
    Groups,
    Values,
    Windows,
    named,
    same_units,
    sliding_windows,
)

__all__ = ["GROUP_GRAMMAR", "GivenGroups", "read_groups"]


GROUP_GRAMMAR = (
    "'COLUMN: START..STOP step STEP [width WIDTH] [UNIT]' for windows with centres from START to "
    "STOP, as 'R_g: 6..12 step 0.25 width 2 kpc'; 'COLUMN: START..STOP [UNIT]' for all between, as "
    "one group; where COLUMN may be an expression, as 'L_z / 229 km/s: 6..12'; 'COLUMN in A, B, "
    "...' for some values of a column, as 'population in thin, thick'; or 'COLUMN' for all of them"
)
"""How a text says what groups are."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_WINDOWS = re.compile(
    rf"(?P<column>[^:]+?)\s*:\s*(?P<start>{_NUMBER})\s*\.\.\s*(?P<stop>{_NUMBER})"
    rf"(?:\s+step\s+(?P<step>{_NUMBER})(?:\s+width\s+(?P<width>{_NUMBER}))?)?"
    r"(?:\s*(?P<unit>(?!step\b|width\b)[A-Za-z].*))?"
)
_CHOICE = re.compile(r"(?P<column>\S.*?)\s+in\s+(?P<values>\S.*)")


GivenGroups: TypeAlias = str | Sequence[str] | Groups | Mapping[Any, str | Array] | None
"""What a user says groups are; see `read_groups`."""


def read_groups(groups: GivenGroups, source: StarSource) -> Groups:
    """Read what a user says groups are.

    Parameters
    ----------
    groups
        A text as in `GROUP_GRAMMAR`; a list of such texts, for all combinations; `Windows`,
        `Values` or other groups; a mapping of names to conditions or masks, see `Conditions`; or
        None for all stars in one group.
    source
        The catalogue.

    Raises
    ------
    ValueError
        If a text cannot be read, there are no groups, or a mask does not have one value per star.
    KeyError
        If a text is about a column that does not exist.
    TypeError
        If groups are none of these.
    astropy.units.UnitConversionError
        If the unit of windows is not one of the column's.
    """
    if groups is None:
        found: Groups = Conditions({"all": np.broadcast_to(True, source.catalogue_rows)})
    elif isinstance(groups, str):
        found = _read_text(groups.strip(), source)
    elif isinstance(groups, Mapping):
        tests = {name: _test(name, test, source) for name, test in groups.items()}
        found = Conditions(tests, source.names)
    elif isinstance(groups, Sequence) and groups and all(isinstance(x, str) for x in groups):
        found = Crossed([_read_text(text.strip(), source) for text in groups])
    elif isinstance(groups, Groups):
        found = groups
    else:
        raise TypeError(
            "groups must be one text or several, windows, a mapping of names to conditions or "
            f"masks, or None, got {type(groups).__name__}"
        )
    if not found.names:
        raise ValueError("there are no groups: groups is empty, or its column has no values")
    return found


def _read_text(text: str, source: StarSource) -> Groups:
    # A column may have any name: one that is there is meant.
    if text in source.names:
        return Values.of(source, text)
    match = _WINDOWS.fullmatch(text) or _CHOICE.fullmatch(text)
    if match is None and re.search(r":|\.\.|\bstep\b|\bwidth\b", text):
        raise ValueError(f"cannot read the group {text!r}: expected {GROUP_GRAMMAR}")
    column = text if match is None else match["column"]
    windows = match is not None and "start" in match.groupdict()
    needed = {column} if column in source.names or not windows else _columns(column, text, source)
    if missing := needed - set(source.names):
        raise KeyError(
            f"no column {min(missing)!r} for groups; the catalogue has {', '.join(source.names)}; "
            f"expected {GROUP_GRAMMAR}"
        )
    assert match is not None
    first = next(table for _, table in source.chunks(sorted(needed)))
    try:
        return _windows(match, first, needed) if windows else _choice(match, first)
    except (ValueError, TypeError) as error:  # of which wrong units are a kind
        raise type(error)(f"in the group {text!r}: {error}") from None


def _columns(expression: str, text: str, source: StarSource) -> set[str]:
    try:
        return columns_of(expression, source.names) or {expression}
    except ValueError as error:
        raise ValueError(f"in the group {text!r}: {error}") from None


def _windows(match: re.Match[str], table: Table, needed: Collection[str]) -> Windows:
    column, unit = match["column"], _unit(match["unit"])
    values = read_number(table, column)
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise ValueError(f"column {column!r} does not hold one number per star")
    if unit is None and isinstance(values, u.Quantity):
        unit = values.unit
    unit = 1 if unit is None else unit
    start, stop = float(match["start"]) * unit, float(match["stop"]) * unit
    if match["step"] is None:
        windows = Windows(column, start, stop, needed)
    else:
        step = float(match["step"]) * unit
        width = step if match["width"] is None else float(match["width"]) * unit
        found = sliding_windows(column, start, stop, step, width)
        windows = Windows(column, found.lower, found.upper, needed)
    same_units(values, windows)
    return windows


def _unit(text: str | None) -> u.UnitBase | None:
    if text is None:
        return None
    try:
        return u.Unit(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a unit that astropy knows") from None


def _choice(match: re.Match[str], table: Table) -> Values:
    kind = named(table, match["column"])[0].dtype
    texts = [text.strip() for text in match["values"].split(",")]
    if not all(texts):
        raise ValueError("between two commas there is nothing")
    values = np.array([text.strip("'\"") for text in texts])
    if kind.kind in "iuf":
        try:
            values = values.astype(kind)
        except ValueError:
            raise ValueError(
                f"column {match['column']!r} holds numbers, got {match['values']!r}"
            ) from None
    return Values(match["column"], np.unique(values))


def _test(name: Hashable, test: object, source: StarSource) -> str | Array:
    if isinstance(test, str):
        return test
    mask = np.asarray(test)
    if mask.dtype != bool or mask.shape != (source.catalogue_rows,):
        raise ValueError(
            f"group {name!r} must be a condition or booleans, one for each of the "
            f"{source.catalogue_rows} stars, got {mask.dtype} with shape {mask.shape}"
        )
    return mask
