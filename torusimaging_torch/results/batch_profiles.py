"""Profiles of many subsamples at once, with their errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.results.profile_values import (
    PROFILES,
    evaluate_profiles,
    profile_jacobian,
)
from torusimaging_torch.units import gravitational_constant, to_quantity, to_tensor

__all__ = ["batch_profiles"]

# Subsamples at a time: each carries the derivatives by all its parameters, at all positions.
_CHUNK = 16


@with_autograd
def batch_profiles(
    result: Any, pos_grid: Any, errors: bool, from_midplane: bool = False
) -> dict[str, Any]:
    """Return the profiles of a `BatchResult`; see its ``profiles``."""
    units = result.model.units
    pos = to_tensor(pos_grid, "pos_grid", "length", units)
    if pos.ndim != 1 or len(pos) == 0:
        raise ValueError(f"pos_grid must be positions with shape (N,), got {tuple(pos.shape)}")
    good = result.values["x"].isfinite().all(-1).nonzero().squeeze(-1)
    with_errors = errors and result.covariance is not None
    shape = (2 if with_errors else 1, len(PROFILES), len(result), len(pos))
    every = torch.full(shape, torch.nan, dtype=result.values["x"].dtype)
    for rows in good.split(_CHUNK):
        place = pos.to(every.dtype), from_midplane
        every[:, :, rows] = _evaluate(result, rows, *place, with_errors)
    found: dict[str, Any] = {"pos": to_quantity(pos, "length", units)}
    for i, name in enumerate(PROFILES):
        for suffix, values in zip(("", "_err"), every, strict=False):
            found[name + suffix] = to_quantity(values[i], name.replace("_", " "), units)
    return found


def _evaluate(
    result: Any, rows: Tensor, pos: Tensor, from_midplane: bool, with_errors: bool
) -> Tensor:
    """Return profiles, and their errors if wanted, with shape (1 or 2, F, B', N)."""
    model, x = result.model_of(rows), result.values["x"][rows]
    G = gravitational_constant(model.units)

    if from_midplane:  # all that counts is the distance from it
        place = result.layout.names.index("pos0")
        x = x.clone()
        x[:, place] = 0.0
    if not with_errors:
        params = result.layout.unflatten(x)
        values = evaluate_profiles(model.torus, pos, params, G, chunk=len(rows) * len(pos))
        return torch.stack([values[name] for name in PROFILES]).unsqueeze(0)
    found, jacobian = profile_jacobian(model.torus, pos, result.layout, x, G)
    if from_midplane:
        jacobian[..., place] = 0.0
    covariance = result.covariance[rows].nan_to_num(0.0)
    variance = torch.einsum("fbnp,bpq,fbnq->fbn", jacobian, covariance, jacobian)
    return torch.stack([found, variance.clamp(min=0).sqrt()])
