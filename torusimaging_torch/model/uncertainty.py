"""Errors of a fit, on quantities: the Cramer-Rao bound and samples; methods of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torusimaging_torch.inference.draws import error_samples
from torusimaging_torch.inference.fisher import (
    CramerRaoBound,
    bound_at,
    fisher_information,
    known,
    on_bound,
    warn_undefined,
)
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.inference.propagation import room, vanished
from torusimaging_torch.likelihoods.objectives import Objective
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.fitting import posterior_at
from torusimaging_torch.model.known import read_hold
from torusimaging_torch.model.known_applied import known_box, with_held
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Nested, Params, map_leaves
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.units import BinnedData, Bounds, Hold, Priors

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import SamplerState, Samples

__all__ = [
    "crlb",
    "get_crlb",
    "get_crlb_error_samples",
    "get_crlb_uncertainties",
    "mcmc_run_label",
    "sample",
]


def crlb(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective,
    bounds: Bounds,
    hessian: str,
    evaluation: str | None = None,
    priors: Priors | None = None,
    hold: Hold | None = None,
) -> tuple[LogPosterior, Tensor, CramerRaoBound, Box]:
    """Return the posterior, the vector (*B, P) of parameters, the bound there, and their box.

    The arguments are those of `get_crlb`. A warning names parameters without a bound.
    """
    p = model.border.params(params)
    fixed = read_hold(hold or {}, p, model.border.units)
    p = with_held(p, fixed)
    posterior, vector = posterior_at(model, p, data, objective, evaluation, priors)
    vector, box = vector.detach(), known_box(model, bounds, p, fixed, priors)
    held, width = on_bound(posterior, box, vector), room(vector, box, posterior.logarithmic)
    bound = bound_at(posterior, vector, hessian, held, known(box), width)
    warn_undefined(bound, posterior.layout.names, stacklevel=5)
    return posterior, vector, bound, box


@with_autograd
def get_crlb(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective = "gaussian",
    inv: bool = False,
    *,
    bounds: Bounds = None,
    hessian: str = "full",
    priors: Priors | None = None,
    hold: Hold | None = None,
    evaluation: str | None = None,
) -> Tensor:
    r"""Return the Cramer-Rao bound, the smallest covariance that the data allow.

    Parameters
    ----------
    params
        Model parameters, at the optimum.
    data
        Dictionary of binned data, as `optimize` takes them.
    objective
        As in `optimize`.
    inv
        Return the information matrix, not its inverse.
    bounds
        As in `optimize`: a parameter that a bound holds back is left out, as if it were known.
    hessian
        "full": that of :math:`-(\ln L - R)`; "data": of :math:`-\ln L` alone, without the penalty
        and without priors: a parameter that these alone determine is nan; "expected": by the
        Gauss-Newton approximation, without negative curvature; "sandwich": the scatter of
        the estimate over new draws of the data, which is what a bootstrap measures. The others
        take the penalty for a prior; see `torusimaging_torch.inference.bound_at`.
    priors, hold
        As in `optimize`. The covariance of what is held is zero.
    evaluation
        As in `optimize`.

    Returns
    -------
    Tensor
        With shape (*B, P, P), in model units. Rows and columns are the leaves of ``params``
        with their keys sorted at every level, each leaf's entries in order. Nan for parameters
        that are undetermined or on a bound; a warning names them.

    Raises
    ------
    ValueError
        If there is no such objective or Hessian.

    Examples
    --------
    >>> model.get_crlb(params, data).shape
    torch.Size([8, 8])
    """
    if inv:
        p = model.border.params(params)
        p = with_held(p, read_hold(hold or {}, p, model.border.units))
        at = posterior_at(model, p, data, objective, evaluation, priors)
        return fisher_information(*at, hessian)
    rest = (bounds, hessian, evaluation, priors, hold)
    return crlb(model, params, data, objective, *rest)[2].covariance


@with_autograd
def get_crlb_uncertainties(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective = "gaussian",
    *,
    bounds: Bounds = None,
    hessian: str = "full",
    priors: Priors | None = None,
    hold: Hold | None = None,
) -> Nested:
    """Return the standard deviations of the parameters, square roots of the bound's diagonal.

    Parameters
    ----------
    params, data, objective, bounds, hessian, priors, hold
        As in `get_crlb`.

    Returns
    -------
    dict
        Nested as ``params``, with the same shapes; nan where there is no bound, zero for what is
        held.

    Examples
    --------
    >>> errors = model.get_crlb_uncertainties(params, data)
    >>> 0 < errors["ln_Omega0"] < 0.1
    tensor(True)
    """
    rest = (bounds, hessian, None, priors, hold)
    posterior, _, bound, _ = crlb(model, params, data, objective, *rest)
    return posterior.layout.unflatten(bound.sigma)


@with_autograd
def get_crlb_error_samples(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective = "gaussian",
    size: int = 1,
    seed: int | None = None,
    list_of_samples: bool = True,
    *,
    bounds: Bounds = None,
    hessian: str = "full",
    priors: Priors | None = None,
    hold: Hold | None = None,
) -> list[Nested] | dict[str, Any]:
    """Draw parameters from the Gaussian with the bound as its covariance.

    Log slopes are drawn as the slopes that they stand for, which labels depend on, with the same
    covariance to first order: a slope that is lost in its error stays a slope that may be.

    Parameters
    ----------
    params, data, objective, bounds, hessian, priors, hold
        As in `get_crlb`.
    size
        Number of samples.
    seed
        Seed of the random numbers, which are this method's own.
    list_of_samples
        Whether to return a list of dictionaries, or one whose leaves have the samples along a
        first dimension.

    Returns
    -------
    list of dict, or dict
        Parameters without a bound are nan; but log slopes on their lower bound, where the slope is
        none, stay there.

    Examples
    --------
    >>> len(model.get_crlb_error_samples(params, data, size=3, seed=1))
    3
    """
    size = whole(size, "size", 0)
    rest = (bounds, hessian, None, priors, hold)
    posterior, vector, bound, box = crlb(model, params, data, objective, *rest)
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(whole(seed, "seed", 0))
    logarithmic = posterior.logarithmic
    draws = error_samples(vector, bound, size, generator, logarithmic, box, posterior.amounts)
    lost = bound.undefined & ~vanished(vector, box, logarithmic)
    samples = posterior.layout.unflatten(torch.where(lost, torch.nan, draws))
    if not list_of_samples:
        return samples
    return [map_leaves(lambda leaf, i=i: leaf[i], samples) for i in range(size)]


@with_autograd
def sample(
    model: Fronted,
    data: BinnedData,
    p0: Params,
    bounds: Bounds = None,
    *,
    objective: Objective = "gaussian",
    num_samples: int = 1000,
    num_warmup: int = 1000,
    num_chains: int = 1,
    priors: Priors | None = None,
    hold: Hold | None = None,
    seed: int = 0,
    target_accept: float = 0.9,
    max_tree_depth: int = 6,
    evaluation: str | None = None,
    progress: bool = False,
    mp_context: str | None = None,
) -> Samples:
    r"""Sample the posterior by Pyro's No-U-Turn sampler, in the coordinates of the fit.

    Parameters
    ----------
    data
        Dictionary of binned data, as `optimize` takes them.
    p0
        Start: best the optimum, otherwise the sampler goes there first.
    bounds
        As in `optimize`.
    objective
        As in `optimize`.
    num_samples, num_warmup, num_chains
        Number of samples of each chain, of steps that tune the sampler, and of chains.
    priors, hold
        As in `optimize`. Without a prior all values within the bounds are equally probable; the
        penalty R counts in any case.
    seed
        Seed of the random numbers. The state of the global generators is left as it was.
    target_accept, max_tree_depth
        Acceptance that the step size is tuned for; largest number of doublings. A draw costs at
        most ``2**max_tree_depth - 1`` gradients.
    evaluation
        As in `optimize`.
    progress
        Whether to show a progress bar.
    mp_context
        "spawn" or "fork" to run chains in parallel processes; in this one by default.

    Returns
    -------
    Samples
        A run that has not converged warns, and says why in its ``problems``.

    Raises
    ------
    ValueError
        If ``p0`` is a batch of problems or lies outside its bounds.

    Examples
    --------
    >>> samples = model.sample(data, params, num_chains=4)  # doctest: +SKIP
    >>> samples.problems  # doctest: +SKIP
    []
    """
    # Pyro takes a second to import, so it is where it is needed.
    from torusimaging_torch.inference.nuts import nuts
    from torusimaging_torch.model.samples import Samples

    p = model.border.params(p0)
    held = read_hold(hold or {}, p, model.border.units)
    p = with_held(p, held)
    posterior, start = posterior_at(model, p, data, objective, evaluation, priors)
    chains = nuts(
        posterior,
        known_box(model, bounds, p, held, priors),
        start.detach(),
        num_samples=num_samples,
        num_warmup=num_warmup,
        num_chains=num_chains,
        seed=seed,
        target_accept=target_accept,
        max_tree_depth=max_tree_depth,
        progress=progress,
        mp_context=mp_context,
    )
    samples = Samples(chains, posterior.layout, model.border.units)
    samples.warn(stacklevel=4)
    return samples


def mcmc_run_label(
    model: Fronted,
    binned_data: BinnedData,
    p0: Params,
    bounds: Bounds = None,
    rng_seed: int = 0,
    num_steps: int = 1000,
    num_warmup: int = 1000,
) -> tuple[SamplerState, list[Nested]]:
    """Sample the posterior of labels with upstream's arguments; see `sample` for more.

    Parameters
    ----------
    binned_data
        Dictionary of binned labels.
    p0, bounds
        Start and bounds, as in `optimize`.
    rng_seed
        Seed of the random numbers.
    num_steps, num_warmup
        Number of samples, and of steps that tune the sampler.

    Returns
    -------
    state, samples
        ``state.logdensity`` has the log-density ln L - R of each sample, in the same order;
        ``state.samples`` all that `sample` returns. The samples are a list of dictionaries.
    """
    from torusimaging_torch.model.samples import SamplerState

    samples = sample(
        model, binned_data, p0, bounds, seed=rng_seed, num_samples=num_steps, num_warmup=num_warmup
    )
    state = SamplerState(samples.log_density, samples.params, samples)
    return state, samples.to_list()
