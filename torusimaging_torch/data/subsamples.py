"""What all sequences of subsamples share: names, a table, and places counted from either end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import overload

from astropy.table import QTable

from torusimaging_torch.units import Binned

__all__ = ["Subsamples"]


class Subsamples(Sequence[Binned]):
    """Binned data of many subsamples that know their names, made one by one when asked for."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """A name for each."""

    @abstractmethod
    def table(self) -> QTable:
        """Return what is known of each, a row for each."""

    @abstractmethod
    def _at(self, place: int) -> Binned:
        """Return the binned data at a place that is there, counted from the first."""

    def __iter__(self) -> Iterator[Binned]:
        """Yield the binned data of each."""
        return map(self._at, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Binned: ...

    @overload
    def __getitem__(self, index: slice) -> list[Binned]: ...

    def __getitem__(self, index: int | slice) -> Binned | list[Binned]:
        """Return the binned data of a subsample, or of several."""
        places = range(len(self))
        if isinstance(index, slice):
            return [self._at(place) for place in places[index]]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} subsamples, got index {index}")
        return self._at(places[index])
