"""Who works out a posterior: formulas where they hold, autograd everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.coefficients import Coefficients
from torusimaging_torch.evaluation.ellipse import Ellipse
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.likelihood import ClosedLikelihood
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.penalties import (
    AutogradPenalty,
    NoPenalty,
    PenaltyForm,
)
from torusimaging_torch.evaluation.penalty_maps import default_penalty
from torusimaging_torch.evaluation.tables import (
    RadialFunction,
    coefficients_of,
    radial_functions,
    tables_of,
)
from torusimaging_torch.evaluation.torch_form import TorchForm
from torusimaging_torch.likelihoods.likelihood import (
    GaussianLikelihood,
    Likelihood,
    PoissonLikelihood,
)
from torusimaging_torch.likelihoods.penalty import (
    PenaltyOfMany,
    no_regularization,
    regularization_func_default,
)
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.numerics.splines import CubicSpline, QuadraticSpline
from torusimaging_torch.torus.distortion import FourierDistortion
from torusimaging_torch.torus.elliptical import EllipticalTransform
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

__all__ = ["PixelData", "closed_form", "why_not"]


class PixelData(Protocol):
    """Pixels as a posterior has them, with shape (*B, N)."""

    pos: Tensor
    vel: Tensor
    observed: tuple[Tensor, ...]
    weight: Tensor | None


def why_not(torus: nn.Module, likelihood: Likelihood, layout: Layout, pixels: PixelData) -> str:
    """Return why ln L is not worked out by formulas, in words; nothing if it is."""
    expected: dict[str, tuple[Any, tuple[type, ...]]] = {
        "the likelihood": (likelihood, (GaussianLikelihood, PoissonLikelihood)),
        "the torus": (torus, (OrbitalTorus,)),
    }
    if type(torus) is OrbitalTorus:
        expected["the transform"] = (torus.transform, (EllipticalTransform,))
        expected["the distortion"] = (torus.distortion, (FourierDistortion,))
        expected["label_func"] = (torus.label_func, (SplineLabelFunction,))
        if type(torus.distortion) is FourierDistortion:
            for m, function in torus.distortion.e_funcs.items():
                expected[f"e_funcs[{m}]"] = (function, (SplineEFunction,))
    for what, (module, _) in list(expected.items()):
        if type(module) in (SplineEFunction, SplineLabelFunction):
            expected[f"the spline of {what}"] = (module.spline, (CubicSpline, QuadraticSpline))
    for what, (module, kinds) in expected.items():
        if type(module) not in kinds:
            return f"{what} is a {type(module).__name__}"
        if _has_hooks(module):
            return f"{what} has hooks, or a forward of its own"
    return _other_reason(torus, layout, pixels)


def _other_reason(torus: Any, layout: Layout, pixels: PixelData) -> str:
    tensors = [pixels.pos, pixels.vel, *pixels.observed, *torus.buffers(), *torus.parameters()]
    if pixels.weight is not None:
        tensors.append(pixels.weight)
    if any(x.requires_grad for x in tensors):
        return "data or knots require gradients"
    places = _places(layout)
    wanted: dict[tuple[Any, ...], int | None] = {
        ("pos0",): None,
        ("vel0",): None,
        ("ln_Omega0",): None,
    }
    for m, e in torus.distortion.e_funcs.items():
        wanted[("e_params", m, "vals")] = e.spline.n_slopes
    wanted[("label_params", "label_vals")] = torus.label_func.spline.n_slopes + 1
    if dict(zip(layout.paths, layout.sizes, strict=True)) != wanted:
        return f"the parameters are {sorted(map(str, places))}"
    return ""


def _has_hooks(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(vars(module).get(name) for name in hooks)


def _places(layout: Layout) -> dict[tuple[Any, ...], int]:
    """Return where each leaf begins in the vector."""
    places, start = {}, 0
    for path, size in zip(layout.paths, layout.sizes, strict=True):
        places[path] = start
        start += 1 if size is None else size
    return places


def closed_form(
    model: Any, likelihood: Likelihood, layout: Layout, pixels: PixelData
) -> ClosedForm:
    """Return ln L - R by formulas in torch."""
    torus, places = model.torus, _places(layout)
    functions = radial_functions(torus.distortion.e_funcs, torus.label_func, places, layout.size)
    coefficients = coefficients_of(functions, layout.size)
    tables = tables_of(functions, coefficients.size)
    transform = Ellipse(torus.convention)
    frame = torch.tensor([places[name,] for name in transform.parameters], device=pixels.pos.device)
    formulas = Formulas(transform, torus.distortion.orders, tables)
    form = TorchForm(formulas, _observations(likelihood, pixels))
    batch = torch.broadcast_shapes(
        pixels.pos.shape[:-1], *(f.spline.knots.shape[:-1] for f in functions)
    )
    return ClosedForm(
        "torch",
        ClosedLikelihood(form, coefficients, tables, frame),
        _penalty(model, layout, functions, coefficients, batch),
        batch,
    )


def _observations(likelihood: Likelihood, pixels: PixelData) -> Observations:
    pos = pixels.pos
    shape = (-1, pos.shape[-1])
    weight = torch.ones_like(pos) if pixels.weight is None else pixels.weight
    counts = type(likelihood) is PoissonLikelihood
    constant = torch.zeros_like(pos[..., 0])
    if counts:
        constant = -(weight * torch.lgamma(pixels.observed[0] + 1)).sum(-1)
    else:
        weight = weight * pixels.observed[1] ** -2
    tensors = pos, pixels.vel, pixels.observed[0], weight
    q, v, y, w = (x.reshape(shape).contiguous() for x in tensors)
    return Observations(q, v, y, w, constant.reshape(-1), counts)


def _penalty(
    model: Any,
    layout: Layout,
    functions: list[RadialFunction],
    coefficients: Coefficients,
    batch: torch.Size,
) -> PenaltyForm:
    function = model.regularization_func
    if function is no_regularization:
        return NoPenalty()
    arguments = _default_arguments(model)
    if arguments is None:
        return AutogradPenalty(lambda x: function(model, layout.unflatten(x)), batch)
    orders, ln_Omega0 = model.torus.distortion.orders, _places(layout)["ln_Omega0",]
    return default_penalty(
        functions, orders, model.torus.convention, coefficients, ln_Omega0, arguments
    )


def _default_arguments(model: Any) -> Mapping[str, Any] | None:
    """Return the arguments of the default penalty, if it is that."""
    function = model.regularization_func
    arguments: Mapping[str, Any] | None = None
    if type(function) is PenaltyOfMany:
        arguments = function.arguments
    elif type(function) is partial and function.func is regularization_func_default:
        arguments = None if function.args else function.keywords
    return arguments if getattr(model, "e_spline", None) == "cubic" else None
