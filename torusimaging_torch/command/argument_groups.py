"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import argparse
from typing import Any

from torusimaging_torch.command.config import add_config

__all__ = [
    "CONDITIONS",
    "Help",
    "add_columns",
    "add_command",
    "add_figure_format",
    "add_known",
    "add_model",
    "add_penalty",
    "add_reading",
    "add_selection",
    "add_uncertainty",
    "read_count",
    "read_units",
]

CONDITIONS = """\
conditions: names of columns, numbers (in the column's unit, or with their own: 1.5 kpc), texts in
quotes, < <= > >= == !=, and, or, not, + - * / **, abs(), sqrt(), col('a name with blanks'), and
flag(COLUMN, BIT, ...), true where any of these bits of a column of flags is set, counted from 0."""
"""What the help says of conditions."""


# What the sampler's own diagnostics need.
_FEWEST_DRAWS = 4


def _pairs(text: str, separator: str) -> dict[str, str]:
    """Read "a=x,b=y"."""
    pairs = [item.partition(separator) for item in text.split(",")]
    if not all(key.strip() and value.strip() for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected KEY{separator}VALUE,..., got {text!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


def read_units(text: str) -> dict[str, str]:
    """Read "z=kpc,v_z=km/s"."""
    return _pairs(text, "=")


def _orders(text: str) -> dict[int, int]:
    """Read "2:8,4:4"."""
    try:
        return {int(m): int(value) for m, value in _pairs(text, ":").items()}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected M:NUMBER,..., got {text!r}") from None


def read_count(text: str) -> int:
    """Read a number of samples, from 2 up."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"expected a whole number from 2 up, got {text!r}")
    return int(text)


def _draws(text: str) -> int:
    """Read a number of samples of the posterior, from 4 up."""
    count = read_count(text)
    if count < _FEWEST_DRAWS:
        raise argparse.ArgumentTypeError(f"expected at least {_FEWEST_DRAWS}, got {text}")
    return count


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as written, and options in narrow columns."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, max_help_position=26, width=100, **kwargs)


def add_command(commands: Any, name: str, **texts: str) -> argparse.ArgumentParser:
    """Add a command with the options that all have."""
    parser = commands.add_parser(name, formatter_class=Help, **texts)
    parser.set_defaults(command=name)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    add_config(parser)
    return parser


def add_figure_format(group: Any) -> None:
    """Add the option that chooses the format of figures."""
    group.add_argument(
        "--figure-format", choices=["png", "pdf"], default="png", help="of the figures (png)"
    )


def add_uncertainty(group: Any, samples: bool = True) -> None:
    """Add the option that chooses the kind of errors; samples only where there are any."""
    nuts = "from samples of the posterior (nuts, minutes), " if samples else ""
    group.add_argument(
        "--uncertainty",
        choices=["crlb", *(["nuts"] if samples else []), "none"],
        help=f"errors from the Cramer-Rao bound (crlb, the default), {nuts}or none",
    )
    if samples:
        group.add_argument(
            "--draws", type=_draws, metavar="N", help="number of samples, with nuts (1000)"
        )


def add_columns(group: Any, several: bool = True) -> None:
    """Add the options that say where a catalogue has what; several where labels may be."""
    group.add_argument("--pos", required=True, metavar="COL", help="column of positions")
    group.add_argument("--vel", required=True, metavar="COL", help="column of velocities")
    if several:
        again = {"action": "append", "default": []}
        more = "; repeat for several, fitted together"
        kind = group
    else:
        again, more = {}, ""
        kind = group.add_mutually_exclusive_group(required=True)
    kind.add_argument("--label", metavar="COL", help=f"column of the label{more}", **again)
    counts = "the numbers of stars (Poisson), " + (
        "alone or together with labels" if several else "in place of a label"
    )
    kind.add_argument("--counts", action="store_true", help=counts)
    group.add_argument(
        "--label-err", metavar="COL", help="column of the label's errors, if known", **again
    )
    if several:
        for of, text in (("pos", "positions"), ("vel", "velocities")):
            group.add_argument(
                f"--{of}-err",
                metavar="COL",
                help=f"column of errors of {text}: a warning where they blur what pixels show",
            )
    group.add_argument(
        "--where", action="append", default=[], metavar="COND", help="only stars with COND; repeat"
    )
    add_reading(group)


def add_reading(group: Any) -> None:
    """Add the options that say how a catalogue is to be read."""
    group.add_argument(
        "--units", type=read_units, metavar="COL=UNIT,...", help="units of columns, such as z=kpc"
    )
    group.add_argument("--hdu", type=_hdu, metavar="HDU", help="which table of a FITS file")
    group.add_argument(
        "--table-format",
        metavar="NAME",
        help="astropy's name of the file's format, if its ending does not tell",
    )


def _hdu(text: str) -> int | str:
    """Read the number or the name of a table."""
    return int(text) if text.isdecimal() else text


def add_selection(group: Any) -> None:
    """Add the options of the selection function that star counts went through."""
    group.add_argument(
        "--selection",
        metavar="FILE",
        help="selection function of --counts: a table with a column of positions, of the name that "
        "--pos says, and a column 'selection' on any scale; beyond its rows no star is seen",
    )
    group.add_argument(
        "--selection-error",
        type=float,
        metavar="X",
        help="how wrong it may be, a fraction of the counts (0.05; 0 if it is exact)",
    )


def add_model(group: Any, samples: bool = True) -> None:
    """Add the options of pixels and model."""
    kinds = ["both", "torus", "potential"] if samples else ["torus", "potential"]
    usual = ", or both (the default)" if samples else " (the default is torus)"
    group.add_argument(
        "--model",
        choices=kinds,
        help=f"ellipses with harmonics, a potential in their place{usual}",
    )
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
    add_uncertainty(group, samples)
    group.add_argument("--max-iter", type=int, metavar="N", help="most iterations (500)")


def add_penalty(group: Any) -> None:
    """Add the options of the penalty."""
    for name, text in {
        "label-l2": "of the label at its knots (5 times its root mean square)",
        "label-smooth": "of the change of its slope (its mean slope)",
        "e-l2": "of e_m at its knots (1)",
        "e-smooth": "of the change of its log slope (0.5)",
        "dacc-strength": "height of the wall that keeps densities positive (30)",
        "dacc-scale": "its softness, as a fraction of the midplane's density (0.01)",
    }.items():
        group.add_argument(f"--{name}", type=float, metavar="X", help=text)


def add_known(group: Any, weak: bool = False) -> None:
    """Add the options that say what is known of parameters.

    Parameters
    ----------
    group
        Where to add them.
    weak
        Whether the command has weak priors of its own, which can be refused.
    """
    group.add_argument(
        "--prior",
        action="append",
        default=[],
        metavar="TEXT",
        help="what is known of a parameter, as 'pos0 = 0 +- 20 pc' (normal); repeat",
    )
    group.add_argument(
        "--hold",
        action="append",
        default=[],
        metavar="TEXT",
        help="a parameter that is known exactly, as 'vel0 = 0 km/s'; repeat",
    )
    if weak:
        group.add_argument(
            "--no-weak-priors",
            action="store_true",
            help="no priors of pos0 and vel0 where stars are on one side or near the plane alone",
        )
