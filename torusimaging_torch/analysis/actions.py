"""Actions, angles and frequencies for a catalogue: what ``torusimaging-torch actions`` does.

From parquet to parquet a batch of stars is in memory at a time; all other formats are held whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Column, QTable, Table

from torusimaging_torch.catalogue.chunks import CHUNK_ROWS, check_column, open_stars
from torusimaging_torch.catalogue.copies import can_copy, copy_parquet
from torusimaging_torch.catalogue.endings import as_path
from torusimaging_torch.catalogue.files import is_parquet, write_table
from torusimaging_torch.catalogue.outputs import check_output
from torusimaging_torch.catalogue.sentinels import Sentinels
from torusimaging_torch.catalogue.sky_source import on_the_way
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.fit_result import FitResult

__all__ = ["ActionColumns", "add_actions", "run_actions"]

_COLUMNS = {
    "J": "action",
    "theta": "angle, 0 at the midplane moving up",
    "Omega": "frequency of the orbit",
    "T": "period of the orbit",
    "valid": "whether the orbit lies within the fit",
}
_ERRORS = {
    **{f"{name}_err": f"standard error of {name}, from the fit's" for name in list(_COLUMNS)[:4]},
    "valid_fraction": "of the drawn fits, those in which the star has an orbit",
}


def _silent(*_: object) -> None:
    pass


class ActionColumns:
    """Compute the new columns of stars that come in parts.

    Parameters
    ----------
    result
        The fit.
    n_stars
        How many stars there are in all.
    pos, vel
        Names of the columns of positions and velocities.
    prefix
        Put before the names of the new columns.
    method
        See `~torusimaging_torch.TorusImaging1D.compute_action_angle`.
    errors
        From how many draws of the fit's parameters errors are computed; 0 for no errors.

    Raises
    ------
    ValueError
        If errors are asked of a fit without a covariance.

    Attributes
    ----------
    stars
        The names of the columns of positions and velocities.
    names
        The names of the new columns.
    n_valid
        How many stars had an orbit so far.
    """

    def __init__(
        self,
        result: FitResult,
        n_stars: int,
        pos: str,
        vel: str,
        *,
        prefix: str = "",
        method: str = "auto",
        errors: int = 0,
    ) -> None:
        self._texts = {**_COLUMNS, **(_ERRORS if errors else {})}
        self.stars, self._prefix, self.n_valid = (pos, vel), prefix, 0
        self.names = [prefix + name for name in self._texts]
        model = result.model
        self._sentinels = Sentinels()
        self._best = model.action_angle_function(result.params, n_stars, method=method)
        self._drawn = None
        if errors:
            draws = result.draw(errors)
            self._drawn = model.action_angle_function(draws, n_stars, method=method)

    def check(self, names: Sequence[str]) -> None:
        """Raise an error unless the stars, and no new column, are among the names of a table."""
        for column, argument in zip(self.stars, ("pos", "vel"), strict=True):
            check_column(column, argument, names)
        if self.stars[0] == self.stars[1]:
            raise ValueError(f"vel: column {self.stars[1]!r} is that of the positions, too")
        taken = [name for name in self.names if name in names]
        if taken:
            raise ValueError(
                f"the table has a column {taken[0]!r} already: choose a prefix for the new ones"
            )

    def __call__(self, part: Table) -> Table:
        """Return the new columns of some stars."""
        stars = read_stars(part, *self.stars)
        for name, column in zip(self.stars, (stars.pos, stars.vel), strict=True):
            self._sentinels.look(name, column)
        self._sentinels.warn()
        values = self._best(stars.pos, stars.vel)
        if self._drawn is not None:
            spread = self._drawn(stars.pos, stars.vel)
            for name in list(_COLUMNS)[:4]:
                values[f"{name}_err"] = (spread[f"{name}_p84"] - spread[f"{name}_p16"]) / 2
            values["valid_fraction"] = spread["valid_fraction"]
        self.n_valid += int(np.sum(values["valid"]))
        columns = [self._column(values[name], name) for name in self._texts]
        return Table(columns, copy=False)

    def _column(self, values: object, name: str) -> Column:
        # A plain table holds plain columns with units: all file formats take those.
        unit = getattr(values, "unit", None)
        bare = np.asarray(getattr(values, "value", values))
        return Column(bare, self._prefix + name, unit=unit, description=self._texts[name])


def add_actions(
    result: FitResult,
    table: Table,
    pos: str,
    vel: str,
    *,
    chunk: int = CHUNK_ROWS,
    progress: bool = False,
    **options: Any,
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
    chunk
        Number of stars in a part.
    progress
        Whether to tell on standard error how far it is.
    **options
        See `ActionColumns`.

    Returns
    -------
    int
        How many stars are valid.

    Raises
    ------
    ValueError
        If the table has columns with these names already, or errors are asked of a fit that has
        none.
    KeyError
        If there are no such positions or velocities.
    """
    columns = ActionColumns(result, len(table), pos, vel, **options)
    columns.check(table.colnames)
    stars = open_stars(table, chunk_rows=chunk)
    parts = [columns(part) for _, part in stars.chunks([pos, vel], "actions" if progress else "")]
    for name in columns.names:
        first = parts[0][name]
        values = np.concatenate([part[name].value for part in parts])
        as_quantity = isinstance(table, QTable) and first.unit is not None
        table[name] = u.Quantity(values, first.unit) if as_quantity else values
        if not as_quantity:
            table[name].info.unit = first.unit
        table[name].info.description = first.description
    return columns.n_valid


def run_actions(
    fit: str | os.PathLike[str],
    stars: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pos: str | None = None,
    vel: str | None = None,
    units: Mapping[str, str] | None = None,
    hdu: int | str | None = None,
    table_format: str | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = _silent,
    progress: bool = False,
    **options: Any,
) -> str:
    """Read a fit and a catalogue, and write the catalogue with actions, angles and frequencies.

    From parquet to parquet a batch is in memory at a time, and all that the file has is kept; of
    other formats the whole table is in memory.

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
    hdu, table_format
        As for `torusimaging_torch.catalogue.open_stars`.
    overwrite
        Whether an existing file may be replaced.
    tell
        Called with lines that say what is being done.
    progress
        Whether to tell on standard error how far it is.
    **options
        See `ActionColumns`: prefix, method, errors.

    Returns
    -------
    str
        One line that says what was done.

    Raises
    ------
    ValueError
        If something cannot be read, or the output exists.
    """
    check_output(out, overwrite)
    path = as_path(fit)
    result = FitResult.read(path / "fit.ecsv" if path.is_dir() else path)
    columns = result.provenance.get("columns", {})
    names = [given or columns.get(role) for role, given in (("pos", pos), ("vel", vel))]
    if None in names:
        raise ValueError("the fit does not say which columns it used: give --pos and --vel")
    tell(f"reading {stars}")
    reading: dict[str, Any] = {"units": units, "hdu": hdu, "table_format": table_format}
    source = on_the_way(open_stars(stars, chunk_rows=CHUNK_ROWS, **reading), tell)
    if is_parquet(out) and can_copy(source):
        tell(f"writing {out} in chunks of {CHUNK_ROWS:,} stars")
        new = ActionColumns(result, source.n_rows, *names, **options)
        new.check(source.names)
        with replaced_file(out) as temporary:
            copy_parquet(source, temporary, new.stars, new, "actions" if progress else "")
        return _summary(new.n_valid, source.n_rows)
    table = source.read()
    n_valid = add_actions(result, table, *names, chunk=CHUNK_ROWS, progress=progress, **options)
    tell(f"writing {out}")
    with replaced_file(out) as temporary:
        write_table(table, temporary, out)
    return _summary(n_valid, len(table))


def _summary(n_valid: int, n_stars: int) -> str:
    lost = n_stars - n_valid
    return f"{n_valid:,} stars with orbits; {lost:,} beyond the fit's last knot or not finite"
