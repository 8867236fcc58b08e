"""Tables of stars from files: reading, units, selection; every star left out is counted."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.catalogue.conditions import read_column, select

__all__ = ["Stars", "check_column", "check_units", "give_units", "read_stars", "read_table"]


@dataclass(frozen=True)
class Stars:
    """The stars of one analysis.

    Attributes
    ----------
    pos, vel
        Positions and velocities, Quantities with shape (N,).
    label, label_err
        The label and its error with shape (N,), arrays or Quantities; None for star counts, and
        for errors that are not known.
    provenance
        Where they came from: file, columns, conditions, and how many stars were left.
    """

    pos: u.Quantity
    vel: u.Quantity
    label: Any = None
    label_err: Any = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.pos)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table from whatever file astropy reads: FITS, ECSV, CSV, parquet, HDF5, VOTable.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a table, or the library that reads it is not installed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        with warnings.catch_warnings():
            # Units that astropy does not know matter only in columns that are used: see there.
            warnings.simplefilter("ignore", u.UnitsWarning)
            table = Table.read(path)
    except ImportError as error:
        raise ValueError(
            f"cannot read {path}: {error}; 'pip install torusimaging_torch[io]' has what parquet "
            "and HDF5 need"
        ) from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read {path} as a table of stars: {reason}") from None
    if len(table) == 0:
        raise ValueError(f"the table in {path} has no rows")
    return table


def check_column(name: str, argument: str, names: Sequence[str]) -> None:
    """Raise a KeyError that lists the columns if a name is not among them."""
    if name not in names:
        raise KeyError(f"{argument}: no column {name!r}; the table has {', '.join(names)}")


def check_units(units: Mapping[str, str], names: Sequence[str]) -> None:
    """Check units that are given as texts, by column name.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a unit is not one that astropy knows.
    """
    for name, unit in units.items():
        check_column(name, "units", names)
        try:
            u.Unit(unit)
        except ValueError:
            raise ValueError(f"{unit!r}, given for column {name!r}, is not a unit") from None


def give_units(table: Table, units: Mapping[str, str]) -> None:
    """Set the units of columns, in place of what the file says of them.

    Parameters
    ----------
    table
        Changed in place.
    units
        Units as texts, by column name.

    Raises
    ------
    KeyError, ValueError
        See `check_units`.
    """
    check_units(units, table.colnames)
    for name, unit in units.items():
        table[name].unit = u.Unit(unit)


def _phase_space(table: Table, name: str, argument: str, example: u.UnitBase) -> u.Quantity:
    check_column(name, argument, table.colnames)
    column = read_column(table, name)
    if not isinstance(column, u.Quantity):
        raise ValueError(f"{argument}: column {name!r} has no unit; give one, as {name}={example}")
    if not column.unit.is_equivalent(example):
        raise u.UnitConversionError(
            f"{argument}: column {name!r} has the unit '{column.unit}', expected one like "
            f"'{example}'"
        )
    return column


def _values(table: Table, name: str, argument: str) -> Any:
    check_column(name, argument, table.colnames)
    values = read_column(table, name)
    if np.ndim(values) != 1 or values.dtype.kind not in "iuf":
        raise ValueError(f"{argument}: column {name!r} must hold one number per star")
    return values


def read_stars(
    table: Table,
    pos: str,
    vel: str,
    label: str | None = None,
    label_err: str | None = None,
    where: Sequence[str] = (),
) -> Stars:
    """Take the stars of an analysis from a table.

    Parameters
    ----------
    table
        A table of any size.
    pos, vel, label, label_err
        Names of columns.
    where
        Conditions that all must hold; see `torusimaging_torch.catalogue.conditions`.

    Raises
    ------
    KeyError
        If a column does not exist; the message lists those that do.
    ValueError
        If a column cannot be what it is said to be, or no star fulfils the conditions.
    astropy.units.UnitConversionError
        If a unit has the wrong dimension.
    """
    keep = np.ones(len(table), dtype=bool)
    for condition in where:
        keep &= select(table, condition)
        if not keep.any():
            raise ValueError(f"no star is left after the condition {condition!r}")
    columns = {
        "pos": _phase_space(table, pos, "pos", u.kpc)[keep],
        "vel": _phase_space(table, vel, "vel", u.km / u.s)[keep],
        "label": None if label is None else _values(table, label, "label")[keep],
        "label_err": None if label_err is None else _values(table, label_err, "label_err")[keep],
    }
    names = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
    provenance = {
        "columns": {role: name for role, name in names.items() if name is not None},
        "where": list(where),
        "n_rows": len(table),
        "n_selected": int(keep.sum()),
    }
    return Stars(**columns, provenance=provenance)
