"""Numbers that stand for missing ones, such as -9999 or 99: found by their repetition."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np

from torusimaging_torch.arrays import Array

__all__ = ["Sentinels", "find_sentinels"]


# What catalogues write for a missing number: nines, and the largest numbers of machines.
_NINES = [99, 999, 9999, 99999, 999999, 99.9, 99.99, 99.999, 999.9, 999.99, 9999.9, 9999.99]
_LARGEST = [32767, 32768, 1e20, 1e30, 1e31, float(np.finfo(np.float32).max)]
_NEGATIVE = [9.9, 9.99, 9.999]
_VALUES = np.unique(
    np.concatenate([_NINES, _LARGEST, np.negative([*_NINES, *_LARGEST, *_NEGATIVE])])
)
# Columns of single precision hold 99.99 to so many digits.
_ROUNDING = 1e-6
# A value is no sentinel if one within a tenth of it is a third as common: then values are rounded.
_NEAR, _RARER = 0.1, 3


def find_sentinels(values: Array) -> dict[float, int]:
    """Return values that stand for missing ones, with their numbers.

    That is a number such as -9999, 99.99 or 1e30 which comes twice at least, and more than three
    times as often as any other within a tenth of it.

    Parameters
    ----------
    values
        A column of numbers with shape (N,).

    Examples
    --------
    >>> import numpy as np
    >>> from torusimaging_torch.catalogue.sentinels import find_sentinels
    >>> find_sentinels(np.array([0.1, -9999.0, 0.3, -9999.0]))
    {-9999.0: 2}
    >>> find_sentinels(np.array([97.0, 98.0, 98.0, 99.0, 99.0, 100.0]))  # rounded
    {}
    """
    if values.dtype.kind not in "iuf" or not values.size:
        return {}
    values, found = values.astype(float, copy=False), {}
    for value, same in _candidates(values):
        # Of millions of numbers some come near by chance, but no two of them are equal.
        n = int(np.unique(values[same], return_counts=True)[1].max())
        near = values[(np.abs(values - value) < _NEAR * abs(value)) & ~same]
        others = np.unique(near, return_counts=True)[1].max(initial=0)
        if n > max(1, _RARER * others):
            found[float(f"{value:.6g}")] = n
    return found


def _candidates(values: Array) -> Iterator[tuple[float, Array]]:
    """Iterate over the listed values that are among some values, and where they are."""
    place = np.searchsorted(_VALUES - _ROUNDING * np.abs(_VALUES), values, side="right") - 1
    with np.errstate(invalid="ignore", over="ignore"):
        hit = np.abs(values - _VALUES[place]) <= _ROUNDING * np.abs(_VALUES[place])
    for i in np.unique(place[hit]):
        yield float(_VALUES[i]), hit & (place == i)


class Sentinels:
    """Sentinels of columns that are read in parts: each is told once.

    Examples
    --------
    >>> import numpy as np
    >>> seen = Sentinels()
    >>> seen.look("FE_H", np.array([0.1, -9999.0, 0.3, -9999.0]))
    >>> seen.lines()
    ['FE_H: -9999 comes 2 times, and looks as if it stood for a missing number']
    """

    def __init__(self) -> None:
        self._found: Counter[tuple[str, float]] = Counter()
        self._told: set[tuple[str, float]] = set()

    def look(self, name: str, values: object) -> None:
        """Look at numbers of a column; those that are no array of numbers are left alone.

        Parameters
        ----------
        name
            The column.
        values
            Numbers with shape (N,), a Quantity or bare, in the unit of the catalogue.
        """
        bare = np.asarray(getattr(values, "value", values))
        for value, n in find_sentinels(bare).items():
            self._found[name, value] += n

    def lines(self) -> list[str]:
        """Return a sentence on each that has not been told yet."""
        new = {key: n for key, n in self._found.items() if key not in self._told}
        self._told |= set(new)
        return [
            f"{name}: {value:g} comes {n:,} times, and looks as if it stood for a missing number"
            for (name, value), n in new.items()
        ]

    def warn(self, stacklevel: int = 2) -> None:
        """Warn of those that have not been told yet, at the line that called the caller."""
        for line in self.lines():
            warnings.warn(
                f"{line}: leave these stars out, or let it be nan", UserWarning, stacklevel + 1
            )
