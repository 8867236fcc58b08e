"""Errors of a fit, on quantities: the Cramer-Rao bound as methods of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.bounds import Box
from torusimaging_torch.fisher import (
    CramerRaoBound,
    cramer_rao_bound,
    error_samples,
    fisher_information,
    on_bound,
    warn_undefined,
)
from torusimaging_torch.fit_methods import FitMethods
from torusimaging_torch.params import Layout, Params, batch_shape, map_leaves

__all__ = ["UncertaintyMethods"]


class UncertaintyMethods(FitMethods):
    """Methods of the model that say how well its parameters are known."""

    def _information(
        self, params: Params, data: Mapping[str, Any], objective: str, bounds: Any, hessian: str
    ) -> tuple[Layout, Tensor, Tensor, Tensor]:
        """Return layout, vector (*B, P), information (*B, P, P), parameters on a bound (*B, P)."""
        p = self._params(params)
        layout = Layout.of(p)
        posterior = self._posterior(objective, layout, len(batch_shape(p)), data)
        vector = layout.flatten(p).detach()
        information = fisher_information(posterior, vector, hessian)
        held = torch.zeros_like(vector, dtype=torch.bool)
        if bounds is not None:
            held = on_bound(
                posterior, Box(*self._bound_vectors(bounds, layout), layout.names), vector
            )
        return layout, vector, information, held

    def _crlb(
        self, params: Params, data: Mapping[str, Any], objective: str, bounds: Any, hessian: str
    ) -> tuple[Layout, Tensor, CramerRaoBound]:
        layout, vector, information, held = self._information(
            params, data, objective, bounds, hessian
        )
        bound = cramer_rao_bound(information, held)
        warn_undefined(bound, layout.names, stacklevel=4)
        return layout, vector, bound

    def get_crlb(
        self,
        params: Params,
        data: Mapping[str, Any],
        objective: str = "gaussian",
        inv: bool = False,
        *,
        bounds: Any = None,
        hessian: str = "full",
    ) -> Tensor:
        r"""Return the Cramer-Rao bound, the smallest covariance that the data allow.

        Parameters
        ----------
        params
            Model parameters, at the optimum.
        data
            Dictionary of binned data, as `optimize` takes them.
        objective
            "gaussian" or "poisson".
        inv
            Return the information matrix, not its inverse.
        bounds
            As in `optimize`: a parameter that a bound holds back is left out, as if it were known.
        hessian
            "full": that of :math:`-(\ln L - R)`; "data": of :math:`-\ln L` alone; "expected": by
            the Gauss-Newton approximation, without negative curvature.

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
        """
        if inv:
            return self._information(params, data, objective, None, hessian)[2]
        return self._crlb(params, data, objective, bounds, hessian)[2].covariance

    def get_crlb_uncertainties(
        self,
        params: Params,
        data: Mapping[str, Any],
        objective: str = "gaussian",
        *,
        bounds: Any = None,
        hessian: str = "full",
    ) -> dict[str, Any]:
        """Return the standard deviations of the parameters, square roots of the bound's diagonal.

        Parameters
        ----------
        params, data, objective, bounds, hessian
            As in `get_crlb`.

        Returns
        -------
        dict
            Nested as ``params``, with the same shapes; nan where there is no bound.
        """
        layout, _, bound = self._crlb(params, data, objective, bounds, hessian)
        return layout.unflatten(bound.sigma)

    def get_crlb_error_samples(
        self,
        params: Params,
        data: Mapping[str, Any],
        objective: str = "gaussian",
        size: int = 1,
        seed: int | None = None,
        list_of_samples: bool = True,
        *,
        bounds: Any = None,
        hessian: str = "full",
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Draw parameters from the Gaussian with the bound as its covariance.

        Parameters
        ----------
        params, data, objective, bounds, hessian
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
            Parameters without a bound are nan.
        """
        layout, vector, bound = self._crlb(params, data, objective, bounds, hessian)
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        draws = error_samples(vector, bound, size, generator)
        samples = layout.unflatten(torch.where(bound.undefined, torch.nan, draws))
        if not list_of_samples:
            return samples
        return [map_leaves(lambda leaf, i=i: leaf[i], samples) for i in range(size)]
