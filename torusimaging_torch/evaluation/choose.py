"""Who works out a posterior: formulas where they hold, autograd everywhere else."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from functools import cache

import torch
from torch import Tensor

from torusimaging_torch.evaluation.by_autograd import ByAutograd, Definition
from torusimaging_torch.evaluation.cache_folder import cache_folder
from torusimaging_torch.evaluation.choose_penalty import penalty_form
from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.likelihood import ClosedLikelihood, PixelForm
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.penalties import AutogradPenalty
from torusimaging_torch.evaluation.placed_torus import placed_torus
from torusimaging_torch.evaluation.reasons import PixelData, places_of, why_not
from torusimaging_torch.evaluation.torch_form import TorchForm
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.penalty import PenalizedModel
from torusimaging_torch.likelihoods.poisson import PoissonLikelihood
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.numerics.shapes import broadcast_shapes

__all__ = ["IMPLEMENTATIONS", "choose"]

_log = logging.getLogger(__name__)


IMPLEMENTATIONS = ("torch", "numba", "triton", "autograd")
"""Who can be asked to work a posterior out."""


def choose(
    definition: Definition,
    model: PenalizedModel,
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
    model: PenalizedModel,
    likelihood: Likelihood,
    layout: Layout,
    pixels: PixelData,
    batch: torch.Size,
    wanted: str | None,
) -> ClosedForm:
    parts = placed_torus(model.torus, layout, pixels.terms is not None)
    observations = parts.with_levels(_observations(likelihood, pixels))
    name, form = _pixel_form(parts.formulas, observations, wanted)
    batch = broadcast_shapes(batch, *(f.spline.knots.shape[:-1] for f in parts.functions))
    penalty = penalty_form(model.regularization_func, model, parts, places_of(layout))
    remark = "" if penalty else "the penalty by autograd"
    likelihood_form = ClosedLikelihood(form, parts.coefficients, parts.formulas.tables, parts.frame)
    found = penalty or AutogradPenalty(definition.penalty, batch)
    whole = ClosedForm(name, parts.coefficients, likelihood_form, found, batch, remark)
    if name != "numba":
        return whole
    from torusimaging_torch.evaluation.numba_form import CompiledForm

    return CompiledForm.of(whole)


def _pixel_form(
    formulas: Formulas, observations: Observations, wanted: str | None
) -> tuple[str, PixelForm]:
    """Return the implementation that is wanted, or the fastest, and its name."""
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
            'evaluation="triton" needs Triton 3.5, which comes with PyTorch for CUDA, and data in '
            f"double precision on a CUDA device, got {observations.pos.dtype} on "
            f"{observations.pos.device}: leave the argument out"
        )
    on_gpu = observations.pos.device.type == "cuda"
    if wanted == "triton" or (wanted is None and has_triton and on_gpu):
        from torusimaging_torch.evaluation.triton_form import TritonForm

        return "triton", TritonForm(formulas, observations)
    if wanted == "torch" or not (on_cpu and has_numba):
        return "torch", TorchForm(formulas, observations)
    if wanted is None and cache_folder() is None:
        warnings.warn(
            "Numba is installed, but compiled loops can be kept nowhere, and PyTorch takes some "
            "times longer: set NUMBA_CACHE_DIR to a folder that can be written to, or pass "
            'evaluation="numba" to compile them anew in this process, which takes half a minute',
            RuntimeWarning,
            stacklevel=2,
        )
        return "torch", TorchForm(formulas, observations)
    from torusimaging_torch.evaluation.numba_form import NumbaForm

    return "numba", NumbaForm.of(formulas, observations)


def _has_triton(x: Tensor) -> bool:
    """Whether Triton's kernels, or its interpreter, can work on a tensor."""
    there = x.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return there and x.dtype == torch.float64 and _compiles_kernels()


@cache
def _compiles_kernels() -> bool:
    """Whether there is a Triton whose matrix products know doubles; PyTorch 2.9 came with one."""
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 5)


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
