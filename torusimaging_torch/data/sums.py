"""Sums over the stars of each group and pixel, for all resamplings at once; bare arrays.

A resampled sum is a sum of term times copies: a sparse matrix with one entry per star, times the
matrix of copies. On the CPU SciPy does this an order of magnitude faster than one bincount for each
resampling would; on a GPU it is an `index_add_`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csc_array

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.grid import blocks

__all__ = ["DeviceSums", "HostSums", "Terms", "group_sums", "pixel_sums", "weighted_mean"]


Terms = Callable[[slice], tuple[Array | None, ...]]
"""Gets a slice of the stars, returns terms to sum, one value per star each, or None for 1."""


def pixel_sums(pixel: Array, n_pixels: int, terms: Terms) -> Array:
    """Sum terms over the stars of each pixel; sums of parts of a sample add up to the whole's.

    Parameters
    ----------
    pixel
        Flat pixel index of each star with shape (N,), all in [0, n_pixels).
    n_pixels
        The number of pixels.
    terms
        Gets a slice of the stars and returns a tuple of T terms, each with one value per star, or
        None to count stars.

    Returns
    -------
    ndarray
        The sums with shape (T, n_pixels).
    """
    total: Array | float = 0.0
    for block in blocks(len(pixel)):
        parts = [np.bincount(pixel[block], term, n_pixels) for term in terms(block)]
        total = total + np.stack(parts)
    return np.asarray(total, dtype=float)


def weighted_mean(weight: Array, weighted_label: Array) -> tuple[Array, Array]:
    """Return means and their errors, of any shape, from sums of weights and weighted labels.

    With weights that are inverse variances the error of a mean is 1/sqrt(sum of the weights). Both
    are nan where the sum is zero.
    """
    nan = np.full_like(weight, np.nan)
    mean = np.divide(weighted_label, weight, out=nan.copy(), where=weight > 0)
    return mean, np.sqrt(np.divide(1.0, weight, out=nan, where=weight > 0))


class HostSums:
    """Sums on the CPU, by NumPy and SciPy.

    Parameters
    ----------
    shape
        The numbers of groups, terms, pixels and data sets (G, T, P, C).
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._sums = np.zeros(shape)

    def add(self, group: int, pixel: Array, terms: Terms, copies: Array | None = None) -> None:
        """Add stars of one group.

        Parameters
        ----------
        group
            The group's number.
        pixel
            Flat pixel index (int32) of the stars with shape (N,).
        terms
            As for `pixel_sums`.
        copies
            How often the star is in each of C data sets, whole numbers with shape (N, C); None if
            it is there once and C is 1.
        """
        sums, n_pixels = self._sums[group], self._sums.shape[2]
        if copies is None:
            sums[..., 0] += pixel_sums(pixel, n_pixels, terms)
            return
        for block in blocks(len(pixel)):
            rows, place = copies[block].astype(float), pixel[block]
            start = np.arange(len(rows) + 1, dtype=place.dtype)
            for total, term in zip(sums, terms(block), strict=True):
                term = np.ones(len(rows)) if term is None else term
                total += csc_array((term, place, start), shape=(n_pixels, len(rows))) @ rows

    def total(self) -> Array:
        """Return the sums with shape (G, T, P, C)."""
        return self._sums


class DeviceSums:
    """The same on a device of torch; on a GPU the order of additions, and so the rounding, varies.

    An H100 adds up ten times as many stars a second as the host: 80 million, for 20 resamplings.
    """

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device | str) -> None:
        g, t, p, c = shape
        self._sums = torch.zeros((g, p, t, c), dtype=torch.float64, device=device)

    def add(self, group: int, pixel: Array, terms: Terms, copies: Array | None = None) -> None:
        """Add stars of one group; see `HostSums.add`."""
        one = np.ones(len(pixel))
        columns = np.stack([one if x is None else x for x in terms(slice(None))], axis=1)
        copies = one[:, None] if copies is None else copies
        index, term, number = (
            torch.as_tensor(x, device=self._sums.device) for x in (pixel, columns, copies)
        )
        self._sums[group].index_add_(0, index, term[:, :, None] * number[:, None])

    def total(self) -> Array:
        """Return the sums with shape (G, T, P, C)."""
        return self._sums.transpose(1, 2).contiguous().cpu().numpy()


def group_sums(
    shape: tuple[int, int, int, int], device: torch.device | str | None = None
) -> HostSums | DeviceSums:
    """Return empty sums, on the CPU unless a device is given."""
    if device is None or torch.device(device).type == "cpu":
        return HostSums(shape)
    return DeviceSums(shape, device)
