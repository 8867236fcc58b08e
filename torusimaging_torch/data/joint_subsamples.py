"""Several labels of each subsample together, with how they depend on each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.binned_sums import BinnedSums
from torusimaging_torch.data.pairs import Pair, pairs_of, unit_of_product
from torusimaging_torch.data.subsamples import Subsamples
from torusimaging_torch.units import Binned

__all__ = ["JointSubsamples"]


@dataclass(frozen=True)
class JointSubsamples(Subsamples):
    """All labels of each group and resampling: binned data by the label's name.

    A sequence for `torusimaging_torch.batch.fit_many`, of each group first the data and then the
    resamplings. Labels of the same stars have ``label_covariance``, by the other's name.

    Attributes
    ----------
    sums
        The sums.

    Examples
    --------
    >>> from torusimaging_torch.data import JointSubsamples, bin_many
    >>> stars = {"pos": [0.1, 0.2, -0.3], "vel": [0.0, 0.1, 0.2], "fe": [0.1, 0.3, 0.2]}
    >>> label = {"fe_h": "fe", "counts": None}
    >>> sums = bin_many(stars, None, ([-1, 0, 1], [-1, 1]), label=label, s={"fe_h": 0.1})
    >>> list(JointSubsamples(sums)[0]), JointSubsamples(sums).names
    (['fe_h', 'counts'], ('all',))
    """

    sums: BinnedSums

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each, such as "R_g = 5 to 7 kpc, bootstrap 3"."""
        return tuple(name.removeprefix(f"{self._first}, ") for name in self.sums.names[: len(self)])

    @property
    def _first(self) -> str:
        return next(iter(self.sums.labels))

    def table(self) -> QTable:
        """Return the table of the sums, with the stars of the first label.

        Examples
        --------
        >>> from torusimaging_torch.data import JointSubsamples
        >>> JointSubsamples(sums).table().colnames[:2]
        ['group', 'resampling']
        """
        table = self.sums.table()[: len(self)]
        table.remove_columns(["label", "s"])
        return table

    def __repr__(self) -> str:
        """Show how many subsamples there are, and of which sums."""
        return f"JointSubsamples: {len(self)} subsamples with all labels, of\n  {self.sums!r}"

    def __len__(self) -> int:
        """Return the number of groups and resamplings."""
        return len(self.sums) // len(self.sums.labels)

    def _at(self, place: int) -> Binned:
        """Return the binned data of a subsample, by the label's name."""
        labels = enumerate(self.sums.labels)
        return self._joined(place, {name: self.sums[i * len(self) + place] for i, name in labels})

    def __iter__(self) -> Iterator[Binned]:
        """Yield the binned data of each subsample."""
        every = zip(*map(self.sums.each, self.sums.labels), strict=True)
        for place, one in enumerate(every):
            yield self._joined(place, dict(zip(self.sums.labels, one, strict=True)))

    def _joined(self, place: int, found: dict[str, Binned]) -> Binned:
        own = divmod(place, 1 + self.sums.n_resamplings)
        shared = {axis: found[self._first][axis] for axis in ("pos", "vel")}
        labels = [name for name, own in self.sums.labels.items() if own.scatter is not None]
        for pair in pairs_of(labels):
            covariance = self._covariance(pair, own, [found[name] for name in pair])
            for one, other in (pair, pair[::-1]):
                found[one].setdefault("label_covariance", {})[other] = covariance
        return {name: data | shared for name, data in found.items()}

    def _covariance(
        self, pair: Pair, place: tuple[int, int], data: list[Binned]
    ) -> Array | u.Quantity:
        """Return the covariance of the means of two labels in the pixels of a subsample."""
        errors = [np.asarray(getattr(one["label_err"], "value", one["label_err"])) for one in data]
        unit = unit_of_product(*(self.sums.labels[name].unit for name in pair))
        values = np.zeros_like(errors[0])
        if pair in self.sums.pairs:
            flat = self.sums.pairs[pair].of_means(place, *(x.ravel() for x in errors))
            values = flat.reshape(values.shape)
        return values if unit is None else u.Quantity(values, unit, subok=True)
