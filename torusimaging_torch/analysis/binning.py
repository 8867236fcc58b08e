"""Stars to pixels: the grid, the labels and the star counts of one analysis."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from typing import TypedDict

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from torusimaging_torch.analysis.automatic import choose_half_range, choose_n_bins
from torusimaging_torch.catalogue.chunks import StarSource
from torusimaging_torch.catalogue.sentinels import Sentinels
from torusimaging_torch.catalogue.tables import SelectedStars
from torusimaging_torch.data.binned import get_binned_counts, get_binned_label
from torusimaging_torch.data.selection import with_selection
from torusimaging_torch.settings import Settings
from torusimaging_torch.units import Binned, BinnedData, Bins

__all__ = [
    "COUNTS",
    "SELECTION_ERROR",
    "SelectionTable",
    "bin_stars",
    "describe_grid",
    "objective_of",
    "pixel_edges",
]

COUNTS = "counts"
"""The name of star counts among several data sets."""

SELECTION_ERROR = 0.05
"""How wrong a selection function may be, unless somebody says so."""


@dataclass(frozen=True)
class SelectionTable:
    """A selection function, straight between the rows of a table, zero beyond them.

    Attributes
    ----------
    pos
        Positions with shape (N,), increasing.
    seen
        Which share of the stars is seen there, on any scale.
    """

    pos: u.Quantity
    seen: NDArray[np.floating]

    @classmethod
    def of(cls, source: StarSource, pos: str) -> SelectionTable:
        """Read a table with columns of position and "selection".

        Raises
        ------
        ValueError
            If a column is missing or without a unit, or positions come twice.
        """
        columns = {pos: "--pos", "selection": "of the selection function"}
        if missing := [name for name in columns if name not in source.names]:
            raise ValueError(
                f"--selection: the table needs a column {missing[0]!r} ({columns[missing[0]]}), "
                f"got {list(source.names)}"
            )
        parts = [table for _, table in source.chunks(list(columns))]
        where = u.Quantity(np.concatenate([u.Quantity(part[pos]) for part in parts]))
        seen = np.concatenate([np.asarray(part["selection"], dtype=float) for part in parts])
        if not where.unit.is_equivalent(u.kpc):
            raise ValueError(f"--selection: column {pos!r} must have a unit of length")
        order = np.argsort(where)
        where, seen = where[order], seen[order]
        if len(where) < 2 or not (np.diff(where.value) > 0).all() or not (seen >= 0).all():
            raise ValueError(
                "--selection: the table must have two or more different positions, and no value "
                "of the selection function below zero or missing"
            )
        return cls(where, seen)

    def __str__(self) -> str:
        """Return what no other table is described by."""
        numbers = np.stack([self.pos.to_value(u.kpc), self.seen])
        return f"a table of {len(self.pos)} rows ({zlib.crc32(numbers.tobytes()):08x})"

    def __call__(self, pos: u.Quantity) -> NDArray[np.floating]:
        """Return the selection function at some positions."""
        at = pos.to_value(self.pos.unit)
        return np.interp(at, self.pos.value, self.seen, left=0.0, right=0.0)


class Edges(TypedDict):
    """A grid from minus to plus these, texts with a unit, with pixels along each direction."""

    pos_max: str
    vel_max: str
    n_bins: int


class PixelGrid(Edges):
    """The same with the number of stars on it, and of pixels that hold any."""

    n_stars: int
    n_pixels: int


def objective_of(binned: BinnedData) -> str:
    """Return what one data set is fitted by."""
    return "gaussian" if "label_err" in binned else "poisson"


def bin_stars(stars: SelectedStars, settings: Settings) -> tuple[dict[str, Binned], PixelGrid]:
    """Bin stars on a grid that is symmetric about zero.

    Returns
    -------
    data_sets
        By the name of each label, as `get_binned_label` returns it, and "counts" where stars are
        counted, as `get_binned_counts` does.
    grid
        pos_max and vel_max as texts, n_bins, n_stars on the grid, and n_pixels that hold any.

    Raises
    ------
    ValueError
        If no star is on the grid, or a selection function is given for no star counts.
    astropy.units.UnitConversionError
        If a range has the wrong dimension.
    """
    _look_for_sentinels(stars)
    pos_max = choose_half_range(stars.pos, settings.pos_max, "pos_max")
    vel_max = choose_half_range(stars.vel, settings.vel_max, "vel_max")
    inside = (np.abs(stars.pos) <= pos_max) & (np.abs(stars.vel) <= vel_max)
    if not inside.any():
        raise ValueError(f"no star has |pos| <= {pos_max} and |vel| <= {vel_max}")
    n_bins = choose_n_bins(int(np.count_nonzero(inside)), settings.n_bins)
    grid: Edges = {"pos_max": str(pos_max), "vel_max": str(vel_max), "n_bins": n_bins}
    bins = pixel_edges(grid)
    data_sets = _labels(stars, bins, settings)
    if stars.counted or not stars.labels:
        data_sets[COUNTS] = _with_selection(_counts(stars, bins), settings)
    elif settings.selection is not None or settings.selection_error is not None:
        raise ValueError("a selection function is one of star counts: ask for counts, too")
    first = next(iter(data_sets.values()))["counts"]
    return data_sets, {
        **grid,
        "n_stars": int(first.sum()),
        "n_pixels": int(np.count_nonzero(first)),
    }


def _look_for_sentinels(stars: SelectedStars) -> None:
    """Warn of positions and velocities that stand for missing ones, on the grid or off it."""
    seen, columns = Sentinels(), stars.provenance.get("columns", {})
    for role, values in (("pos", stars.pos), ("vel", stars.vel)):
        seen.look(columns.get(role, role), values)
    seen.warn(stacklevel=4)


def pixel_edges(grid: Edges) -> dict[str, u.Quantity]:
    """Return the pixel edges of a grid, as `get_binned_label` takes them."""
    edges = np.linspace(-1, 1, grid["n_bins"] + 1)
    half = {"pos": grid["pos_max"], "vel": grid["vel_max"]}
    return {name: edges * u.Quantity(end) for name, end in half.items()}


def _labels(stars: SelectedStars, bins: Bins, settings: Settings) -> dict[str, Binned]:
    if COUNTS in stars.labels:
        raise ValueError(f"a label cannot be called {COUNTS!r}: rename the column")
    if settings.s is not None and len(stars.labels) > 1:
        raise ValueError("s is the scatter of one label: leave it out, and each has its own")
    if not stars.labels:
        return {}
    errors, scatter = stars.label_errs, settings.s
    return get_binned_label(
        stars.pos,
        stars.vel,
        stars.labels,
        bins,
        label_err={name: errors.get(name) for name in stars.labels},
        s=None if scatter is None else dict.fromkeys(stars.labels, scatter),
    )


def _counts(stars: SelectedStars, bins: Bins) -> Binned:
    with warnings.catch_warnings():
        if stars.labels:  # whose binning has told who is off the grid or left out
            warnings.filterwarnings("ignore", ".*(left out|off the grid)")
        return get_binned_counts(stars.pos, stars.vel, bins)


def _with_selection(counts: Binned, settings: Settings) -> Binned:
    selection, error = settings.selection, settings.selection_error
    if selection is None and error is None:
        return counts
    return with_selection(counts, selection, SELECTION_ERROR if error is None else error)


def describe_grid(grid: PixelGrid) -> str:
    """Return a grid in words."""
    return (
        f"{grid['n_stars']:,} stars in {grid['n_pixels']:,} of {grid['n_bins']} x "
        f"{grid['n_bins']} pixels, |pos| < {grid['pos_max']}, |vel| < {grid['vel_max']}"
    )
