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
    """Replace draws by the normal quantiles of their ranks among all chains (eq. 14).

    Equal draws, as of a chain that is stuck, share the mean of their ranks.
    """
    flat = draws.reshape(-1, draws.shape[-1]).mT.contiguous()
    ordered = flat.sort().values
    below, up_to = (torch.searchsorted(ordered, flat, right=right) for right in (False, True))
    ranks = (below + up_to + 1).to(flat.dtype) / 2
    quantiles = torch.special.ndtri((ranks - 0.375) / (flat.shape[-1] + 0.25))
    return quantiles.mT.reshape(draws.shape)


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


def _each_by_itself(draws: Tensor) -> Tensor:
    # Together, nan of one parameter that never moved would be that of all.
    return torch.cat([effective_sample_size(one) for one in draws.split(1, dim=-1)])


def ess_bulk(draws: Tensor) -> Tensor:
    """Return the effective number of draws (C, S, P) for means and medians, with shape (P,)."""
    return _each_by_itself(_rank_normalized(_split(draws)))


def ess_tail(draws: Tensor) -> Tensor:
    """Return the effective number of draws (C, S, P) for the 5 % and 95 % quantiles, shape (P,)."""
    halves = _split(draws)
    flat = halves.reshape(-1, halves.shape[-1])
    cuts = flat.quantile(torch.tensor([0.05, 0.95], dtype=flat.dtype, device=flat.device), dim=0)
    low, high = (_each_by_itself((halves <= cut).to(flat.dtype)) for cut in cuts)
    return torch.minimum(low, high)
