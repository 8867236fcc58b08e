"""One section of RESULTS.md, written by the benchmark that measured it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import astropy.units as u

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
PACKAGES = ("torch", "numpy", "scipy", "astropy", "gala", "pyro-ppl")


def write_section(
    title: str, command: str, summary: str, rows: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Put a section into RESULTS.md, in place of the one of the same title."""
    body = f"## {title}\n\n`{command}`, {machine()}\n\n{summary}\n"
    if rows:
        body += f"\n{table(rows)}"
    before = RESULTS.read_text() if RESULTS.exists() else "# Measurements\n"
    pattern = rf"## {re.escape(title)}\n.*?(?=\n## |\Z)"
    if re.search(pattern, before, flags=re.S):
        after = re.sub(pattern, lambda _: body, before, count=1, flags=re.S)
    else:
        after = f"{before.rstrip()}\n\n{body}"
    RESULTS.write_text(after.rstrip() + "\n")


def command_line() -> str:
    """Return how this benchmark was run, from the root of the repository."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> str:
    """Return when and on what this runs."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    return (
        f"on {today}: {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {packages}."
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table of Markdown; what a row does not know is left blank."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, u.Quantity):
        return f"{value.value:.4g} {value.unit}".replace(" %", " %")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
