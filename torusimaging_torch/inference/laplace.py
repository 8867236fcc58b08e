r"""Whether the Cramer-Rao bound is good enough: its Gaussian weighed against the posterior.

Draws of the Gaussian get the weights posterior over Gaussian. If the tail of the weights is light
the Gaussian covers the posterior, and weighted draws repair what is left; its shape k-hat is that
of a generalized Pareto distribution fitted to the largest weights (Vehtari, Simpson, Gelman, Yao &
Gabry 2024, JMLR 25, 72): below 0.5 all is well, up to 0.7 the smoothed weights may be used, above
that the posterior has to be sampled.

The Gaussian is one in any coordinates that are asked for, with the same covariance to first order.
In those that move like slopes (`torusimaging_torch.numerics.straighten`) it follows a posterior
that is bent in log slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.inference.draws import balances_of
from torusimaging_torch.inference.fisher import CramerRaoBound
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Nested
from torusimaging_torch.numerics.ranges import whole

__all__ = ["LaplaceCheck", "fit_generalized_pareto", "laplace_check", "smooth_weights"]

_GOOD, _USABLE = 0.5, 0.7
# How far off its bounds an optimum is put to have coordinates, as a fraction of the box.
_INSIDE = 1e-9
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
    layout
        How parameters are laid out in a draw, if it is known.
    """

    x: Tensor
    weights: Tensor
    khat: float
    layout: Layout | None = None

    @property
    def good(self) -> bool:
        """Whether the bound, with weights, may stand for the posterior."""
        return self.khat < _USABLE

    @property
    def ess(self) -> float:
        """Effective number of weighted draws."""
        return float(1 / self.weights.square().sum())

    @property
    def reading(self) -> str:
        """What the check means, in a line."""
        says = "does not stand for the posterior, sample it"
        if self.good:
            says = "stands for the posterior" + (" roughly" if self.khat >= _GOOD else "")
        numbers = f"k-hat {self.khat:.2f}, {self.ess:.0f} of {len(self.x)} draws count"
        return f"the Gaussian of the bound {says} ({numbers})"

    def changes(self, values: Tensor, best: Tensor, error: Tensor) -> tuple[float, float]:
        """Return how far weights move numbers, and how much larger they make their errors, at most.

        Parameters
        ----------
        values
            K numbers that follow from each draw, with shape (S, K).
        best, error
            Those of the optimum, and their errors by the bound, with shape (K,).

        Returns
        -------
        shift, factor
            The largest distance of the weighted mean from the optimum, in errors, and the largest
            ratio of the weighted standard deviation to the error.
        """
        mean = self.weights @ values
        std = (self.weights @ (values - mean).square()).sqrt()
        return float(((mean - best) / error).abs().max()), float((std / error).max())

    def __repr__(self) -> str:
        """Show what the check means."""
        return f"LaplaceCheck: {self.reading}"

    def resample(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the posterior as the weighted Gaussian knows it, with shape (size, P)."""
        weights = self.weights.cpu()
        picked = torch.multinomial(weights, size, replacement=True, generator=generator)
        return self.x[picked.to(self.x.device)]

    def to_params(self, size: int, seed: int = 0) -> Nested:
        """Draw parameters as `resample` does, along the first dimension of a dictionary's leaves.

        Raises
        ------
        ValueError
            If the layout is not known.
        """
        if self.layout is None:
            raise ValueError("the layout of the parameters is not known: use resample")
        generator = torch.Generator().manual_seed(whole(seed, "seed", 0))
        return self.layout.unflatten(self.resample(whole(size, "size", 1), generator))


def laplace_check(
    log_density: Callable[[Tensor], Tensor],
    vector: Tensor,
    bound: CramerRaoBound,
    size: int = 1000,
    generator: torch.Generator | None = None,
    *,
    box: Box | None = None,
    amounts: Tensor | None = None,
    chunk: int = 1,
    layout: Layout | None = None,
) -> LaplaceCheck:
    """Weigh the Gaussian with the bound as its covariance against the posterior.

    Parameters
    ----------
    log_density
        Log-density of parameters (*B, P), with shape (*B,); minus infinity outside the bounds.
    vector
        The optimum, with shape (P,).
    bound
        The bound there. Parameters without one are held where they are.
    size
        Number of draws.
    generator
        Source of random numbers, on the CPU.
    box
        Coordinates in which to draw, around those of the optimum; by default the parameters.
    amounts
        Places of logarithms of amounts that add up, with shape (n,): of these their total and
        balances are drawn.
    chunk
        Number of draws whose densities are worked out at a time.
    layout
        How parameters are laid out in the vector.
    """
    shape = size, len(vector)
    normal = torch.randn(shape, generator=generator, dtype=vector.dtype).to(vector.device)
    box = _everywhere(vector) if box is None else box
    with torch.no_grad():
        u, log_slope, root = _around(vector, bound, box, normal, amounts)
        x = torch.where(bound.still, vector, box(u))
        log_posterior = torch.cat([log_density(rows) for rows in x.split(chunk)])
    # What is held has no share in the root, so neither in the length of the normal vector.
    moved = torch.linalg.pinv(root) @ root @ normal.mT
    log_weights = log_posterior + log_slope + 0.5 * moved.square().sum(0)
    log_weights = torch.where(log_weights.isfinite(), log_weights, -torch.inf)
    weights, khat = smooth_weights(log_weights)
    return LaplaceCheck(x, weights, khat, layout)


def _everywhere(vector: Tensor) -> Box:
    edge = torch.full_like(vector, torch.inf)
    return Box(-edge, edge)


def _around(
    vector: Tensor, bound: CramerRaoBound, box: Box, normal: Tensor, amounts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return draws (S, P) in the box's coordinates, their log-Jacobian (S,) and their root."""
    center = box.inv(box.nudge_inside(vector, _INSIDE))
    slope = torch.where(bound.still, 1.0, box.slope(center))
    root = bound.root / slope.unsqueeze(-1)
    step = normal @ root.mT
    if amounts is None or len(amounts) < 2:
        u = center + step
    else:
        balances = balances_of(center, bound.root, amounts, slope)
        # Balances leave volumes as they are, but for a constant.
        u = balances(balances.inverse(center) + balances.push(step))
    log_slope = torch.where(bound.still, 0.0, box.log_slope(u))
    return u, log_slope.sum(-1), root
