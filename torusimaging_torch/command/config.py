"""Options from a file in TOML, and a file of the options that were given."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["actions_of", "add_config", "expand_config", "in_options", "to_config"]

_OPTION = "--config"
# What a file does not say: where it is itself, and how a run is watched.
_NOT_KEPT = {"config", "help", "quiet", "debug", "command"}


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option, for the help: `expand_config` reads it before the others."""
    parser.add_argument(
        _OPTION,
        metavar="FILE",
        help='options from a file in TOML, such as pos = "z" or where = ["R > 7"]; those of the '
        "command line come after it and hold",
    )


def expand_config(argv: Sequence[str], parsers: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Return arguments with those of a file in their place, right after the command.

    Parameters
    ----------
    argv
        What was typed.
    parsers
        The parser of each command.

    Raises
    ------
    ValueError
        If the file cannot be read, or has something that is no option of the command.
    """
    typed = list(argv)
    place = next((i for i, a in enumerate(typed) if a.partition("=")[0] == _OPTION), None)
    if place is None or not typed or typed[0] not in parsers:
        return typed
    _, equals, path = typed[place].partition("=")
    if not equals:
        if place + 1 == len(typed):
            return typed  # argparse says what is missing
        path = typed[place + 1]
    given = _read(Path(path).expanduser())
    found = [a for key, value in given.items() for a in _arguments(parsers[typed[0]], key, value)]
    return [typed[0], *found, *typed[1:]]


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ValueError(f"{_OPTION}: cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{_OPTION}: {path} is not TOML: {error}") from None


def _arguments(parser: argparse.ArgumentParser, key: str, value: object) -> list[str]:
    """Return what one entry of the file says, as one would type it."""
    action = _find(parser, key)
    if not action.option_strings:
        return [str(value)]
    option = action.option_strings[-1]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{_OPTION}: {key} must be true or false, got {value!r}")
        return [option] if value else []
    if isinstance(value, Mapping):
        between = ":" if all(str(name).isdecimal() for name in value) else "="
        value = ",".join(f"{name}{between}{x}" for name, x in value.items())
    values = value if isinstance(value, list) else [value]
    if len(values) > 1 and not isinstance(action.default, list):
        raise ValueError(f"{_OPTION}: {key} takes one value, got {values}")
    if bad := [x for x in values if isinstance(x, (bool, list, Mapping))]:
        raise ValueError(f"{_OPTION}: {key} must be a text or a number, got {bad[0]!r}")
    return [f"{option}={x}" for x in values]


def _find(parser: argparse.ArgumentParser, key: str) -> argparse.Action:
    name = f"--{key.replace('_', '-')}"
    for action in actions_of(parser):
        if name in action.option_strings and name not in (_OPTION, "--help"):
            return action
        if not action.option_strings and action.dest == key.replace("-", "_"):
            return action
    known = ", ".join(sorted(name for name, _ in _options(parser)))
    raise ValueError(f"{_OPTION}: there is no option {key!r}; there are {known}")


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments that a parser knows."""
    return list(vars(parser)["_actions"])  # argparse has no public name for them


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in actions_of(parser):
        name = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
        if action.dest not in _NOT_KEPT:
            yield name, action


def in_options(text: str, parser: argparse.ArgumentParser) -> str:
    """Return what is said of an argument of Python as it is said of the option that means it.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> action = parser.add_argument("--spacing-power", dest="e_knots_spacing_power")
    >>> in_options("e_knots_spacing_power must be positive, got 0", parser)
    '--spacing-power must be positive, got 0'
    >>> in_options("e_knots_spacing_power of what?", parser)  # about something else
    'e_knots_spacing_power of what?'
    """
    options = {a.dest: a.option_strings[-1] for a in actions_of(parser) if a.option_strings}
    name = re.match(r"\w+(?=:|\[| (must|cannot|needs|has|is|at) )", text)
    return options.get(name[0].lower(), name[0]) + text[name.end() :] if name else text


def to_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Return the options that were given as a file in TOML.

    Parameters
    ----------
    parser
        The command's.
    args
        What it read.
    """
    lines = []
    for name, action in _options(parser):
        value = getattr(args, action.dest, action.default)
        if value != action.default:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(str(key))} = {_toml(x)}" for key, x in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(x) for x in value)}]"
    # A text of JSON is one of TOML, and so are its numbers and truth values.
    return json.dumps(value if isinstance(value, (bool, int, float)) else str(value))
