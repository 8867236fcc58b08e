"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

from torusimaging_torch.command.config import actions_of, add_config
from torusimaging_torch.settings import ModelSettings, Settings, default_of, option_of

__all__ = [
    "CONDITIONS",
    "Group",
    "Help",
    "add_columns",
    "add_command",
    "add_figure_format",
    "add_known",
    "add_model",
    "add_penalty",
    "add_reading",
    "add_selection",
    "add_settings",
    "read_count",
    "read_units",
    "refuse_empty",
]

CONDITIONS = """\
conditions: names of columns, numbers (in the column's unit, or with their own: 1.5 kpc), texts in
quotes, < <= > >= == !=, and, or, not, + - * / **, abs(), sqrt(), col('a name with blanks'), and
flag(COLUMN, BIT, ...), true where any of these bits of a column of flags is set, counted from 0."""
"""What the help says of conditions."""

_FEWEST_SAMPLES = 4


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


def _samples(text: str) -> int:
    """Read a number of samples of the posterior, as many as the sampler's diagnostics need."""
    count = read_count(text)
    if count < _FEWEST_SAMPLES:
        raise argparse.ArgumentTypeError(f"expected at least {_FEWEST_SAMPLES}, got {text}")
    return count


def refuse_empty(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check that every argument has a value, but for those that are empty texts unless given.

    An empty text is what a shell makes of a variable that is not set, and it is a path, too: that
    of the working directory.

    Raises
    ------
    ValueError
        If an argument has none.
    """
    for action in actions_of(parser):
        given = getattr(args, action.dest, None)
        if given == action.default:
            continue
        # Some versions of argparse make an empty list of "--option=--".
        each = given if isinstance(given, list) and given else [given]
        if "" in each or [] in each:
            name = action.option_strings[-1] if action.option_strings else action.metavar
            raise ValueError(f"{name}: expected a value, got {'nothing' if '' in each else '--'}")


class Group(Protocol):
    """Where options are added: a command, or a group of its options."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an option."""

    def add_mutually_exclusive_group(self) -> Group:
        """Return a group of options of which one alone may be given."""


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


def add_figure_format(group: Group) -> None:
    """Add the option that chooses the format of figures."""
    group.add_argument(
        "--figure-format",
        choices=["png", "pdf", "none"],
        default="png",
        help="of the figures (png); none: tables and a report without pictures",
    )


_MODEL = (
    "model",
    "pos_max",
    "vel_max",
    "n_bins",
    "s",
    "elliptical_angle_convention",
    "label_knots",
    "e_knots",
    "e_signs",
    "label_knots_spacing_power",
    "e_knots_spacing_power",
    "label_spline",
    "e_spline",
    "uncertainty",
    "num_samples",
    "max_iter",
)
_PENALTY = (
    "label_l2_sigma",
    "label_smooth_sigma",
    "e_l2_sigmas",
    "e_smooth_sigmas",
    "dacc_strength",
    "dacc_scale",
)
# What `ModelSettings` says of a command for many fits, which has no samples and fits one model.
_OF_MANY = ("model", "uncertainty")
_TYPES: dict[str, Callable[[str], object]] = {
    "M:N,...": _orders,
    "M:SIGN,...": _orders,
    "LENGTH": str,
    "SPEED": str,
    "N": int,
}


def add_settings(group: Group, *names: str, many: bool = False) -> None:
    """Add options of settings, described by the settings themselves.

    Parameters
    ----------
    group
        Where to add them.
    names
        Which fields of `torusimaging_torch.settings.Settings`.
    many
        Whether the command is one for many fits.
    """
    every = {one.name: one for one in fields(Settings)}
    if many:
        every |= {one.name: one for one in fields(ModelSettings) if one.name in _OF_MANY}
    for name in names:
        one = every[name]
        known, default = one.metadata, default_of(one)
        option: dict[str, Any] = {"help": _with_default(known["help"], default)}
        if isinstance(default, bool):
            option |= {"action": "store_true"}
        elif known["choices"]:
            option |= {"choices": known["choices"]}
        else:
            read = _samples if name == "num_samples" else _TYPES.get(known["metavar"], float)
            option |= {"type": read, "metavar": known["metavar"]}
        group.add_argument(option_of(one), dest=name, **option)


def _with_default(words: str, default: object) -> str:
    """Add a default to words; per cent signs are argparse's."""
    words = words.replace("%", "%%")
    if default is None or isinstance(default, bool):
        return words
    if isinstance(default, Mapping):
        default = ",".join(f"{key}:{value}" for key, value in default.items())
    return f"{words} ({default:g})" if isinstance(default, float) else f"{words} ({default})"


def add_columns(group: Group, blur: bool = True) -> None:
    """Add the options that say where a catalogue has what, and what blurs it, if that is asked."""
    group.add_argument("--pos", required=True, metavar="COL", help="column of positions")
    group.add_argument("--vel", required=True, metavar="COL", help="column of velocities")
    again: dict[str, Any] = {"action": "append", "default": [], "metavar": "COL"}
    group.add_argument(
        "--label", help="column of the label; repeat for several, fitted together", **again
    )
    group.add_argument(
        "--counts",
        action="store_true",
        help="the numbers of stars (Poisson), alone or together with labels",
    )
    group.add_argument("--label-err", help="column of the label's errors, if known", **again)
    if blur:
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


def add_reading(group: Group) -> None:
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


def add_selection(group: Group) -> None:
    """Add the options of the selection function that star counts went through."""
    group.add_argument(
        "--selection",
        metavar="FILE",
        help="selection function of --counts: a table with a column of positions, of the name that "
        "--pos says, and a column 'selection' on any scale; beyond its rows no star is seen",
    )
    add_settings(group, "selection_error")


def add_model(group: Group, many: bool = False) -> None:
    """Add the options of pixels and model."""
    add_settings(group, *(name for name in _MODEL if name != "num_samples" or not many), many=many)


def add_penalty(group: Group) -> None:
    """Add the options of the penalty."""
    add_settings(group, *_PENALTY)


def add_known(group: Group, weak: bool = False) -> None:
    """Add the options that say what is known of parameters.

    Parameters
    ----------
    group
        Where to add them.
    weak
        Whether the command has weak priors of its own, which can be refused.
    """
    for one in fields(ModelSettings):
        if one.name in ("priors", "hold"):
            group.add_argument(
                option_of(one),
                dest=one.name,
                action="append",
                default=[],
                metavar=one.metadata["metavar"],
                help=f"{one.metadata['help']}; repeat",
            )
    if weak:
        group.add_argument(
            "--no-weak-priors",
            dest="weak_priors",
            action="store_false",
            help="no priors of pos0 and vel0 where stars are on one side or near the plane alone",
        )
