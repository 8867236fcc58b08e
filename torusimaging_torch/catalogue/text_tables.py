"""Tables that are texts: CSV and its kin, as people and programs write them.

What separates columns, and where their names are, is read off the first lines: names may stand
behind a "#". Lines that begin with one are comments, and there are many words for nothing. Below
the names there may be units, over a line of dashes, as VizieR has them.
"""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from pathlib import Path

import astropy.units as u
from astropy.io import ascii
from astropy.table import Table

from torusimaging_torch.catalogue.columns import is_number

__all__ = ["is_text", "read_text"]

_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".dat")
# What is written where there is no number, or no text.
_MISSING = ("", "null", "NULL", "None", "N/A", "n/a", "NA", "<NA>", "#N/A", "--", "-")
# Separators by the first of them that a line of names has.
_SEPARATORS = (",", "\t", ";", "|")


def is_text(path: str | os.PathLike[str]) -> bool:
    """Return whether the ending of a file's name is one of such a table, packed by gzip or not.

    Examples
    --------
    >>> is_text("stars.csv"), is_text("stars.TXT.gz"), is_text("stars.fits")
    (True, True, False)
    """
    endings = [ending.lower() for ending in Path(path).suffixes[-2:]]
    return bool(endings) and (
        endings[-1] in _ENDINGS or (endings[-1] == ".gz" and endings[0] in _ENDINGS)
    )


def read_text(path: str | os.PathLike[str]) -> Table:
    """Read such a table into memory; names that are there twice are z_1 and z_2 in place of z.

    Raises
    ------
    ValueError
        If it has no rows, or they differ in length.
    """
    content = Path(path).read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    text = content.decode("utf-8-sig", "replace")
    if text.startswith("# %ECSV"):
        return Table.read(text, format="ascii.ecsv")
    lines = [line for line in text.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if not line.lstrip().startswith("#")), None)
    if first is None:
        raise ValueError("it has no rows")
    separator = _separator(lines[first], lines[first - 1] if first else "")
    names, rows = _split(lines[first], separator), first + 1
    if first > 0 and _is_row(names):  # the names are in the comment above
        above = _split(lines[first - 1].lstrip().lstrip("#"), separator)
        if len(above) == len(names):
            names, rows = above, first
    body = [line for line in lines[rows:] if not line.lstrip().startswith("#")]
    units, body = _split_units(body, separator, len(names))
    if not body:
        raise ValueError("it has no rows")
    # The reader does not trim blanks about tabs, and takes no tab for a blank.
    if separator in ("\t", None):
        body = [re.sub(" *\t *", separator or " ", line) for line in body]
    header = [f"c{i}" for i in range(len(names))]
    table = ascii.read(
        [(separator or " ").join(header), *body],
        format="fast_tab" if separator == "\t" else "fast_basic",
        delimiter=separator or " ",
        fill_values=[(word, "0") for word in _MISSING],
        guess=False,
    )
    for name, unit in zip(header, units, strict=True):
        table[name].unit = u.Unit(unit, parse_strict="silent") if unit else None
    table.rename_columns(header, _told_apart(names))
    return table


def _separator(line: str, above: str) -> str | None:
    """Return what separates columns: what cuts a line of numbers as it does the names above it."""
    found = [one for one in _SEPARATORS if one in line]
    for one in (*found, None):
        items = _split(line, one)
        if _is_row(items) and len(items) == len(_split(above.lstrip().lstrip("#"), one)):
            return one
    return found[0] if found else None


def _split_units(
    body: list[str], separator: str | None, n_columns: int
) -> tuple[list[str], list[str]]:
    """Take units and the dashes below them off, which VizieR writes between names and stars."""
    for n, line in enumerate(body[:2]):
        items = _split(line, separator)
        if n and _is_row(_split(body[0], separator)):  # which is a star, and no units
            break
        if all(set(item) == {"-"} for item in items) and max(map(len, items)) > 2:
            units = _split(body[0], separator) if n else []
            return (units if len(units) == n_columns else [""] * n_columns), body[n + 1 :]
    return [""] * n_columns, body


def _split(line: str, separator: str | None) -> list[str]:
    return [name.strip().strip("\"'") for name in line.strip(" \r\n").split(separator)]


def _told_apart(names: list[str]) -> list[str]:
    """Return names of which none is there twice: nobody can tell which of two "z" is meant."""
    total, seen, found = Counter(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        found.append(name if total[name] == 1 else f"{name}_{seen[name]}")
    return found


def _is_row(items: list[str]) -> bool:
    """Return whether a line is one of numbers, which names of columns are not."""
    # Decimal commas make a row of numbers, too, though one that cannot be read.
    return all(item in _MISSING or is_number(item.replace(",", ".")) for item in items)
