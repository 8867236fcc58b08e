"""Stars in groups, opened as a batch asks for them; pixels, scatter and penalty that suit them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import astropy.units as u
import numpy as np

from torusimaging_torch.analysis.automatic import (
    choose_half_range,
    choose_n_bins,
    choose_penalty,
    in_unit,
)
from torusimaging_torch.analysis.request import BatchRequest, Choices
from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import StarSource, check_column, open_stars
from torusimaging_torch.catalogue.columns import kind_of, read_column
from torusimaging_torch.catalogue.group_texts import read_groups
from torusimaging_torch.catalogue.groups import Groups, Selected
from torusimaging_torch.catalogue.sky_source import on_the_way
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.data.binned_sums import BinnedSums
from torusimaging_torch.data.many import bin_many, scatter_many
from torusimaging_torch.settings import Settings

__all__ = ["GroupedStars"]

# Stars that ranges are chosen from, and groups that the penalty is.
_MAX_SAMPLE, _MAX_GROUPS = 1_000_000, 50


@dataclass(frozen=True, eq=False)
class GroupedStars:
    """A catalogue and its groups, opened as a request says and checked as far as one chunk tells.

    Attributes
    ----------
    source
        The catalogue.
    groups
        Its groups, of selected stars alone.
    request
        What was asked for.
    """

    source: StarSource
    groups: Groups
    request: BatchRequest

    @classmethod
    def open(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        request: BatchRequest,
        tell: Callable[[str], None],
    ) -> GroupedStars:
        """Open a catalogue; one on the sky gets positions and velocities in the Galaxy.

        Parameters
        ----------
        paths
            Files that count as one catalogue: parquet, which is read by chunks, and others, which
            are read into memory.
        request
            What is asked for.
        tell
            Called with a line that says what was assumed for a catalogue on the sky.

        Raises
        ------
        KeyError, ValueError, OSError
            If the catalogue is not what the request says; the message begins with the option.
        """
        reading: dict[str, Any] = {"units": request.units, "hdu": request.hdu}
        opened = open_stars(list(paths), table_format=request.table_format, **reading)
        source = on_the_way(opened, tell)
        _check_columns(source, request)
        with _about("--group"):
            groups = read_groups(list(request.groups) or None, source)
        if request.where:
            with _about("--where"):
                groups = Selected(groups, request.where, source.names)
                first = next(table for _, table in source.chunks(groups.columns))
                list(groups.members(first[:0], 0))
        return cls(source, groups, request)

    def prepare(
        self, known: Choices | None = None, progress: bool = False
    ) -> tuple[BinnedSums, Choices]:
        """Bin all stars of all groups and resamplings, on a grid that suits them.

        Ranges and pixels are chosen as for a single fit: for all stars in groups, and for the
        median group. Widths of the penalty are the medians over the groups of what single fits
        would have, with three digits.

        Parameters
        ----------
        known
            What was chosen before.
        progress
            Whether to report on standard error how far each pass over the stars is.

        Raises
        ------
        ValueError
            If no star is in any group, or there is nothing to fit in any.
        """
        choices = self._choose_grid() if known is None else known
        if not choices.scatter and self.request.label:
            choices = replace(choices, scatter=self._choose_scatter(choices, progress))
        known_s = {name: np.array(s) for name, s in choices.scatter.items()}
        binned = bin_many(
            self.source,
            self.groups,
            choices.bins,
            **self.request.columns,
            s=known_s if len(self.request.labels) > 1 else next(iter(known_s.values()), None),
            resample=self.request.resampling,
            progress=progress,
        )
        if not choices.penalty:
            choices = replace(choices, penalty=_choose_penalty(binned, self.request.settings))
        return binned, choices

    def _choose_grid(self) -> Choices:
        settings = self.request.settings
        n_stars, pos, vel = self._scan()
        if not n_stars.any():
            what = " and ".join(["is in any group", *self.request.where])
            raise ValueError(f"no star {what}{_ranges(self.source, self.groups.columns)}")
        half = [
            choose_half_range(values, in_unit(given, values.unit, option), option)
            for values, given, option in (
                (pos, settings.pos_max, "--pos-max"),
                (vel, settings.vel_max, "--vel-max"),
            )
        ]
        inside = np.mean((np.abs(pos) <= half[0]) & (np.abs(vel) <= half[1]))
        if not inside > 0:
            raise ValueError(f"no star has |pos| <= {half[0]} and |vel| <= {half[1]}")
        n_bins = choose_n_bins(inside * np.median(n_stars[n_stars > 0]), settings.n_bins)
        return Choices(str(half[0]), str(half[1]), n_bins, n_stars.tolist())

    def _scan(self) -> tuple[np.ndarray, u.Quantity, u.Quantity]:
        """Return the number of stars in each group, and positions and velocities of some."""
        source, groups, request = self.source, self.groups, self.request
        n_stars = np.zeros(len(groups.names), dtype=int)
        every = -(-source.n_rows // _MAX_SAMPLE)
        sample: dict[str, list[Array | u.Quantity]] = {request.pos: [], request.vel: []}
        for first_row, table in source.chunks(list(dict.fromkeys([*sample, *groups.columns]))):
            used = np.zeros(len(table), dtype=bool)
            for group, rows in groups.members(table, first_row):
                n_stars[group] += len(rows)
                used[rows] = True
            used &= (first_row + np.arange(len(table))) % every == 0
            for name, values in sample.items():
                values.append(read_column(table, name)[used])
        pos, vel = (np.concatenate(values) for values in sample.values())
        return n_stars, pos, vel

    def _choose_scatter(self, choices: Choices, progress: bool) -> dict[str, list[float]]:
        """Return the scatter of each label in each group, as given or estimated."""
        given, names = self.request.settings.s, self.request.label
        if given is not None:
            if len(names) > 1:
                raise ValueError(
                    "s is the scatter of one label: leave it out, and each has its own"
                )
            return {names[0]: [float(given)] * len(choices.n_stars)}
        columns = self.request.columns
        if len(names) > 1:
            columns["label"] = list(names)
        elif isinstance(columns["label"], dict):  # beside star counts
            columns |= {"label": names[0], "label_err": columns["label_err"][names[0]]}
        with warnings.catch_warnings():
            # The binning will tell how many stars are left out.
            warnings.filterwarnings("ignore", ".*left out")
            where = self.source, self.groups, choices.bins
            found = scatter_many(*where, **columns, progress=progress)
        found = found if len(names) > 1 else {names[0]: found}
        return {name: np.asarray(getattr(s, "value", s)).tolist() for name, s in found.items()}


def _ranges(source: StarSource, names: Sequence[str]) -> str:
    """Return from where to where columns of numbers go, to be read after an error."""
    ends: dict[str, list[Any]] = {}
    for _, table in source.chunks(list(names)):
        for name in names:
            values = read_column(table, name)
            if kind_of(values) == "number" and (known := values[np.isfinite(values)]).size:
                ends.setdefault(name, []).extend((known.min(), known.max()))
    texts = [f"{name} is {min(some):.4g} to {max(some):.4g}" for name, some in ends.items()]
    return f": {', '.join(texts)} in all" if texts else ""


@contextmanager
def _about(option: str) -> Iterator[None]:
    """Let errors begin with the option that they are about."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:  # of which wrong units are a kind
        raise type(error)(f"{option}: {error.args[0] if error.args else error}") from None


def _check_columns(source: StarSource, request: BatchRequest) -> None:
    """Check the columns of stars as for a single fit, on the first chunk."""
    wanted = [("--pos", request.pos), ("--vel", request.vel)]
    wanted += [("--label", name) for name in request.label]
    wanted += [("--label-err", name) for name in request.label_err]
    for option, name in wanted:
        check_column(name, option, source.names)
    first = next(table for _, table in source.chunks(list(dict.fromkeys(n for _, n in wanted))))
    labels = list(request.label) or None
    read_stars(first, request.pos, request.vel, labels, list(request.label_err) or None)


def _choose_penalty(binned: BinnedSums, settings: Settings) -> dict[str, Any]:
    """Return the median over the groups of what a single fit of each would choose."""
    n_groups = len(binned.groups)
    some = np.linspace(0, n_groups - 1, min(n_groups, _MAX_GROUPS)).round().astype(int)
    found, reason = [], ""
    for group in some:
        try:
            data = binned[int(group) * (1 + binned.n_resamplings)]
            found.append(choose_penalty(data, settings))
        except ValueError as error:
            reason = str(error)
    if not found:
        raise ValueError(f"no group can be fitted: {reason}")
    scales = {
        name: float(f"{np.median([penalty[name] for penalty in found]):.3g}")
        for name in ("label_l2_sigma", "label_smooth_sigma", "dacc_dpos_scale")
    }
    return found[0] | scales
