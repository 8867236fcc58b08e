r"""How labels change with the parameters: their Jacobian, by the chain rule.

The label is :math:`l(r(r_e, \theta_e))`. Each parameter enters at one place alone: the centre and
the frequency through :math:`r_e` and :math:`\theta_e`, those of :math:`e_m` through
:math:`\partial r = r_e \cos m\theta_e\,\partial e_m`, those of the label function through it.
Forward differentiation of each part by itself costs several times less than of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.distortion import chebyshev
from torusimaging_torch.params import Layout, Params, function_params
from torusimaging_torch.torus import OrbitalTorus

__all__ = ["label_jacobian"]


def label_jacobian(
    torus: OrbitalTorus, pos: Tensor, vel: Tensor, vector: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return labels, and their derivatives by the parameters.

    Parameters
    ----------
    torus
        The model.
    pos, vel
        Positions and velocities in model units, with shape (*B, N).
    vector
        Parameters with shape (*B, P).
    layout
        How they are laid out.

    Returns
    -------
    label, jacobian
        With shapes (*B, N) and (*B, P, N).
    """
    params = layout.unflatten(vector)
    r_e, cos = torus.polar(pos, vel, params)
    e_params = function_params(params, "e_params")
    label_params = function_params(params, "label_params")
    r = torus.distortion(r_e, cos, e_params)
    label, slope, _ = torus.label_func.derivatives(r, **label_params)  # type: ignore[operator]
    harmonics = chebyshev(cos, torus.distortion.orders)

    def by_frame(frame: Params) -> Tensor:
        return torus.distortion(*torus.polar(pos, vel, frame), e_params)

    pieces, start = [], 0
    # Parts are runs of the sorted leaves, so joining them restores the vector's order.
    for head, part in _parts(layout).items():
        own = vector[..., start : start + part.size]
        start += part.size
        if head[0] == "e_params":
            e_func = torus.distortion.e_funcs[head[1]]
            change = r_e * harmonics[head[1]] * _derivatives(_branch(e_func, r_e, head), own, part)
            pieces.append(slope * change)
        elif head[0] == "label_params":
            pieces.append(_derivatives(_branch(torus.label_func, r, head), own, part))
        else:
            pieces.append(slope * _derivatives(by_frame, own, part))
    return label, torch.cat(pieces, dim=0).movedim(0, -2)


def _parts(layout: Layout) -> dict[tuple[Any, ...], Layout]:
    """Split a layout into what enters at one place: each e_m, the label function, the frame."""
    parts: dict[tuple[Any, ...], list[int]] = {}
    for i, path in enumerate(layout.paths):
        head = path[:2] if path[0] == "e_params" else path[:1] if len(path) > 1 else ("frame",)
        parts.setdefault(head, []).append(i)
    return {
        head: Layout(tuple(layout.paths[i] for i in rows), tuple(layout.sizes[i] for i in rows))
        for head, rows in parts.items()
    }


def _branch(
    function: Callable[..., Tensor], x: Tensor, head: tuple[Any, ...]
) -> Callable[[Params], Tensor]:
    """Return a function of the parameters that takes its own branch of them."""

    def call(params: Params) -> Tensor:
        branch: Any = function_params(params, head[0], n_batch=x.ndim - 1)
        for key in head[1:]:
            branch = branch[key]
        return function(x, **branch)

    return call


def _derivatives(function: Callable[[Params], Tensor], vector: Tensor, part: Layout) -> Tensor:
    """Return the derivatives by a part of the parameters (*B, P'), with shape (P', *B, N)."""
    size = vector.shape[-1]
    eye = torch.eye(size, dtype=vector.dtype, device=vector.device)
    # Problems do not touch each other, so one tangent serves them all at once.
    tangents = eye.reshape(size, *[1] * (vector.ndim - 1), size).expand(size, *vector.shape)

    def value(vector: Tensor) -> Tensor:
        return function(part.unflatten(vector))

    def derivative(tangent: Tensor) -> Tensor:
        return torch.func.jvp(value, (vector,), (tangent,))[1]

    return torch.func.vmap(derivative)(tangents)
