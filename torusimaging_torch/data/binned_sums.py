"""Binned data of many subsamples, kept as sums, which add up; data are made when asked for."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import QTable
from gala.units import UnitSystem

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.resampling import Resampling
from torusimaging_torch.data.grid import Grid
from torusimaging_torch.data.pairs import Pair, PairSums
from torusimaging_torch.data.subsamples import Subsamples
from torusimaging_torch.data.sums import weighted_mean
from torusimaging_torch.units import Binned

__all__ = ["BinnedSums", "LabelSums", "SubsampleKey"]

# Resamplings that are taken out together: in memory they lie side by side, pixel by pixel.
_SIDE_BY_SIDE = 64


class SubsampleKey(NamedTuple):
    """What distinguishes one subsample from the others.

    Attributes
    ----------
    label
        The label's name.
    group
        The group's name.
    resampling
        The number of the resampling, None for the data themselves.
    """

    label: str
    group: Hashable
    resampling: int | None


@dataclass(frozen=True, eq=False)
class LabelSums:
    """Sums for one label.

    Attributes
    ----------
    sums
        With shape (G, T, P, 1 + R): for each group the T = 3 sums of copies, of weights and of
        weighted labels over the stars of each pixel (or, of star counts, T = 1: that of copies), in
        the data and in each resampling.
    scatter
        The intrinsic scatter of each group with shape (G,), bare; None for star counts.
    unit
        The label's unit, if it has one.
    """

    sums: Array
    scatter: Array | None
    unit: u.UnitBase | None = None

    def data(self, group: Any, column: Any) -> dict[str, Array]:
        """Return counts, mean and error of groups and data sets, (*index, P).

        Each is an index into its dimension of (G, 1 + R).
        """
        # Two steps, each of which leaves most of what it reads in the cache.
        picked = self.sums[group][..., column].copy()
        if isinstance(column, slice):
            picked = np.ascontiguousarray(np.moveaxis(picked, -1, -3))
        counts, *others = np.moveaxis(picked, -2, 0)
        if not others:
            label = np.log(counts, out=np.full_like(counts, np.nan), where=counts > 0)
            return {"counts": counts, "label": label}
        mean, error = weighted_mean(*others)
        return {"counts": counts, "label": mean, "label_err": error}


@dataclass(frozen=True, eq=False)
class BinnedSums(Subsamples):
    """Binned data of many subsamples: of each label, each group, and each resampling.

    It is a sequence of the dictionaries that `torusimaging_torch.data.get_binned_label` (or
    `get_binned_counts`) returns, each made when it is asked for: label by label, of each label
    group by group, of each group first the data and then the resamplings, as ``subsamples`` lists
    them.

    In a resampled data set ``counts`` are those with copies, and with k copies of a star of weight
    w = 1/(label_err^2 + s^2) a pixel has

        label = sum k w label / sum k w,    label_err = 1/sqrt(sum k w),

    as if every copy were a star. This is the label_err that a fit needs: up to a constant
    sum over pixels of ((label - model)/label_err)^2 is then the sum over stars of k w (label -
    model)^2, the likelihood of the resampled stars, with the balance between pixels, and between
    data and penalty, that the data have. It is not how far the label is from the truth: a
    bootstrapped mean scatters by about label_err about the mean of the data, which itself is off by
    label_err, so chi^2 per pixel of a good fit to bootstrapped data is about 2, not 1. The scatter
    s is that of the data and is not estimated again: copies of one star have no scatter.

    Attributes
    ----------
    grid
        The pixels.
    units
        The unit system of positions and velocities.
    groups
        Names of the groups.
    group_columns
        What else is known of the groups, columns with shape (G,), such as the centres of windows.
    labels
        The sums by the label's name.
    pairs
        The sums of pairs of labels, by both names; none of labels that count as independent.
    resampling
        How the resamplings were made; None if there are none.
    n_stars
        How many stars were read, in a group or not.

    Examples
    --------
    >>> from torusimaging_torch.data import bin_many
    >>> stars = {"pos": [0.1, 0.2, -0.3], "vel": [0.0, 0.1, 0.2], "fe": [0.1, 0.3, 0.2]}
    >>> sums = bin_many(stars, None, ([-1, 0, 1], [-1, 1]), label="fe", label_err=0.1, s=0.0)
    >>> sums.names, sums.binned("all")["label"]
    (('all',), array([[0.2, 0.2]]))
    """

    grid: Grid
    units: UnitSystem
    groups: tuple[Hashable, ...]
    group_columns: Mapping[str, Array | u.Quantity]
    labels: Mapping[str, LabelSums]
    pairs: Mapping[Pair, PairSums]
    resampling: Resampling | None
    n_stars: int

    @property
    def n_resamplings(self) -> int:
        """How many resamplings there are of each group."""
        return 0 if self.resampling is None else self.resampling.n

    def subsamples(self) -> list[SubsampleKey]:
        """Return what each subsample is, in order.

        Examples
        --------
        >>> sums.subsamples()
        [SubsampleKey(label='fe', group='all', resampling=None)]
        """
        resamplings = [None, *range(self.n_resamplings)]
        return [
            SubsampleKey(label, group, resampling)
            for label in self.labels
            for group in self.groups
            for resampling in resamplings
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each subsample, such as "R_g = 5 to 7 kpc, bootstrap 3"."""
        kind, several = type(self.resampling).__name__.lower(), len(self.labels) > 1
        return tuple(
            (f"{key.label}, " if several else "")
            + str(key.group)
            + ("" if key.resampling is None else f", {kind} {key.resampling}")
            for key in self.subsamples()
        )

    def __repr__(self) -> str:
        """Show how many subsamples there are, of what, and how many pixels and stars."""
        kind, n_vel = type(self.resampling).__name__.lower(), self.grid.shape[0]
        resampled = f", {self.n_resamplings} resamplings each ({kind})" * (self.n_resamplings > 0)
        return (
            f"BinnedSums: {len(self)} subsamples, {self.n_stars} stars, "
            f"{n_vel} x {self.grid.shape[1]} pixels\n"
            f"  labels: {', '.join(self.labels)}; groups: {len(self.groups)}{resampled}"
        )

    def __len__(self) -> int:
        """Return the number of subsamples."""
        return len(self.labels) * len(self.groups) * (1 + self.n_resamplings)

    def _at(self, place: int) -> Binned:
        """Return the binned data of a subsample by its place in ``subsamples``."""
        shape = len(self.labels), len(self.groups), 1 + self.n_resamplings
        label, group, column = np.unravel_index(place, shape)
        return self._dictionary(list(self.labels)[label], (group, column))

    def __iter__(self) -> Iterator[Binned]:
        """Yield the binned data of each subsample."""
        return itertools.chain.from_iterable(map(self.each, self.labels))

    def each(self, label: str) -> Iterator[Binned]:
        """Yield the binned data of a label: of each group, and of each the data and resamplings.

        Examples
        --------
        >>> [one["counts"].tolist() for one in sums.each("fe")]
        [[[1.0, 2.0]]]
        """
        shared = self.grid.centers(self.units)
        for group in range(len(self.groups)):
            for start in range(0, 1 + self.n_resamplings, _SIDE_BY_SIDE):
                block = slice(start, min(start + _SIDE_BY_SIDE, 1 + self.n_resamplings))
                found = self._dictionary(label, (group, block), shared)
                for i in range(block.stop - start):
                    # Copies: what is done to one is done to no other, and keeps no other alive.
                    yield {k: (v if k in shared else v[i]).copy() for k, v in found.items()}

    def binned(
        self, group: Hashable = None, resampling: int | None = None, label: str | None = None
    ) -> Binned:
        """Return the binned data of one subsample.

        Parameters
        ----------
        group
            The group's name; may be left out if there is but one.
        resampling
            The number of the resampling; None for the data themselves.
        label
            The label's name; may be left out if there is but one.

        Returns
        -------
        dict
            What `torusimaging_torch.data.get_binned_label` returns for these stars, or
            `get_binned_counts` if there is no label.

        Raises
        ------
        KeyError
            If there is no such group, resampling or label.

        Examples
        --------
        >>> sums.binned("all")["counts"]
        array([[1., 2.]])
        """
        place = _only(self.groups, "group", group)
        return self._dictionary(self._label(label), (place, self._column(resampling)))

    def stacked(self, resampling: int | str | None = None, label: str | None = None) -> Binned:
        """Return the binned data of all groups in arrays.

        Parameters
        ----------
        resampling
            The number of a resampling; None for the data themselves; "all" for all resamplings.
        label
            The label's name; may be left out if there is but one.

        Returns
        -------
        dict
            As from ``binned``; ``pos`` and ``vel`` with shape (n_vel, n_pos), the others (G, n_vel,
            n_pos), or (G, R, n_vel, n_pos) with all resamplings.

        Raises
        ------
        KeyError
            If there is no such resampling or label.

        Examples
        --------
        >>> sums.stacked()["label"].shape
        (1, 1, 2)
        """
        column = (
            slice(1, None)
            if isinstance(resampling, str) and resampling == "all"
            else self._column(resampling)
        )
        return self._dictionary(self._label(label), (slice(None), column))

    def scatter(self, label: str | None = None) -> Array | u.Quantity:
        """Return the intrinsic scatter s of a label in each group with shape (G,).

        Examples
        --------
        >>> sums.scatter()
        array([0.])
        """
        sums = self.labels[self._label(label)]
        if sums.scatter is None:
            raise ValueError("star counts have no intrinsic scatter")
        s, unit = sums.scatter, sums.unit
        return s if unit is None else u.Quantity(s, unit, subok=True)

    def table(self) -> QTable:
        """Return a table of the subsamples, one row for each, in the order of ``subsamples``.

        Returns
        -------
        astropy.table.QTable
            Columns label, group, resampling (-1 for the data), resampling_kind ("bootstrap",
            "jackknife", or "none" for the data), n_stars (on the grid, with copies), s, and what is
            known of the groups.

        Examples
        --------
        >>> sums.table().colnames[:3]
        ['label', 'group', 'resampling']
        """
        keys = self.subsamples()
        column = [-1 if key.resampling is None else key.resampling for key in keys]
        kind, n = type(self.resampling).__name__.lower(), 1 + self.n_resamplings
        numbers = [sums.sums[:, 0].sum(axis=1).ravel() for sums in self.labels.values()]
        none = np.full(len(self.groups), np.nan)
        scatters = [none if x.scatter is None else x.scatter for x in self.labels.values()]
        table = QTable(
            {
                "label": [key.label for key in keys],
                "group": [str(key.group) for key in keys],
                "resampling": column,
                "resampling_kind": ["none" if i < 0 else kind for i in column],
                "n_stars": np.concatenate(numbers).astype(int),
                "s": np.repeat(np.concatenate(scatters), n),
            }
        )
        for name, values in self.group_columns.items():
            taken = np.tile(np.repeat(np.arange(len(self.groups)), n), len(self.labels))
            table[name if name not in table.colnames else f"group_{name}"] = values[taken]
        return table

    def merge(self, *others: BinnedSums) -> BinnedSums:
        """Add the sums of other stars, binned in the same way.

        Counts are whole numbers and so exact; other sums depend on the order of merging by no more
        than rounding.

        Parameters
        ----------
        *others
            Sums with the same pixels, groups, labels, scatters and resamplings. Let every part of
            a catalogue know its first row (`torusimaging_torch.catalogue.open_stars`), or
            the parts are resampled alike; give all the same scatter s.

        Raises
        ------
        ValueError
            If something differs; the message says what.

        Examples
        --------
        >>> sums.merge(sums).binned("all")["counts"]
        array([[2., 4.]])
        """
        for other in others:
            _require_same(self, other)
        labels = {}
        for name, own in self.labels.items():
            sums = own.sums.copy()
            for other in others:
                sums += other.labels[name].sums
            labels[name] = replace(own, sums=sums)
        pairs = dict(self.pairs)
        for other in others:
            pairs = {pair: sums.add(other.pairs[pair]) for pair, sums in pairs.items()}
        n_stars = self.n_stars + sum(other.n_stars for other in others)
        return replace(self, labels=labels, pairs=pairs, n_stars=n_stars)

    def _label(self, label: str | None) -> str:
        return list(self.labels)[_only(tuple(self.labels), "label", label)]

    def _column(self, resampling: object) -> int:
        if resampling is None:
            return 0
        n = self.n_resamplings
        if not isinstance(resampling, (int, np.integer)) or resampling not in range(n):
            raise KeyError(f"resampling must be None or below {n}, got {resampling!r}")
        return 1 + int(resampling)

    def _dictionary(
        self, label: str, index: tuple[Any, Any], centers: Binned | None = None
    ) -> Binned:
        sums = self.labels[label]
        binned: Binned = {**(self.grid.centers(self.units) if centers is None else centers)}
        for name, values in sums.data(*index).items():
            values = values.reshape(*values.shape[:-1], *self.grid.shape)
            has_unit = sums.unit is not None and name != "counts"
            binned[name] = u.Quantity(values, sums.unit, subok=True) if has_unit else values
        return binned


def _only(names: Sequence[Hashable], what: str, name: Hashable) -> int:
    """Return the place of a name, which may be left out where there is but one."""
    if name is None and len(names) == 1:
        return 0
    if not isinstance(name, Hashable) or name not in names:
        some = ", ".join(repr(x) for x in names[:10]) + (", ..." if len(names) > 10 else "")
        raise KeyError(f"{what} must be one of {some}; got {name!r}")
    return names.index(name)


def _require_same(a: BinnedSums, b: BinnedSums) -> None:
    if not isinstance(b, BinnedSums):
        raise TypeError(f"others must be BinnedSums, got {type(b).__name__}")
    checks = {
        "pixel edges": np.array_equal(a.grid.pos, b.grid.pos)
        and np.array_equal(a.grid.vel, b.grid.vel),
        "unit systems": a.units == b.units,
        "groups": a.groups == b.groups,
        "resamplings": a.resampling == b.resampling,
        "labels": list(a.labels) == list(b.labels)
        and all(a.labels[name].unit == b.labels[name].unit for name in a.labels),
        "pairs of labels": list(a.pairs) == list(b.pairs),
    }
    different = [what for what, same in checks.items() if not same]
    if different:
        raise ValueError(f"cannot merge sums with different {', '.join(different)}")
    for name in a.labels:
        one, other = (x.labels[name].scatter for x in (a, b))
        if not (one is other or np.array_equal(one, other, equal_nan=True)):  # type: ignore[arg-type]
            raise ValueError(
                f"cannot merge sums with different scatters of {name!r}, on which the weights "
                "depend: estimate them from all stars (scatter_many) and pass them as s"
            )
