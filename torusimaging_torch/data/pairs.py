r"""How several labels of the same stars go together: the covariance of their pixel means.

The labels a and b of a star scatter about their pixel's means with variances
:math:`\sigma^2 = e^2 + s^2`, and with one correlation r, whatever part of it is intrinsic and
whatever their errors share. Means with the weights :math:`w/\sigma^2` of
`torusimaging_torch.data.get_binned_label` then have the covariance

.. math::

    C_{ab} = r \frac{\sum w_a w_b / (\sigma_a \sigma_b)}
                   {\sum w_a / \sigma_a^2 \, \sum w_b / \sigma_b^2},

the sum above over the stars that have both labels: never more than their errors allow. r is
estimated from the products of residuals in pixels of two such stars or more, each pixel with means
of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations

import astropy.units as u
import numpy as np
import torch

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.reader import Part, StarChunk
from torusimaging_torch.data.sums import DeviceSums, HostSums, group_sums

__all__ = ["Pair", "PairSums", "PairTotals", "pairs_of", "unit_of_product"]

Pair = tuple[str, str]

# Of sums over one star, which differ from their product by this much at most.
_ROUNDING = 1e-12


def pairs_of(names: Iterable[str]) -> list[Pair]:
    """Return all pairs of labels."""
    return list(combinations(names, 2))


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums for two labels, with w the product of the weights that a star has of its own.

    Attributes
    ----------
    products
        Sums of u = w / (sigma_a sigma_b), with copies, over the stars of each pixel, in the data
        and in each resampling, with shape (G, P, 1 + R).
    moments
        Of the data alone, with shape (G, 6, P): sums of u, w, w u, u a, u b and u a b.
    """

    products: Array
    moments: Array

    @cached_property
    def correlation(self) -> Array:
        """The correlation r of the two labels of a star in each group, with shape (G,)."""
        u, w, wu, a, b, ab = np.moveaxis(self.moments, 1, 0)
        u_safe = np.where(u > 0, u, 1.0)
        several = wu < (1 - _ROUNDING) * w * u
        free = np.where(several, w - wu / u_safe, 0.0).sum(-1)
        product = np.where(several, ab - a * b / u_safe, 0.0).sum(-1)
        found = np.divide(product, free, out=np.zeros_like(free), where=free > 0)
        return found.clip(-1.0, 1.0)

    def of_means(self, index: tuple[int, int], first: Array, second: Array) -> Array:
        """Return the covariance of pixel means, with shape (P,).

        Parameters
        ----------
        index
            The group, and the data set: 0 for the data, then the resamplings.
        first, second
            The means' errors, with shape (P,).
        """
        group, column = index
        products = self.products[group, :, column]
        return self.correlation[group] * products * first**2 * second**2

    def add(self, other: PairSums) -> PairSums:
        """Add the sums of other stars."""
        return replace(
            self, products=self.products + other.products, moments=self.moments + other.moments
        )


class PairTotals:
    """Sums for two labels, while stars are read.

    Parameters
    ----------
    pair
        The labels' names.
    shape
        The numbers of groups, pixels and data sets.
    device
        Where products are added up.
    """

    def __init__(
        self, pair: Pair, shape: tuple[int, int, int], device: torch.device | str | None = None
    ) -> None:
        n_groups, n_pixels, n_sets = shape
        self.pair = pair
        self._products: HostSums | DeviceSums = group_sums((n_groups, 1, n_pixels, n_sets), device)
        self._moments = HostSums((n_groups, 6, n_pixels, 1))

    def add(
        self, chunk: StarChunk, scatters: tuple[Array, Array], copies: Array | None = None
    ) -> None:
        """Add the stars of a chunk that have both labels.

        Parameters
        ----------
        chunk
            The stars.
        scatters
            The intrinsic scatter of each label in each group, with shape (G,).
        copies
            How often each star is in each data set, as for `HostSums.add`.
        """
        others = {part.group: part for part in chunk.parts(self.pair[1])}
        for one in chunk.parts(self.pair[0]):
            if one.group not in others:
                continue
            first, second = _shared(one, others[one.group])
            variances = tuple(s[one.group] ** 2 for s in scatters)
            here = None if copies is None else copies[first.rows]
            stars = first, second, variances
            self._products.add(one.group, first.pixel, partial(_product, *stars), here)
            self._moments.add(one.group, first.pixel, partial(_moments, *stars))

    def total(self) -> PairSums:
        """Return the sums."""
        return PairSums(self._products.total()[:, 0], self._moments.total()[..., 0])


def _shared(first: Part, second: Part) -> tuple[Part, Part]:
    """Return the stars that are in both."""
    _, i, j = np.intersect1d(first.rows, second.rows, assume_unique=True, return_indices=True)
    return _picked(first, i), _picked(second, j)


def _picked(part: Part, index: Array) -> Part:
    weight = None if part.weight is None else part.weight[index]
    return Part(
        part.group,
        part.rows[index],
        part.pixel[index],
        part.label[index],
        part.variance[index],
        weight,
    )


def _own(first: Part, second: Part, block: slice) -> Array:
    """Return the product of the weights that stars have of their own, with shape (N,)."""
    own = np.ones(len(first.pixel[block]))
    for part in (first, second):
        own = own if part.weight is None else own * part.weight[block]
    return own


def _product(
    first: Part, second: Part, variances: tuple[float, float], block: slice
) -> tuple[Array]:
    product = (first.variance[block] + variances[0]) * (second.variance[block] + variances[1])
    return (_own(first, second, block) / np.sqrt(product),)


def _moments(
    first: Part, second: Part, variances: tuple[float, float], block: slice
) -> tuple[Array, ...]:
    w, (u,) = _own(first, second, block), _product(first, second, variances, block)
    a, b = first.label[block], second.label[block]
    return u, w, w * u, u * a, u * b, u * a * b


def unit_of_product(first: u.UnitBase | None, second: u.UnitBase | None) -> u.UnitBase | None:
    """Return the unit of a covariance; None if neither label has one."""
    if first is None and second is None:
        return None
    return (first or u.dimensionless_unscaled) * (second or u.dimensionless_unscaled)
