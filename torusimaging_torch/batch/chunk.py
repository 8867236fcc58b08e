"""The fits of one chunk of subsamples: all at once, as tensors with the problems first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.batch.chunk_start import Data, complete, stack, start_chunk
from torusimaging_torch.batch.reading import Subsample
from torusimaging_torch.batch.settings import BatchSettings
from torusimaging_torch.batch.stack import stack_crossed
from torusimaging_torch.inference.crossed import Crossed
from torusimaging_torch.inference.fisher import bound_at, known
from torusimaging_torch.inference.fit import Fit, fit
from torusimaging_torch.inference.joint import JointPosterior
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.inference.parts import part_params
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.inference.propagation import room
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model import TorusImaging1D
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.data_sets import Part
from torusimaging_torch.model.known import AllKnown, of_problems, read_hold
from torusimaging_torch.model.known_applied import known_box, with_priors
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Nested, Params
from torusimaging_torch.units import Place

__all__ = ["fit_chunk"]

# Standard deviation of perturbed starts in coordinates of the box: centre and frequency are known
# well from the low-order fit; splines are not.
_FRAME_KICK, _SPLINE_KICK = 0.05, 0.5
# Starts agree if they end within this many nats.
_AGREE = 1e-2


def fit_chunk(
    settings: BatchSettings,
    problems: Sequence[Subsample],
    indices: Sequence[int],
    extents: Sequence[float] | None,
    device: torch.device,
) -> dict[str, Tensor]:
    """Fit some subsamples at once.

    Parameters
    ----------
    settings
        What is the same for all.
    problems
        Subsamples without a problem, B of them.
    indices
        The number of each subsample in the whole list, from which its random numbers come.
    extents
        Where the knots of each end; by default as far as its data reach.
    device
        Where to compute.

    Returns
    -------
    dict
        Tensors on the host with first dimension B; vectors of parameters have shape (B, P).
    """
    place: Place = {"dtype": settings.dtype, "device": device}
    data = stack(settings, problems, place)
    here: AllKnown = {
        "priors": of_problems(settings.priors or {}, indices),
        "hold": of_problems(settings.hold or {}, indices),
    }
    primary = data[settings.primary].labels
    model, bounds, start = start_chunk(settings, primary, extents, indices, here)
    model, bounds, start, columns = complete(settings, data, model, bounds, start, here)
    box, x0 = _box(settings, model, bounds, start, len(problems), here)
    layout = Layout.of(start)
    model = with_priors(model, layout.unflatten(x0), here["priors"])
    posterior = _posterior(settings, data, model, start, stack_crossed(problems, place))
    options: dict[str, Any] = {
        "tol": settings.tol,
        "max_iter": settings.max_iter,
        "history": settings.history,
    }
    if settings.multistart > 1:
        result, spread, agree = _best_of_starts(settings, posterior, box, x0, indices, options)
    else:
        result = fit(posterior, box, x0, **options)
        spread = torch.full_like(result.log_prob, torch.nan)
        agree = result.success.long()
    with torch.no_grad():
        goodness = _goodness(posterior, box, result)
    tensors = {
        "x": result.x,
        "lower": box.lower,
        "upper": box.upper,
        "fun_val": -result.log_prob / posterior.pixels.n,
        "status": result.status,
        "iterations": result.nit,
        "evaluations": result.nfev,
        "expected_gain": result.expected_gain,
        "at_bound": result.at_bound,
        "n_pixels": posterior.pixels.n,
        "chi2_dof": goodness,
        "start_spread": spread,
        "starts_agree": agree,
        "reach": _reach(data, layout.unflatten(result.x)["pos0"]),
        **columns,
    }
    if settings.uncertainty == "crlb":
        width = room(result.x, box, posterior.logarithmic)
        bound = bound_at(posterior, result.x, settings.hessian, result.at_bound, known(box), width)
        ended = result.success[..., None, None]  # the bound is that of an optimum
        tensors["covariance"] = torch.where(ended, bound.covariance, torch.nan)
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _posterior(
    settings: BatchSettings,
    data: Mapping[str, Data],
    model: Fronted,
    start: Params,
    crossed: Mapping[tuple[str, str], Pixels],
) -> LogPosterior:
    """Return ln L - R of B subsamples."""
    layout = Layout.of(start)
    if "" in data:
        likelihood = make_likelihood(settings.objectives[""])
        return Posterior(model, likelihood, layout, data[""].pixels)
    parts = {
        name: Posterior(
            Part(model, name),
            make_likelihood(settings.objectives[name]),
            Layout.of(part_params(start, name)),
            one.pixels,
        )
        for name, one in data.items()
    }
    terms = [Crossed(model.torus, pair, layout, pixels) for pair, pixels in crossed.items()]
    return JointPosterior(parts, layout, terms)


def _box(
    settings: BatchSettings,
    model: TorusImaging1D,
    bounds: Nested,
    start: Nested,
    n: int,
    here: AllKnown,
) -> tuple[Box, Tensor]:
    """Return the box and starts inside it, with shape (B, P)."""
    layout = Layout.of(start)
    p = model.border.params(start)
    held = read_hold(here["hold"], p, settings.units)
    box = known_box(model, bounds, p, held, here["priors"])
    lower, upper = (x.expand(n, -1) for x in (box.lower, box.upper))
    box = Box(lower, upper, layout.names)
    x0 = layout.flatten(start)
    if settings.init is not None:
        given = model.border.params(settings.init)
        x0 = layout.flatten(given).expand_as(x0)
    if here["priors"] or here["hold"]:
        x0 = x0.clamp(box.lower, box.upper)
    return box, box.nudge_inside(x0)


def _best_of_starts(
    settings: BatchSettings,
    posterior: LogPosterior,
    box: Box,
    x0: Tensor,
    indices: Sequence[int],
    options: dict[str, Any],
) -> tuple[Fit, Tensor, Tensor]:
    """Fit from several starts; return the best fits, their spread in nats and how many agree."""
    n = settings.multistart
    which = torch.arange(len(x0), device=x0.device).repeat_interleave(n)
    many = Box(box.lower[which], box.upper[which], box.names)
    starts = _perturbed(settings, posterior.layout, many, x0[which], indices)
    every = fit(posterior.subset(which), many, starts, **options)
    value = every.log_prob.reshape(-1, n)
    success = every.success.reshape(-1, n)
    ranked = torch.where(success, value, -torch.inf)
    # If none converged the highest one is still the best there is.
    ranked = torch.where(success.any(-1, keepdim=True), ranked, value.nan_to_num(nan=-torch.inf))
    best, position = ranked.max(-1)
    lowest = torch.where(success, value, torch.inf).amin(-1)
    spread = torch.where(success.any(-1), best - lowest, torch.nan)
    agree = (success & (value > best.unsqueeze(-1) - _AGREE)).sum(-1)
    rows = position + n * torch.arange(len(x0), device=x0.device)
    return Fit(**{name: tensor[rows] for name, tensor in vars(every).items()}), spread, agree


def _perturbed(
    settings: BatchSettings, layout: Layout, box: Box, x0: Tensor, indices: Sequence[int]
) -> Tensor:
    """Return starts (B n, P): of each problem the first as it is, the others moved about."""
    n = settings.multistart
    kick = [_SPLINE_KICK if "vals" in name else _FRAME_KICK for name in layout.names]
    # A subsample's random numbers are its own, whatever its neighbours and its shard.
    noise = np.stack(
        [
            np.random.default_rng([settings.seed, index]).standard_normal((n, len(kick)))
            for index in indices
        ]
    )
    noise[:, 0] = 0.0
    step = torch.from_numpy(noise * np.array(kick)).reshape(x0.shape).to(x0)
    return box.nudge_inside(box(box.inv(x0) + step))


def _reach(data: Mapping[str, Data], pos0: Tensor) -> Tensor:
    """Return how far the farthest pixel of any data set is from pos0, with shape (B,)."""
    every = [
        torch.where(one.pixels.used, (one.pixels.pos - pos0.unsqueeze(-1)).abs(), 0.0).amax(-1)
        for one in data.values()
    ]
    return torch.stack(every).amax(0)


def _goodness(posterior: LogPosterior, box: Box, result: Fit) -> Tensor:
    """Return chi^2, or the deviance of star counts, by degree of freedom, with shape (B,)."""
    ln_l = result.log_prob + posterior.penalty(result.x)
    free = (~(result.at_bound | known(box))).sum(-1)
    return 2 * (posterior.saturated() - ln_l) / (posterior.pixels.n - free).clamp(min=1)
