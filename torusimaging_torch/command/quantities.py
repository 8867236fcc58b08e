"""Numbers with a unit, as they are typed: ``1.2kpc``, ``70 km/s``, ``0.5``."""

from __future__ import annotations

import math

import astropy.units as u

__all__ = ["read_quantity"]


def read_quantity(text: str, option: str) -> u.Quantity:
    """Read one finite number with or without a unit.

    Parameters
    ----------
    text
        What was typed.
    option
        The option that it is of, for the error.

    Raises
    ------
    ValueError
        If it is not such a number, or its unit is not one that astropy knows.

    Examples
    --------
    >>> read_quantity("70 km/s", "--vel-max")
    <Quantity 70. km / s>
    >>> read_quantity("4 parsnips", "--pos-max")
    Traceback (most recent call last):
        ...
    ValueError: --pos-max: expected a number with or without a unit, got '4 parsnips'
    """
    try:
        value = u.Quantity(text.strip())
        # Astropy reads two lengths in "[1, 2] kpc", and in "1 2 kpc" one of the unit 2 kpc.
        good = value.isscalar and value.unit.scale == 1 and math.isfinite(value.value)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{option}: expected a number with or without a unit, got {text!r}")
    return value
