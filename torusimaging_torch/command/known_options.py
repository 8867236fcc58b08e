"""What is known beforehand, as it is typed: ``--prior "pos0 = 0 +- 20 pc"``, ``--hold ...``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import astropy.units as u

from torusimaging_torch.command.quantities import read_quantity
from torusimaging_torch.model.known import check_names

__all__ = ["read_held", "read_known_priors"]

_PLUS_MINUS = re.compile(r"\+/?-|\N{PLUS-MINUS SIGN}")
# Parameters that have a unit, and one of that kind.
_UNITS = {"pos0": "pc", "vel0": "km/s"}


def read_known_priors(texts: Sequence[str]) -> dict[str, tuple[u.Quantity, u.Quantity]]:
    """Read priors: pairs of mean and standard deviation by the name of the parameter.

    Raises
    ------
    ValueError
        If a text is no prior, no model has such a parameter, or a parameter has two.
    """
    found: dict[str, tuple[u.Quantity, u.Quantity]] = {}
    for text in texts:
        name, value = _split(text, "--prior", "pos0 = 0 +- 20 pc", found)
        ends = _PLUS_MINUS.split(value)
        if len(ends) != 2:
            raise ValueError(f"--prior: expected NAME = MEAN +- SIGMA [UNIT], got {text!r}")
        mean, sigma = (read_quantity(end, f"--prior {text!r}") for end in ends)
        if mean.unit == u.dimensionless_unscaled:
            mean = mean.value * sigma.unit
        sigma = _in_kind(name, sigma, "--prior", text)
        if not sigma.value > 0:
            raise ValueError(f"--prior: the number after +- must be positive, got {text!r}")
        found[name] = (_in_kind(name, mean, "--prior", text), sigma)
    return found


def read_held(texts: Sequence[str]) -> dict[str, u.Quantity]:
    """Read values of parameters that are held, by name.

    Raises
    ------
    ValueError
        If a text is no value, no model has such a parameter, or a parameter has two.
    """
    found: dict[str, u.Quantity] = {}
    for text in texts:
        name, value = _split(text, "--hold", "vel0 = 0 km/s", found)
        found[name] = _in_kind(name, read_quantity(value, f"--hold {text!r}"), "--hold", text)
    return found


def _split(text: str, option: str, example: str, found: Collection[str]) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise ValueError(f"{option}: expected a text such as {example!r}, got {text!r}")
    check_names({name: value}, option)
    if name in found:
        raise ValueError(f"{option}: {name} is given twice")
    return name, value


def _in_kind(name: str, value: u.Quantity, option: str, text: str) -> u.Quantity:
    """Check the unit of a value; an exact zero needs none."""
    unit = u.Unit(_UNITS.get(name, ""))
    if value.unit == u.dimensionless_unscaled and value.value == 0:
        return 0 * unit
    if not value.unit.is_equivalent(unit):
        expected = f"a unit like {_UNITS[name]}" if name in _UNITS else "no unit"
        raise ValueError(f"{option}: {name} must have {expected}, got {text!r}")
    return value
