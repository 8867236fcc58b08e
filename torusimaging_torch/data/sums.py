"""Sums over the stars of each group and pixel, for all resamplings at once; bare arrays.

A resampled sum is a sum of term times copies: a sparse matrix with one entry per star, times the
matrix of copies. On the CPU SciPy does this an order of magnitude faster than one bincount for each
resampling would; on a GPU it is an `index_add_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array

__all__ = ["DeviceSums", "GroupSums", "HostSums", "group_sums", "sum_rows"]

Array = NDArray[Any]


def sum_rows(pixel: Array, n_pixels: int, rows: Array, term: Array | None = None) -> Array:
    """Sum rows of a matrix, each times a number, over the stars of each pixel.

    Parameters
    ----------
    pixel
        Flat pixel index of each star with shape (N,), all in [0, n_pixels).
    n_pixels
        The number of pixels.
    rows
        One row of floats for each star, with shape (N, C).
    term
        What to multiply each row with, with shape (N,); 1 if not given.

    Returns
    -------
    ndarray
        Sums with shape (n_pixels, C), added in the order of the stars.
    """
    n = len(pixel)
    term = np.ones(n) if term is None else term
    stars = csc_array((term, pixel, np.arange(n + 1, dtype=pixel.dtype)), shape=(n_pixels, n))
    return np.asarray(stars @ rows)


class GroupSums(Protocol):
    """Collects sums of terms times copies."""

    def add(self, group: int, pixel: Array, terms: Sequence[Array], copies: Array) -> None:
        """Add stars of one group.

        Parameters
        ----------
        group
            The group's number.
        pixel
            Flat pixel index of the stars with shape (N,).
        terms
            T terms with one number per star each.
        copies
            How often the star is in each of C data sets, whole numbers with shape (N, C).
        """

    def total(self) -> Array:
        """Return the sums with shape (G, T, n_pixels, C)."""


class HostSums:
    """Sums on the CPU, by NumPy and SciPy.

    Parameters
    ----------
    shape
        The numbers of groups, terms, pixels and data sets (G, T, P, C).
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._sums = np.zeros(shape)

    def add(self, group: int, pixel: Array, terms: Sequence[Array], copies: Array) -> None:
        """Add stars of one group; see `GroupSums`."""
        rows = copies.astype(float)
        for sums, term in zip(self._sums[group], terms, strict=True):
            sums += sum_rows(pixel, len(sums), rows, term)

    def total(self) -> Array:
        """Return the sums with shape (G, T, n_pixels, C)."""
        return self._sums


class DeviceSums:
    """Sums on a device of torch. On a GPU the order of additions, and so the rounding, may vary.

    Parameters
    ----------
    shape
        The numbers of groups, terms, pixels and data sets (G, T, P, C).
    device
        The device.
    """

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device | str) -> None:
        n_groups, n_terms, n_pixels, n_sets = shape
        self._shape, self._device = shape, torch.device(device)
        self._sums = torch.zeros(
            (n_groups, n_pixels, n_terms * n_sets), dtype=torch.float64, device=device
        )

    def add(self, group: int, pixel: Array, terms: Sequence[Array], copies: Array) -> None:
        """Add stars of one group; see `GroupSums`."""
        term = torch.as_tensor(np.stack(terms, axis=1), device=self._device)
        number = torch.as_tensor(copies, device=self._device)
        rows = (term[:, :, None] * number[:, None, :]).flatten(1)
        index = torch.as_tensor(pixel, device=self._device, dtype=torch.int64)
        self._sums[group].index_add_(0, index, rows)

    def total(self) -> Array:
        """Return the sums with shape (G, T, n_pixels, C)."""
        n_groups, n_terms, n_pixels, n_sets = self._shape
        sums = self._sums.reshape(n_groups, n_pixels, n_terms, n_sets).permute(0, 2, 1, 3)
        return sums.contiguous().cpu().numpy()


def group_sums(
    shape: tuple[int, int, int, int], device: torch.device | str | None = None
) -> GroupSums:
    """Return empty sums, on the CPU unless a device is given."""
    if device is None or torch.device(device).type == "cpu":
        return HostSums(shape)
    return DeviceSums(shape, device)
