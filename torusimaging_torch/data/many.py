"""Many subsamples binned at once: all groups, labels and resamplings of a catalogue of any size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem, galactic

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import Stars, open_stars
from torusimaging_torch.catalogue.group_texts import GivenGroups, read_groups
from torusimaging_torch.catalogue.resampling import Resampling
from torusimaging_torch.data.arguments import (
    LabelColumns,
    LabelErrors,
    by_label,
    name_labels,
    read_grid,
)
from torusimaging_torch.data.binned_sums import BinnedSums, LabelSums
from torusimaging_torch.data.pairs import PairTotals, pairs_of
from torusimaging_torch.data.reader import Part, StarChunk, StarReader, warn_left_out
from torusimaging_torch.data.scatter import Failure, find_scatters
from torusimaging_torch.data.sums import group_sums
from torusimaging_torch.units import Bins, Labels, as_unit_system

__all__ = ["bin_many", "scatter_many", "sum_stars"]


def bin_many(
    stars: Stars,
    groups: GivenGroups,
    bins: Bins,
    *,
    pos: str = "pos",
    vel: str = "vel",
    label: LabelColumns | None = None,
    label_err: LabelErrors = None,
    units: UnitSystem = galactic,
    s: Labels | None = None,
    s_N_thresh: int | None = None,
    resample: Resampling | None = None,
    independent: bool = False,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> BinnedSums:
    """Bin the stars of many groups, of all labels and resamplings, in one pass over the catalogue.

    The data are those that `torusimaging_torch.data.get_binned_label` makes of the stars of each
    group. What is kept are sums, 24 bytes for each pixel, group, label and data set, so the
    catalogue may be larger than memory.

    Parameters
    ----------
    stars
        A table, a mapping of names to arrays, the path of a file or a list of paths, or what
        `torusimaging_torch.catalogue.open_stars` returns for more choices: units of columns, a part
        of a larger catalogue, the size of the chunks. Of parquet files a chunk is in memory at a
        time.
    groups
        Which stars belong together; a star may be in several groups or in none. A text such as
        "R_g: 6..12 step 0.25 width 2 kpc" for windows of a column (see
        `torusimaging_torch.catalogue.sliding_windows`), "population in thin, thick" for values of a
        column, or the column's name for all its values; a list of such texts for all combinations;
        a mapping of names to conditions ("R > 3 kpc and FE_H > -1") or to masks; or None for one
        group of all stars.
    bins, units
        Pixel edges and unit system, as for `torusimaging_torch.data.get_binned_label`.
    pos, vel
        Names of the columns of positions and velocities. Without a unit they are in model units.
    label
        The label's column, or several: a list of columns, or a mapping of names to columns. None
        counts stars, as `torusimaging_torch.data.get_binned_counts` does, alone or in a mapping:
        ``{"mg_fe": "MG_FE", "counts": None}``.
    label_err
        The column of the label's errors, one number for all stars, or None if they are not known;
        with several labels a dictionary with the same names.
    s
        Intrinsic scatter of the labels in a pixel: one number for all groups, or one for each with
        shape (G,); with several labels a dictionary. Where it is None it is estimated for each
        group as by `torusimaging_torch.data.intrinsic_scatter`, which takes some four passes more.
    s_N_thresh
        Estimate s from pixels with more than this number of stars alone.
    resample
        What `torusimaging_torch.catalogue.bootstrap` or `jackknife` return. Resampled
        data have the scatter s of the data; see `torusimaging_torch.data.BinnedSums` on
        their errors.
    independent
        Whether several labels of a star count as independent, as for
        `torusimaging_torch.data.get_binned_label`.
    device
        Where to add up, such as "cuda"; by default the CPU. On a GPU sums may differ by rounding
        from run to run.
    progress
        Whether to report on standard error how far each pass is.

    Returns
    -------
    BinnedSums
        A sequence of binned data, made when asked for.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If an argument makes no sense.
    astropy.units.UnitConversionError
        If a unit has the wrong dimension.

    Warns
    -----
    UserWarning
        Tells how many stars were left out, and for which groups there is no intrinsic scatter:
        their labels and errors are nan, the others are not affected.

    Examples
    --------
    >>> import astropy.units as u
    >>> import numpy as np
    >>> from torusimaging_torch.data import bin_many
    >>> rng = np.random.default_rng(0)
    >>> stars = {
    ...     "z": rng.normal(0, 0.3, 4000) * u.kpc,
    ...     "v_z": rng.normal(0, 20, 4000) * u.km / u.s,
    ...     "R": rng.uniform(5, 9, 4000) * u.kpc,
    ...     "fe_h": rng.normal(0, 0.1, 4000),
    ... }
    >>> edges = np.linspace(-1, 1, 9)
    >>> binned = bin_many(
    ...     stars,
    ...     "R: 6..8 step 1 kpc",
    ...     (edges * u.kpc, 60 * edges * u.km / u.s),
    ...     pos="z",
    ...     vel="v_z",
    ...     label="fe_h",
    ...     label_err=0.05,
    ... )
    >>> binned.names
    ('R = 5.5 to 6.5 kpc', 'R = 6.5 to 7.5 kpc', 'R = 7.5 to 8.5 kpc')
    >>> binned[0]["label"].shape
    (8, 8)
    """
    where = {"pos": pos, "vel": vel, "progress": progress}
    reader = _reader(stars, groups, bins, label, label_err, units, **where)
    scatters, failures = find_scatters(reader, by_label(s, reader.labels, "s"), s_N_thresh)
    _warn_failed(failures, reader)
    binned = sum_stars(reader, scatters, resample, device, independent=independent)
    warn_left_out(reader)
    return binned


def scatter_many(
    stars: Stars,
    groups: GivenGroups,
    bins: Bins,
    *,
    pos: str = "pos",
    vel: str = "vel",
    label: LabelColumns | None,
    label_err: LabelErrors = None,
    units: UnitSystem = galactic,
    s_N_thresh: int | None = None,
    progress: bool = False,
) -> Any:
    """Estimate the intrinsic scatter of labels in many groups.

    To be estimated from all stars before a catalogue is binned in parts: the parts need the same.

    Parameters
    ----------
    stars, groups, bins, pos, vel, label, label_err, units, s_N_thresh, progress
        As for `bin_many`.

    Returns
    -------
    ndarray, Quantity or dict
        The scatter with shape (G,), to be passed as s to `bin_many`; with several labels a
        dictionary of them. nan where it cannot be estimated, and then a warning says why.

    Examples
    --------
    >>> import numpy as np
    >>> from torusimaging_torch.data import scatter_many
    >>> rng = np.random.default_rng(0)
    >>> many = {"pos": rng.uniform(-1, 1, 1000), "vel": rng.uniform(-1, 1, 1000)}
    >>> many["fe"] = rng.normal(0, 0.2, 1000)
    >>> bins = ([-1, 0, 1], [-1, 0, 1])
    >>> scatter_many(many, None, bins, label="fe").round(1)
    array([0.2])
    """
    if label is None:
        raise ValueError("label must be one or more names of columns, got None")
    where = {"pos": pos, "vel": vel, "progress": progress}
    reader = _reader(stars, groups, bins, label, label_err, units, **where)
    scatters, failures = find_scatters(reader, by_label(None, reader.labels, "s"), s_N_thresh)
    _warn_failed(failures, reader)
    warn_left_out(reader)
    found: dict[str, Array | u.Quantity | None] = {}
    for name, s in scatters.items():
        unit = reader.labels[name].unit
        found[name] = s if unit is None else u.Quantity(s, unit, subok=True)
    return found[label] if isinstance(label, str) else found


def _reader(
    stars: Stars,
    groups: GivenGroups,
    bins: Bins,
    label: LabelColumns | None,
    label_err: LabelErrors,
    units: UnitSystem,
    **more: Any,
) -> StarReader:
    units, source = as_unit_system(units), open_stars(stars)
    return StarReader(
        source,
        None if groups is None else read_groups(groups, source),
        read_grid(bins, units),
        units,
        name_labels(label, label_err),
        **more,
    )


def sum_stars(
    reader: StarReader,
    scatters: Mapping[str, Array | None],
    resample: Resampling | None = None,
    device: torch.device | str | None = None,
    *,
    independent: bool = False,
) -> BinnedSums:
    """Bin the stars of a reader in one pass.

    Parameters
    ----------
    reader
        The stars.
    scatters
        The scatter of each label in each group with shape (G,); None for star counts.
    resample, device, independent
        As for `bin_many`.
    """
    n_sets = 1 + (0 if resample is None else resample.n)
    n_groups, n_pixels = len(reader.groups), reader.grid.n_pixels
    totals = {
        name: group_sums((n_groups, 1 if s is None else 3, n_pixels, n_sets), device)
        for name, s in scatters.items()
    }
    known = {name: s for name, s in scatters.items() if s is not None}
    pairs = [
        PairTotals(pair, (n_groups, n_pixels, n_sets), device)
        for pair in ([] if independent else pairs_of(known))
    ]
    n_stars = 0
    for chunk in reader.chunks():
        copies = None if resample is None else _copies(chunk, resample)
        for name, total in totals.items():
            s = scatters[name]
            for part in chunk.parts(name):
                terms = _count if s is None else partial(_weights, part, s[part.group] ** 2)
                here = None if copies is None else copies[part.rows]
                total.add(part.group, part.pixel, terms, here)
        for one in pairs:
            one.add(chunk, (known[one.pair[0]], known[one.pair[1]]), copies)
        n_stars += len(chunk.pixel)
    return BinnedSums(
        grid=reader.grid,
        units=reader.units,
        groups=reader.groups,
        group_columns={} if reader.kinds is None else reader.kinds.describe(),
        labels={
            name: LabelSums(total.total(), scatters[name], reader.labels[name].unit)
            for name, total in totals.items()
        },
        pairs={one.pair: one.total() for one in pairs},
        resampling=resample,
        n_stars=n_stars,
    )


def _copies(chunk: StarChunk, resample: Resampling) -> Array:
    """Return copies of the stars of a chunk in all data sets with shape (N, 1 + R)."""
    n = len(chunk.pixel)
    copies = resample.copies(chunk.first_row, chunk.first_row + n)
    return np.concatenate([np.ones((n, 1), dtype=copies.dtype), copies], axis=1)


def _count(block: slice) -> tuple[None]:
    return (None,)


def _weights(part: Part, variance: float, block: slice) -> tuple[Array | None, ...]:
    """Return what a mean label needs the sums of, besides the counts."""
    weight = 1.0 / (part.variance[block] + variance)
    if part.weight is not None:
        weight = weight * part.weight[block]
    return None, weight, weight * part.label[block]


def _warn_failed(failures: Sequence[Failure], reader: StarReader) -> None:
    if failures:
        texts = [f"{f.label!r} of {reader.groups[f.group]!r} ({f.reason})" for f in failures[:5]]
        more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
        warnings.warn(
            "no intrinsic scatter, so that labels and errors are nan, for "
            f"{'; '.join(texts)}{more}; use larger pixels or groups, or pass s",
            UserWarning,
            stacklevel=3,
        )
