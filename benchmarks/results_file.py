"""What benchmarks measure: a JSON file each, and RESULTS.md made of all of them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

HERE = Path(__file__).resolve().parent
FOLDER, RESULTS = HERE / "results", HERE / "RESULTS.md"
PACKAGES = ("torch", "numpy", "scipy", "astropy", "gala", "pyro-ppl", "numba")
# The sections in the order of the page; others follow.
ORDER = (
    "Speed",
    "Accuracy of both models",
    "Accuracy at other radii",
    "Disks with known answers",
    "Orbits in three dimensions",
    "Is the fit good?",
    "Calibration of both models",
    "Outliers",
    "Poor data",
)


def write_section(
    title: str, command: str, summary: str, rows: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Keep what was measured in a file of its own, and make RESULTS.md anew of all of them."""
    found = {
        "title": title,
        "command": command,
        "machine": machine(),
        "commit": commit(),
        "summary": summary,
        "rows": [{name: _plain(value) for name, value in row.items()} for row in rows],
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    render()


def render() -> None:
    """Make RESULTS.md of the files of all benchmarks: a short table first, then each of them."""
    every = {found["title"]: found for found in map(_read, sorted(FOLDER.glob("*.json")))}
    titles = [title for title in ORDER if title in every]
    titles += [title for title in every if title not in titles]
    parts = ["# Measurements\n", *_headline(every.get("Speed"))]
    parts += [_section(every[title]) for title in titles]
    RESULTS.write_text("\n".join(parts).rstrip() + "\n")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _section(found: Mapping[str, Any]) -> str:
    at = f", commit {found['commit']}" if found.get("commit") else ""
    body = f"## {found['title']}\n\n`{found['command']}`, {found['machine'].rstrip('.')}{at}.\n\n"
    body += f"{found['summary']}\n"
    return body + (f"\n{table(found['rows'])}" if found["rows"] else "")


def _headline(speed: Mapping[str, Any] | None) -> list[str]:
    """Return the short table: for each step upstream's time, our best one, and the ratio."""
    if speed is None:
        return []
    theirs = {r["what"]: r for r in speed["rows"] if r["who"] == "upstream"}
    rows = []
    for what, other in theirs.items():
        for splines in ("quadratic", "cubic"):
            ours = [
                r for r in speed["rows"] if r["what"] == what and f"ours, {splines}" in r["who"]
            ]
            best = min(ours, key=lambda r: r["warm [ms]"])
            rows.append(
                {
                    "what": what,
                    "splines": splines,
                    "upstream, warm [ms]": other["warm [ms]"],
                    "ours, warm [ms]": best["warm [ms]"],
                    "times faster": other["warm [ms]"] / best["warm [ms]"],
                    "upstream reached": other["reached"],
                    "ours reached": best["reached"],
                }
            )
    return [table(rows)] if rows else []


def command_line() -> str:
    """Return how this benchmark was run, from the root of the repository."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> str:
    """Return when and on what this runs."""
    packages = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    return (
        f"on {today}: {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {packages}."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def commit() -> str:
    """Return the commit that is measured, as far as git knows."""
    try:
        command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table of Markdown; what a row does not know is left blank."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, u.Quantity):
        return f"{value.value:.4g} {value.unit}".replace(" %", " %")
    if isinstance(value, (float, np.floating)):
        return float(value)
    return value if isinstance(value, (str, bool, int)) or value is None else str(value)


def _cell(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
