"""Whether the Cramer-Rao bound may be believed, on quantities: a method of the model."""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.inference.coordinates import straightened
from torusimaging_torch.inference.laplace import LaplaceCheck, laplace_check
from torusimaging_torch.likelihoods.objectives import Objective
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.known import read_hold
from torusimaging_torch.model.known_applied import with_held
from torusimaging_torch.model.uncertainty import crlb
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Params, batch_shape
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.units import BinnedData, Bounds, Hold, Priors

__all__ = ["check_laplace"]

# How far down log slopes are straightened, to a tenth: four to ten times as many of 1,000 draws
# count on the disk mock as in plain parameters. Ellipses do as well with a third; the k-hat of
# potentials, whose sheets take each other's place, is two to eight times as large there.
_TAU = 10.0
# Pixels of all draws together that are worked on at a time: they should stay in the cache.
_CHUNK = 50_000
# Fewer draws than this have no tail.
_FEWEST = 50


@with_autograd
def check_laplace(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective = "gaussian",
    *,
    bounds: Bounds = None,
    size: int = 1000,
    seed: int = 0,
    priors: Priors | None = None,
    hold: Hold | None = None,
) -> LaplaceCheck:
    """Check whether the Cramer-Rao bound is good enough, or the posterior has to be sampled.

    Draws of a Gaussian around the optimum are weighed against the posterior, by Pareto-smoothed
    importance sampling (Vehtari et al. 2024, JMLR 25, 72). The Gaussian has the bound's
    covariance, in coordinates in which log slopes move like slopes: errors that are propagated
    linearly, as those of profiles are, mean the same. It takes about as long as ``size``
    evaluations of the model.

    Parameters
    ----------
    params
        Parameters of one problem, at the optimum.
    data, objective, bounds
        As in `optimize`. Parameters without a bound are held where they are.
    size
        Number of draws; k-hat is known to about 0.2 from 500, to 0.1 from 2000.
    seed
        Seed of the random numbers, which are this method's own.
    priors, hold
        As in `optimize`.

    Returns
    -------
    LaplaceCheck
        ``good`` is False where the posterior has to be sampled, ``reading`` says so in a line,
        ``khat`` is the number behind it. ``to_params(size)`` are samples of the posterior, as
        weights make them out of the Gaussian's: where the check is good they do what those of
        `sample` do.

    Raises
    ------
    ValueError
        If the parameters are those of a batch, or outside their bounds, or there are fewer than
        50 draws.

    Examples
    --------
    Where errors are large the labels say too little about the distortion, and the posterior is no
    Gaussian.

    >>> model.check_laplace(params, data | {"label_err": 1e-5}, size=200).good
    True
    >>> model.check_laplace(params, data | {"label_err": 0.05}, size=200).good
    False
    """
    p = model.border.params(params)
    if batch_shape(p):
        raise ValueError(
            f"one problem at a time can be checked, got a batch with shape {tuple(batch_shape(p))}"
        )
    size, seed = whole(size, "size", _FEWEST), whole(seed, "seed", 0)
    held = read_hold(hold or {}, p, model.border.units)
    p = with_held(p, held)
    rest = (bounds, "full", None, priors, hold)
    posterior, vector, bound, box = crlb(model, p, data, objective, *rest)
    center = box.inv(box.nudge_inside(vector, 1e-9))

    def log_density(x: Tensor) -> Tensor:
        inside = ((x >= box.lower) & (x <= box.upper)).all(-1)
        return torch.where(inside, posterior(x), -torch.inf)

    return laplace_check(
        log_density,
        vector,
        bound,
        size,
        torch.Generator().manual_seed(seed),
        box=straightened(posterior, box, center, _TAU),
        amounts=posterior.amounts,
        chunk=max(1, _CHUNK // max(1, posterior.pixels.pos.numel())),
        layout=posterior.layout,
    )
