"""Likelihoods, objectives and the fit, on quantities: methods of the model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from torusimaging_torch.inference.fisher import fisher_information, known
from torusimaging_torch.inference.fit import fit
from torusimaging_torch.inference.implicit import differentiable_optimum
from torusimaging_torch.inference.layer import TrainableTorus
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.inference.pixels import Pixels, too_many_parameters
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import Objective, make_likelihood
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.data_sets import are_several, joint_posterior, warn_selection
from torusimaging_torch.model.diagnostics import warn_negative_density
from torusimaging_torch.model.known import read_hold
from torusimaging_torch.model.known_applied import known_box, with_held, with_priors
from torusimaging_torch.model.leaves import checked_params
from torusimaging_torch.model.optstep import (
    OptStep,
    Report,
    opt_step,
    upstream_options,
    warn_failed,
)
from torusimaging_torch.model.signs import switched_off, warn_switched_off
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Layout, Nested, Params, batch_shape
from torusimaging_torch.tensors import bounds_to_tensors
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.units import Binned, BinnedData, Bounds, Hold, Numbers, Priors

__all__ = [
    "as_module",
    "ln_gaussian_likelihood",
    "ln_poisson_likelihood",
    "objective_gaussian",
    "objective_poisson",
    "optimize",
    "posterior_at",
    "unpack_bounds",
]


def posterior_at(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective = "gaussian",
    evaluation: str | None = None,
    priors: Priors | None = None,
) -> tuple[LogPosterior, Tensor]:
    """Return ln L - R as a function of one vector, and the vector of some parameters.

    It is what optimizers and samplers of one's own need: called with a vector (*B, P) it returns
    nats with shape (*B,), differentiable.

    Parameters
    ----------
    params
        Model parameters; they tell what the vector is made of.
    data, objective, evaluation, priors
        As in `optimize`.

    Returns
    -------
    posterior, vector
        ``posterior.layout.unflatten(vector)`` are parameters again. The vector has shape (*B, P).

    Examples
    --------
    >>> posterior, vector = model.posterior_at(params, data)
    >>> posterior.layout.names[-3:], posterior(vector).round(decimals=6) + 0
    (['ln_Omega0', 'pos0', 'vel0'], tensor(0., dtype=torch.float64))
    """
    posterior, vector = _posterior(model, params, data, objective, evaluation, priors)
    posterior.decide()
    return posterior, vector


def _posterior(
    model: Fronted,
    params: Params,
    data: BinnedData,
    objective: Objective,
    evaluation: str | None = None,
    priors: Priors | None = None,
) -> tuple[LogPosterior, Tensor]:
    model = with_priors(model, checked_params(model, params), priors)
    if are_several(data):
        return joint_posterior(model, params, data, objective, evaluation)
    if isinstance(objective, Mapping):
        raise ValueError(f"objective is one of several data sets, but data are of one: {objective}")
    p = model.border.params(params)
    layout, likelihood = Layout.of(p), make_likelihood(objective)
    tensors = model.border.data(data, likelihood.observed)
    batch = batch_shape(p)
    pixels = Pixels.clean(likelihood, tensors, len(batch))
    posterior = Posterior(model, likelihood, layout, pixels, evaluation, batch)
    return posterior, layout.flatten(p)


def ln_gaussian_likelihood(
    model: Fronted, params: Params, pos: Numbers, vel: Numbers, label: Numbers, label_err: Numbers
) -> Tensor:
    r"""Return :math:`-\frac12\sum((y - l)/\sigma)^2`, with shape (*B,).

    Parameters
    ----------
    params
        Model parameters.
    pos, vel, label, label_err
        Pixels or stars, with shape (*B, N). Those that are not finite count as zero.

    Examples
    --------
    >>> model.ln_gaussian_likelihood({**params, "ln_Omega0": -2.5}, **data) < 0
    tensor(True)
    """
    data = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
    posterior, vector = _posterior(model, params, data, "gaussian")
    return posterior.ln_likelihood(posterior.layout.unflatten(vector))


def ln_poisson_likelihood(
    model: Fronted, params: Params, pos: Numbers, vel: Numbers, counts: Numbers
) -> Tensor:
    """Return the log-likelihood of star counts if the label is the log expected count.

    Parameters
    ----------
    params
        Model parameters.
    pos, vel, counts
        Pixels, with shape (*B, N).

    Returns
    -------
    Tensor
        ln L with shape (*B,).

    Examples
    --------
    >>> model.ln_poisson_likelihood(params, data["pos"], data["vel"], np.ones((12, 12)))
    tensor(-147.3478, dtype=torch.float64)
    """
    data = {"pos": pos, "vel": vel, "counts": counts}
    posterior, vector = _posterior(model, params, data, "poisson")
    return posterior.ln_likelihood(posterior.layout.unflatten(vector))


def objective_gaussian(
    model: Fronted, params: Params, pos: Numbers, vel: Numbers, label: Numbers, label_err: Numbers
) -> Tensor:
    """Return -(ln L - R)/N for Gaussian labels, N the number of usable pixels; shape (*B,).

    Examples
    --------
    >>> model.objective_gaussian(params, **data).round(decimals=6)
    tensor(0., dtype=torch.float64)
    """
    data = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
    posterior, vector = posterior_at(model, params, data, "gaussian")
    return posterior.objective(vector)


def objective_poisson(
    model: Fronted, params: Params, pos: Numbers, vel: Numbers, counts: Numbers
) -> Tensor:
    """Return -(ln L - R)/N for star counts, N the number of usable pixels; shape (*B,).

    Examples
    --------
    >>> model.objective_poisson(params, data["pos"], data["vel"], np.ones((12, 12)))
    tensor(1.0232, dtype=torch.float64)
    """
    data = {"pos": pos, "vel": vel, "counts": counts}
    posterior, vector = posterior_at(model, params, data, "poisson")
    return posterior.objective(vector)


def unpack_bounds(bounds: Mapping[str, Any]) -> tuple[Nested, Nested]:
    """Split a dictionary of (lower, upper) pairs into one of lower and one of upper bounds.

    Raises
    ------
    ValueError
        If a leaf is not a pair.

    Examples
    --------
    >>> model.unpack_bounds({"ln_Omega0": (-5, -1)})[0]
    {'ln_Omega0': tensor(-5., dtype=torch.float64)}
    """
    return bounds_to_tensors(bounds)


@with_autograd
def optimize(
    model: Fronted,
    params0: Params,
    objective: Objective,
    bounds: Bounds = None,
    jaxopt_kwargs: Mapping[str, Any] | None = None,
    *,
    priors: Priors | None = None,
    hold: Hold | None = None,
    max_iter: int = 500,
    tol: float = 1e-9,
    history: int = 20,
    compile: bool = False,
    evaluation: str | None = None,
    progress: bool = False,
    differentiable: bool = False,
    **data: Any,
) -> OptStep:
    """Find the parameters that maximize ln L - R within their bounds.

    L-BFGS in Fisher-whitened logistic coordinates; see `torusimaging_torch.inference.fit`.

    Parameters
    ----------
    params0
        Start. With a batch shape (*B,), a batch of independent fits.
    objective
        "gaussian" (data pos, vel, label, label_err), "poisson" (pos, vel, counts), or a
        `~torusimaging_torch.likelihoods.Likelihood` of your own.
    bounds
        A dictionary of (lower, upper) pairs, or a pair of dictionaries, or None. A parameter
        that is left out has no bounds.
    jaxopt_kwargs
        Upstream's: ``maxiter`` and ``tol`` are taken over, anything else raises.
    priors
        What is known of some parameters beforehand, nested like them or by name: a pair (mean,
        standard deviation), with units where the parameter has one, or a distribution of torch or
        Pyro of the bare number or vector in model units. ``{"pos0": (0 * u.pc, 20 * u.pc)}``,
        ``{"label_params.label_vals": ([0.1, 0.5, 0.5], 0.2)}``; for a batch pairs may differ from
        problem to problem, with shapes (*B,) or (*B, K). A prior takes the place of one of the same
        parameter that the model's penalty has already; see `torusimaging_torch.model.known`.
    hold
        Parameters that are known: values, ``{"vel0": 0 * u.km / u.s}``, or names alone of those
        that stay where they start. Their errors are zero.
    max_iter
        Largest number of iterations.
    tol
        Gain in nats of ln L - R that may still be expected at the end.
    history
        Number of steps from which L-BFGS estimates the curvature.
    compile
        Whether to compile the posterior with `torch.compile` first: it takes a minute.
    evaluation
        Who works ln L - R out: "torch", "numba" or "triton" by formulas, or "autograd"; by default
        the fastest that can. The state says who did.
    progress
        Whether to report on standard error as the fit goes on.
    differentiable
        Whether the parameters that come back have derivatives by data that require gradients
        (labels, errors, weights, positions and velocities), by the implicit function theorem; see
        `torusimaging_torch.inference.implicit`. So a fit can be part of a loss.
    **data
        The data, with shape (*B, N). Pixels that are not finite are left out, and counted in
        the state. A dictionary from `torusimaging_torch.data` can be passed as it is. Or
        ``data={name: dictionary, ...}``, several data sets that are fitted together, with an
        objective for each.

    Returns
    -------
    OptStep
        ``params`` and ``state``. A fit that did not converge warns and says so in its state.

    Raises
    ------
    ValueError
        If a start lies outside its bounds, bounds do not match the parameters, no pixel can be
        used, the evaluation asked for cannot do this, or there are ten times as many parameters as
        pixels.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.

    Examples
    --------
    >>> start = {**params, "ln_Omega0": -2.5}
    >>> best, state = model.optimize(start, "gaussian", {"ln_Omega0": (-5, -1)}, **data)
    >>> state.success, round(float(best["ln_Omega0"]), 3)
    (True, -2.6)

    With a midplane that is known:

    >>> best, _ = model.optimize(start, "gaussian", hold={"pos0": 2 * u.pc}, **data)
    >>> best["pos0"]
    tensor(0.0020, dtype=torch.float64)

    How far the midplane moves where the label of one pixel changes, in kpc:

    >>> label = data["label"].clone().requires_grad_()
    >>> found, _ = model.optimize(start, "gaussian", differentiable=True, **data | {"label": label})
    >>> (by_label,) = torch.autograd.grad(found["pos0"], label)
    >>> by_label.shape
    torch.Size([12, 12])
    """
    data = data["data"] if set(data) == {"data"} else data
    max_iter, tol = upstream_options(jaxopt_kwargs, max_iter, tol)
    params0 = model.border.params(params0)
    held = read_hold(hold or {}, params0, model.border.units)
    params0 = with_held(params0, held)
    # Steps of a fit have no derivatives: the optimum has those of the implicit function theorem.
    plain = _detached(data)
    posterior, vector = posterior_at(model, params0, plain, objective, evaluation, priors)
    _check_size(posterior)
    if compile:
        posterior.compile()
    box = known_box(model, bounds, params0, held, priors)
    result = fit(
        posterior,
        box,
        box.nudge_inside(vector.detach()),
        tol=tol,
        max_iter=max_iter,
        history=history,
        callback=Report() if progress else None,
    )
    warn_failed(result)
    off = switched_off(model, result.x.detach(), box, posterior.layout)
    warn_switched_off(model, off)
    if differentiable:
        moving, _ = _posterior(model, params0, data, objective, "autograd", priors)
        information = fisher_information(posterior, result.x, "full")
        still = replace(result, at_bound=result.at_bound | known(box))
        result = replace(result, x=differentiable_optimum(moving, still, information))
    pixels = posterior.pixels
    found = opt_step(
        result, posterior.layout, pixels.n, pixels.n_masked, posterior.evaluated_by, off
    )
    warn_selection(found.params, plain)
    if not batch_shape(found.params) and isinstance(model.torus.transform, PotentialEllipse):
        warn_negative_density(model, found.params)
    return found


def _check_size(posterior: LogPosterior) -> None:
    """Warn where there are more parameters than pixels; refuse where there are far too many."""
    text, refused = too_many_parameters(posterior.layout.size, int(posterior.pixels.n.max()))
    if refused:
        raise ValueError(text)
    if text:
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _detached(data: BinnedData) -> Binned:
    def one(x: object) -> object:
        if isinstance(x, Mapping):
            return _detached(x)
        return x.detach() if isinstance(x, Tensor) else x

    return {key: one(x) for key, x in data.items()}


def as_module(model: Fronted, params: Params, bounds: Bounds = None) -> TrainableTorus:
    """Return a module whose parameters are this model's, for any torch optimizer.

    Parameters
    ----------
    params
        Initial values.
    bounds
        As in `optimize`. The module's parameters are unconstrained coordinates of the box.

    Returns
    -------
    TrainableTorus
        Maps positions and velocities in model units to labels.

    Examples
    --------
    >>> layer = model.as_module(params, {"ln_Omega0": (-5, -1)})
    >>> optimizer = torch.optim.Adam(layer.parameters())
    """
    p = model.border.params(params)
    layout = Layout.of(p)
    box = model.border.box(bounds, layout)
    start, lower, upper = (
        layout.unflatten(x) for x in (box.nudge_inside(layout.flatten(p)), box.lower, box.upper)
    )
    return TrainableTorus(model.torus, start, lower, upper)
