"""The stars of one analysis, from a table or a file: columns, units, selection, all counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import Stars, StarSource, check_column, open_stars
from torusimaging_torch.catalogue.columns import is_number, kind_of, read_column
from torusimaging_torch.catalogue.conditions import columns_of, select
from torusimaging_torch.catalogue.files import ParquetStars
from torusimaging_torch.catalogue.rows import TableStars
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
    labels
        Labels by the names of their columns, arrays or Quantities with shape (N,).
    label_errs
        Their errors, of those labels whose errors are known.
    counted
        Whether the numbers of stars are to be fitted beside the labels; without labels they are.
    pos_err, vel_err
        Errors of positions and velocities, if they are known: the fit does not use them, but it is
        said where they matter.
    provenance
        Where they came from: file, columns, conditions, and how many stars were left.
    """

    pos: u.Quantity
    vel: u.Quantity
    labels: Mapping[str, Array | u.Quantity] = field(default_factory=dict)
    label_errs: Mapping[str, Array | u.Quantity] = field(default_factory=dict)
    counted: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    pos_err: u.Quantity | None = None
    vel_err: u.Quantity | None = None

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.pos)


_EXAMPLES = {"pos": u.kpc, "vel": u.km / u.s, "pos_err": u.kpc, "vel_err": u.km / u.s}


def _numbers(table: Table, name: str, role: str) -> Array | u.Quantity:
    """Return a column of numbers, with a unit of the right dimension if its role has one."""
    column, example = read_column(table, name), _EXAMPLES.get(role)
    if np.ndim(column) != 1 or column.dtype.kind not in "iuf":
        raise ValueError(
            f"{role}: column {name!r} must hold one number per star{_first_text(column)}"
        )
    if example is None:
        return column
    if not isinstance(column, u.Quantity):
        raise ValueError(f"{role}: column {name!r} has no unit; give one, as {name}={example}")
    if not column.unit.is_equivalent(example):
        raise u.UnitConversionError(
            f"{role}: column {name!r} has the unit '{column.unit}', expected one like '{example}'"
        )
    return column


def _first_text(column: Array) -> str:
    """Return words on the first text of a column that is no number; none if it holds no texts."""
    if kind_of(column) != "text":
        return ""
    text = next((x for x in column if x is not None and not is_number(x)), None)
    if text is None:
        return ", got texts"
    point = is_number(text.replace(",", ".", 1))
    hint = ": write decimals with a point" if point else ""
    return f", got the text {str(text)!r}{hint}"


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
    stars: Stars,
    pos: str,
    vel: str,
    label: str | Sequence[str] | None = None,
    label_err: str | Sequence[str] | None = None,
    where: Sequence[str] = (),
    *,
    counted: bool = False,
    pos_err: str | None = None,
    vel_err: str | None = None,
) -> SelectedStars:
    """Take the stars of an analysis from a catalogue.

    Parameters
    ----------
    stars
        What `torusimaging_torch.catalogue.open_stars` takes or returns.
    pos, vel
        Names of columns.
    label, label_err
        Names of columns, of one label or of several, errors in the same order.
    where
        Conditions that all must hold; see `torusimaging_torch.catalogue.conditions`.
    counted
        Whether the numbers of stars are to be fitted, too.
    pos_err, vel_err
        Names of columns of the errors of positions and velocities.

    Raises
    ------
    KeyError
        If a column does not exist; the message lists those that do.
    ValueError
        If a column cannot be what it is said to be, labels and errors differ in number, or no star
        fulfils the conditions.
    astropy.units.UnitConversionError
        If a unit has the wrong dimension.
    """
    source = open_stars(stars)
    labels, errors = _several("label", label), _several("label_err", label_err)
    if errors and len(errors) != len(labels):
        raise ValueError(
            f"label_err must be given for each label or for none: got {len(errors)} for "
            f"{len(labels)}"
        )
    roles = [("pos", pos), ("vel", vel)]
    roles += [("label", name) for name in labels] + [("label_err", name) for name in errors]
    blur = {role: name for role, name in (("pos_err", pos_err), ("vel_err", vel_err)) if name}
    roles += list(blur.items())
    for role, name in roles:
        check_column(name, role, source.names)
    columns, n_left = _read_columns(source, roles, where)
    provenance: dict[str, Any] = {
        "columns": {
            "pos": pos,
            "vel": vel,
            **{k: _alone(v) for k, v in (("label", labels), ("label_err", errors)) if v},
            **blur,
        },
        "where": list(where),
        "n_rows": source.n_rows,
        "n_selected": n_left,
    }
    if assumed := _assumed(source):
        provenance["sky"] = assumed
    return SelectedStars(
        columns["pos", pos],
        columns["vel", vel],
        {name: columns["label", name] for name in labels},
        {of: columns["label_err", name] for of, name in zip(labels, errors, strict=False)},
        counted,
        provenance,
        *(columns[role, blur[role]] if role in blur else None for role in ("pos_err", "vel_err")),
    )


def _several(role: str, names: str | Sequence[str] | None) -> list[str]:
    """Return names of columns, of which none may come twice."""
    found = [names] if isinstance(names, str) else list(names or ())
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"{role}: {', '.join(twice)} is given twice")
    return found


def _alone(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def _read_columns(
    source: StarSource, roles: Sequence[tuple[str, str]], where: Sequence[str]
) -> tuple[dict[tuple[str, str], Array | u.Quantity], int]:
    """Return columns by role and name, of the stars that all conditions leave, and their number."""
    needed = [name for _, name in roles]
    for condition in where:
        for name in columns_of(condition, source.names):
            check_column(name, f"in the condition {condition!r}", source.names)
            needed.append(name)
    parts: dict[tuple[str, str], list[Array | u.Quantity]] = {key: [] for key in roles}
    n_left = dict.fromkeys(where, 0)
    for _, table in source.chunks(list(dict.fromkeys(needed))):
        keep = np.ones(len(table), dtype=bool)
        for condition in where:
            keep &= select(table, condition)
            n_left[condition] += int(keep.sum())
        for role, name in roles:
            parts[role, name].append(_numbers(table, name, role)[keep])
    for condition, n in n_left.items():
        if n == 0:
            raise ValueError(f"no star is left after the condition {condition!r}")
    columns = {key: np.concatenate(values) for key, values in parts.items()}
    return columns, len(columns[roles[0]])
