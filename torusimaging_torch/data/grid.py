"""A grid of pixels in position and velocity, on plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from gala.units import UnitSystem

from torusimaging_torch.arrays import Array
from torusimaging_torch.units import unit_of

__all__ = ["Grid", "blocks"]


# Stars are worked through in blocks that stay in the cache: five times faster than whole columns.
_BLOCK = 1 << 16
# Bins so wide have an inverse that is a number.
_LEAST_STEP = 1e-300


def blocks(n_stars: int) -> Iterator[slice]:
    """Iterate over slices of the stars that stay in the cache; of no stars one empty slice."""
    for start in range(0, max(n_stars, 1), _BLOCK):
        yield slice(start, start + _BLOCK)


def _bin_of(values: Array, edges: Array) -> Array:
    """Return the bin of each value, -1 outside the edges and for nan.

    As in `numpy.histogram` a bin holds its left edge, the last bin both of its edges.
    """
    last = len(edges) - 2
    step = (edges[-1] - edges[0]) / (last + 1)
    even = np.abs(edges - np.linspace(edges[0], edges[-1], last + 2)).max() < 1e-3 * step
    if even and step > _LEAST_STEP:
        # In evenly spaced bins a guess by division is off by one at most: faster than a search.
        with np.errstate(over="ignore"):  # beyond all edges
            guess = np.fmin(np.fmax((values - edges[0]) * (1.0 / step), 0.0), last)
        index = guess.astype(np.intp)
        index += values >= edges[index + 1]
        index -= values < edges[index]
    else:
        index = np.searchsorted(edges, values, side="right") - 1
    inside = (values >= edges[0]) & (values <= edges[-1])
    return np.where(inside, np.minimum(index, last), -1)


@dataclass(frozen=True)
class Grid:
    """A grid of pixels in (position, velocity).

    Attributes
    ----------
    pos, vel
        Pixel edges, strictly increasing, with shapes (n_pos + 1,) and (n_vel + 1,).
    has_units
        Whether the edges of both came with a unit.
    """

    pos: Array
    vel: Array
    has_units: tuple[bool, bool] = (True, True)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of an array over the pixels, (n_vel, n_pos)."""
        return len(self.vel) - 1, len(self.pos) - 1

    @property
    def n_pixels(self) -> int:
        """The number of pixels."""
        return self.shape[0] * self.shape[1]

    def pixel_of(self, pos: Array, vel: Array) -> Array:
        """Return the flat pixel index (int32) of each star with shape (N,), -1 off the grid."""
        pixel = np.empty(len(pos), dtype=np.int32)
        for block in blocks(len(pos)):
            row, column = _bin_of(vel[block], self.vel), _bin_of(pos[block], self.pos)
            inside = (row >= 0) & (column >= 0)
            pixel[block] = np.where(inside, row * self.shape[1] + column, -1)
        return pixel

    def centers(self, units: UnitSystem) -> dict[str, u.Quantity]:
        """Return "pos" and "vel" of the pixel centres, each with shape (n_vel, n_pos)."""
        pos, vel = np.meshgrid(*(0.5 * (edges[:-1] + edges[1:]) for edges in (self.pos, self.vel)))
        return {"pos": pos * unit_of("length", units), "vel": vel * unit_of("velocity", units)}
