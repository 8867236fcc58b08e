"""The log-posterior of a parameter vector: the one place for signs, weights and 1/N."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torusimaging_torch.evaluation.by_autograd import ByAutograd
from torusimaging_torch.evaluation.choose import choose
from torusimaging_torch.evaluation.evaluation import ClosedForm
from torusimaging_torch.evaluation.seam import evaluate
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.penalty import Penalty
from torusimaging_torch.numerics.params import Layout, Params
from torusimaging_torch.torus.sensitivity import label_jacobian

Index = Tensor | tuple[Tensor, ...]
Module = TypeVar("Module", bound=nn.Module)

__all__ = ["Pixels", "Posterior", "subset_module", "usable_pixels"]


@dataclass(frozen=True)
class Pixels:
    """Data without holes: what cannot be used is gone, or has weight 0 in a batch.

    Attributes
    ----------
    pos, vel
        Position and velocity in model units, with shape (*B, N).
    observed
        What the likelihood compares with, with shape (*B, N) each.
    weight
        Weight of each pixel, with shape (*B, N), or None if all are 1.
    n
        Number of usable pixels, with shape (*B,).
    n_masked
        Number of pixels left out, over the whole batch.
    offset
        What is added to the predicted label, with shape (*B, N): of star counts the log exposure.
    terms
        What is added to it with factors that are parameters, ``selection_params["vals"]``, with
        shape (*B, J, N).
    """

    pos: Tensor
    vel: Tensor
    observed: tuple[Tensor, ...]
    weight: Tensor | None
    n: Tensor
    n_masked: int
    offset: Tensor | None = None
    terms: Tensor | None = None

    @property
    def used(self) -> Tensor:
        """Which pixels count, with shape (*B, N)."""
        every = torch.ones_like(self.pos, dtype=torch.bool)
        return every if self.weight is None else self.weight > 0

    def subset(self, index: Index) -> Pixels:
        """Return the pixels of some problems of a batch (*B, N), in the order of ``index``."""
        if self.n.ndim == 0:
            return self  # All problems share them.
        observed = tuple(x[index] for x in self.observed)
        weight, offset, terms = (
            None if x is None else x[index] for x in (self.weight, self.offset, self.terms)
        )
        pos, vel, n = self.pos[index], self.vel[index], self.n[index]
        return Pixels(pos, vel, observed, weight, n, self.n_masked, offset, terms)

    def to(self, like: Tensor) -> Pixels:
        """Return the same on the device, and of the type, of a tensor."""
        weight, offset, terms = (
            None if x is None else x.to(like) for x in (self.weight, self.offset, self.terms)
        )
        pos, vel, n = self.pos.to(like), self.vel.to(like), self.n.to(like.device)
        observed = tuple(x.to(like) for x in self.observed)
        return Pixels(pos, vel, observed, weight, n, self.n_masked, offset, terms)

    @classmethod
    def clean(cls, likelihood: Likelihood, data: Mapping[str, Tensor], n_batch: int = 0) -> Pixels:
        """Take out the pixels that the likelihood cannot use.

        Parameters
        ----------
        likelihood
            Tells which data it needs and which pixels are usable.
        data
            Tensors "pos", "vel", what the likelihood observes, and if wanted "weight" and
            "exposure", that broadcast against each other; "selection_terms" have one dimension more
            in front of those of the pixels. Without a batch they are flattened, and so is a grid
            of positions and velocities always.
        n_batch
            Number of batch dimensions.

        Raises
        ------
        ValueError
            If shapes do not match or no pixel is left.
        """
        if n_batch and is_grid(data["pos"], data["vel"]):
            shape = data["pos"].shape[-2:]
            data = {k: v.flatten(-2) if v.shape[-2:] == shape else v for k, v in data.items()}
        names = ["pos", "vel", *likelihood.observed]
        names += [name for name in ("weight", "exposure") if data.get(name) is not None]
        shape = data["pos"].shape
        tensors = _same_shape({k: data[k] for k in names}, n_batch)
        terms = _terms(data.get("selection_terms"), shape, n_batch)
        usable = usable_pixels(likelihood, tensors)
        n = usable.sum(-1)
        if n_batch == 0 and int(n) == 0:
            raise ValueError(
                f"no usable pixel among {usable.numel()}: positions, velocities and "
                f"{', '.join(likelihood.observed)} must be finite, and errors positive"
            )
        n_masked = int((~usable).sum())
        if n_masked and n_batch == 0:
            tensors = {k: v[usable] for k, v in tensors.items()}
            terms = None if terms is None else terms[..., usable]
        elif n_masked:
            tensors = _fill(tensors, usable)
            tensors["weight"] = tensors.get("weight", 1.0) * usable.to(tensors["pos"].dtype)
        observed = tuple(tensors[k] for k in likelihood.observed)
        offset = tensors["exposure"].log() if "exposure" in tensors else None
        pos, vel, weight = tensors["pos"], tensors["vel"], tensors.get("weight")
        return cls(pos, vel, observed, weight, n, n_masked, offset, terms)

    def add_to(self, label: Tensor, params: Params) -> Tensor:
        """Add to predicted labels (*B, N) what the pixels add of themselves."""
        if self.offset is not None:
            label = label + self.offset
        if self.terms is not None:
            s = params["selection_params"]["vals"]
            label = label + (s.unsqueeze(-2) @ self.terms).squeeze(-2)
        return label


def is_grid(pos: Tensor, vel: Tensor) -> bool:
    """Return whether positions and velocities are those of a grid, in their last two dimensions.

    The one changes along one of them alone, the other along the other. No problems of a batch are
    like that: each would have all its pixels at one velocity, or at one position.

    Examples
    --------
    >>> vel, pos = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    >>> is_grid(pos, vel), is_grid(pos, 0 * vel), is_grid(pos[0], vel[0])
    (True, False, False)
    """
    if pos.ndim < 2 or pos.shape != vel.shape or min(pos.shape[-2:]) < 2:
        return False

    def changes(x: Tensor, dim: int) -> bool:
        across = -1 if dim == -2 else -2
        same = bool((x.diff(dim=across) == 0).all())
        return same and bool((x.diff(dim=dim) != 0).all())

    return (changes(pos, -1) and changes(vel, -2)) or (changes(pos, -2) and changes(vel, -1))


def usable_pixels(likelihood: Likelihood, data: Mapping[str, Tensor]) -> Tensor:
    """Return which pixels a likelihood can use.

    Parameters
    ----------
    likelihood
        Tells which data it needs.
    data
        As in `Pixels.clean`.
    """
    usable = data["pos"].isfinite() & data["vel"].isfinite()
    usable = usable & likelihood.usable(*(data[k] for k in likelihood.observed))
    for name in ("weight", "exposure"):
        known = data.get(name)
        usable = usable if known is None else usable & (known > 0) & known.isfinite()
    return usable


def _terms(terms: Tensor | None, shape: torch.Size, n_batch: int) -> Tensor | None:
    """Return linear terms with shape (*B, J, N)."""
    if terms is None:
        return None
    n_batch = min(n_batch, max(len(shape) - 1, 0))  # those that share their pixels have none
    expected = (*shape[:n_batch], terms.shape[n_batch], *shape[n_batch:])
    if terms.shape != expected:
        raise ValueError(
            f"selection_terms must have a dimension of their own before those of the pixels, "
            f"expected {tuple(expected)}, got {tuple(terms.shape)}"
        )
    return terms.flatten(n_batch + 1)


def _fill(tensors: Mapping[str, Tensor], usable: Tensor) -> dict[str, Tensor]:
    """Put harmless numbers where data cannot be used.

    Positions and velocities are those of the problem's first usable pixel: far from the data the
    label may overflow. A problem without one gets nan, so that it fails alone.
    """
    filled = {k: torch.where(usable, v, 1.0) for k, v in tensors.items()}
    first, some = usable.int().argmax(-1, keepdim=True), usable.any(-1, keepdim=True)
    for k in ("pos", "vel"):
        stand_in = torch.where(some, tensors[k].gather(-1, first), torch.nan)
        filled[k] = torch.where(usable, tensors[k], stand_in)
    return filled


def _same_shape(tensors: dict[str, Tensor], n_batch: int) -> dict[str, Tensor]:
    """Broadcast to one shape; without a batch, flatten."""
    try:
        same = torch.broadcast_tensors(*tensors.values())
    except RuntimeError:
        shapes = {k: tuple(v.shape) for k, v in tensors.items()}
        raise ValueError(f"data must have the same shape, got {shapes}") from None
    if n_batch == 0:
        same = tuple(t.reshape(-1) for t in same)
    return dict(zip(tensors, same, strict=True))


def _joint_batch(batch: torch.Size, shape: torch.Size) -> torch.Size:
    """Return the batch shape of parameters and pixels together."""
    try:
        return torch.broadcast_shapes(batch, shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"data of a batch of parameters {tuple(batch)} must have the shape (*B, N), or be a "
            f"grid, or (N,) for all alike, got {tuple(shape)}"
        ) from None


class Posterior:
    """ln L - R of a parameter vector, in nats, for each problem of a batch.

    Parameters
    ----------
    model
        A model: its torus predicts labels, its ``regularization_func(model, params)`` is R.
    likelihood
        The likelihood.
    layout
        How parameters are laid out in the vector.
    pixels
        The data.
    evaluation
        Who is to work it out: "torch", "numba", "triton" (formulas), or "autograd"; by default
        the fastest that can.
    batch
        The batch shape *B of the problems, if they share their pixels; else pixels tell.
    """

    def __init__(
        self,
        model: Any,
        likelihood: Likelihood,
        layout: Layout,
        pixels: Pixels,
        evaluation: str | None = None,
        batch: torch.Size | None = None,
    ) -> None:
        self.model = model
        self.likelihood = likelihood
        self.layout = layout
        self.pixels = pixels
        self.wanted = evaluation
        self.batch = _joint_batch(batch or torch.Size(), pixels.pos.shape)
        self._evaluation: ClosedForm | ByAutograd | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None

    @property
    def evaluation(self) -> ClosedForm | ByAutograd:
        """Who works the posterior out."""
        return self._evaluation or self.decide()

    def decide(self) -> ClosedForm | ByAutograd:
        """Find out who works the posterior out: once, at the latest when it is first called.

        Within a transform of `torch.func` that is autograd, so decide before.
        """
        self._evaluation = choose(
            self, self.model, self.likelihood, self.layout, self.pixels, self.batch, self.wanted
        )
        return self._evaluation

    @property
    def evaluated_by(self) -> str:
        """Who works the posterior out, and what is not done by formulas, and why: in words."""
        if self._compiled is not None:
            return "autograd, compiled"
        name, remark = self.evaluation.name, self.evaluation.remark
        return f"{name} ({remark})" if remark else name

    def __call__(self, vector: Tensor) -> Tensor:
        """Return ln L - R at a vector with shape (*B, P), with shape (*B,)."""
        if self._compiled is not None:
            return self._compiled(vector)
        if isinstance(self.evaluation, ClosedForm):
            return evaluate(self.evaluation, vector)
        return self._ln_posterior(vector)

    def _ln_posterior(self, vector: Tensor) -> Tensor:
        params = self.layout.unflatten(vector)
        return self.ln_likelihood(params) - self.model.regularization_func(self.model, params)

    def value_and_gradient(
        self, vector: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln L - R, (*B,), and its gradient, (*B, P).

        Parameters
        ----------
        vector
            Vectors with shape (*B, P).
        rows
            Which problems of a batch with one dimension they belong to, each once, with shape
            (R,); the vectors then have the shape (R, P). No other problem is evaluated.
        """
        return self.evaluation.value_and_gradient(vector, rows)

    @property
    def logarithmic(self) -> Tensor:
        """Which parameters are logarithms of what labels depend on linearly, with shape (P,)."""
        return self.model.torus.logarithmic_in(self.layout).to(self.pixels.pos.device)

    def compile(self) -> None:
        """Compile the evaluation with `torch.compile`; worth it for many evaluations alone."""
        self._compiled = torch.compile(self._ln_posterior)

    def subset(self, index: Index) -> Posterior:
        """Return the posterior of some problems of a batch, in any order, also more than once.

        Parameters
        ----------
        index
            Which problems, with shape (B',), or one such index for each batch dimension.
        """
        model, pixels = _subset_model(self.model, index), self.pixels.subset(index)
        batch = (index[0] if isinstance(index, tuple) else index).shape
        return Posterior(model, self.likelihood, self.layout, pixels, self.wanted, batch)

    def objective(self, vector: Tensor) -> Tensor:
        """Return what upstream minimizes, -(ln L - R)/N, with shape (*B,)."""
        return -self(vector) / self.pixels.n

    def ln_likelihood(self, params: Params) -> Tensor:
        """Return ln L of a parameter dictionary, with shape (*B,)."""
        pixels = self.pixels
        label = pixels.add_to(self.model.torus(pixels.pos, pixels.vel, params), params)
        # Clean pixels need no mask, so the likelihood's own is skipped.
        terms = self.likelihood.terms(label, *pixels.observed)
        return (terms if pixels.weight is None else terms * pixels.weight).sum(-1)

    def label(self, vector: Tensor) -> Tensor:
        """Return the predicted label in each pixel, with shape (*B, N)."""
        params, pixels = self.layout.unflatten(vector), self.pixels
        return pixels.add_to(self.model.torus(pixels.pos, pixels.vel, params), params)

    def penalty(self, vector: Tensor) -> Tensor:
        """Return R, with shape (*B,)."""
        params = self.layout.unflatten(vector)
        value = self.model.regularization_func(self.model, params)
        return value + torch.zeros_like(vector[..., 0])

    def ln_likelihood_at(self, vector: Tensor) -> Tensor:
        """Return ln L of vectors (*B, P), with shape (*B,), as the modules define it."""
        return self.ln_likelihood(self.layout.unflatten(vector))

    def expected_information(self, vector: Tensor) -> Tensor:
        """Return J^T W J of the pixels, with shape (*B, P, P), as the modules define it."""
        pixels, vector = self.pixels, vector.detach()
        label, jacobian = label_jacobian(
            self.model.torus, pixels.pos, pixels.vel, vector, self.layout, pixels.terms
        )
        label = pixels.add_to(label, self.layout.unflatten(vector))
        curvature = self.likelihood.curvature(label, *pixels.observed)
        if pixels.weight is not None:
            curvature = curvature * pixels.weight
        scaled = curvature.sqrt().unsqueeze(-2) * jacobian
        return scaled @ scaled.mT

    def data_information(self, vector: Tensor) -> Tensor:
        """Return the expected (Gauss-Newton) information of the pixels, with shape (*B, P, P).

        It is J^T W J, with J the Jacobian of the labels and W the likelihood's curvature in the
        label: positive semi-definite by construction.
        """
        return self.evaluation.data_information(vector)

    def data_hessian(self, vector: Tensor) -> Tensor:
        """Return the second derivatives of ln L, with shape (*B, P, P)."""
        return -self.evaluation.data_information(vector, exact=True)

    def penalty_hessian(self, vector: Tensor) -> Tensor:
        """Return the second derivatives of R, with shape (*B, P, P)."""
        return self.evaluation.penalty_hessian(vector)

    def hessian(self, vector: Tensor) -> Tensor:
        """Return the second derivatives of ln L - R, with shape (*B, P, P)."""
        return self.data_hessian(vector) - self.penalty_hessian(vector)

    def information(self, vector: Tensor) -> Tensor:
        """Return the expected information of pixels and penalty, with shape (*B, P, P)."""
        return self.data_information(vector) + self.penalty_hessian(vector)


def _subset_model(model: Any, index: Index) -> Any:
    """Return a copy of a model with the knots, and the penalty, of some problems alone."""
    model = subset_module(model, index)
    if isinstance(model.regularization_func, Penalty):
        model.regularization_func = model.regularization_func.subset(index)
    return model


def subset_module(module: Module, index: Index) -> Module:
    """Return a copy of a module whose buffers are those of some problems of a batch alone."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if getattr(part, "n_batch", 0):
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer[index])
    return module
