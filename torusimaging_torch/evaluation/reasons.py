"""Whether ln L is worked out by formulas, and if not, why."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from torusimaging_torch.likelihoods.gaussian import GaussianLikelihood
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.poisson import PoissonLikelihood
from torusimaging_torch.numerics.params import Layout, Path, path_name
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

__all__ = ["PixelData", "places_of", "why_not"]

Sizes: TypeAlias = dict[Path, int | None]
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
    wanted: Sizes = {(name,): None for name in torus.transform.parameters_of_frame}
    if isinstance(torus.transform, PotentialEllipse):
        wanted["ln_rho",] = torus.transform.heights.shape[-1] + 1
    for m, e in torus.distortion.e_funcs.items():
        wanted[("e_params", m, "vals")] = e.spline.n_slopes
    wanted[("label_params", "label_vals")] = torus.label_func.spline.n_slopes + 1
    if pixels.terms is not None:
        wanted["selection_params", "vals"] = pixels.terms.shape[-2]
    return _other_leaves(dict(zip(layout.paths, layout.sizes, strict=True)), wanted)


def _other_leaves(found: Sizes, wanted: Sizes) -> str:
    """Return which parameters are not those of the torus."""
    odd = [
        f"{path_name(path)} is {_in_words(found, path)}, not {_in_words(wanted, path)}"
        for path in dict.fromkeys((*found, *wanted))
        if found.get(path, -1) != wanted.get(path, -1)
    ]
    return "; ".join(odd)


def _in_words(sizes: Sizes, path: Path) -> str:
    if path not in sizes:
        return "absent"
    size = sizes[path]
    return "a number" if size is None else f"{size} numbers"


def _has_memory(tensor: Tensor) -> bool:
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _has_hooks(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(vars(module).get(name) for name in hooks)


def places_of(layout: Layout) -> dict[Path, int]:
    """Return where each leaf begins in the vector."""
    places, start = {}, 0
    for path, size in zip(layout.paths, layout.sizes, strict=True):
        places[path] = start
        start += 1 if size is None else size
    return places
