"""What was typed after prepare, as the Sun, the prior and the curve that it means."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import astropy.units as u

from torusimaging_torch.catalogue.distances import ExponentialPrior
from torusimaging_torch.catalogue.files import read_table
from torusimaging_torch.catalogue.sun import CircularSpeed, Sun
from torusimaging_torch.command.quantities import read_quantity

__all__ = ["read_preparation"]

_KMS = u.km / u.s


def read_preparation(args: Namespace) -> dict[str, Any]:
    """Return arguments of `torusimaging_torch.analysis.preparation.run_prepare`.

    Raises
    ------
    ValueError
        If a text cannot be read; the message begins with the option.
    """
    same = ("columns", "preset", "where", "units", "hdu", "table_format", "prefix", "overwrite")
    return {
        **{name: getattr(args, name) for name in same},
        "cuts": not args.no_cuts,
        "draws": args.errors,
        "sun": Sun(
            _with_unit(args.r_sun, u.kpc, "--r-sun"),
            _with_unit(args.z_sun, u.pc, "--z-sun"),
            _velocity(args.v_sun),
        ),
        "speed": _speed(args.v_c),
        "prior": _prior(args.distance_prior),
        "zero_point": _with_unit(args.zero_point, u.mas, "--zero-point").value,
    }


def _with_unit(text: str, unit: u.UnitBase, option: str) -> u.Quantity:
    value = read_quantity(text, option)
    if value.unit == u.dimensionless_unscaled:
        return value.value * unit
    try:
        return value.to(unit)
    except u.UnitConversionError:
        raise ValueError(f"{option}: expected a number in {unit}, got {text!r}") from None


def _velocity(text: str) -> u.Quantity:
    parts = text.split(",")
    unit = parts[-1].strip().lstrip("+-.0123456789eE").strip()
    numbers = [part.strip() for part in parts]
    numbers[-1] = numbers[-1].removesuffix(unit).strip()
    try:
        if len(numbers) != 3:
            raise ValueError(numbers)
        return u.Quantity([_with_unit(f"{x} {unit}", _KMS, "--v-sun") for x in numbers])
    except ValueError:
        raise ValueError(f"--v-sun: expected U,V,W as '8.4,251.8,8.4 km/s', got {text!r}") from None


def _speed(text: str) -> CircularSpeed:
    if Path(text).is_file():
        try:
            return CircularSpeed.read(read_table(text))
        except (ValueError, KeyError) as error:  # of which wrong units are a kind
            raise ValueError(f"--v-c: in {text}: {error.args[0]}") from None
    try:
        return CircularSpeed(_with_unit(text, _KMS, "--v-c"))
    except ValueError:
        raise ValueError(f"--v-c: expected a speed or a file, got {text!r}") from None


def _prior(text: str | None) -> ExponentialPrior | None:
    if text is None:
        return None
    kind, _, length = text.partition(":")
    if kind.strip() != "exponential":
        raise ValueError(f"--distance-prior: expected exponential:LENGTH, got {text!r}")
    return ExponentialPrior(float(_with_unit(length, u.kpc, "--distance-prior").value))
