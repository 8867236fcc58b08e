"""Who works out a posterior: formulas where they hold, autograd everywhere else."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from torusimaging_torch.evaluation.by_autograd import ByAutograd, Definition
from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.coefficients import Coefficients
from torusimaging_torch.evaluation.ellipse import Ellipse, Frame
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.levels import Levels
from torusimaging_torch.evaluation.likelihood import ClosedLikelihood, PixelForm
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.penalties import (
    AutogradPenalty,
    NoPenalty,
    PenaltyForm,
    merged,
)
from torusimaging_torch.evaluation.penalty_maps import (
    default_penalty,
    label_penalty,
    normal_penalty,
    potential_penalty,
)
from torusimaging_torch.evaluation.potential import Potential
from torusimaging_torch.evaluation.tables import (
    PlacedSpline,
    Tables,
    coefficients_of,
    placed_splines,
    tables_of,
)
from torusimaging_torch.evaluation.torch_form import TorchForm
from torusimaging_torch.likelihoods.gaussian import GaussianLikelihood
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.penalty import (
    PenaltyOfMany,
    SumOfPenalties,
    no_regularization,
    regularization_func_default,
    regularization_func_label,
)
from torusimaging_torch.likelihoods.poisson import PoissonLikelihood
from torusimaging_torch.likelihoods.potential_penalty import regularization_func_potential
from torusimaging_torch.likelihoods.priors import NormalPenalty
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.numerics.splines import CubicSpline, QuadraticSpline
from torusimaging_torch.torus.distortion import FourierDistortion
from torusimaging_torch.torus.elliptical import EllipticalTransform
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.torus.spline_functions import (
    LinearEFunction,
    SplineEFunction,
    SplineLabelFunction,
)
from torusimaging_torch.torus.transform import Transform

__all__ = ["IMPLEMENTATIONS", "PixelData", "choose", "why_not"]

_log = logging.getLogger(__name__)

_PACKAGE = __name__.partition(".")[0] + "."

IMPLEMENTATIONS = ("torch", "numba", "triton", "autograd")
"""Who can be asked to work a posterior out."""


_FUNCTIONS = (SplineEFunction, LinearEFunction, SplineLabelFunction)


class PixelData(Protocol):
    """Pixels as a posterior has them, with shape (*B, N)."""

    @property
    def pos(self) -> Tensor:
        """Positions."""

    @property
    def vel(self) -> Tensor:
        """Velocities."""

    @property
    def observed(self) -> tuple[Tensor, ...]:
        """What the likelihood observes."""

    @property
    def weight(self) -> Tensor | None:
        """Weights, or None if all are 1."""

    @property
    def offset(self) -> Tensor | None:
        """What is added to the label."""

    @property
    def terms(self) -> Tensor | None:
        """What is added to it times parameters, with shape (*B, J, N)."""


def why_not(torus: nn.Module, likelihood: Likelihood, layout: Layout, pixels: PixelData) -> str:
    """Return why ln L is not worked out by formulas, in words; nothing if it is."""
    expected: dict[str, tuple[Any, tuple[type, ...]]] = {
        "the likelihood": (likelihood, (GaussianLikelihood, PoissonLikelihood)),
        "the torus": (torus, (OrbitalTorus,)),
    }
    if type(torus) is OrbitalTorus:
        expected["the transform"] = (torus.transform, (EllipticalTransform, PotentialEllipse))
        expected["the distortion"] = (torus.distortion, (FourierDistortion,))
        expected["label_func"] = (torus.label_func, (SplineLabelFunction,))
        if type(torus.distortion) is FourierDistortion:
            for m, function in torus.distortion.e_funcs.items():
                expected[f"e_funcs[{m}]"] = (function, _FUNCTIONS[:2])
    for what, (module, _) in list(expected.items()):
        if type(module) in _FUNCTIONS:
            expected[f"the spline of {what}"] = (module.spline, (CubicSpline, QuadraticSpline))
    for what, (module, kinds) in expected.items():
        if type(module) not in kinds:
            return f"{what} is a {type(module).__name__}"
        if _has_hooks(module):
            return f"{what} has hooks, or a forward of its own"
    return _other_reason(torus, layout, pixels)


def _other_reason(torus: Any, layout: Layout, pixels: PixelData) -> str:
    tensors = [pixels.pos, pixels.vel, *pixels.observed, *torus.buffers(), *torus.parameters()]
    tensors += [x for x in (pixels.weight, pixels.offset, pixels.terms) if x is not None]
    if any(x.requires_grad for x in tensors):
        return "data or knots require gradients"
    # What comes out of an operation has no memory of its own within a transform.
    if not all(_has_memory(x) for x in (*tensors, pixels.pos + 0)):
        return "this is inside a transform of torch.func"
    places = _places(layout)
    wanted: dict[tuple[Any, ...], int | None] = {
        (name,): None for name in torus.transform.parameters_of_frame
    }
    if isinstance(torus.transform, PotentialEllipse):
        wanted["ln_rho",] = torus.transform.heights.shape[-1] + 1
    for m, e in torus.distortion.e_funcs.items():
        wanted[("e_params", m, "vals")] = e.spline.n_slopes
    wanted[("label_params", "label_vals")] = torus.label_func.spline.n_slopes + 1
    if pixels.terms is not None:
        wanted["selection_params", "vals"] = pixels.terms.shape[-2]
    if dict(zip(layout.paths, layout.sizes, strict=True)) != wanted:
        return f"the parameters are {sorted(map(str, places))}"
    return ""


def _has_memory(tensor: Tensor) -> bool:
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


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


def choose(
    definition: Definition,
    model: Any,
    likelihood: Likelihood,
    layout: Layout,
    pixels: PixelData,
    batch: torch.Size,
    wanted: str | None = None,
) -> ClosedForm | ByAutograd:
    """Return who works out ln L - R.

    Formulas do where they hold: for spline tori and the likelihoods of this package, as they are,
    not for what was derived from them, and where the parameters alone require gradients.

    Parameters
    ----------
    definition
        ln L and R as modules define them.
    model
        A model: its torus predicts labels, its ``regularization_func(model, params)`` is R.
    likelihood, layout, pixels
        The likelihood, how parameters are laid out, and the data.
    batch
        The batch shape *B of the problems.
    wanted
        One of `IMPLEMENTATIONS`; by default the fastest that can.

    Raises
    ------
    ValueError
        If there is no such implementation, or it cannot do this posterior; the message says why.
    """
    if wanted not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"evaluation must be one of {list(IMPLEMENTATIONS)}, got {wanted!r}")
    if wanted == "autograd":
        return ByAutograd(definition, batch, "asked for")
    reason = why_not(model.torus, likelihood, layout, pixels)
    if reason and wanted is not None:
        raise ValueError(
            f'evaluation="{wanted}" needs a spline torus with plain data, but {reason}: leave the '
            'argument out, or pass "autograd"'
        )
    if reason:
        _log.info("the posterior is worked out by autograd: %s", reason)
        return ByAutograd(definition, batch, reason)
    found = _closed_form(definition, model, likelihood, layout, pixels, batch, wanted)
    _log.debug(
        "the posterior is worked out by %s%s", found.name, found.remark and f", {found.remark}"
    )
    return found


def _closed_form(
    definition: Definition,
    model: Any,
    likelihood: Likelihood,
    layout: Layout,
    pixels: PixelData,
    batch: torch.Size,
    wanted: str | None,
) -> ClosedForm:
    torus, places = model.torus, _places(layout)
    functions = placed_splines(torus.distortion.e_funcs, torus.label_func, places, layout.size)
    coefficients = coefficients_of(functions, layout.size)
    tables = tables_of(functions, coefficients.size)
    transform = _frame(torus.transform)
    own = [_range(layout, (name,)) for name in torus.transform.parameters_of_frame]
    own += [_range(layout, ("selection_params", "vals"))] if pixels.terms is not None else []
    frame = torch.tensor([i for part in own for i in part], device=pixels.pos.device)
    formulas = Formulas(transform, torus.distortion.orders, tables)
    observations = _observations(likelihood, pixels)
    if isinstance(transform, Potential):
        observations = replace(observations, levels=Levels.of_pixels(observations.pos))
    name, form = _pixel_form(formulas, observations, wanted)
    knots = [f.spline.knots for f in functions]
    batch = torch.broadcast_shapes(batch, *(x.shape[:-1] for x in knots))
    penalty = _penalty(model, functions, coefficients, tables, places)
    remark = "" if penalty else "the penalty by autograd"
    likelihood_form = ClosedLikelihood(form, coefficients, tables, frame)
    found = penalty or AutogradPenalty(definition.penalty, batch)
    whole = ClosedForm(name, coefficients, likelihood_form, found, batch, remark)
    if name != "numba":
        return whole
    from torusimaging_torch.evaluation.numba_form import CompiledForm

    return CompiledForm.of(whole)


def _frame(transform: Transform) -> Frame:
    if isinstance(transform, PotentialEllipse):
        return Potential.of(transform)
    return Ellipse(transform.convention)


def _range(layout: Layout, path: tuple[Any, ...]) -> range:
    """Return the places of a leaf in the vector."""
    start, size = _places(layout)[path], layout.sizes[layout.paths.index(path)]
    return range(start, start + (1 if size is None else size))


def _pixel_form(
    formulas: Formulas, observations: Observations, wanted: str | None
) -> tuple[str, PixelForm]:
    """Return the implementation that is wanted, or the fastest, and its name."""
    plain = observations.offset is None and observations.terms is None
    plain = plain and isinstance(formulas.transform, Ellipse)
    if wanted == "triton" and not plain:
        raise ValueError(
            'evaluation="triton" knows ellipses alone, and no selection function: leave the '
            'argument out, or pass "torch", "numba" or "autograd"'
        )
    on_cpu = observations.pos.device.type == "cpu" and observations.pos.dtype == torch.float64
    has_numba = importlib.util.find_spec("numba") is not None
    if wanted == "numba" and not (on_cpu and has_numba):
        raise ValueError(
            'evaluation="numba" needs Numba (pip install "torusimaging-torch[fast]") and data in '
            f"double precision on the CPU, got {observations.pos.dtype} on "
            f"{observations.pos.device}: leave the argument out"
        )
    has_triton = _has_triton(observations.pos)
    if wanted == "triton" and not has_triton:
        raise ValueError(
            'evaluation="triton" needs Triton, which comes with PyTorch for CUDA, and data in '
            f"double precision on a CUDA device, got {observations.pos.dtype} on "
            f"{observations.pos.device}: leave the argument out"
        )
    on_gpu = observations.pos.device.type == "cuda"
    if wanted == "triton" or (wanted is None and has_triton and on_gpu and plain):
        from torusimaging_torch.evaluation.triton_form import TritonForm

        return "triton", TritonForm(formulas, observations)
    if wanted == "torch" or not (on_cpu and has_numba):
        return "torch", TorchForm(formulas, observations)
    from torusimaging_torch.evaluation.numba_form import NumbaForm
    from torusimaging_torch.evaluation.plane_form import PlaneForm

    return "numba", (NumbaForm if plain else PlaneForm).of(formulas, observations)


def _has_triton(x: Tensor) -> bool:
    """Whether Triton's kernels, or its interpreter, can work on a tensor."""
    there = x.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return there and x.dtype == torch.float64 and importlib.util.find_spec("triton") is not None


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
    offset, terms = pixels.offset, pixels.terms
    if offset is not None:
        offset = offset.reshape(shape).contiguous()
    if terms is not None:
        terms = terms.reshape(-1, *terms.shape[-2:]).contiguous()
    return Observations(q, v, y, w, constant.reshape(-1), counts, offset, terms)


def _penalty(
    model: Any,
    functions: list[PlacedSpline],
    coefficients: Coefficients,
    tables: Tables,
    places: Mapping[tuple[Any, ...], int],
) -> PenaltyForm | None:
    """Return the model's penalty by formulas, or None if it is none that they know."""
    function = model.regularization_func
    return _form_of(function, model, functions, coefficients, tables, places)


def _form_of(
    function: Any,
    model: Any,
    functions: list[PlacedSpline],
    coefficients: Coefficients,
    tables: Tables,
    places: Mapping[tuple[Any, ...], int],
) -> PenaltyForm | None:
    rest = (model, functions, coefficients, tables, places)
    if function is no_regularization:
        return NoPenalty()
    if type(function) is SumOfPenalties:
        forms = [_form_of(each, *rest) for each in function.penalties]
        known = [form for form in forms if form is not None]
        return merged(known) if len(known) == len(forms) else None
    if (found := _arguments_of(regularization_func_label, function, coefficients.sign)) is not None:
        return label_penalty(functions, coefficients, found)
    if type(function) is NormalPenalty:
        first = places[function.path]
        last = first + (1 if function.size is None else function.size)
        return normal_penalty(
            coefficients, range(first, last), *_columns(function, coefficients.sign)
        )
    arguments = _arguments_of(regularization_func_potential, function, coefficients.sign)
    if arguments is not None:
        orders = model.torus.distortion.orders
        return potential_penalty(functions, orders, coefficients, places, arguments)
    arguments = _arguments_of(regularization_func_default, function, coefficients.sign)
    # A model may say otherwise what its functions are at their knots.
    ours = getattr(type(model), "at_knots", choose).__module__.startswith(_PACKAGE)
    if arguments is None or not ours:
        return None
    return default_penalty(
        functions,
        model.torus.distortion.orders,
        model.torus.convention,
        coefficients,
        tables,
        places,
        arguments,
    )


def _columns(prior: NormalPenalty, like: Tensor) -> list[Tensor]:
    """Return mean and sigma of a prior, with shape (B or 1, K or 1)."""
    width = 1 if prior.size is None else prior.size
    every = [torch.as_tensor(x, dtype=like.dtype) for x in (prior.mean, prior.sigma)]
    return [(x.reshape(-1, width) if x.ndim else x.reshape(1, 1)).to(like) for x in every]


def _arguments_of(known: Any, function: Any, like: Tensor) -> Mapping[str, Any] | None:
    """Return the arguments of a known penalty, if a function is that, where a tensor is."""
    if type(function) is PenaltyOfMany:
        mine = (function.function or regularization_func_default) is known
        return function.to(like).arguments if mine else None
    if type(function) is partial and function.func is known:
        return None if function.args else function.keywords
    return None
