"""A folder that commands run in, and what has to hold whatever they are told and whatever is there.

A table of stars, a catalogue on the sky, a fit, a store, and files that spoil what reads them.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from torusimaging_torch.command.arguments import PROGRAM
from torusimaging_torch.command.main import main

COLUMNS = ["--pos", "z", "--vel", "v_z", "--units", "z=kpc,v_z=km/s", "--label", "fe_h"]
QUICK = ["--uncertainty", "none", "--n-bins", "10", "--label-knots", "3", "--e-knots", "2:3"]
QUICK += ["--max-iter", "40"]
# Command lines that are good, and quick; STARS stands for the table.
GOOD = {
    "demo": ["--n-stars", "0"],  # anything that is done would take seconds
    "prepare": ["sky.csv", "--out", "prepared.ecsv"],
    "fit": ["STARS", *COLUMNS, *QUICK, "--model", "torus", "--out", "out"],
    "batch": ["STARS", *COLUMNS, *QUICK, "--group", "half", "--store", "new"],
    "actions": ["fit", "STARS", "--units", "z=kpc,v_z=km/s", "--out", "with_actions.ecsv"],
    "merge": ["store", "--out", "merged.ecsv"],
    "plot": ["store", "--out", "batch.png"],
}
DONE, NOT_GOOD, ERROR = 0, 1, 2
# Files that commands read alone, whatever they write.
INPUTS = ("noise.ecsv", "nothing", "seen.csv", "stars.toml", "sky.csv", "stars.csv")
# Seconds that a command may take; those that are meant to be done take some three.
LONGEST = 20

# What other libraries tell their developers, or what arithmetic says of its numbers.
_FOREIGN = re.compile(
    r"\.py:|encountered in|Mean of empty|All-NaN|Degrees of freedom|deprecated|converting a masked|"
    r"casting|will be removed|figures or the report are missing|Glyph|singular|ill-conditioned"
)


def table(n: int = 120) -> Table:
    """Return stars with a gradient, in plain numbers."""
    rng = np.random.default_rng(0)
    z, v_z = rng.normal(0, 0.3, n), rng.normal(0, 20, n)
    fe_h = -0.5 * np.hypot(z / 0.3, v_z / 20) + rng.normal(0, 0.1, n)
    return Table({"z": z, "v_z": v_z, "fe_h": fe_h, "half": rng.integers(0, 2, n)})


def sky(n: int = 30) -> Table:
    """Return stars on the sky, in plain numbers, by Gaia's names."""
    rng = np.random.default_rng(1)
    stars = {"source_id": np.arange(n), "ra": 360 * rng.uniform(size=n)}
    stars |= {"dec": rng.uniform(-80, 80, n), "parallax": rng.uniform(1, 3, n)}
    stars |= {"parallax_error": np.full(n, 0.02)}
    stars |= {name: rng.normal(0, 10, n) for name in ("pmra", "pmdec", "radial_velocity")}
    return Table(stars)


def good(name: str, stars: str = "stars.csv") -> list[str]:
    """Return a command line that is good."""
    return [name, *(stars if word == "STARS" else word for word in GOOD[name])]


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp())
    sky().write(folder / "sky.csv")
    (folder / "stars.toml").write_text('pos = "z"\nlabel = ["fe_h", "half"]\nn-bins = 8\n')
    (folder / "noise.ecsv").write_bytes(np.random.default_rng(0).bytes(500))
    (folder / "nothing").touch()
    height = np.linspace(-1, 1, 9)
    Table({"z": height, "selection": np.exp(-(height**2))}).write(folder / "seen.csv")
    with inside(folder):
        table().write("stars.csv")
        assert run([*good("fit")[:-1], "fit"])[0] in (0, 1)
        assert run([*good("batch")[:-1], "store"])[0] in (0, 1)
        Path("stars.csv").unlink()
    return folder


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make a folder the working directory for a while."""
    there = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(there)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Yield a folder of its own, with all that commands read, which commands run in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "here"
        shutil.copytree(_template(), folder)
        table().write(folder / "stars.csv")
        with inside(folder):
            yield folder


def run(argv: list[str]) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, and what it said on both streams."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], warnings.catch_warnings():
        code = main(argv)
    return code, out.getvalue(), err.getvalue()


class TooLong(BaseException):
    """A command took longer than any should."""


def _too_long(*_: Any) -> None:
    raise TooLong


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)


def _there(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder by their names, and of folders nothing."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
    }


def faults(
    argv: list[str], folder: Path, codes: Collection[int] = (DONE, NOT_GOOD, ERROR)
) -> list[str]:
    """Run a command in a folder, and return what it does that it may not; nothing if all is well.

    It ends with a documented status; says what is wrong in one line that names the option, or a
    word of what was typed; lets no word of another library out; changes no file but the one that
    it was to replace, and leaves none that is not complete. One that is not done in time is let
    pass: there are numbers of iterations, and of groups, that take for ever.

    Parameters
    ----------
    argv
        What is typed.
    folder
        Where.
    codes
        The statuses that are expected.
    """
    before, argv = _there(folder), [*argv, "--quiet"]
    try:
        with _limited():
            code, out, err = run(argv)
    except TooLong:
        return []
    except (Exception, SystemExit) as error:
        return [f"{argv} raised {type(error).__name__}: {error}"]
    found = [] if code in codes else [f"status {code}"]
    found += _of_streams(argv, code, out, err) + _of_files(argv, code, before, _there(folder))
    return [f"{argv}: {fault}" for fault in found]


def _of_streams(argv: list[str], code: int, out: str, err: str) -> list[str]:
    lines = [line for line in err.splitlines() if not re.match(r"usage: |  ", line)]
    errors = [line for line in lines if re.match(rf"{PROGRAM}( \w+)?: error: \S", line)]
    told = [line for line in lines if line.startswith(f"{PROGRAM}: warning: ")]
    found = [f"stray line: {line}" for line in lines if line not in (*errors, *told)]
    found += [f"foreign warning: {line}" for line in told if _FOREIGN.search(line)]
    found += [f"unforeseen: {line}" for line in errors if "--debug shows where" in line]
    found += [f"names nothing: {line}" for line in errors if not _names_something(line, argv)]
    if len(errors) != (code == ERROR):
        found.append(f"status {code} with {len(errors)} lines of error")
    if code == ERROR and out:
        found.append(f"printed something beside its error: {out}")
    return found


def _names_something(line: str, argv: list[str]) -> bool:
    """Return whether an error names an option, an argument, a column, or a word that was typed."""
    said = line.partition("error: ")[2]
    if re.search(
        r"(?<!\w)--\w|^[A-Z_]+: |argument|column '|condition '|same (velo|posi)|label\['", said
    ):
        return True
    # A path in an error may have its letters escaped, or its blanks made one.
    if re.match(r"no (file|store)|(figures|fits) are files|cannot (read|write) ", said):
        return True
    if "pixels reach" in said:
        return True
    words = {part for word in argv[1:-1] for part in re.split(r"[=,]", word)} - {"", "-", "--"}
    return any(word in said if len(word) > 1 else f"'{word}'" in said for word in words)


def _of_files(
    argv: list[str], code: int, before: dict[str, bytes], after: dict[str, bytes]
) -> list[str]:
    outputs: set[str] = set()
    if code != ERROR:  # a folder of ours, and a figure, are replaced by one that is new
        outputs = {os.path.normpath(word.removeprefix("--out=")) for word in argv[1:]}
    kept = [n for n in before if not outputs & {n, *map(str, Path(n).parents)}]
    if "--overwrite" not in argv:
        kept += INPUTS
    found = [f"changed {name}" for name in kept if after.get(name) != before.get(name)]
    new = [name for name in after if name not in before]
    found += [f"left {name}" for name in new if re.search(r"\.tmp|~$|\.part", name)]
    if code == ERROR:
        found += [f"made {name} in spite of an error" for name in new]
    return found
