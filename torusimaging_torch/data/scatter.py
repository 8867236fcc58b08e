"""The intrinsic scatter of labels about their pixel means, in many groups at once.

Every label is drawn from a normal distribution with its pixel's mean and variance label_err^2 +
s^2. With one mean per pixel there are nearly as many unknown means as stars on a fine grid; were
they set to their best values, the likelihood would take the residuals for too small and s would
come out too low by sqrt(1 - 1/n) in pixels of n stars, however many pixels there are (Neyman &
Scott 1948). The *restricted* likelihood (Patterson & Thompson 1971), in which the means are
integrated out, has no such bias, so that pixels of two stars are as welcome as pixels of a
thousand. A pixel with one star says nothing.

With errors that differ from star to star that likelihood is not a function of a few sums, so each
Newton step needs sums of its own: a pass over the stars makes them for all groups and labels
together, and some four passes are enough. Nothing but sums is kept, so the catalogue may be larger
than memory.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.arguments import read_scatter
from torusimaging_torch.data.reader import Part, StarReader
from torusimaging_torch.data.sums import Terms, pixel_sums
from torusimaging_torch.numerics.ranges import whole

__all__ = ["Failure", "estimate_scatter", "find_scatters", "search_variance", "slopes"]


_MAX_STEPS = 200

Slopes = tuple[float, float, float]
"""Of a log-likelihood: its first derivative, minus its second one, and the latter's expectation."""


class Failure(NamedTuple):
    """Why there is no scatter: the label's name, the group's number, and the reason."""

    label: str
    group: int
    reason: str


def find_scatters(
    reader: StarReader, given: Mapping[str, object], s_N_thresh: int | None = None
) -> tuple[dict[str, Array | None], list[Failure]]:
    """Return the scatter of each label in each group, as given or estimated.

    Parameters
    ----------
    reader
        The stars.
    given
        The scatter by the label's name; None to estimate it.
    s_N_thresh
        Estimate it from pixels with more than this number of stars; by default two and more.

    Returns
    -------
    scatters
        By the label's name, with shape (G,), nan where there is none; None for star counts.
    failures
        Why not.
    """
    found: dict[str, Array | None] = dict.fromkeys(reader.labels)
    if any(s is not None for s in given.values()):
        reader.read_units()
    missing = []
    for name, label in reader.labels.items():
        if given[name] is not None:
            found[name] = read_scatter(given[name], label, len(reader.groups))
        elif label.column is not None:
            missing.append(name)
    failures: list[Failure] = []
    for name, search in estimate_scatter(reader, missing, s_N_thresh).items():
        found[name] = s = np.sqrt(search.variance)
        label = reader.labels[name]
        if label.error is None:
            reason = "there are no errors and its intrinsic scatter is 0: pass label_err"
            for group in np.flatnonzero(s <= label.smallest_scatter):
                search.failures[int(group)] = reason
        failures += [Failure(name, *failure) for failure in search.failures.items()]
        s[list(search.failures)] = np.nan
    return found, failures


def estimate_scatter(
    reader: StarReader, names: list[str], s_N_thresh: int | None = None
) -> dict[str, ScatterSearch]:
    """Estimate the scatter of labels in all groups.

    Parameters
    ----------
    reader, s_N_thresh
        As for `find_scatters`.
    names
        Which of the reader's labels.
    """
    min_stars = max(2, 2 if s_N_thresh is None else whole(s_N_thresh, "s_N_thresh", 0) + 1)
    n_groups, n_pixels = len(reader.groups), reader.grid.n_pixels
    found = {name: ScatterSearch(n_groups, n_pixels, min_stars) for name in names}
    while running := {name: search for name, search in found.items() if search.running}:
        for chunk in reader.chunks():
            for name, search in running.items():
                for part in chunk.parts(name):
                    search.add(part)
        for search in running.values():
            search.end_pass()
    return found


class ScatterSearch:
    """The search for one label's scatter in all groups.

    Parameters
    ----------
    n_groups, n_pixels
        The numbers of groups and of pixels.
    min_stars
        Only pixels with at least as many stars are used; at least 2.

    Attributes
    ----------
    variance
        The squared scatter with shape (G,), nan where there is none.
    failures
        Why not, by the group's number.
    """

    def __init__(self, n_groups: int, n_pixels: int, min_stars: int) -> None:
        self.variance = np.full(n_groups, np.nan)
        self.failures: dict[int, str] = {}
        self._min_stars, self._n_pixels = min_stars, n_pixels
        self._shift: float | None = None
        self._mean: Array | None = None
        self._searches: dict[int, Generator[float, Slopes, float]] = {}
        self._sums = np.zeros((n_groups, 4, n_pixels))

    @property
    def running(self) -> bool:
        """Whether another pass is needed."""
        return self._mean is None or bool(self._searches)

    def add(self, part: Part) -> None:
        """Add stars to the sums of this pass."""
        if self._mean is None:
            self._shift = float(part.label.mean()) if self._shift is None else self._shift
            terms: Terms = partial(_moments, part, self._shift)
        elif part.group in self._searches:
            mean, v = self._mean[part.group], float(self.variance[part.group])
            terms = partial(weighted_moments, part, mean, v)
        else:
            return
        self._sums[part.group] += pixel_sums(part.pixel, self._n_pixels, terms)

    def end_pass(self) -> None:
        """Take one step in all groups and forget the sums."""
        if self._mean is None:
            self._start()
        else:
            for group, search in list(self._searches.items()):
                self._step(group, search)
        self._sums = np.zeros((len(self.variance), 8, self._n_pixels))

    def _start(self) -> None:
        """Start from the unweighted scatter about the pixel means."""
        counts, y, squares, variance = self._sums.swapaxes(0, 1)
        self._use = counts >= self._min_stars
        n = np.maximum(counts, 1.0)
        # The squares of a pixel of n stars sum to (n - 1) (s^2 + mean variance), on average.
        excess = squares - y * y / n - variance * (1.0 - 1.0 / n)
        for group, use in enumerate(self._use):
            if not use.any():
                self.failures[group] = (
                    f"expected pixels with at least {self._min_stars} stars, got at most "
                    f"{counts[group].max():.0f}"
                )
                continue
            v = max(excess[group][use].sum() / (counts[group][use] - 1.0).sum(), 0.0)
            self.variance[group] = v
            if variance[group].any():  # without errors the two estimates are the same
                self._searches[group] = search_variance(v)
                next(self._searches[group])
        self._mean = y / n + (self._shift or 0.0)

    def _step(self, group: int, search: Generator[float, Slopes, float]) -> None:
        try:
            self.variance[group] = search.send(slopes(self._sums[group][:, self._use[group]]))
        except StopIteration as found:
            self.variance[group] = found.value
            del self._searches[group]
        except RuntimeError as error:
            self.variance[group], self.failures[group] = np.nan, str(error)
            del self._searches[group]


def _moments(part: Part, shift: float, block: slice) -> tuple[Array | None, ...]:
    """Return what the first pass sums; labels are shifted, which saves digits."""
    y = part.label[block] - shift
    return None, y, y * y, part.variance[block]


def weighted_moments(part: Part, mean: Array, v: float, block: slice) -> tuple[Array, ...]:
    """Return what `slopes` needs the sums of, with residuals from means with shape (n_pixels,)."""
    y = part.label[block] - mean[part.pixel[block]]
    w = 1.0 / (part.variance[block] + v)
    w2 = w * w
    w3 = w2 * w
    w2y, w3y = w2 * y, w3 * y
    return w, w * y, w2, w2y, w2y * y, w3, w3y, w3y * y


def slopes(sums: Array) -> Slopes:
    """Differentiate the restricted log-likelihood by the scatter variance v = s^2.

    With w = 1/(label_err^2 + v), W_k the sum of w^k over a pixel and d the residual from the
    pixel's weighted mean, a pixel contributes

        lnL = -1/2 [sum (-ln w) + ln W_1 + sum w d^2]
        score = -1/2 [W_1 - W_2/W_1 - sum w^2 d^2]
        expected information = 1/2 [W_2 - 2 W_3/W_1 + (W_2/W_1)^2]
        observed information = sum w^3 d^2 - (sum w^2 d)^2/W_1 - expected information.

    Parameters
    ----------
    sums
        Of the eight `weighted_moments` with shape (8, n_pixels). Residuals d from the weighted mean
        m follow from those y from another origin, such as sum w^2 d^2 = sum w^2 y^2 - 2 m sum w^2 y
        + m^2 sum w^2.

    Returns
    -------
    score, observed, expected
        First derivative, minus the second derivative, and the expectation of the latter.
    """
    w1, w1y, w2, w2y, w2yy, w3, w3y, w3yy = sums
    m = w1y / w1
    w2d = w2y - m * w2
    w2dd = w2yy - 2.0 * m * w2y + m * m * w2
    w3dd = w3yy - 2.0 * m * w3y + m * m * w3
    score = -0.5 * (w1 - w2 / w1 - w2dd).sum()
    expected = 0.5 * (w2 - 2.0 * w3 / w1 + (w2 / w1) ** 2).sum()
    observed = (w3dd - w2d**2 / w1).sum() - expected
    return float(score), float(observed), float(expected)


def search_variance(v: float) -> Generator[float, Slopes, float]:
    """Maximize a log-likelihood over a variance v >= 0 by Newton steps inside a bracket.

    A generator: it yields where it wants to know the slopes, is sent them, and returns the maximum.
    So many searches can share one pass over the stars.

    Parameters
    ----------
    v
        Where to start, not negative.

    Raises
    ------
    RuntimeError
        If it does not converge.
    """
    lower, upper, zero_is_low = 0.0, np.inf, False
    for _ in range(_MAX_STEPS):
        score, observed, expected = yield v
        if v == 0.0 and score <= 0:
            return 0.0
        zero_is_low = zero_is_low or score > 0
        lower, upper = (v, upper) if score > 0 else (lower, v)
        # Newton where the likelihood is concave, Fisher scoring elsewhere.
        step = score / (observed if observed > 0 else expected)
        # Within a millionth of the standard error; Newton's next step would be far smaller.
        if abs(step) * np.sqrt(expected) < 1e-6 or upper * (1 - 1e-14) <= lower:
            return max(v + step, 0.0)
        v += step
        if v <= 0.0 and not zero_is_low:
            v = 0.0
        elif not lower < v < upper:
            v = 0.5 * (lower + upper)
    raise RuntimeError(f"the intrinsic scatter did not converge in {_MAX_STEPS} steps")
