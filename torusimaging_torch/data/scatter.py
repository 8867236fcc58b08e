"""The intrinsic scatter of labels in many groups at once, by passes over the stars.

The same maximum of the restricted likelihood as
`torusimaging_torch.data.pixels.PixelStars.scatter`. With errors that differ from star to star that
likelihood is not a function of a few sums, so each Newton step needs sums of its own: a pass makes
them for all groups and labels together, and some four passes are enough. Nothing but sums is kept,
so the catalogue may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torusimaging_torch.data.pixels import Slopes, search_variance
from torusimaging_torch.data.reader import GroupReader, StarChunk
from torusimaging_torch.data.sums import sum_rows

__all__ = ["LabelScatter", "estimate_scatter"]

Array = NDArray[Any]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


class LabelScatter:
    """The search for one label's scatter in all groups.

    Parameters
    ----------
    name
        The label's name.
    n_groups, n_pixels
        The numbers of groups and of pixels.
    min_stars
        Only pixels with at least as many stars are used; at least 2.
    """

    def __init__(self, name: str, n_groups: int, n_pixels: int, min_stars: int) -> None:
        self.name, self.min_stars = name, min_stars
        self.variance = np.full(n_groups, np.nan)
        self.failures: dict[int, str] = {}
        self._n_pixels = n_pixels
        self._shift: float | None = None
        self._mean: Array | None = None
        self._searches: dict[int, Generator[float, Slopes, float]] = {}
        self._sums = np.zeros((n_groups, n_pixels, 4))

    @property
    def running(self) -> bool:
        """Whether another pass is needed."""
        return self._mean is None or bool(self._searches)

    def add(self, chunk: StarChunk) -> None:
        """Add the stars of a chunk to the sums of this pass."""
        values = chunk.labels[self.name]
        assert values is not None
        for group, rows in chunk.rows_of(self.name):
            if self._mean is not None and group not in self._searches:
                continue
            pixel = chunk.pixel[rows]
            terms = self._terms(group, pixel, values.value[rows], values.variance[rows])
            self._sums[group] += sum_rows(pixel, self._n_pixels, terms)

    def _terms(self, group: int, pixel: Array, label: Array, variance: Array) -> Array:
        """Return what to sum, one row per star; labels are shifted, which saves digits."""
        if self._mean is None:
            self._shift = float(label.mean()) if self._shift is None else self._shift
            y = label - self._shift
            return np.stack([np.ones_like(y), y, y * y, variance], axis=1)
        y = label - self._mean[group][pixel]
        w = 1.0 / (variance + self.variance[group])
        w2 = w * w
        w3 = w2 * w
        return np.stack([w, w * y, w2, w2 * y, w2 * y * y, w3, w3 * y, w3 * y * y], axis=1)

    def end_pass(self) -> None:
        """Take one step in all groups and forget the sums."""
        if self._mean is None:
            self._start()
        else:
            for group, search in list(self._searches.items()):
                self._step(group, search)
        self._sums = np.zeros((len(self.variance), self._n_pixels, 8))

    def _start(self) -> None:
        """Start from the unweighted scatter about the pixel means."""
        counts, y, squares, variance = np.moveaxis(self._sums, -1, 0)
        self._use = counts >= self.min_stars
        mean = _ratio(y, counts)
        # The squares of a pixel of n stars sum to (n - 1) (s^2 + mean variance), on average.
        excess = squares - y * mean - variance * (1.0 - _ratio(np.ones_like(counts), counts))
        for group, use in enumerate(self._use):
            if not use.any():
                self.failures[group] = (
                    f"expected pixels with at least {self.min_stars} stars, got at most "
                    f"{counts[group].max():.0f}"
                )
                continue
            v = max(excess[group][use].sum() / (counts[group][use] - 1.0).sum(), 0.0)
            self.variance[group] = v
            if variance[group].any():  # without errors the two estimates are the same
                self._searches[group] = search_variance(v)
                next(self._searches[group])
        self._mean = mean + (self._shift or 0.0)

    def _step(self, group: int, search: Generator[float, Slopes, float]) -> None:
        try:
            self.variance[group] = search.send(_slopes(self._sums[group][self._use[group]]))
        except StopIteration as found:
            self.variance[group] = found.value
            del self._searches[group]
        except RuntimeError as error:
            self.variance[group], self.failures[group] = np.nan, str(error)
            del self._searches[group]


def _slopes(sums: Array) -> Slopes:
    """Return the slopes of the restricted log-likelihood by v from the sums with shape (P, 8).

    The formulae are those of `torusimaging_torch.data.pixels.PixelStars`; residuals d from the
    weighted mean m follow from those y from another origin, such as sum w^2 d^2 = sum w^2 y^2 - 2 m
    sum w^2 y + m^2 sum w^2.
    """
    w1, w1y, w2, w2y, w2yy, w3, w3y, w3yy = sums.T
    m = w1y / w1
    w2d = w2y - m * w2
    w2dd = w2yy - 2.0 * m * w2y + m * m * w2
    w3dd = w3yy - 2.0 * m * w3y + m * m * w3
    score = -0.5 * (w1 - w2 / w1 - w2dd).sum()
    expected = 0.5 * (w2 - 2.0 * w3 / w1 + (w2 / w1) ** 2).sum()
    observed = (w3dd - w2d**2 / w1).sum() - expected
    return float(score), float(observed), float(expected)


def estimate_scatter(
    reader: GroupReader, names: list[str], s_N_thresh: int | None = None
) -> dict[str, LabelScatter]:
    """Estimate the scatter of labels in all groups.

    Parameters
    ----------
    reader
        The stars.
    names
        Which of the reader's labels.
    s_N_thresh
        Use only pixels with more than this number of stars; by default with two and more.

    Returns
    -------
    dict
        For each label its finished search: ``variance`` with shape (G,), nan where there is none,
        and ``failures``, why not, by the group's number.
    """
    min_stars = max(2, 2 if s_N_thresh is None else s_N_thresh + 1)
    n_pixels = reader.grid.n_pixels
    found = {name: LabelScatter(name, reader.n_groups, n_pixels, min_stars) for name in names}
    while running := [search for search in found.values() if search.running]:
        for chunk in reader.chunks():
            for search in running:
                search.add(chunk)
        for search in running:
            search.end_pass()
    return found
