"""The penalty of a model with a potential inside: how dense its sheets are likely to be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torusimaging_torch.likelihoods.penalty import Penalized
from torusimaging_torch.numerics.params import Params, column

__all__ = ["LN_RHO_SIGMA", "regularization_func_potential"]

LN_RHO_SIGMA = 3.0
"""By how much the log of a sheet's density may differ from the mean: a factor of twenty."""

Scale = float | Tensor


def regularization_func_potential(
    model: Penalized,
    params: Params,
    label_smooth_sigma: Scale,
    ln_rho_mean: Scale,
    ln_rho_sigma: Scale = LN_RHO_SIGMA,
    e_sigmas: Mapping[int, Scale] | None = None,
) -> Tensor:
    r"""Return the penalty of a potential in nats, with shape (*B,).

    .. math::

        R = \frac12 \sum_k \left(\frac{p_k - \mu}{\sigma}\right)^2
            + \sum \left(\frac{\Delta l'}{\sigma_l}\right)^2
            + \frac12 \sum_m \sum \left(\frac{e_m'}{\sigma_m}\right)^2

    Scales are numbers, or tensors with shape (*B,).

    Parameters
    ----------
    model
        A `~torusimaging_torch.TorusImaging1DPotential`.
    params
        Nested dictionary of tensors.
    label_smooth_sigma
        Scale of the change of the label function's slope from knot to knot.
    ln_rho_mean, ln_rho_sigma
        Mean and standard deviation of the log densities of the sheets, in model units.
    e_sigmas
        Standard deviation of the slopes of each correction e_m, by order m.

    Examples
    --------
    >>> import torch
    >>> params = {"pos0": torch.tensor(0.0), "ln_rho": torch.tensor([16.0, 18.0])}
    >>> params["label_params"] = {"label_vals": torch.tensor([0.1, 0.5, 0.7])}
    >>> regularization_func_potential(None, params, 0.2, 17.0)
    tensor(1.1111)
    """
    penalty = _half_square((params["ln_rho"] - _per_entry(ln_rho_mean)) / _per_entry(ln_rho_sigma))
    slopes = params["label_params"]["label_vals"][..., 1:]
    penalty = penalty + 2 * _half_square(slopes.diff(dim=-1) / _per_entry(label_smooth_sigma))
    for m, sigma in (e_sigmas or {}).items():
        penalty = penalty + _half_square(params["e_params"][m]["vals"] / _per_entry(sigma))
    return penalty


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * torch.square(x).sum(-1)


def _per_entry(scale: Scale) -> Scale:
    return column(scale) if isinstance(scale, Tensor) else scale
