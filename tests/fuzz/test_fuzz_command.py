"""Whatever is typed and whatever is in the file: an answer, or one line that says what is wrong.

Options come from the parser itself, so that a new one is tried without a word here. A short search
by default; ``make fuzz`` looks for much longer.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from spoilt import BYTES, ENDINGS, changes, write
from workplace import GOOD, faults, good, sky, table, workplace

from torusimaging_torch.analysis import folder as folder_of_results
from torusimaging_torch.command.arguments import make_parser

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "80"))
SEARCH = settings(
    max_examples=max(5, EXAMPLES // 8),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,  # a short search is the same for everybody
)
# Astropy leaves open some files that it cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
COMMANDS = make_parser()[1]
# What takes minutes or opens ports; and --debug, which is there to show a traceback.
LEFT_OUT = {"help", "dask", "num_samples", "debug", "quiet"}
SLOW = {"nuts", "--uncertainty=nuts"}

WORDS = (
    *("1", "0", "-1", "2.5", "1e300", "1e-300", "nan", "inf", "-inf", "none", "ü€", "--", "-", ","),
    *("", " ", "=", ":", "100000000000000000000", "007", "1_000", "a\nb", "\udcff", "z", "fe_h"),
    *("1 kpc", "-3 km/s", "2 s", "1e-9 Msun", "nan kpc", "1e400 kpc", "1 2 kpc", "[1, 2] kpc"),
    *("2:8", "2:8,4:4", "2:-1", "3:1", "0:1", "x:y", "2:1e9", "1=2", "z=pc", "z=s", "z=", "=pc"),
    *("z > 0", "z >", "z > 1 s", "half == 0", "'a' == half", "flag(half, -1)", "1/0 > z", "not z"),
    *("half", "half in 0, 1", "half in a", "z: -1..1 step 0.5", "z: -1..1 step 0", "z: 1..-1"),
    *("z: -1..1 step 1e-12", "R: 1..3 step 1", "no such column", "cubic", "both", "cpu", "gpu"),
    *("pos0 = 0 +- 20 pc", "pos0 = nan +- 20 pc", "pos0 = 0 +- inf pc", "vel0 = 0 km/s"),
    *("pos0 = 1 s", "ln_Omega0 = -3 +- 0.1", "ln_Omega0", "x = 0", "8.4,251.8,8.4", "1,2"),
    *("exponential:1kpc", "exponential:-1kpc", "exponential:", "gaia-rvs", "ra=ra", "distance=z"),
    *("1/2", "0/1", "3/2", "-1/2", "fits", "ascii.csv", "votable", "parquet"),
    *("stars.csv", "sky.csv", "fit", "store", "stars.toml", "noise.ecsv", "nothing", "seen.csv"),
    *("no/such/file", ".", "..", "/dev/null", "stars.csv/x", "out.fits", "out.png", "out.ecsv"),
)
UNITS = ("kpc", "pc", "km/s", "s", "mas", "Msun", "1/kpc", "deg", "mag", "kpc2", "potato")
# A process is given no surrogates but those that stand for bytes of another encoding.
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
NUMBERS = st.integers(-5, 40).map(str) | st.floats().map(repr) | st.integers().map(str)
VALUES = (
    st.sampled_from(WORDS)
    | NUMBERS
    | st.builds("{} {}".format, NUMBERS, st.sampled_from(UNITS))
    | TEXTS
)
# Options beside those of `GOOD` that read a table in another way.
MORE = {
    "fit": ("--counts", "--label-err=half", "--where=z > 0 kpc", "--outliers", "--pos-err=half"),
    "batch": ("--counts", "--label-err=half", "--group=z: -1..1 step 1", "--bootstrap=2"),
    "actions": ("--errors=2", "--method=table", "--pos=half"),
    "prepare": ("--errors=16", "--preset=gaia-rvs", "--distance-prior=exponential:1kpc"),
}
MORE["fit"] += ("--model=potential", "--label=half", "--selection=seen.csv", "--uncertainty=crlb")
MORE["batch"] += ("--jackknife=2", "--label=half", "--model=potential", "--where=half == 0")
MORE["prepare"] += ("--where=R > 7", "--where=abs(z) < 1 kpc", "--units=ra=deg")


def options_of(command: str) -> list[argparse.Action]:
    """Return the options that are tried."""
    actions = COMMANDS[command]._actions
    return [a for a in actions if a.option_strings and a.dest not in LEFT_OUT]


@st.composite
def typed(draw: st.DrawFn, command: str) -> list[str]:
    """Return a good command line with more options, and perhaps with less, or other arguments."""
    argv = good(command)
    if draw(st.integers(0, 5)) == 0:
        argv[draw(st.integers(1, len(argv) - 1))] = draw(VALUES)
    if draw(st.integers(0, 9)) == 0:
        del argv[draw(st.integers(1, len(argv) - 1))]
    for action in draw(st.lists(st.sampled_from(options_of(command)), min_size=1, max_size=3)):
        option = draw(st.sampled_from(action.option_strings))
        if action.nargs == 0:
            argv.append(option)
            continue
        known = [str(x) for x in action.choices or ()]
        value = draw(st.sampled_from(known)) if known and draw(st.booleans()) else draw(VALUES)
        argv += [f"{option}={value}"] if draw(st.booleans()) else [option, value]
    return argv


@pytest.fixture(autouse=True)
def _figures(monkeypatch, request):
    """Leave figures out of a search, of which they would take most of the time."""
    if "done" not in request.node.name:
        monkeypatch.setattr(folder_of_results, "_figures", lambda *_: iter(()))


@pytest.mark.parametrize("command", sorted(GOOD))
def test_what_is_good_is_done(command):
    assert sorted(GOOD) == sorted(COMMANDS)
    with workplace() as folder:
        found = faults(good(command), folder, codes=(2,) if command == "demo" else (0, 1))
        assert not found, found


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_whatever_is_typed(command):
    @SEARCH
    @given(typed(command))
    def search(argv):
        assume(not SLOW & set(argv))
        with workplace() as folder:
            found = faults(argv, folder)
        assert not found, found

    search()


@pytest.mark.parametrize("command", sorted(MORE))
def test_whatever_is_in_the_file(command):
    stars = (sky if command == "prepare" else table)()
    spoilt = st.sampled_from(("", "", *BYTES))
    more = st.lists(st.sampled_from(MORE[command]), max_size=2)

    @SEARCH
    @given(st.sampled_from(ENDINGS), changes(tuple(stars.colnames)), spoilt, more)
    def search(ending, todo, bytes_, options):
        path = Path(f"input{ending}")
        with workplace() as folder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assume(write(stars, path, todo, bytes_))
            found = faults([*good(command, str(path)), *options], folder)
        assert not found, found

    search()
