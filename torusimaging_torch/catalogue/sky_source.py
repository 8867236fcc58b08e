"""Catalogues on the sky read as stars in the Galaxy, where nothing else has been prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from astropy.table import Table

from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.phase_space import PHASE_SPACE
from torusimaging_torch.catalogue.rows import Chunk
from torusimaging_torch.catalogue.sky import Sky
from torusimaging_torch.catalogue.sky_columns import PRESETS, find_columns

__all__ = ["SkyRows", "on_the_way"]


@dataclass(frozen=True, eq=False)
class SkyRows:
    """The rows of a catalogue, with columns that are computed from the sky when they are read.

    Attributes
    ----------
    source
        The catalogue.
    sky
        How they are computed.
    tell
        Called once, with a line that says so, when they are.
    """

    source: StarSource
    sky: Sky
    tell: Callable[[str], None]
    _told: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """The number of stars."""
        return self.source.n_rows

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns; those that the catalogue has are never computed."""
        there = self.source.names
        return [*there, *(name for name in self.sky.new if name not in there)]

    def chunks(self, names: Sequence[str], size: int) -> Iterator[Chunk]:
        """Iterate over chunks of at most ``size`` stars with the named columns."""
        there = self.source.names
        old = [name for name in names if name in there]
        needed = self.sky.needed if len(old) < len(names) else []
        for start, table in self.source.rows.chunks(list(dict.fromkeys([*old, *needed])), size):
            yield start, self._complete(self.source.with_units(table), names)

    @property
    def assumed(self) -> str:
        """What was assumed, if anything has been computed."""
        return str(self.sky) if self._told else ""

    @property
    def table(self) -> Table:
        """All columns in memory."""
        return self._complete(self.source.read().copy(copy_data=False), self.names)

    def _complete(self, table: Table, names: Sequence[str]) -> Table:
        if any(name not in table.colnames for name in names):
            self._say([name for name in names if name not in table.colnames])
            new = self.sky(table)
            for name in names:
                if name not in table.colnames:
                    table[name] = new[name]
        return table[list(names)]

    def _say(self, names: Sequence[str]) -> None:
        if not self._told:
            self._told.append(f"computing {', '.join(names)} from {self.sky.columns}: {self.sky}")
            self.tell(self._told[0])


def on_the_way(source: StarSource, tell: Callable[[str], None]) -> StarSource:
    """Return a catalogue with positions and velocities in the Galaxy, if it is one on the sky.

    Columns that it has stay as they are. The others are those of `prepare` with its defaults, and
    are computed when they are read. A catalogue that is not on the sky is returned as it is. The
    names of columns may be those of any preset; its cuts are not made.

    Parameters
    ----------
    source
        The catalogue.
    tell
        Called with a line that says what was assumed, if anything is computed.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import open_stars
    >>> stars = open_stars(
    ...     {
    ...         "ra": [10.0],
    ...         "dec": [0.0],
    ...         "distance": [1.0],
    ...         "pmra": [0.0],
    ...         "pmdec": [0.0],
    ...         "radial_velocity": [0.0],
    ...     }
    ... )
    >>> for _, table in on_the_way(stars, print).chunks(["z"]):
    ...     print(f"{table['z'][0]:.3f}")
    computing z from ra, dec, distance, pmra, pmdec, radial_velocity: R_sun 8.275 kpc, ...
    -0.868 kpc
    """
    if set(PHASE_SPACE) <= set(source.names):
        return source
    for preset in (None, *PRESETS):
        try:
            columns = find_columns(source.names, preset=preset)
        except KeyError:
            continue
        return replace(source, rows=SkyRows(source, Sky(columns), tell), units=None)
    return source
