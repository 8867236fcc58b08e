"""Distances from parallaxes: inverted where they are good, otherwise with a prior that is named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from torusimaging_torch.arrays import Array
from torusimaging_torch.numerics.ranges import positive
from torusimaging_torch.units import to_tensor

__all__ = ["LEAST_SNR", "ExponentialPrior", "invert"]


LEAST_SNR = 5.0
"""Parallaxes are inverted only if they are at least so many times their error."""

# Points of a posterior's grid, how many sigma it reaches, and scale lengths for poor parallaxes.
_N_GRID, _N_SIGMA, _FAR = 400, 8.0, 40.0


def invert(parallax: Array, error: Array) -> Array:
    """Return distances 1 / parallax in kpc, nan where a parallax (mas) is below 5 of its errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(parallax >= LEAST_SNR * error, 1 / parallax, np.nan)


@dataclass(frozen=True)
class ExponentialPrior:
    """The exponentially decreasing space density, p(d) proportional to d^2 exp(-d / L).

    Bailer-Jones (2015), PASP 127, 994, equation 17.

    Attributes
    ----------
    length
        The scale length L in kpc.

    Raises
    ------
    ValueError
        If it is not positive.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import ExponentialPrior
    >>> one = np.array([1.0])
    >>> ExponentialPrior(1.35).quantiles(one, 0.01 * one, 0 * one).round(2)
    array([[1.]])
    """

    length: float = 1.35

    def __post_init__(self) -> None:
        """Check the length."""
        if not np.isfinite(positive(self.length, "the prior's length")):
            raise ValueError(f"the prior's length must be finite, got {self.length}")

    def __str__(self) -> str:
        """Return the prior's name."""
        return f"exponentially decreasing density, L = {self.length:g} kpc"

    def quantiles(self, parallax: Array, error: Array, normal: Array) -> Array:
        """Return quantiles of the distance given a parallax.

        Parameters
        ----------
        parallax, error
            In mas with shape (N,).
        normal
            Which quantiles, as values of a standard normal variable with shape (K,); 0 is the
            median.

        Returns
        -------
        ndarray
            Distances in kpc with shape (N, K); nan where there is no parallax.
        """
        parallax, error, normal = (
            to_tensor(x, name, None).detach().numpy()
            for x, name in ((parallax, "parallax"), (error, "error"), (normal, "normal"))
        )
        if parallax.ndim != 1 or error.shape != parallax.shape or normal.ndim != 1:
            raise ValueError(
                "parallax and error must have one shape (N,), and normal (K,), got "
                f"{parallax.shape}, {error.shape} and {normal.shape}"
            )
        at = ndtr(normal)
        found = np.full((len(parallax), len(at)), np.nan)
        good = np.flatnonzero(np.isfinite(parallax) & np.isfinite(error) & (error > 0))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            for row, mean, sigma in zip(good, parallax[good], error[good], strict=True):
                grid = self._grid(mean, sigma)
                found[row] = np.interp(at, self._cumulative(grid, mean, sigma), grid)
        return found

    def _grid(self, mean: float, sigma: float) -> Array:
        low, high = mean - _N_SIGMA * sigma, mean + _N_SIGMA * sigma
        if low > 0:
            return 1 / np.linspace(high, low, _N_GRID)
        first = min(1 / high, self.length / 10) if high > 0 else self.length / 10
        return np.geomspace(first, _FAR * self.length, _N_GRID)

    def _cumulative(self, d: Array, mean: float, sigma: float) -> Array:
        log = 2 * np.log(d) - d / self.length - 0.5 * ((1 / d - mean) / sigma) ** 2
        density = np.exp(log - log.max())
        steps = (density[1:] + density[:-1]) / 2 * np.diff(d)
        total = np.concatenate([[0.0], np.cumsum(steps)])
        return total / total[-1]
