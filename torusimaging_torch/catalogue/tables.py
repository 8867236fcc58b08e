"""The stars of one analysis, from a table or a file: columns, units, selection, all counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.catalogue.chunks import StarSource, TableStars, check_column, open_stars
from torusimaging_torch.catalogue.conditions import columns_of, read_column, select
from torusimaging_torch.catalogue.files import ParquetStars
from torusimaging_torch.catalogue.sky import assumed_in
from torusimaging_torch.catalogue.sky_source import SkyRows

__all__ = ["SelectedStars", "read_stars"]


@dataclass(frozen=True)
class SelectedStars:
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


_EXAMPLES = {"pos": u.kpc, "vel": u.km / u.s}


def _numbers(table: Table, name: str, role: str) -> Any:
    """Return a column of numbers, with a unit of the right dimension if its role has one."""
    column, example = read_column(table, name), _EXAMPLES.get(role)
    if np.ndim(column) != 1 or column.dtype.kind not in "iuf":
        raise ValueError(f"{role}: column {name!r} must hold one number per star")
    if example is None:
        return column
    if not isinstance(column, u.Quantity):
        raise ValueError(f"{role}: column {name!r} has no unit; give one, as {name}={example}")
    if not column.unit.is_equivalent(example):
        raise u.UnitConversionError(
            f"{role}: column {name!r} has the unit '{column.unit}', expected one like '{example}'"
        )
    return column


def _assumed(source: StarSource) -> str:
    """Return what was assumed about the Sun, now or when the catalogue was prepared."""
    match source.rows:
        case SkyRows() as rows:
            return rows.assumed
        case TableStars(table=table):
            return assumed_in(table.meta)
        case ParquetStars() as file:
            return assumed_in(file.notes.get("meta", {}))
    return ""


def read_stars(
    stars: Any,
    pos: str,
    vel: str,
    label: str | None = None,
    label_err: str | None = None,
    where: Sequence[str] = (),
) -> SelectedStars:
    """Take the stars of an analysis from a catalogue.

    Parameters
    ----------
    stars
        What `torusimaging_torch.catalogue.open_stars` takes or returns.
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
    source = open_stars(stars)
    roles = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
    names = {role: name for role, name in roles.items() if name is not None}
    for role, name in names.items():
        check_column(name, role, source.names)
    needed = [*names.values()]
    for condition in where:
        for name in columns_of(condition, source.names):
            check_column(name, f"in the condition {condition!r}", source.names)
            needed.append(name)
    parts: dict[str, list[Any]] = {role: [] for role in names}
    n_left = dict.fromkeys(where, 0)
    for _, table in source.chunks(list(dict.fromkeys(needed))):
        keep = np.ones(len(table), dtype=bool)
        for condition in where:
            keep &= select(table, condition)
            n_left[condition] += int(keep.sum())
        for role, name in names.items():
            parts[role].append(_numbers(table, name, role)[keep])
    for condition, n in n_left.items():
        if n == 0:
            raise ValueError(f"no star is left after the condition {condition!r}")
    columns = {role: np.concatenate(values) for role, values in parts.items()}
    provenance: dict[str, Any] = {
        "columns": names,
        "where": list(where),
        "n_rows": source.n_rows,
        "n_selected": len(columns["pos"]),
    }
    if assumed := _assumed(source):
        provenance["sky"] = assumed
    return SelectedStars(**columns, provenance=provenance)
