r"""Labels of which some are outliers: a mixture of a narrow and a wide normal distribution.

A star's residual from the mean label is normal with variance :math:`e^2 + s^2` (its own error and
the intrinsic scatter), or, for a fraction :math:`\epsilon` of the stars, with variance
:math:`e^2 + s^2 + s_\mathrm{out}^2`. The probability that a star is no outlier is the share of the
first in the density of both,

.. math::

    p = \frac{(1-\epsilon)\,N(e^2 + s^2)}{(1-\epsilon)\,N(e^2 + s^2) +
        \epsilon\,N(e^2 + s^2 + s_\mathrm{out}^2)}.

Expectation maximization (Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39, 1) finds all three:
:math:`\epsilon` is the mean of :math:`1 - p`, and each variance maximizes a likelihood in which
stars count by p, or by :math:`1 - p`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.scatter import Slopes, search_variance

__all__ = ["Mixture", "fit_mixture", "weighted_scatter"]


# Outliers are wider than this many times the others' median width: without such a limit the
# mixture describes labels without any outlier by two equal halves.
_LEAST_WIDER = 2.0
# Where a search starts.
_EPS, _WIDER = 0.05, 5.0
# Fewer outliers than this have no width of their own.
_FEWEST = 1.0
# Steps of expectation maximization, and the gain in nats that ends them.
_MAX_STEPS, _TOLERANCE = 300, 1e-3
# From the median of absolute deviations to the standard deviation of a normal distribution.
_MAD = 1.482602218505602


class Mixture(NamedTuple):
    """What the labels of one sample are drawn from.

    Attributes
    ----------
    eps
        The fraction of outliers.
    s_out
        Their additional scatter.
    s
        The intrinsic scatter of all.
    """

    eps: float
    s_out: float
    s: float

    def ln_densities(self, residual: Array, variance: Array) -> tuple[Array, Array]:
        """Return log densities of residuals (N,) as no outliers, and as outliers.

        Parameters
        ----------
        residual
            Labels minus their means.
        variance
            Squared errors.
        """
        inner = variance + self.s**2
        return (
            _ln_normal(residual, inner, 1 - self.eps),
            _ln_normal(residual, inner + self.s_out**2, self.eps),
        )

    def probability(self, residual: Array, variance: Array) -> Array:
        """Return the probability of each star to be no outlier, with shape (N,)."""
        good, bad = self.ln_densities(residual, variance)
        return np.exp(good - np.logaddexp(good, bad))


def _ln_normal(residual: Array, variance: Array, share: float) -> Array:
    ln_share = np.log(share) if share > 0 else -np.inf
    return ln_share - 0.5 * (residual**2 / variance + np.log(2 * np.pi * variance))


def fit_mixture(residual: Array, variance: Array) -> Mixture:
    """Return the mixture that residuals with shape (N,) are most likely to come from.

    Parameters
    ----------
    residual
        Labels minus their means.
    variance
        Squared errors, 0 where they are not known.

    Raises
    ------
    ValueError
        If the residuals have no scatter.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> width = np.where(rng.uniform(size=20_000) < 0.05, np.hypot(0.05, 0.5), 0.05)
    >>> found = fit_mixture(rng.normal(0, width), np.zeros(20_000))
    >>> [round(x, 2) for x in found]
    [0.05, 0.49, 0.05]
    """
    residual, variance = np.asarray(residual, float), np.asarray(variance, float)
    now, before = _start(residual, variance), -np.inf
    for _ in range(_MAX_STEPS):
        good, bad = now.ln_densities(residual, variance)
        both = np.logaddexp(good, bad)
        if both.sum() < before + _TOLERANCE:
            break
        now, before = _step(now, residual, variance, np.exp(good - both)), both.sum()
    return now


def weighted_scatter(residual: Array, variance: Array, share: Array, guess: float) -> float:
    """Return the s that makes residuals with variances variance + s^2 most likely.

    Parameters
    ----------
    residual, variance
        As in `fit_mixture`.
    share
        How much each star counts, with shape (N,).
    guess
        Where to start.
    """
    return float(np.sqrt(_best_variance(residual**2, variance, share, guess**2)))


def _start(residual: Array, variance: Array) -> Mixture:
    """Start from what the median says, which outliers hardly move."""
    width = _MAD * float(np.median(np.abs(residual)))
    if not width > 0:
        raise ValueError("residuals have no scatter: at least half of them are zero")
    s = np.sqrt(max(width**2 - float(np.median(variance)), (0.1 * width) ** 2))
    return Mixture(_EPS, _WIDER * width, float(s))


def _step(now: Mixture, residual: Array, variance: Array, p: Array) -> Mixture:
    squares, q = residual**2, 1 - p
    inner = _best_variance(squares, variance, p, now.s**2)
    outer = now.s_out**2
    if q.sum() > _FEWEST:
        outer = _best_variance(squares, variance, q, now.s**2 + outer) - inner
    least = _LEAST_WIDER**2 * (inner + float(np.median(variance)))
    return Mixture(float(q.mean()), float(np.sqrt(max(outer, least))), float(np.sqrt(inner)))


def _best_variance(squares: Array, variance: Array, share: Array, v: float) -> float:
    """Return the v that makes residuals with variances variance + v most likely, from a guess."""
    search = search_variance(v)
    try:
        v = next(search)
        while True:
            v = search.send(_slopes(squares, variance, share, v))
    except StopIteration as found:
        return float(found.value)


def _slopes(squares: Array, variance: Array, share: Array, v: float) -> Slopes:
    """Differentiate sum share ln N(residual; 0, variance + v) by v; see `search_variance`."""
    w = 1.0 / (variance + v)
    score = 0.5 * (share * w * (squares * w - 1)).sum()
    expected = 0.5 * (share * w**2).sum()
    observed = (share * w**3 * squares).sum() - expected
    return float(score), float(observed), float(expected)
