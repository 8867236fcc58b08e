r"""Whether chains have converged: R-hat, bulk and tail effective sample size.

Rank-normalized, split and folded, as Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021, Bayesian
Analysis 16, 667) recommend; the autocorrelation sums are Pyro's.
"""

from __future__ import annotations

import torch
from pyro.ops.stats import effective_sample_size, gelman_rubin
from torch import Tensor

__all__ = ["ess_bulk", "ess_tail", "rhat"]


def _split(draws: Tensor) -> Tensor:
    """Cut chains (C, S, P) into halves (2C, S // 2, P)."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]])


def _rank_normalized(draws: Tensor) -> Tensor:
    """Replace draws by the normal quantiles of their ranks among all chains (eq. 14)."""
    flat = draws.reshape(-1, draws.shape[-1])
    order = flat.argsort(dim=0)
    ranks = torch.empty_like(flat)
    number = torch.arange(1, len(flat) + 1, dtype=flat.dtype, device=flat.device)
    ranks.scatter_(0, order, number.unsqueeze(-1).expand_as(flat).contiguous())
    return torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(draws.shape)


def rhat(draws: Tensor) -> Tensor:
    """Return R-hat of each parameter, 1 when the chains agree, with shape (P,).

    ``draws`` has shape (C, S, P): chains, samples, parameters.
    """
    halves = _split(draws)
    median = halves.reshape(-1, halves.shape[-1]).median(0).values
    folded = (halves - median).abs()
    return torch.maximum(
        gelman_rubin(_rank_normalized(halves)), gelman_rubin(_rank_normalized(folded))
    )


def ess_bulk(draws: Tensor) -> Tensor:
    """Return the effective number of draws (C, S, P) for means and medians, with shape (P,)."""
    return effective_sample_size(_rank_normalized(_split(draws)))


def ess_tail(draws: Tensor) -> Tensor:
    """Return the effective number of draws (C, S, P) for the 5 % and 95 % quantiles, shape (P,)."""
    halves = _split(draws)
    flat = halves.reshape(-1, halves.shape[-1])
    cuts = flat.quantile(torch.tensor([0.05, 0.95], dtype=flat.dtype, device=flat.device), dim=0)
    low, high = (effective_sample_size((halves <= cut).to(flat.dtype)) for cut in cuts)
    return torch.minimum(low, high)
