"""Whatever is typed and whatever is in the file: an answer, or one line that says what is wrong.

Options come from the parser itself, so that a new one is tried without a word here. A short search
by default; ``make fuzz`` looks for much longer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from torusimaging_torch.command.arguments import PROGRAM, make_parser
from torusimaging_torch.command.main import main

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SEARCH = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,  # a short search is the same for everybody
)

COMMANDS = make_parser()[1]
COLUMNS = ["--pos", "z", "--vel", "v_z", "--units", "z=kpc,v_z=km/s", "--label", "fe_h"]
QUICK = ["--uncertainty", "none", "--n-bins", "10", "--label-knots", "3", "--e-knots", "2:3"]
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
VALUES = (
    *("1", "0", "-1", "2.5", "1e300", "nan", "inf", "-inf", "", " ", "none", "text", "ü€", "--"),
    *("1 kpc", "-3 km/s", "2 s", "1e-9 Msun", "2:8", "2:8,4:4", "2:-1", "3:1", "x:y", "1=2"),
    *("z", "fe_h", "z > 0", "z >", "half", "R: 1..3 step 1", "no such column", "z=pc", "cubic"),
    *("pos0 = 0 +- 20 pc", "vel0 = 0 km/s", "pos0 = 1 s", "ln_Omega0", "nuts", "both", "cpu"),
    *("gpu", "1/2", "3/2", "no/such/file", ".", "100000000000000000000"),
)
# What takes minutes or opens ports; and --debug, which is there to show a traceback.
LEFT_OUT = {"help", "dask", "processes", "num_samples", "bootstrap", "jackknife", "debug", "model"}


def table(n: int = 120) -> Table:
    """Return stars with a gradient, in plain numbers."""
    rng = np.random.default_rng(0)
    z, v_z = rng.normal(0, 0.3, n), rng.normal(0, 20, n)
    fe_h = -0.5 * np.hypot(z / 0.3, v_z / 20) + rng.normal(0, 0.1, n)
    return Table({"z": z, "v_z": v_z, "fe_h": fe_h, "half": rng.integers(0, 2, n)})


def _cell(value: Any) -> Any:
    def change(stars: Table) -> Table:
        stars["z"][len(stars) // 2] = value
        return stars

    return change


def _column(name: str, values: Any) -> Any:
    def change(stars: Table) -> Table:
        stars[name] = values(stars) if callable(values) else values
        return stars

    return change


def _masked(stars: Table) -> Table:
    stars = Table(stars, masked=True)
    stars["fe_h"].mask[::3] = True
    return stars


TABLES = {
    "good": lambda t: t,
    "nan": _cell(np.nan),
    "inf": _cell(np.inf),
    "sentinel": _cell(-9999.0),
    "far": _cell(1e300),
    "all nan": _column("fe_h", np.nan),
    "constant label": _column("fe_h", 0.3),
    "texts": _column("fe_h", lambda t: np.resize(["a", "1.5", ""], len(t))),
    "truth": _column("fe_h", lambda t: np.asarray(t["z"]) > 0),
    "whole numbers": _column("fe_h", lambda t: np.round(10 * np.asarray(t["z"])).astype(np.int16)),
    "at rest": _column("v_z", 0.0),
    "masked": _masked,
    "no column": lambda t: t["z", "v_z"],
    "empty": lambda t: t[:0],
    "one star": lambda t: t[:1],
    "few stars": lambda t: t[:5],
    "other names": lambda t: Table({f"{name} ": t[name] for name in t.colnames}),
    "matrix": _column("z", lambda t: np.ones((len(t), 2))),
}
ENDINGS = (".csv", ".ecsv", ".fits", ".parquet", ".txt")
BYTES = {
    "whole": lambda x: x,
    "cut": lambda x: x[: len(x) // 2],
    "head": lambda x: x[:20],
    "nothing": lambda x: b"",
    "noise": lambda x: np.random.default_rng(0).bytes(max(1, len(x))),
    "one bit": lambda x: x[: len(x) // 2] + bytes([x[len(x) // 2] ^ 4]) + x[len(x) // 2 + 1 :],
    "byte order mark": lambda x: b"\xef\xbb\xbf" + x,
}


def run(argv: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code, and what it said on standard error."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], warnings.catch_warnings():
        code = main(argv)
    return code, err.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check(argv: list[str], folder: Path) -> tuple[int, str]:
    """Run a command, and see that it ends as documented and leaves the folder's files alone."""
    before = files(folder)
    code, err = run(argv)
    assert code in (0, 1, 2), (argv, code, err)
    assert "Traceback" not in err, (argv, err)
    assert "--debug shows where" not in err, (argv, err)
    if code == 2:
        assert re.search(rf"^{PROGRAM}( \w+)?: error: \S", err, re.MULTILINE), (argv, err)
    after = files(folder)
    assert {name: after.get(name) for name in before} == before, argv
    left = [name for name in after if name not in before and re.search(r"\.tmp|~$|\.part$", name)]
    assert not left, (argv, left)
    return code, err


@cache
def template() -> Path:
    """Return a folder with what commands read: a catalogue on the sky, a fit, a store of two."""
    folder = Path(tempfile.mkdtemp())
    n, rng = 30, np.random.default_rng(1)
    sky = {"source_id": np.arange(n), "ra": 360 * rng.uniform(size=n)}
    sky |= {"dec": rng.uniform(-80, 80, n), "parallax": rng.uniform(1, 3, n)}
    sky |= {"parallax_error": np.full(n, 0.02)}
    sky |= {name: rng.normal(0, 10, n) for name in ("pmra", "pmdec", "radial_velocity")}
    Table(sky).write(folder / "sky.csv")
    with inside(folder):
        table().write("stars.csv")
        assert run([*good("fit")[:-1], "fit"])[0] in (0, 1)
        assert run([*good("batch")[:-1], "store"])[0] in (0, 1)
        Path("stars.csv").unlink()
    return folder


@contextlib.contextmanager
def inside(folder: Path) -> Any:
    there = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(there)


@contextlib.contextmanager
def workplace(ending: str = ".csv", what: str = "good", spoil: str = "whole") -> Any:
    """Yield a folder of its own, with a table in it, that commands run in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "here"
        shutil.copytree(template(), folder)
        path = folder / f"stars{ending}"
        kind = {"format": "ascii.basic"} if ending == ".txt" else {}
        TABLES[what](table()).write(path, **kind)
        path.write_bytes(BYTES[spoil](path.read_bytes()))
        with inside(folder):
            yield folder


def options_of(command: str) -> list[argparse.Action]:
    actions = COMMANDS[command]._actions
    return [a for a in actions if a.option_strings and a.dest not in LEFT_OUT]


@st.composite
def typed(draw: st.DrawFn, command: str) -> list[str]:
    """Return some options of a command, with values that may make no sense."""
    words: list[str] = []
    for action in draw(st.lists(st.sampled_from(options_of(command)), min_size=1, max_size=3)):
        words.append(draw(st.sampled_from(action.option_strings)))
        if action.nargs != 0:
            known = [str(x) for x in action.choices or ()]
            words += [draw(st.sampled_from((*known, *VALUES)))]
    return words


def good(command: str, ending: str = ".csv") -> list[str]:
    return [command, *(f"stars{ending}" if w == "STARS" else w for w in GOOD[command])]


@pytest.mark.parametrize("command", sorted(GOOD))
def test_what_is_good_is_done(command):
    assert sorted(GOOD) == sorted(COMMANDS)
    with workplace() as folder:
        code, err = check(good(command), folder)
        assert code in (0, 1) or command == "demo", err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_whatever_is_typed(command):
    @settings(SEARCH, max_examples=max(4, EXAMPLES // 8))
    @given(typed(command))
    def search(words):
        with workplace() as folder:
            check([*good(command), *words], folder)

    search()


@pytest.mark.parametrize("command", ["actions", "batch", "fit"])
def test_whatever_is_in_the_table(command):
    @settings(SEARCH, max_examples=max(6, EXAMPLES // 8))
    @given(st.sampled_from(ENDINGS), st.sampled_from(sorted(TABLES)))
    def search(ending, what):
        assume(what != "matrix" or ending in (".ecsv", ".fits"))
        with workplace(ending, what) as folder:
            check(good(command, ending), folder)

    search()


@pytest.mark.parametrize("command", ["actions", "batch", "fit"])
def test_whatever_became_of_the_file(command):
    @settings(SEARCH, max_examples=max(6, EXAMPLES // 8))
    @given(st.sampled_from(ENDINGS), st.sampled_from(sorted(BYTES)))
    def search(ending, spoil):
        with workplace(ending, spoil=spoil) as folder:
            check(good(command, ending), folder)

    search()
