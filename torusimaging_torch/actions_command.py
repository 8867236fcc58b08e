"""Actions, angles and frequencies for a catalogue: what ``torusimaging-torch actions`` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable, Table

from torusimaging_torch.atomic import replaced_file
from torusimaging_torch.catalog import give_units, read_stars, read_table
from torusimaging_torch.results import FitResult

__all__ = ["add_actions", "run_actions"]

_CHUNK = 1_000_000
_COLUMNS = {
    "J": "action",
    "theta": "angle, 0 at the midplane moving up",
    "Omega": "frequency of the orbit",
    "T": "period of the orbit",
    "valid": "whether the orbit lies within the fit",
}


def _silent(line: str) -> None:
    pass


def add_actions(
    result: FitResult,
    table: Table,
    pos: str,
    vel: str,
    *,
    prefix: str = "",
    method: str = "auto",
    tell: Callable[[str], None] = _silent,
    chunk: int = _CHUNK,
) -> int:
    """Add the columns J, theta, Omega, T and valid to a table of stars.

    Parameters
    ----------
    result
        The fit.
    table
        Stars; changed in place.
    pos, vel
        Names of the columns of positions and velocities.
    prefix
        Put before the names of the new columns.
    method
        See `~torusimaging_torch.TorusImaging1D.compute_action_angle`.
    tell
        Called with a line of text after each part.
    chunk
        Number of stars in a part.

    Returns
    -------
    int
        How many stars are valid.

    Raises
    ------
    ValueError
        If the table has columns with these names already.
    KeyError
        If there are no such positions or velocities.
    """
    taken = [prefix + name for name in _COLUMNS if prefix + name in table.colnames]
    if taken:
        raise ValueError(
            f"the table has a column {taken[0]!r} already: choose a prefix for the new ones"
        )
    stars = read_stars(table, pos, vel)
    parts: list[QTable] = []
    for start in range(0, len(stars), chunk):
        part = slice(start, start + chunk)
        parts.append(
            result.model.compute_action_angle(
                stars.pos[part], stars.vel[part], result.params, method=method
            )
        )
        done = min(start + chunk, len(stars))
        tell(f"{done:,} of {len(stars):,} stars ({done / len(stars):.0%})")
    for name, text in _COLUMNS.items():
        values = np.concatenate([part[name] for part in parts])
        table[prefix + name] = _column(table, values)
        table[prefix + name].info.description = text
    return int(np.sum(table[prefix + "valid"]))


def _column(table: Table, values: Any) -> Any:
    # A plain table holds plain columns with units: all file formats take those.
    if isinstance(values, u.Quantity) and not isinstance(table, QTable):
        return Table({"values": values.value * values.unit})["values"]
    return values


def run_actions(
    fit: str | os.PathLike[str],
    stars: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pos: str | None = None,
    vel: str | None = None,
    units: Mapping[str, str] | None = None,
    prefix: str = "",
    method: str = "auto",
    overwrite: bool = False,
    tell: Callable[[str], None] = _silent,
) -> str:
    """Read a fit and a catalogue, and write the catalogue with actions, angles and frequencies.

    Parameters
    ----------
    fit
        The file of a fit, or the folder with its ``fit.ecsv``.
    stars
        The catalogue, any format that astropy reads.
    out
        The table to write; its ending decides the format.
    pos, vel
        Names of columns; by default those that were fitted.
    units
        Units of columns, by name.
    prefix, method, tell
        See `add_actions`.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    str
        One line that says what was done.

    Raises
    ------
    ValueError
        If something cannot be read, or the output exists.
    """
    if Path(out).exists() and not overwrite:
        raise ValueError(f"{out} exists: choose another name, or say --overwrite")
    path = Path(fit)
    result = FitResult.read(path / "fit.ecsv" if path.is_dir() else path)
    columns = result.provenance.get("columns", {})
    names = [given or columns.get(role) for role, given in (("pos", pos), ("vel", vel))]
    if None in names:
        raise ValueError("the fit does not say which columns it used: give --pos and --vel")
    tell(f"reading {stars}")
    table = read_table(stars)
    give_units(table, units or {})
    n_valid = add_actions(result, table, *names, prefix=prefix, method=method, tell=tell)
    tell(f"writing {out}")
    with replaced_file(out) as temporary:
        try:
            table.write(temporary)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"cannot write {out}: {reason}") from None
    lost = len(table) - n_valid
    return f"{n_valid:,} stars with orbits; {lost:,} beyond the fit's last knot or not finite"
