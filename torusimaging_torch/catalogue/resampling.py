"""Resampled data sets as weights of the stars: bootstrap and jackknife, whatever the chunking.

A resampling gives every star a whole number of copies. The number is a function of the seed, the
star's row in the catalogue and the resampling alone, never of the stars read before it, so that
chunks, shards and subsets of the groups all see the same resampled catalogues. This is what
counter-based generators are for (Salmon et al. 2011, doi:10.1145/2063384.2063405): the row of the
star is the counter, the seed the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, factorial

import numpy as np
from numpy.random import Philox, SeedSequence

from torusimaging_torch.arrays import Array

__all__ = ["Bootstrap", "Jackknife", "Resampling", "bootstrap", "jackknife"]


# One step of Philox gives 256 bits: sixteen numbers of 16 bits for sixteen resamplings of a star.
_PER_COUNTER = 16

# Rows are worked through in blocks that stay in the cache.
_BLOCK = 1 << 13

# The first element of the spawn key: each use of a seed has random numbers of its own.
_POISSON, _BLOCKS = 0, 2


def _random_words(seed: int, purpose: int, index: int, start: int, stop: int) -> Array:
    """Return four random words of 64 bits for each row with shape (stop - start, 4)."""
    key = SeedSequence(seed, spawn_key=(purpose, index)).generate_state(2, np.uint64)
    counter = np.array([start, 0, 0, 0], dtype=np.uint64)
    words = Philox(counter=counter, key=key).random_raw(4 * (stop - start))
    return words.astype("<u8", copy=False).reshape(-1, 4)


@lru_cache(maxsize=1)
def _poisson_table() -> Array:
    """Return the number of copies for each number of 16 bits, with shape (65536,).

    The probabilities of Poisson(1) rounded to multiples of 2^-16 for three copies and more; those
    of fewer are set so that mean and variance are 1 exactly, as a bootstrap needs.
    """
    size = 1 << 16
    number = np.array([round(size * exp(-1) / factorial(k)) for k in range(10)])
    copies = np.arange(10)
    number[2] = (size - (copies * (copies - 1) * number)[3:].sum()) // 2
    number[1] = size - (copies * number)[2:].sum()
    number[0] = size - number[1:].sum()
    return np.repeat(copies, number).astype(np.uint8)


def _check(n: int, smallest: int, kind: str) -> None:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < smallest:
        raise ValueError(f"{kind}: n must be a whole number of at least {smallest}, got {n!r}")


def _entropy(seed: int | SeedSequence | None) -> int:
    """Return a seed as one number that can be reported; None takes one from the system."""
    if isinstance(seed, SeedSequence):
        # Children of one parent share its entropy, so mix the spawn key in.
        words = seed.generate_state(4, np.uint32)
        return int.from_bytes(words.astype("<u4").tobytes(), "little")
    seed = SeedSequence().entropy if seed is None else seed  # type: ignore[assignment]
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(
            f"seed must be a whole number, not negative, a SeedSequence or None, got {seed!r}"
        )
    return int(seed)


@dataclass(frozen=True)
class Bootstrap:
    """Bootstrap resamplings; see `bootstrap`.

    Attributes
    ----------
    n
        The number of resamplings.
    seed
        The seed as one whole number, also if it came from the system.
    """

    n: int
    seed: int = field(default=0)

    def copies(self, start: int, stop: int) -> Array:
        """Return how often each star is in each resampling.

        Parameters
        ----------
        start, stop
            The rows of the catalogue, from start up to but not including stop.

        Returns
        -------
        ndarray
            Whole numbers (uint8) with shape (stop - start, n).
        """
        copies = np.empty((stop - start, self.n), dtype=np.uint8)
        for first in range(start, stop, _BLOCK):
            last = min(first + _BLOCK, stop)
            for column in range(0, self.n, _PER_COUNTER):
                words = _random_words(self.seed, _POISSON, column // _PER_COUNTER, first, last)
                here = copies[first - start : last - start, column : column + _PER_COUNTER]
                here[:] = _poisson_table().take(words.view("<u2")[:, : here.shape[1]])
        return copies


@dataclass(frozen=True)
class Jackknife:
    """Data sets that each leave out one block of the stars; see `jackknife`.

    Attributes
    ----------
    n
        The number of blocks.
    seed
        The seed as one whole number, also if it came from the system.
    """

    n: int
    seed: int = field(default=0)

    def block(self, start: int, stop: int) -> Array:
        """Return the block of each star, in [0, n), with shape (stop - start,)."""
        word = _random_words(self.seed, _BLOCKS, 0, start, stop)[:, 0]
        return ((word >> np.uint64(32)) * np.uint64(self.n) >> np.uint64(32)).astype(np.int64)

    def copies(self, start: int, stop: int) -> Array:
        """Return 0 for a star's own block and 1 for the others; see `Bootstrap.copies`."""
        left_out = self.block(start, stop)[:, None] == np.arange(self.n)
        return 1 - left_out.astype(np.uint8)


Resampling = Bootstrap | Jackknife


def bootstrap(n: int, *, seed: int | SeedSequence | None = None) -> Bootstrap:
    """Resample stars with replacement.

    Each star is there a number of times with the Poisson distribution of mean 1, independent of all
    others. This is the limit of drawing with replacement from many stars, needs no more than the
    star's row, and so works for catalogues of any size, in chunks and shards. The catalogue is
    resampled, not each group: a star in overlapping groups has the same number of copies in all.

    Parameters
    ----------
    n
        The number of resamplings. The first ones stay as they are if n is raised.
    seed
        A whole number or a SeedSequence; None takes one from the system. In a sharded run give
        every shard the same.

    Returns
    -------
    Bootstrap
        To hand to `torusimaging_torch.data.bin_many`.

    Raises
    ------
    ValueError
        If n is not a positive whole number, or the seed is not known.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import bootstrap
    >>> bootstrap(3, seed=1).copies(0, 4)  # of the first four stars
    array([[1, 3, 2],
           [1, 2, 1],
           [0, 0, 1],
           [0, 0, 1]], dtype=uint8)
    """
    _check(n, 1, "bootstrap")
    return Bootstrap(int(n), _entropy(seed))


def jackknife(n: int, *, seed: int | SeedSequence | None = 0) -> Jackknife:
    """Leave out one of n blocks of stars at a time; every star is put into a block at random.

    With estimates t_j from the n data sets and their mean t, the jackknife's variance is
    (n - 1)/n sum_j (t_j - t)^2.

    Parameters
    ----------
    n
        The number of blocks, at least 2.
    seed
        As for `bootstrap`.

    Returns
    -------
    Jackknife
        To hand to `torusimaging_torch.data.bin_many`.

    Raises
    ------
    ValueError
        If n is not a whole number of at least 2, or the seed is not known.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import jackknife
    >>> jackknife(3, seed=1).copies(0, 4)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 1, 1],
           [1, 0, 1]], dtype=uint8)
    """
    _check(n, 2, "jackknife")
    return Jackknife(int(n), _entropy(seed))
