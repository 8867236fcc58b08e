"""Many subsamples binned at once: all groups, labels and resamplings of a catalogue of any size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem, galactic
from numpy.typing import NDArray

from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.group_texts import read_groups
from torusimaging_torch.catalogue.resampling import Resampling
from torusimaging_torch.data.arguments import bare, read_grid
from torusimaging_torch.data.binned import warn_left_out
from torusimaging_torch.data.binned_sums import BinnedSums, LabelSums
from torusimaging_torch.data.reader import GroupReader, StarChunk, read_label_columns
from torusimaging_torch.data.scatter import estimate_scatter
from torusimaging_torch.data.sums import GroupSums, group_sums
from torusimaging_torch.units import as_unit_system, label_values

__all__ = ["bin_many", "scatter_many"]

Array = NDArray[Any]


def bin_many(
    stars: Any,
    groups: Any,
    bins: Mapping[str, Any] | Sequence[Any],
    *,
    pos: str = "pos",
    vel: str = "vel",
    label: Any = None,
    label_err: Any = None,
    units: UnitSystem = galactic,
    s: Any = None,
    s_N_thresh: int | None = None,
    resample: Resampling | None = None,
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
        A table, a mapping of names to arrays, the path of a parquet or FITS file, a list of such
        paths, or what `torusimaging_torch.catalogue.open_stars` returns for more choices:
        units of columns, a part of a larger catalogue, the size of the chunks.
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
        counts stars, as `torusimaging_torch.data.get_binned_counts` does.
    label_err
        The column of the label's errors, one number for all stars, or None if they are not known;
        with several labels a mapping with the same names.
    s
        Intrinsic scatter of the labels in a pixel: one number for all groups, or one for each with
        shape (G,); with several labels a mapping. Where it is None it is estimated for each group
        as by `torusimaging_torch.data.intrinsic_scatter`, which takes some four passes more.
    s_N_thresh
        Estimate s from pixels with more than this number of stars alone.
    resample
        What `torusimaging_torch.catalogue.bootstrap` or `jackknife` return. Resampled
        data have the scatter s of the data; see `torusimaging_torch.data.BinnedSums` on
        their errors.
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
    """
    reader = _reader(stars, groups, bins, pos, vel, label, label_err, units)
    reader.progress = progress
    scatters = _scatters(reader, s, s_N_thresh)
    n_sets = 1 + (0 if resample is None else resample.n)
    totals = {
        name: group_sums(
            (reader.n_groups, 1 if column.label is None else 3, reader.grid.n_pixels, n_sets),
            device,
        )
        for name, column in reader.labels.items()
    }
    n_stars, n_rows = 0, reader.source.catalogue_rows
    for chunk in reader.chunks():
        copies = _copies(chunk, resample, n_rows)
        for name, total in totals.items():
            _add(total, chunk, name, scatters[name], copies)
        n_stars += chunk.n
    warn_left_out([f"{n} with {reason}" for reason, n in reader.left_out.items()])
    return BinnedSums(
        grid=reader.grid,
        units=reader.units,
        groups=reader.groups.names,
        group_columns=reader.groups.describe(),
        labels={
            name: LabelSums(total.total(), scatters[name], reader.labels[name].unit)
            for name, total in totals.items()
        },
        resampling=resample,
        n_stars=n_stars,
    )


def scatter_many(
    stars: Any,
    groups: Any,
    bins: Mapping[str, Any] | Sequence[Any],
    *,
    pos: str = "pos",
    vel: str = "vel",
    label: Any,
    label_err: Any = None,
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
    """
    if label is None:
        raise ValueError("label must be one or more names of columns, got None")
    reader = _reader(stars, groups, bins, pos, vel, label, label_err, units)
    reader.progress = progress
    found: dict[str, Any] = {}
    for name, scatter in _scatters(reader, None, s_N_thresh).items():
        unit = reader.labels[name].unit
        found[name] = scatter if unit is None else u.Quantity(scatter, unit, subok=True)
    warn_left_out([f"{n} with {reason}" for reason, n in reader.left_out.items()])
    return found[label] if isinstance(label, str) else found


def _reader(
    stars: Any, groups: Any, bins: Any, pos: str, vel: str, label: Any, label_err: Any, units: Any
) -> GroupReader:
    units, source = as_unit_system(units), open_stars(stars)
    return GroupReader(
        source=source,
        groups=read_groups(groups, source),
        grid=read_grid(bins, units),
        units=units,
        pos=pos,
        vel=vel,
        labels=read_label_columns(label, label_err),
    )


def _copies(chunk: StarChunk, resample: Resampling | None, n_rows: int) -> Array:
    """Return copies of the stars of a chunk in all data sets with shape (N, 1 + R)."""
    data = np.ones((chunk.n, 1), dtype=np.uint8)
    if resample is None:
        return data
    stop = chunk.first_row + chunk.n
    return np.concatenate([data, resample.copies(chunk.first_row, stop, n_rows)], axis=1)


def _add(
    total: GroupSums, chunk: StarChunk, name: str, scatter: Array | None, copies: Array
) -> None:
    values = chunk.labels[name]
    for group, rows in chunk.rows_of(name):
        terms = [np.ones(len(rows))]
        if values is not None and scatter is not None:
            weight = 1.0 / (values.variance[rows] + scatter[group] ** 2)
            terms += [weight, weight * values.value[rows]]
        total.add(group, chunk.pixel[rows], terms, copies[rows])


def _scatters(reader: GroupReader, s: Any, s_N_thresh: int | None) -> dict[str, Array | None]:
    """Return the scatter of each label in each group with shape (G,), as given or estimated."""
    given = _by_label(s, reader)
    missing = [
        name
        for name, column in reader.labels.items()
        if given[name] is None and column.label is not None
    ]
    found: dict[str, Array | None] = dict.fromkeys(reader.labels)
    if any(value is not None for value in given.values()):
        reader.read_units()
        found |= {name: _read_scatter(given[name], name, reader) for name in found}
    problems: list[str] = []
    for name, search in estimate_scatter(reader, missing, s_N_thresh).items():
        found[name] = np.sqrt(search.variance)
        failures = search.failures | _without_errors(reader, name, found[name])
        for group, reason in failures.items():
            found[name][group] = np.nan  # type: ignore[index]
            problems.append(f"{name!r} of {reader.groups.names[group]!r} ({reason})")
    _warn_failed(problems)
    return found


def _by_label(s: Any, reader: GroupReader) -> dict[str, Any]:
    names = list(reader.labels)
    if isinstance(s, Mapping):
        if set(s) != set(names):
            raise ValueError(f"s must have the names of the labels, {names}, got {list(s)}")
        return dict(s)
    if s is not None and len(names) > 1:
        raise ValueError(f"with several labels s must be a mapping with the names {names}, got {s}")
    if s is not None and reader.labels[names[0]].label is None:
        raise ValueError("s has no meaning without a label")
    return {names[0]: s} if len(names) == 1 else dict.fromkeys(names)


def _read_scatter(s: Any, name: str, reader: GroupReader) -> Array | None:
    if s is None:
        return None
    unit = reader.labels[name].unit
    like = np.zeros(()) if unit is None else u.Quantity(0.0, unit, subok=True)
    try:
        value = bare(label_values(like, s)[1], f"s of {name!r}", None)
    except u.UnitConversionError as error:
        raise u.UnitConversionError(f"s of {name!r}: {error}") from None
    shape = (reader.n_groups,)
    if value.shape not in ((), shape) or np.any(value < 0) or np.any(np.isinf(value)):
        raise ValueError(
            f"s of {name!r} must be one number, or one for each of {shape[0]} groups, finite and "
            f"not negative, got {s}"
        )
    scatter = np.broadcast_to(value, shape).copy()
    if bad := _without_errors(reader, name, scatter):
        raise ValueError(f"s of {name!r} must be positive: {bad[min(bad)]}")
    return scatter


def _without_errors(reader: GroupReader, name: str, scatter: Array | None) -> dict[int, str]:
    """Return the groups whose means would have no error."""
    column = reader.labels[name]
    if column.error is not None or scatter is None:
        return {}
    # Labels equal to rounding do not tell how far off their mean may be.
    smallest = 8 * np.finfo(float).eps * column.largest
    reason = "the labels have no errors and no scatter"
    return dict.fromkeys(np.flatnonzero(scatter <= smallest).tolist(), reason)


def _warn_failed(problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        warnings.warn(
            "no intrinsic scatter, so that labels and errors are nan, for "
            f"{'; '.join(problems[:5])}{more}; use larger pixels or groups, or pass s",
            UserWarning,
            stacklevel=4,
        )
