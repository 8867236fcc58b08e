"""Numbers with units in conditions, such as ``1.5 kpc``."""

from __future__ import annotations

import re
from collections.abc import Collection

import astropy.units as u

__all__ = ["mark_units"]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_UNIT = r"(?!(?:and|or|not|in|is|if|else)\b)[A-Za-z]+(?:(?:\*\*|\^)?-?\d+)?"
# A quoted text; or a number that is followed by a unit, which Python's own grammar does not know.
_TOKEN = re.compile(
    rf"(?P<text>'[^']*'|\"[^\"]*\")|(?<![\w.])(?P<number>{_NUMBER})"
    rf"(?![\d.]|[eE][+-]?\d)\s*"
    rf"(?P<unit>{_UNIT}(?:\s*[*/]\s*{_UNIT})*)(?!\w)"
)


def mark_units(text: str, columns: Collection[str]) -> str:
    """Write numbers with units as calls, for Python's grammar, which does not know them.

    Raises
    ------
    ValueError
        If a unit is not one that astropy knows.

    Examples
    --------
    >>> mark_units("abs(z) < 1.5 kpc", ["z"])
    "abs(z) < quantity(1.5, 'kpc')"
    """

    def replace(match: re.Match[str]) -> str:
        if match["text"] is not None:
            return match[0]
        unit, rest = _split_unit(match["unit"], columns)
        return f"quantity({match['number']}, {unit!r}){rest}"

    return _TOKEN.sub(replace, text)


def _split_unit(text: str, columns: Collection[str]) -> tuple[str, str]:
    """Split ``km/s * R`` into the unit and what follows; R is a column here, not the rayleigh."""
    parts = re.split(r"(\s*[*/]\s*)(?![*])", text)
    n_unit = next((i for i in range(2, len(parts), 2) if parts[i] in columns), len(parts) + 1)
    for n in range(n_unit - 1, 0, -2):
        unit = "".join(parts[:n])
        try:
            u.Unit(unit)
        except ValueError:
            continue
        return unit, "".join(parts[n:])
    raise ValueError(f"'{parts[0]}' is not a unit that astropy knows")
