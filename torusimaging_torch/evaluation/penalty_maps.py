"""The maps of which the default penalty is made, from a model's knots and the penalty's scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import Coefficients
from torusimaging_torch.evaluation.moving_wall import MovingWall
from torusimaging_torch.evaluation.penalties import DefaultPenalty
from torusimaging_torch.evaluation.tables import PlacedSpline, Tables
from torusimaging_torch.evaluation.wall import Wall
from torusimaging_torch.likelihoods.potential_penalty import LN_RHO_SIGMA
from torusimaging_torch.numerics.params import Path, join

__all__ = ["default_penalty", "label_penalty", "normal_penalty", "potential_penalty"]

# Those of `regularization_func_default`.
_WALL = {"dacc_dpos_scale": 1e-4, "dacc_strength": 1.0}


def default_penalty(
    functions: Sequence[PlacedSpline],
    orders: Sequence[int],
    convention: str,
    coefficients: Coefficients,
    tables: Tables,
    places: Mapping[Path, int],
    arguments: Mapping[str, Any],
) -> DefaultPenalty:
    """Return the default penalty of a spline torus.

    Parameters
    ----------
    functions
        The e functions, and the label function last.
    orders
        Orders m of the e functions.
    convention
        The elliptical angle's, "pv" or "vp".
    coefficients
        From the vector to the coefficients.
    tables
        The tables of the functions.
    places
        Where the leaves of the parameters begin in the vector.
    arguments
        Those of `regularization_func_default`: numbers, or tensors with shape (*B,).
    """
    like, size = coefficients.sign, coefficients.size
    given, changes = like.new_zeros(1, size, size), like.new_zeros(1, len(like), len(like))
    for m, e in zip(orders, functions[:-1], strict=True):
        # Each e function is zero at its first knot.
        values = e.values_at(e.spline.knots[..., 1:], size)
        given = given + _square(values, arguments["e_l2_sigmas"][m], like)
        changes = changes + _square(_diff(e, like), arguments["e_smooth_sigmas"][m], like)
    label = functions[-1]
    values = label.values_at(label.spline.knots, size)
    given = given + _square(values, arguments["label_l2_sigma"], like)
    changes = changes + _square(_diff(label, like), arguments["label_smooth_sigma"], like)
    wall: Wall | MovingWall | None = None
    scale, strength = (_number((_WALL | dict(arguments))[name], like) for name in _WALL)
    if orders and (len(strength) > 1 or bool(strength > 0)):
        axis = [_axis_cosine(convention, m) for m in orders]
        ln_Omega0, pos0 = places["ln_Omega0",], places["pos0",]
        if any(e.spline.degree == 2 for e in functions[:-1]):
            # Upstream's positions: see `regularization_func_default`.
            radii = _outer_knots(functions[:-1])
            wall = MovingWall(radii, scale, strength, ln_Omega0, pos0, orders, axis, tables)
        else:
            maps, radii = _maps_and_radii(functions[:-1], orders, axis, size)
            wall = Wall(maps, radii, scale, strength, ln_Omega0, axis)
    return DefaultPenalty(coefficients, given, changes, like.new_zeros(1, len(like)), wall)


def normal_penalty(
    coefficients: Coefficients, where: range, mean: Tensor, sigma: Tensor
) -> DefaultPenalty:
    """Return the penalty of some parameters that are normal, by mean and sigma (B or 1, K or 1)."""
    like, size = coefficients.sign, coefficients.size
    weight, center = (like.new_zeros(len(x), len(like)) for x in (sigma, mean))
    weight[:, where.start : where.stop] = 0.5 / sigma**2
    center[:, where.start : where.stop] = mean
    none = like.new_zeros(1, size, size)
    return DefaultPenalty(coefficients, none, weight.diag_embed(), center, None)


def label_penalty(
    functions: Sequence[PlacedSpline], coefficients: Coefficients, arguments: Mapping[str, Any]
) -> DefaultPenalty:
    """Return the penalty of a label function alone, `regularization_func_label`."""
    like, size = coefficients.sign, coefficients.size
    label, given = functions[-1], like.new_zeros(1, size, size)
    changes = _square(_diff(label, like), arguments["label_smooth_sigma"], like)
    if arguments.get("label_l2_sigma") is not None:
        values = label.values_at(label.spline.knots, size)
        given = _square(values, arguments["label_l2_sigma"], like)
    return DefaultPenalty(coefficients, given, changes, like.new_zeros(1, len(like)), None)


def potential_penalty(
    functions: Sequence[PlacedSpline],
    orders: Sequence[int],
    coefficients: Coefficients,
    places: Mapping[Path, int],
    arguments: Mapping[str, Any],
) -> DefaultPenalty:
    """Return the penalty of a potential, `regularization_func_potential`, from its arguments."""
    like, size = coefficients.sign, coefficients.size
    form = _square(_diff(functions[-1], like), arguments["label_smooth_sigma"], like)
    weight, center = like.new_zeros(len(form), len(like)), torch.zeros_like(like)
    center = center.expand(len(form), -1).clone()
    first, mean = places["ln_rho",], _number(arguments["ln_rho_mean"], like)
    last = min(place for place in [*places.values(), len(like)] if place > first)
    precision = 0.5 / _number(arguments.get("ln_rho_sigma", LN_RHO_SIGMA), like) ** 2
    weight = weight.expand(max(len(weight), len(precision)), -1).clone()
    weight[:, first:last] = precision
    center = center.expand(max(len(center), len(mean)), -1).clone()
    center[:, first:last] = mean
    for m, e in zip(orders, functions[:-1], strict=True):
        weight[:, e.slopes : e.slopes + e.spline.n_slopes] = (
            0.5 / _number(arguments["e_sigmas"][m], like) ** 2
        )
    given = like.new_zeros(1, size, size)
    return DefaultPenalty(coefficients, given, form + weight.diag_embed(), center, None)


def _square(matrix: Tensor, sigma: object, like: Tensor) -> Tensor:
    """Return the form |M x / sigma|^2, with shape (B or 1, ., .)."""
    form = (matrix.mT @ matrix).reshape(-1, matrix.shape[-1], matrix.shape[-1])
    return form / _number(sigma, like).unsqueeze(-1) ** 2


def _number(value: object, like: Tensor) -> Tensor:
    """Return a number, or one for each problem, with shape (B or 1, 1)."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1)


def _diff(function: PlacedSpline, like: Tensor) -> Tensor:
    """Return what takes differences of neighbouring slopes, or log slopes, of a vector."""
    first, n = function.slopes, function.spline.n_slopes
    eye = torch.eye(len(like), dtype=like.dtype, device=like.device)
    return eye[first : first + n].diff(dim=0)


def _outer_knots(e_functions: Sequence[PlacedSpline]) -> Tensor:
    """Return all knots but each function's first, with shape (B or 1, K)."""
    radii = join([e.spline.knots[..., 1:] for e in e_functions])
    return radii.reshape(-1, radii.shape[-1])


def _maps_and_radii(
    e_functions: Sequence[PlacedSpline], orders: Sequence[int], axis: Sequence[float], size: int
) -> tuple[Tensor, Tensor]:
    """Return the maps and the radii of `Wall`."""
    radii = join([e.spline.knots[..., 1:] for e in e_functions])
    r, maps = radii.unsqueeze(-1), radii.new_zeros(())
    for m, cosine, e in zip(orders, axis, e_functions, strict=True):
        linear = e.spline.linear_maps(radii)
        value, slope, bend = (
            e.columns(linear.flatten(-3, -2), size).unflatten(-2, (3, -1)).unbind(-3)
        )
        growth, change = value + r * slope, 2 * slope + r * bend
        rows = [growth, change, growth - m**2 * value, change - m**2 * slope]
        maps = maps + cosine * torch.stack(rows, -3)
    return maps.reshape(-1, *maps.shape[-3:]), _outer_knots(e_functions)


def _axis_cosine(convention: str, m: int) -> float:
    """Return cos(m theta_e) on the position axis, at positions above pos0."""
    if convention == "vp":
        return 1.0
    return 0.0 if m % 2 else (-1.0) ** (m // 2)
