"""The pixels of a fit: clean data, without holes, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.numerics.params import Params
from torusimaging_torch.numerics.shapes import broadcast_shapes

__all__ = [
    "Index",
    "Pixels",
    "is_grid",
    "same_shape",
    "selection_terms",
    "too_many_parameters",
    "usable_pixels",
]

Index = Tensor | tuple[Tensor, ...]
"""Which problems of a batch: their numbers, or one such index for each batch dimension."""

_FAR_TOO_MANY = 10


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
        tensors = same_shape({k: data[k] for k in names}, n_batch)
        shape = data["pos"].shape if n_batch else broadcast_shapes(*(data[k].shape for k in names))
        terms = selection_terms(data.get("selection_terms"), shape, n_batch)
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

    Raises
    ------
    ValueError
        If shapes do not match.
    """
    names = ("pos", "vel", *likelihood.observed, "weight", "exposure")
    _require_one_shape({k: data[k] for k in names if data.get(k) is not None})
    usable = data["pos"].isfinite() & data["vel"].isfinite()
    usable = usable & likelihood.usable(*(data[k] for k in likelihood.observed))
    for name in ("weight", "exposure"):
        known = data.get(name)
        usable = usable if known is None else usable & (known > 0) & known.isfinite()
    return usable


def selection_terms(terms: Tensor | None, shape: torch.Size, n_batch: int) -> Tensor | None:
    """Return linear terms with shape (*B, J, N), given the shape of the pixels.

    Raises
    ------
    ValueError
        If they have another shape than the pixels.
    """
    if terms is None:
        return None
    n_batch = min(n_batch, max(len(shape) - 1, 0))  # those that share their pixels have none
    expected = (*shape[:n_batch], terms.shape[n_batch], *shape[n_batch:])
    same = terms.ndim == len(expected)
    if not (same and all(a in (1, b) for a, b in zip(terms.shape, expected, strict=True))):
        raise ValueError(
            f"selection_terms must have a dimension of their own before those of the pixels, "
            f"expected {tuple(expected)}, got {tuple(terms.shape)}"
        )
    return terms.expand(expected).flatten(n_batch + 1)


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


def same_shape(tensors: dict[str, Tensor], n_batch: int) -> dict[str, Tensor]:
    """Broadcast to one shape; without a batch, flatten.

    Raises
    ------
    ValueError
        If shapes do not match.
    """
    _require_one_shape(tensors)
    same = torch.broadcast_tensors(*tensors.values())
    if n_batch == 0:
        same = tuple(t.reshape(-1) for t in same)
    return dict(zip(tensors, same, strict=True))


def _require_one_shape(tensors: Mapping[str, Tensor]) -> None:
    try:
        broadcast_shapes(*(tensor.shape for tensor in tensors.values()))
    except ValueError:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"data must have the same shape, got {shapes}") from None


def too_many_parameters(n_params: int, n_pixels: int) -> tuple[str, bool]:
    """Return what to say of more parameters than pixels, and whether to refuse such a fit.

    Ten times as many need the square of that in memory, and mean nothing.

    Examples
    --------
    >>> too_many_parameters(12, 144)
    ('', False)
    >>> too_many_parameters(60, 5)
    ('60 parameters for 5 pixels: use fewer knots, or smaller pixels', True)
    """
    if n_params <= n_pixels:
        return "", False
    text = f"{n_params} parameters for {n_pixels} pixels: use fewer knots, or smaller pixels"
    return text, n_params > _FAR_TOO_MANY * n_pixels
