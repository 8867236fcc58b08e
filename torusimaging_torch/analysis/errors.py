"""The errors of a fit: the Cramer-Rao bound with its check, or samples of the posterior."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from torusimaging_torch.inference.propagation import covariance_of
from torusimaging_torch.numerics.params import Params
from torusimaging_torch.results.description import Model
from torusimaging_torch.units import BinnedData, Bounds

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["checked_bound", "sampled_errors"]

# Draws of the Gaussian that the bound is checked with: a second, and k-hat to 0.1.
_CHECK_SIZE = 500
# The most steps of warm-up, and roughly the gradients that a draw takes.
_WARMUP, _GRADIENTS = 1000, 12
_MINUTES_FROM = 90  # seconds


def checked_bound(
    model: Model,
    params: Params,
    bounds: Bounds,
    objective: str | Mapping[str, str],
    binned: BinnedData,
) -> tuple[np.ndarray, dict[str, object]]:
    """Return the Cramer-Rao bound, with shape (P, P), and whether it may be believed, and why."""
    bound = model.get_crlb(params, binned, objective, bounds=bounds).cpu().numpy()
    with warnings.catch_warnings():
        # What has no bound has been named before.
        warnings.simplefilter("ignore", RuntimeWarning)
        check = model.check_laplace(params, binned, objective, bounds=bounds, size=_CHECK_SIZE)
    return bound, {
        "good": check.good,
        "khat": check.khat,
        "ess": check.ess,
        "reading": check.reading,
    }


def sampled_errors(
    model: Model,
    params: Params,
    bounds: Bounds,
    objective: str | Mapping[str, str],
    binned: BinnedData,
    draws: int,
    tell: Callable[[str], None],
    progress: bool,
) -> tuple[np.ndarray, Samples]:
    """Return the covariance of samples of the posterior, with shape (P, P), and the samples."""
    warmup = min(draws, _WARMUP)
    pace = _seconds_per_gradient(model, params, objective, binned)
    tell(
        f"sampling the posterior: {draws:,} draws after {warmup:,} steps of warm-up (two pilot "
        f"runs and the chain's own), about {_length((draws + warmup) * _GRADIENTS * pace)}"
    )
    samples = model.sample(
        binned,
        params,
        bounds,
        objective=objective,
        num_samples=draws,
        num_warmup=warmup,
        # In a log, the sampler's bars would be thousands of lines.
        progress=progress and sys.stderr.isatty(),
    )
    vector = samples.layout.flatten(model.border.params(params)).cpu()
    logarithmic = model.torus.logarithmic_in(samples.layout).cpu()
    each = torch.from_numpy(samples.to_array())
    return covariance_of(each, vector, logarithmic).numpy(), samples


def _seconds_per_gradient(
    model: Model,
    params: Params,
    objective: str | Mapping[str, str],
    binned: BinnedData,
) -> float:
    """Return how long the second and third of three gradients took on average."""
    posterior, vector = model.posterior_at(params, binned, objective)
    vector, start = vector.detach().requires_grad_(), 0.0
    for i in range(3):
        if i == 1:
            start = time.monotonic()
        torch.autograd.grad(posterior(vector), vector)
    return (time.monotonic() - start) / 2


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > _MINUTES_FROM else f"{seconds:.0f} s"
