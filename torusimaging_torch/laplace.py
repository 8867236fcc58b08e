r"""Whether the Cramer-Rao bound is good enough: its Gaussian weighed against the posterior.

Draws of the Gaussian get the weights posterior over Gaussian. If the tail of the weights is light
the Gaussian covers the posterior, and weighted draws repair what is left; its shape k-hat is that
of a generalized Pareto distribution fitted to the largest weights (Vehtari, Simpson, Gelman, Yao &
Gabry 2024, JMLR 25, 72): below 0.5 all is well, up to 0.7 the smoothed weights may be used, above
that the posterior has to be sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.fisher import CramerRaoBound, error_samples

__all__ = ["LaplaceCheck", "fit_generalized_pareto", "laplace_check", "smooth_weights"]

_USABLE = 0.7
# A tail of fewer weights than this has no shape.
_SHORTEST_TAIL = 5


def fit_generalized_pareto(x: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a generalized Pareto distribution to exceedances.

    The empirical Bayes estimate of Zhang & Stephens (2009, Technometrics 51, 316): the posterior
    mean of theta = k/sigma on a grid of quantiles of its prior (their equations 7 to 9).

    Parameters
    ----------
    x
        Positive numbers with shape (N,).

    Returns
    -------
    k, sigma
        Shape, positive for a heavy tail (minus theirs), and scale.
    """
    x = x.sort().values
    n = len(x)
    m = 20 + int(math.sqrt(n))
    j = torch.arange(1, m + 1, dtype=x.dtype, device=x.device) - 0.5
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = 1 / x[-1] + (1 - (m / j).sqrt()) / (3 * quartile)
    k = torch.log1p(-theta.unsqueeze(-1) * x).mean(-1)
    profile = n * ((-theta / k).log() - k - 1)
    weight = torch.softmax(profile, 0)
    best = (weight * theta).sum()
    shape = torch.log1p(-best * x).mean()
    return shape, -shape / best


def smooth_weights(log_weights: Tensor) -> tuple[Tensor, float]:
    """Return Pareto-smoothed importance weights, normalized, and the shape k-hat of their tail.

    Parameters
    ----------
    log_weights
        With shape (S,); minus infinity where the posterior is zero.

    Returns
    -------
    weights, khat
        Weights with shape (S,) that sum to one. k-hat is infinite if the tail is too short.
    """
    ratio = (log_weights - log_weights.max()).exp()
    size = len(ratio)
    tail = min(int(0.2 * size), math.ceil(3 * math.sqrt(size)))
    order = ratio.argsort()
    largest = order[-tail:]
    cutoff = ratio[order[-tail - 1]]
    excess = ratio[largest] - cutoff
    if tail < _SHORTEST_TAIL or not bool((excess > 0).all()):
        return ratio / ratio.sum(), math.inf
    k, sigma = fit_generalized_pareto(excess)
    # A weak prior at k = 0.5 worth ten weights steadies short tails (their appendix G).
    k = (k * tail + 0.5 * 10) / (tail + 10)
    p = (torch.arange(tail, dtype=ratio.dtype, device=ratio.device) + 0.5) / tail
    # Expected order statistics of the distribution, none above the largest raw weight.
    expected = cutoff + sigma * torch.expm1(-k * torch.log1p(-p)) / k
    smoothed = ratio.scatter(0, largest, expected.clamp(max=1.0))
    return smoothed / smoothed.sum(), float(k)


@dataclass(frozen=True)
class LaplaceCheck:
    """How far the Gaussian approximation stands for the posterior.

    Attributes
    ----------
    x
        Draws of the Gaussian with shape (S, P).
    weights
        Their smoothed weights, with shape (S,), that sum to one.
    khat
        Shape of the weights' tail.
    """

    x: Tensor
    weights: Tensor
    khat: float

    @property
    def good(self) -> bool:
        """Whether the bound, with weights, may stand for the posterior."""
        return self.khat < _USABLE

    @property
    def ess(self) -> float:
        """Effective number of weighted draws."""
        return float(1 / self.weights.square().sum())

    def resample(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the posterior as the weighted Gaussian knows it, with shape (size, P)."""
        weights = self.weights.cpu()
        picked = torch.multinomial(weights, size, replacement=True, generator=generator)
        return self.x[picked.to(self.x.device)]


def laplace_check(
    log_density: Callable[[Tensor], Tensor],
    vector: Tensor,
    bound: CramerRaoBound,
    size: int = 1000,
    generator: torch.Generator | None = None,
) -> LaplaceCheck:
    """Weigh the Gaussian with the bound as its covariance against the posterior.

    Parameters
    ----------
    log_density
        Log-density of parameters (*B, P), with shape (*B,); minus infinity outside the bounds. It
        sees one draw at a time.
    vector
        The optimum, with shape (P,).
    bound
        The bound there. Parameters without one are held where they are.
    size
        Number of draws.
    generator
        Source of random numbers.
    """
    x = error_samples(vector, bound, size, generator)
    log_gauss = -0.5 * _squared_distance(x - vector, bound)
    with torch.no_grad():
        log_posterior = torch.stack([log_density(row) for row in x])
    log_weights = torch.where(log_posterior.isfinite(), log_posterior - log_gauss, -torch.inf)
    weights, khat = smooth_weights(log_weights)
    return LaplaceCheck(x, weights, khat)


def _squared_distance(offset: Tensor, bound: CramerRaoBound) -> Tensor:
    """Return the Mahalanobis distance squared of offsets (S, P), with shape (S,)."""
    inverse = torch.linalg.pinv(bound.root)
    return (inverse @ offset.unsqueeze(-1)).squeeze(-1).square().sum(-1)
