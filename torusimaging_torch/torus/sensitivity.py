r"""How labels change with the parameters: their Jacobian, by the chain rule.

The label is :math:`l(r(r_e, \cos\theta_e))`. Each parameter enters at one place alone: the centre
and the frequency through :math:`r_e` and :math:`\cos\theta_e`, those of :math:`e_m` through
:math:`\partial r = r_e \cos m\theta_e\,\partial e_m`, those of the label function through it.
Splines are linear in their coefficients: their part is a product with the change of these. All else
is differentiated by itself, in reverse twice: a gradient is linear in what it is multiplied with,
so its derivative by that is the Jacobian's column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import Layout, Nested, Params, function_params
from torusimaging_torch.torus.distortion import Harmonics, chebyshev, chebyshev_slopes
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.radial_function import RadialFunction

__all__ = ["label_jacobian"]


def label_jacobian(
    torus: OrbitalTorus,
    pos: Tensor,
    vel: Tensor,
    vector: Tensor,
    layout: Layout,
    terms: Tensor | None = None,
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
    terms
        What ``selection_params`` multiply, if there are any, with shape (*B, J, N).

    Returns
    -------
    label, jacobian
        With shapes (*B, N) and (*B, P, N).
    """
    params = layout.unflatten(vector)
    e_params = function_params(params, "e_params")
    r_e, cos = torus.polar(pos, vel, params)
    harmonics = chebyshev(cos, torus.distortion.orders)
    e_terms = torus.distortion.derivatives(r_e, e_params)
    r, by_r_e, by_cos = _radius(r_e, cos, e_terms, harmonics)
    label, slope, _ = torus.label_func.derivatives(r, **function_params(params, "label_params"))

    def polar(frame: Params) -> Tensor:
        return torch.stack(torus.polar(pos, vel, frame), -2)

    pieces, places = [], []
    for head, (part, where) in _parts(layout).items():
        own = vector[..., where]
        places += where
        if head[0] == "selection_params":
            pieces.append(terms.expand(*label.shape[:-1], -1, -1).movedim(-2, 0))  # type: ignore[union-attr]
        elif head[0] == "e_params":
            m = head[1]
            change = _by_parameters(torus.distortion.e_funcs[m], r_e, head, own, part)
            pieces.append(slope * r_e * harmonics[m] * change)
        elif head[0] == "label_params":
            pieces.append(_by_parameters(torus.label_func, r, head, own, part))
        else:
            d_r_e, d_cos = _derivatives(polar, own, part).unbind(-2)
            pieces.append(slope * (by_r_e * d_r_e + by_cos * d_cos))
    order = torch.tensor(places, device=label.device).argsort()
    return label, torch.cat(pieces, dim=0)[order].movedim(0, -2)


def _radius(
    r_e: Tensor, cos: Tensor, terms: Harmonics, harmonics: dict[int, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distorted radius, and its derivatives by r_e and by the cosine, (*B, N) each."""
    stretch, growth = torch.ones_like(cos), torch.zeros_like(cos)
    by_cos = torch.zeros_like(cos)
    slopes = chebyshev_slopes(cos, list(terms))
    for m, (e, slope, _) in terms.items():
        stretch = stretch + e * harmonics[m]
        growth = growth + slope * harmonics[m]
        by_cos = by_cos + e * slopes[m]
    return r_e * stretch, stretch + r_e * growth, r_e * by_cos


def _parts(layout: Layout) -> dict[tuple[Any, ...], tuple[Layout, list[int]]]:
    """Split a layout into what enters at one place, and where its numbers are.

    That is each e_m, the label function, the frame, and what the pixels add.
    """
    parts: dict[tuple[Any, ...], tuple[list[int], list[int]]] = {}
    start = 0
    for i, (path, size) in enumerate(zip(layout.paths, layout.sizes, strict=True)):
        head = path[:2] if path[0] == "e_params" else path[:1] if len(path) > 1 else ("frame",)
        rows, places = parts.setdefault(head, ([], []))
        n = 1 if size is None else size
        rows.append(i)
        places += range(start, start + n)
        start += n
    paths, sizes = layout.paths, layout.sizes
    return {
        head: (Layout(tuple(paths[i] for i in rows), tuple(sizes[i] for i in rows)), places)
        for head, (rows, places) in parts.items()
    }


def _by_parameters(
    function: RadialFunction, x: Tensor, head: tuple[Any, ...], own: Tensor, part: Layout
) -> Tensor:
    """Return the derivatives of a function at ``x`` by its own parameters, (P', *B, N)."""

    def branch(params: Params) -> Nested:
        found: Any = function_params(params, head[0], n_batch=x.ndim - 1)
        for key in head[1:]:
            found = found[key]
        return dict(found)

    if not function.linear:
        return _derivatives(lambda params: function(x, **branch(params)), own, part)
    change = _derivatives(lambda params: function.coefficients(**branch(params)), own, part)
    return (function.basis(x) @ change.movedim(0, -1)).movedim(-1, 0)


def _derivatives(function: Callable[[Params], Tensor], vector: Tensor, part: Layout) -> Tensor:
    """Return the derivatives by a part of the parameters (*B, P'), with shape (P', *B, N)."""
    with torch.enable_grad():
        leaf = vector.detach().clone().requires_grad_()
        value = function(part.unflatten(leaf))
        if not value.requires_grad:
            return value.new_zeros(vector.shape[-1], *value.shape)
        times = torch.zeros_like(value, requires_grad=True)
        (gradient,) = torch.autograd.grad(value, leaf, times, create_graph=True)
        # Problems do not touch each other, so their sum tells them apart.
        columns = [
            torch.autograd.grad(entry.sum(), times, retain_graph=True, materialize_grads=True)[0]
            for entry in gradient.unbind(-1)
        ]
    return torch.stack(columns)
