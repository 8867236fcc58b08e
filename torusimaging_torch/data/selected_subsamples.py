"""Subsamples whose star counts went through one selection function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from astropy.table import QTable

from torusimaging_torch.data.binned_sums import BinnedSums
from torusimaging_torch.data.joint_subsamples import JointSubsamples
from torusimaging_torch.data.selection import SelectionFunction, with_selection
from torusimaging_torch.data.subsamples import Subsamples
from torusimaging_torch.units import Binned

__all__ = ["SelectedSubsamples"]


@dataclass(frozen=True)
class SelectedSubsamples(Subsamples):
    """The star counts of each subsample with the selection function that all went through.

    A sequence for `torusimaging_torch.batch.fit_many`; labels beside the counts stay as they are.

    Attributes
    ----------
    subsamples
        What `torusimaging_torch.data.bin_many` returns, or a `JointSubsamples` of it.
    selection, selection_error
        As for `torusimaging_torch.data.with_selection`.

    Raises
    ------
    ValueError
        If no stars are counted.

    Examples
    --------
    >>> from torusimaging_torch.data import SelectedSubsamples, bin_many
    >>> stars = {"pos": [0.1, 0.2, -0.3] * u.kpc, "vel": [0.0, 1.0, 2.0] * u.km / u.s}
    >>> bins = {"pos": [-1, 0, 1] * u.kpc, "vel": [-5, 5] * u.km / u.s}
    >>> counts = SelectedSubsamples(bin_many(stars, None, bins), [[1.0, 0.5]])
    >>> counts[0]["exposure"].tolist(), counts.names
    ([[1.0, 0.5]], ('all',))
    """

    subsamples: BinnedSums | JointSubsamples
    selection: SelectionFunction | None = None
    selection_error: float = 0.05

    def __post_init__(self) -> None:
        """Check that stars are counted."""
        inside = self.subsamples
        sums = inside.sums if isinstance(inside, JointSubsamples) else inside
        if all(own.scatter is not None for own in sums.labels.values()):
            raise ValueError(
                f"a selection function is one of star counts, got the labels {list(sums.labels)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each."""
        return self.subsamples.names

    def table(self) -> QTable:
        """Return the table of the subsamples.

        Examples
        --------
        >>> from torusimaging_torch.data import SelectedSubsamples, bin_many
        >>> stars = {"pos": [0.1, 0.2, -0.3] * u.kpc, "vel": [0.0, 1.0, 2.0] * u.km / u.s}
        >>> bins = {"pos": [-1, 0, 1] * u.kpc, "vel": [-5, 5] * u.km / u.s}
        >>> SelectedSubsamples(bin_many(stars, None, bins)).table()["n_stars"].tolist()
        [3]
        """
        return self.subsamples.table()

    def __repr__(self) -> str:
        """Show how many subsamples there are, and of which."""
        kind = "all stars seen" if self.selection is None else "a selection function"
        return (
            f"SelectedSubsamples: {len(self)} subsamples with {kind}, error "
            f"{self.selection_error:g}, of\n  {self.subsamples!r}"
        )

    def __len__(self) -> int:
        """Return the number of subsamples."""
        return len(self.subsamples)

    def _at(self, place: int) -> Binned:
        """Return the binned data of a subsample."""
        return self._with_selection(self.subsamples[place])

    def __iter__(self) -> Iterator[Binned]:
        """Yield the binned data of each subsample."""
        return map(self._with_selection, self.subsamples)

    def _with_selection(self, data: Binned) -> Binned:
        if isinstance(self.subsamples, JointSubsamples):
            return {name: self._seen(one) for name, one in data.items()}
        return self._seen(data)

    def _seen(self, data: Binned) -> Binned:
        if "label_err" in data:
            return data
        return with_selection(data, self.selection, self.selection_error)
