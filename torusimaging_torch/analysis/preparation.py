"""Catalogues on the sky to files of stars in the Galaxy: what ``torusimaging-torch prepare`` does.

From parquet to parquet a batch of stars is in memory at a time; all other formats are held whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from torusimaging_torch.catalogue.chunks import CHUNK_ROWS, StarSource, open_stars
from torusimaging_torch.catalogue.conditions import columns_of, select
from torusimaging_torch.catalogue.copies import can_copy, copy_parquet
from torusimaging_torch.catalogue.distances import LEAST_SNR
from torusimaging_torch.catalogue.files import is_parquet, write_table
from torusimaging_torch.catalogue.outputs import check_output
from torusimaging_torch.catalogue.sky import Sky, add_columns
from torusimaging_torch.catalogue.sky_columns import PRESETS, find_columns
from torusimaging_torch.results.atomic import replaced_file

__all__ = ["run_prepare"]

# What people read in place of the eight letters that FITS headers have room for.
_NAMES = {"distfrom": "distances", "plx_zp": "zero point"}


def _silent(*_: object) -> None:
    pass


@dataclass
class _Cuts:
    """Conditions, with the number of stars that each of them left."""

    conditions: Sequence[str]
    left: dict[str, int] = field(default_factory=dict)
    n_kept: int = 0
    n_known: int = 0

    def __call__(self, table: Table, known: str) -> NDArray[np.bool_]:
        """Return which stars of a part to keep, and count them, and those with a known column."""
        keep = np.ones(len(table), dtype=bool)
        for condition in self.conditions:
            keep &= select(table, condition)
            self.left[condition] = self.left.get(condition, 0) + int(keep.sum())
        self.n_known += int(np.isfinite(np.asarray(table[known])[keep]).sum())
        self.n_kept += int(keep.sum())
        return keep


def run_prepare(
    stars: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    preset: str | None = None,
    where: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    hdu: int | str | None = None,
    table_format: str | None = None,
    cuts: bool = True,
    overwrite: bool = False,
    tell: Callable[[str], None] = _silent,
    progress: bool = False,
    **options: Any,
) -> str:
    """Read a catalogue on the sky, and write it with positions and velocities in the Galaxy.

    Parameters
    ----------
    stars
        The catalogue, any format that astropy reads.
    out
        The table to write; its ending decides the format.
    columns, preset, units
        As for `torusimaging_torch.catalogue.prepare`.
    hdu, table_format
        As for `torusimaging_torch.catalogue.open_stars`.
    where
        Conditions, after those of the preset.
    cuts
        Whether the preset's conditions hold.
    overwrite
        Whether an existing file may be replaced.
    tell
        Called with lines that say what is being done.
    progress
        Whether to tell on standard error how far it is.
    **options
        Of `torusimaging_torch.catalogue.sky.Sky`.

    Returns
    -------
    str
        Lines that say what was assumed, and how many stars there are.

    Raises
    ------
    KeyError
        If columns are missing.
    ValueError
        If something cannot be read, no star is left, or the output exists.
    """
    check_output(out, overwrite)
    tell(f"reading {stars}")
    reading: dict[str, Any] = {"units": units, "hdu": hdu, "table_format": table_format}
    source = open_stars(stars, chunk_rows=CHUNK_ROWS, **reading)
    sky = Sky(find_columns(source.names, columns, preset), **options)
    sky.check(source.names)
    known = PRESETS[preset].where if preset is not None and cuts else ()
    chosen = _Cuts([*known, *where])
    text = "prepare" if progress else ""
    if is_parquet(out) and can_copy(source):
        tell(f"writing {out} in chunks of {source.size:,} stars")
        names = list(dict.fromkeys([*sky.needed, *_read(chosen.conditions, source, sky)]))
        with replaced_file(out) as temporary:
            copy_parquet(
                source,
                temporary,
                names,
                sky,
                text,
                keep=lambda table: chosen(table, sky.prefix + "z"),
                meta=sky.describe(),
            )
            _check_left(chosen)
    else:
        table = add_columns(source, sky, text)
        table = table[chosen(table, sky.prefix + "z")]
        _check_left(chosen)
        tell(f"writing {out}")
        with replaced_file(out) as temporary:
            write_table(table, temporary, out)
    return "\n".join(_describe(sky, source, chosen))


def _read(conditions: Sequence[str], source: StarSource, sky: Sky) -> list[str]:
    """Return the columns of the file that conditions need."""
    there, new = source.names, sky.new
    needed = [x for text in conditions for x in sorted(columns_of(text, [*there, *new]))]
    for name in needed:
        if name not in there and name not in new:
            raise KeyError(f"--where: no column {name!r}; the table has {', '.join(there)}")
    return [name for name in needed if name not in new]


def _check_left(cuts: _Cuts) -> None:
    for condition, n in cuts.left.items():
        if n == 0:
            raise ValueError(f"no star is left after the condition {condition!r}")


def _describe(sky: Sky, source: StarSource, cuts: _Cuts) -> list[str]:
    lost = cuts.n_kept - cuts.n_known
    why = f" (parallax below {LEAST_SNR:g} errors, or something missing)"
    if not sky.columns.from_parallax or sky.prior is not None:
        why = " (something is missing)"
    named = {_NAMES.get(name, name): text for name, text in sky.describe().items()}
    about = {"columns": str(sky.columns), **named}
    width = max(map(len, about))
    return [
        *(f"{name:{width}}  {text}" for name, text in about.items()),
        "",
        f"{source.n_rows:,} stars in the catalogue",
        *(f"{n:,} left after {condition}" for condition, n in cuts.left.items()),
        f"{cuts.n_known:,} with a place in the Galaxy"
        + (f"; {lost:,} without{why}" if lost else ""),
    ]
