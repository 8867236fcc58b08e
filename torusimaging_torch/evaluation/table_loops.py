"""Functions looked up in their tables, for compiled loops, by Numba."""

from __future__ import annotations

from torusimaging_torch.evaluation.compiled import inlined

__all__ = ["interval", "look_up"]

# Of more knots than this the interval is found by halving.
_FEW = 16


@inlined()
def interval(knots, first, n, x):  # type: ignore[no-untyped-def]
    """Return how many of n knots are not above x."""
    if n <= _FEW:
        count = 0
        for j in range(first, first + n):
            count += x >= knots[j]
        return count
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if x >= knots[first + middle]:
            low = middle + 1
        else:
            high = middle
    return low


@inlined()
def look_up(table, row, t):  # type: ignore[no-untyped-def]
    """Return a function in its row of the table, and its first two derivatives."""
    c0, c1, c2, c3 = table[row, 0], table[row, 1], table[row, 2], table[row, 3]
    value, slope = c0 + t * (c1 + t * (c2 + t * c3)), c1 + t * (2 * c2 + 3 * t * c3)
    return value, slope, 2 * c2 + 6 * t * c3
