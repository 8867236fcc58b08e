"""The arguments of the command line, and the texts of its help."""

from __future__ import annotations

import argparse
from typing import Any

from torusimaging_torch import __version__

__all__ = ["PROGRAM", "make_parser"]

PROGRAM = "torusimaging-torch"
"""The name of the command."""

_DESCRIPTION = """\
Orbital Torus Imaging: stars keep their labels (abundances, age) along their orbits, so
contours of the mean label in position and velocity are orbits. Their shapes give the orbital
frequency, the acceleration and the mass density."""

_EPILOG = """\
exit codes: 0 done; 1 done, but the fit did not converge; 2 error, with one line that says which.
'torusimaging-torch COMMAND --help' explains a command."""

_FIT_DESCRIPTION = """\
Bin the stars in position and velocity, fit the model, and write tables and figures to a folder:
fit.ecsv (the fit itself), profiles.ecsv, pixels.ecsv, data.png, splines.png, profiles.png."""

_FIT_EPILOG = """\
examples:
  torusimaging-torch fit stars.fits --pos z --vel v_z --label MG_FE --out fit \\
      --where "R > 7 and R < 9" --where "abs(z) < 1.5 kpc"
  torusimaging-torch fit stars.csv --pos z --vel vz --units z=pc,vz=km/s --counts \\
      --pos-max 400pc --vel-max "60 km/s" --out fit

conditions: names of columns, numbers (in the column's unit, or with their own: 1.5 kpc), texts in
quotes, < <= > >= == !=, and, or, not, + - * / **, abs(), sqrt(), col('a name with blanks')."""

_DEMO_DESCRIPTION = """\
Simulate stars in gala's Milky Way at R = 8.3 kpc, fit them like real ones, and compare what the
fit recovers with the truth. Takes about fifteen seconds."""


_ACTIONS_DESCRIPTION = """\
Add the action J, the angle theta, the frequency Omega and the period T of each star's orbit to a
catalogue, and a column 'valid': false where the orbit leaves the fit, and all else is nan."""

_ACTIONS_EPILOG = """\
example:
  torusimaging-torch actions fit stars.fits --out stars_with_actions.fits"""


def _pairs(text: str, separator: str) -> dict[str, str]:
    """Read "a=x,b=y"."""
    pairs = [item.partition(separator) for item in text.split(",")]
    if not all(key.strip() and value.strip() for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected KEY{separator}VALUE,..., got {text!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


def _units(text: str) -> dict[str, str]:
    return _pairs(text, "=")


def _orders(text: str) -> dict[int, int]:
    """Read "2:8,4:4"."""
    try:
        return {int(m): int(value) for m, value in _pairs(text, ":").items()}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected M:NUMBER,..., got {text!r}") from None


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses has the name of the command as ``command``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=_Help
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_fit(commands)
    _add_actions(commands)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as written, and options in narrow columns."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, max_help_position=26, width=100, **kwargs)


def _command(commands: Any, name: str, **texts: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, formatter_class=_Help, **texts)
    parser.set_defaults(command=name)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def _add_uncertainty(group: Any) -> None:
    group.add_argument(
        "--uncertainty",
        choices=["crlb", "nuts", "none"],
        help="errors from the Cramer-Rao bound (crlb, the default), from samples of the posterior "
        "(nuts, minutes), or none",
    )


def _add_demo(commands: Any) -> None:
    summary = "simulate stars, fit them, compare with the truth"
    demo = _command(commands, "demo", help=summary, description=_DEMO_DESCRIPTION)
    demo.add_argument(
        "--out",
        metavar="DIR",
        default="demo_output",
        help="folder for tables and figures (default: demo_output)",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)"
    )
    _add_uncertainty(demo)
    demo.add_argument("--n-stars", type=int, default=200_000, metavar="N", help="default: 200000")


def _add_fit(commands: Any) -> None:
    fit = _command(
        commands,
        "fit",
        help="fit a table of stars",
        description=_FIT_DESCRIPTION,
        epilog=_FIT_EPILOG,
    )
    fit.add_argument("stars", metavar="STARS", help="a file: FITS, ECSV, CSV, parquet, ...")
    _add_columns(fit.add_argument_group("stars"))
    _add_model(fit.add_argument_group("pixels and model (chosen from the data unless given)"))
    _add_penalty(fit.add_argument_group("penalty (widths in sigma: smaller is stronger)"))


def _add_actions(commands: Any) -> None:
    actions = _command(
        commands,
        "actions",
        help="add actions, angles and frequencies to a catalogue",
        description=_ACTIONS_DESCRIPTION,
        epilog=_ACTIONS_EPILOG,
    )
    add = actions.add_argument
    add("result", metavar="RESULT", help="the folder that 'fit' wrote, or the fit.ecsv in it")
    add("stars", metavar="STARS", help="a file: FITS, ECSV, CSV, parquet, ...")
    add("--out", required=True, metavar="TABLE", help="the catalogue with the new columns")
    add("--pos", metavar="COL", help="column of positions (by default the one that was fitted)")
    add("--vel", metavar="COL", help="column of velocities (by default the one that was fitted)")
    add("--units", type=_units, metavar="COL=UNIT,...", help="units of columns, such as z=kpc")
    add("--prefix", default="", metavar="TEXT", help="before the names of the new columns")
    add(
        "--method",
        choices=["auto", "exact", "table"],
        default="auto",
        help="trace each orbit (exact), or interpolate (table: errors below 1e-6)",
    )
    add("--overwrite", action="store_true", help="replace TABLE if it exists")


def _add_columns(group: Any) -> None:
    group.add_argument("--pos", required=True, metavar="COL", help="column of positions")
    group.add_argument("--vel", required=True, metavar="COL", help="column of velocities")
    kind = group.add_mutually_exclusive_group(required=True)
    kind.add_argument("--label", metavar="COL", help="column of the label")
    kind.add_argument(
        "--counts", action="store_true", help="no label: the numbers of stars (Poisson)"
    )
    group.add_argument("--label-err", metavar="COL", help="column of the label's errors, if known")
    group.add_argument(
        "--where", action="append", default=[], metavar="COND", help="only stars with COND; repeat"
    )
    group.add_argument(
        "--units", type=_units, metavar="COL=UNIT,...", help="units of columns, such as z=kpc"
    )
    group.add_argument("--out", required=True, metavar="DIR", help="folder for tables and figures")


def _add_model(group: Any) -> None:
    group.add_argument("--pos-max", metavar="LENGTH", help="grid from -LENGTH to LENGTH, as 1.2kpc")
    group.add_argument("--vel-max", metavar="SPEED", help="the same in velocity, as '70 km/s'")
    group.add_argument("--n-bins", type=int, metavar="N", help="pixels along each direction")
    group.add_argument("--scatter", type=float, metavar="S", help="intrinsic scatter of the label")
    group.add_argument("--convention", choices=["pv", "vp"], help="of the elliptical angle (pv)")
    group.add_argument("--label-knots", type=int, metavar="N", help="knots of the label (4)")
    group.add_argument(
        "--e-knots", type=_orders, metavar="M:N,...", help="knots of each e_m (2:8,4:4)"
    )
    group.add_argument("--e-signs", type=_orders, metavar="M:SIGN,...", help="signs of each e_m")
    group.add_argument(
        "--spacing-power",
        dest="e_spacing_power",
        type=float,
        metavar="P",
        help="knots of e_m are even in radius**P (0.5: denser inside)",
    )
    group.add_argument(
        "--label-spacing-power", type=float, metavar="P", help="the same for the label (1)"
    )
    group.add_argument("--e-spline", choices=["cubic", "quadratic"], help="cubic by default")
    _add_uncertainty(group)
    group.add_argument("--max-iter", type=int, metavar="N", help="most iterations (500)")


def _add_penalty(group: Any) -> None:
    for name, text in {
        "label-l2": "of the label at its knots (5 times its root mean square)",
        "label-smooth": "of the change of its slope (its mean slope)",
        "e-l2": "of e_m at its knots (1)",
        "e-smooth": "of the change of its log slope (0.5)",
        "dacc-strength": "height of the wall that keeps densities positive (30)",
        "dacc-scale": "its softness, as a fraction of the midplane's density (0.01)",
    }.items():
        group.add_argument(f"--{name}", type=float, metavar="X", help=text)
