"""The errors of a fit: the Cramer-Rao bound with its check, or samples of the posterior."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.inference.laplace import LaplaceCheck
from torusimaging_torch.inference.propagation import covariance_of
from torusimaging_torch.numerics.params import Layout, Params
from torusimaging_torch.results.description import Model
from torusimaging_torch.results.profile_table import profiles_with_errors
from torusimaging_torch.results.profile_values import PROFILES
from torusimaging_torch.units import BinnedData, Bounds, gravitational_constant, to_tensor

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["checked_bound", "sampled_errors"]

# Draws of the Gaussian that the bound is checked with: some tenths of a second, and k-hat to 0.1.
_CHECK_SIZE = 1000
# Errors of acceleration and density hold if so many weighted draws change them by no more than so
# many errors, or this factor. Sheets that stand for each other have no Gaussian; what they do has.
_ENOUGH, _SHIFT, _FACTOR = 20, 0.5, 1.5
# Where this is looked at, as fractions of the largest distance from the midplane.
_HEIGHTS = torch.tensor([0.15, 0.3, 0.45, 0.6, 0.75], dtype=torch.float64)
# The most steps of warm-up, and roughly the gradients that a draw takes, and the seconds that the
# sampler adds to each.
_WARMUP, _GRADIENTS, _SAMPLER = 1000, 25, 3e-4
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
    good, reading = check.good, check.reading
    if not good and check.ess >= _ENOUGH:
        shift, factor = check.changes(*_force(model, params, bounds, binned, bound, check))
        if shift < _SHIFT and factor < _FACTOR:
            good = True
            reading = (
                "it holds for acceleration and density (weighted draws move them by up to "
                f"{shift:.1f} errors, and have up to {factor:.1f} times the error), if not for "
                f"every parameter (k-hat {check.khat:.2f}, {check.ess:.0f} of {len(check.x)} draws "
                "count)"
            )
    return bound, {"good": good, "khat": check.khat, "ess": check.ess, "reading": reading}


def _force(
    model: Model,
    params: Params,
    bounds: Bounds,
    binned: BinnedData,
    bound: np.ndarray,
    check: LaplaceCheck,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return accelerations and densities of draws, (S, K), those of the optimum, and their errors.

    They are from the midplane, so that what they have in common with its position is left out.
    """
    p, units = model.border.params(params), model.units
    layout, box = Layout.of(p), None if bounds is None else model.border.box(bounds, Layout.of(p))
    parts = [binned] if "pos" in binned else list(binned.values())
    every = [to_tensor(part["pos"], "pos", "length", units).flatten().cpu() for part in parts]
    reach = (torch.cat(every) - p["pos0"].cpu()).abs().max()
    args = (reach * _HEIGHTS).to(p["pos0"]), layout
    G, known = gravitational_constant(units), torch.from_numpy(bound).to(p["pos0"])
    best, error = profiles_with_errors(
        model.torus, *args, layout.flatten(p), G, known, from_midplane=True, box=box
    )
    values, _ = profiles_with_errors(model.torus, *args, check.x, G, None, from_midplane=True)
    wanted = [PROFILES.index(name) for name in ("acceleration", "density")]
    return values[wanted].movedim(1, 0).flatten(1), best[wanted].flatten(), error[wanted].flatten()


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
    pace = _seconds_per_gradient(model, params, objective, binned) + _SAMPLER
    seconds = (draws + warmup) * _GRADIENTS * pace
    tell(
        f"sampling the posterior: {draws:,} draws after {warmup:,} steps of warm-up (two pilot "
        f"runs and the chain's own), about {_length(seconds)}"
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
