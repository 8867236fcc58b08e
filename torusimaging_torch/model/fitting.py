"""Likelihoods, objectives and the fit, on quantities: a part of the model's front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.inference.fit import fit
from torusimaging_torch.inference.layer import TrainableTorus
from torusimaging_torch.inference.posterior import Pixels, Posterior, make_likelihood
from torusimaging_torch.model.border import ModelBorder
from torusimaging_torch.model.optstep import (
    OptStep,
    opt_step,
    report,
    upstream_options,
    warn_failed,
)
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Params, batch_shape
from torusimaging_torch.units import bounds_to_tensors, data_to_tensors

__all__ = ["FitMethods"]


class FitMethods(ModelBorder):
    """Methods of the model that compare it with data."""

    def _posterior(self, objective: str, layout: Layout, n_batch: int, data: Any) -> Posterior:
        likelihood = make_likelihood(objective)
        tensors = data_to_tensors(data, likelihood.observed, self.units, **self._place)
        return Posterior(self, likelihood, layout, Pixels.clean(likelihood, tensors, n_batch))

    def _evaluate(self, objective: str, what: str, params: Params, data: Any) -> Tensor:
        p = self._params(params)
        layout = Layout.of(p)
        posterior = self._posterior(objective, layout, len(batch_shape(p)), data)
        if what == "likelihood":
            return posterior.ln_likelihood(p)
        return posterior.objective(layout.flatten(p))

    def ln_gaussian_likelihood(
        self, params: Params, pos: Any, vel: Any, label: Any, label_err: Any
    ) -> Tensor:
        r"""Return :math:`-\frac12\sum((y - l)/\sigma)^2`, with shape (*B,).

        Parameters
        ----------
        params
            Model parameters.
        pos, vel, label, label_err
            Pixels or stars, with shape (*B, N). Those that are not finite count as zero.
        """
        data = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
        return self._evaluate("gaussian", "likelihood", params, data)

    def ln_poisson_likelihood(self, params: Params, pos: Any, vel: Any, counts: Any) -> Tensor:
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
        """
        data = {"pos": pos, "vel": vel, "counts": counts}
        return self._evaluate("poisson", "likelihood", params, data)

    def objective_gaussian(
        self, params: Params, pos: Any, vel: Any, label: Any, label_err: Any
    ) -> Tensor:
        """Return -(ln L - R)/N for Gaussian labels, N the number of usable pixels; shape (*B,)."""
        data = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
        return self._evaluate("gaussian", "objective", params, data)

    def objective_poisson(self, params: Params, pos: Any, vel: Any, counts: Any) -> Tensor:
        """Return -(ln L - R)/N for star counts, N the number of usable pixels; shape (*B,)."""
        data = {"pos": pos, "vel": vel, "counts": counts}
        return self._evaluate("poisson", "objective", params, data)

    @classmethod
    def unpack_bounds(cls, bounds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split a dictionary of (lower, upper) pairs into one of lower and one of upper bounds.

        Raises
        ------
        ValueError
            If a leaf is not a pair.
        """
        return bounds_to_tensors(bounds)

    def optimize(
        self,
        params0: Params,
        objective: str,
        bounds: Mapping[str, Any] | tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
        jaxopt_kwargs: Mapping[str, Any] | None = None,
        *,
        max_iter: int = 500,
        tol: float = 1e-9,
        history: int = 20,
        compile: bool = False,
        progress: bool = False,
        **data: Any,
    ) -> OptStep:
        """Find the parameters that maximize ln L - R within their bounds.

        L-BFGS in Fisher-whitened logistic coordinates; see `torusimaging_torch.inference.fit`.

        Parameters
        ----------
        params0
            Start. With a batch shape (*B,), a batch of independent fits.
        objective
            "gaussian" (data pos, vel, label, label_err) or "poisson" (pos, vel, counts).
        bounds
            A dictionary of (lower, upper) pairs, or a pair of dictionaries, or None. A parameter
            that is left out has no bounds.
        jaxopt_kwargs
            Upstream's: ``maxiter`` and ``tol`` are taken over, anything else raises.
        max_iter
            Largest number of iterations.
        tol
            Gain in nats of ln L - R that may still be expected at the end.
        history
            Number of steps from which L-BFGS estimates the curvature.
        compile
            Whether to compile the posterior with `torch.compile` first: it takes a minute.
        progress
            Whether to report on standard error as the fit goes on.
        **data
            The data, with shape (*B, N). Pixels that are not finite are left out, and counted in
            the state. A dictionary from `torusimaging_torch.data` can be passed as it is.

        Returns
        -------
        OptStep
            ``params`` and ``state``. A fit that did not converge warns and says so in its state.

        Raises
        ------
        ValueError
            If a start lies outside its bounds, bounds do not match the parameters, or no pixel can
            be used.
        astropy.units.UnitConversionError
            If a quantity has the wrong dimension.
        """
        max_iter, tol = upstream_options(jaxopt_kwargs, max_iter, tol)
        p = self._params(params0)
        layout = Layout.of(p)
        n_batch = len(batch_shape(p))
        posterior = self._posterior(objective, layout, n_batch, data)
        if compile:
            posterior.compile()
        x0 = layout.flatten(p).detach()
        box = self._box(bounds, layout)
        result = fit(
            posterior,
            box,
            box.nudge_inside(x0),
            tol=tol,
            max_iter=max_iter,
            history=history,
            callback=report if progress else None,
        )
        warn_failed(result)
        return opt_step(result, layout, posterior.pixels.n, posterior.pixels.n_masked)

    def _box(self, bounds: Any, layout: Layout) -> Box:
        return Box(*self._bound_vectors(bounds, layout), layout.names)

    def _bound_vectors(self, bounds: Any, layout: Layout) -> tuple[Tensor, Tensor]:
        lower, upper = bounds_to_tensors(bounds or {}, self.units, **self._place)
        return (
            layout.fill(lower, -torch.inf, self._like),
            layout.fill(upper, torch.inf, self._like),
        )

    def as_module(self, params: Params, bounds: Any = None) -> TrainableTorus:
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
        """
        p = self._params(params)
        layout = Layout.of(p)
        box = self._box(bounds, layout)
        start, lower, upper = (
            layout.unflatten(x) for x in (box.nudge_inside(layout.flatten(p)), box.lower, box.upper)
        )
        return TrainableTorus(self.torus, start, lower, upper)
