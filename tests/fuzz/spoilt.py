"""Tables and files as nobody should give them: what may become of a column, and of bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Column, MaskedColumn, Table
from hypothesis import strategies as st

ENDINGS = (".csv", ".ecsv", ".fits", ".parquet", ".txt", ".vot", ".hdf5", ".fits.gz", ".tsv")


def _some(value: float) -> Callable[[Any], Any]:
    def change(x: Any) -> Any:
        x = np.array(x, dtype=float)
        x[::3] = value
        return x

    return change


def _all(value: Any) -> Callable[[Any], Any]:
    return lambda x: np.full(len(x), value)


def _masked(mask: Callable[[int], Any], dtype: Any = float) -> Callable[[Any], Any]:
    return lambda x: MaskedColumn(np.asarray(x).astype(dtype), mask=mask(len(x)))


def _texts(*texts: str) -> Callable[[Any], Any]:
    return lambda x: np.resize(np.array(texts), len(x))


def _unit(unit: str) -> Callable[[Any], Any]:
    return lambda x: Column(np.asarray(x), unit=unit)


COLUMNS: dict[str, Callable[[Any], Any]] = {
    **{f"some {value}": _some(value) for value in (np.nan, np.inf, -np.inf, -9999.0, 1e300, 0.0)},
    **{f"all {value}": _all(value) for value in (np.nan, np.inf, 0.0, -1.0, 1e-200, 7, True)},
    "masked here and there": _masked(lambda n: np.arange(n) % 4 == 0),
    "masked": _masked(lambda n: np.ones(n, dtype=bool)),
    "masked whole numbers": _masked(lambda n: np.arange(n) % 4 == 0, int),
    "masked texts": _masked(lambda n: np.arange(n) % 4 == 0, str),
    "numbers as texts": lambda x: np.asarray(x).astype(str),
    "texts": _texts("a", "1.5", ""),
    "ü": _texts("ü", "\N{GREEK SMALL LETTER ALPHA}"),
    "truth": lambda x: np.asarray(x) > 0,
    "whole numbers": lambda x: np.round(10 * np.asarray(x)).astype(np.int16),
    "bytes": lambda x: np.abs(np.asarray(x)).astype(np.uint8),
    "huge whole numbers": _all(2**62),
    "float32": lambda x: np.asarray(x).astype(np.float32),
    "float16": lambda x: np.asarray(x).astype(np.float16),
    "big-endian": lambda x: np.asarray(x).astype(">f8"),
    "tiny": lambda x: 1e-300 * np.asarray(x),
    "huge": lambda x: 1e200 * np.asarray(x),
    "complex": lambda x: np.asarray(x) + 1j,
    "dates": _all("2020-01-01"),
    "matrix": lambda x: np.ones((len(x), 2)),
    "empty matrix": lambda x: np.ones((len(x), 0)),
    **{f"in {unit}": _unit(unit) for unit in ("pc", "s", "potato", "100 pc", "%", "deg", "mag")},
}


def _renamed(table: Table, name: str, new: str) -> Table:
    table.rename_column(name, new)
    return table


def _without(table: Table, name: str) -> Table:
    table.remove_column(name)
    return table


TABLES: dict[str, Callable[[Table, str], Table]] = {
    "without": _without,
    "a blank behind": lambda t, name: _renamed(t, name, f"{name} "),
    "capitals": lambda t, name: _renamed(t, name, name.upper()),
    "rows": lambda t, name: t[:0],
    "a row": lambda t, name: t[:1],
    "two rows": lambda t, name: t[:2],
    "few rows": lambda t, name: t[:20],
    "rows twice": lambda t, name: t[np.repeat(np.arange(len(t)), 2)],
}
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda x: x[: len(x) // 2],
    "less its end": lambda x: x[:-7],
    "head": lambda x: x[:20],
    "nothing": lambda x: b"",
    "zeros": lambda x: bytes(len(x)),
    "noise": lambda x: np.random.default_rng(0).bytes(max(1, len(x))),
    "one bit": lambda x: x[: len(x) // 2] + bytes([x[len(x) // 2] ^ 4]) + x[len(x) // 2 + 1 :],
    "byte order mark": lambda x: b"\xef\xbb\xbf" + x,
    "wide letters": lambda x: x.decode("latin-1").encode("utf-16"),
    "carriage returns": lambda x: x.replace(b"\n", b"\r\n"),
    "first line twice": lambda x: x[: x.find(b"\n") + 1] + x,
    "a name twice": lambda x: x.replace(b"fe_h", b"z", 1),
    "a longer row": lambda x: x + b"1,2,3,4,5,6,7,8,9\n",
    "commas for points": lambda x: x.replace(b".", b","),
}


@st.composite
def changes(draw: st.DrawFn, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return what becomes of some columns: pairs of a name and a key of `COLUMNS` or `TABLES`."""
    what = st.sampled_from((*COLUMNS, *COLUMNS, *TABLES))
    return draw(st.lists(st.tuples(st.sampled_from(names), what), min_size=1, max_size=3))


def write(table: Table, path: Path, todo: list[tuple[str, str]], spoil: str = "") -> bool:
    """Write a changed table; return False where its format cannot hold it."""
    for name, what in todo:
        if name not in table.colnames or (not len(table) and what in COLUMNS):
            continue
        if what in TABLES:
            table = TABLES[what](table, name)
        else:
            try:
                table[name] = COLUMNS[what](table[name])
            except (ValueError, TypeError, np.ma.MaskError):
                return False
    kinds = {".txt": "ascii.basic", ".tsv": "ascii.tab", ".vot": "votable", ".csv": "ascii.csv"}
    try:
        table.write(path, format=kinds.get(path.suffix))
    except Exception:
        return False
    if spoil:
        path.write_bytes(BYTES[spoil](path.read_bytes()))
    return True
