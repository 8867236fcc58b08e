"""Folds of binned data for cross-validation: what to fit, and what to judge the fit by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem
from numpy.random import Generator, SeedSequence
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.inference.pixels import Pixels, usable_pixels
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.numerics.ranges import one_of
from torusimaging_torch.tensors import data_to_tensors
from torusimaging_torch.units import Binned, BinnedData

__all__ = ["Fold", "FoldKind", "check_folds", "make_folds"]

FoldKind = Literal["pixels", "blocks", "thinning"]

# Tiles along either axis of the plane of position and velocity.
_TILES = 8
# What tells of a pixel's stars.
_OBSERVED = ("label", "counts")


@dataclass(frozen=True)
class Fold:
    """One part of the data held out.

    Attributes
    ----------
    train
        Binned data to fit, on the same grid: pixels that are held out are blank.
    test
        The pixels held out, with shape (N,).
    index
        Which of the data's pixels these are, counted along the flattened grid, with shape (N,).
    shift
        To be added to the label that the fit predicts, where the held-out stars are fewer than
        those fitted.
    """

    train: Binned
    test: Pixels
    index: Array
    shift: float = 0.0


def make_folds(
    data: BinnedData,
    objective: str,
    n_folds: int,
    kind: FoldKind,
    seed: SeedSequence,
    units: UnitSystem,
    whole_grid: bool = False,
) -> list[Fold]:
    r"""Hold out each part of the data once.

    Parameters
    ----------
    data
        Binned data, as in `torusimaging_torch.batch.fit_many`.
    objective
        "gaussian" or "poisson".
    n_folds
        Number of parts.
    kind
        "pixels": every usable pixel is put into one of the parts at random, all of the same size.
        The noise of pixels is independent, so this judges the interpolation between them. "blocks":
        the same with tiles, an eighth of the range of position by an eighth of that of velocity:
        what is held out must be extrapolated to from beyond a tile's edge. This is for data with
        structure that no model of orbits has, such as a phase spiral, which neighbouring pixels
        share. "thinning": the stars of each pixel are dealt out at random, for star counts.
        With Poisson counts the parts are independent (the coloring theorem), and each is
        compared with the fit to the others at a rate of :math:`1/(K - 1)`.
    seed
        The same seed gives the same parts.
    units
        Unit system of the held-out pixels.
    whole_grid
        Whether all pixels are dealt out, usable or not: data sets on one grid are then dealt out
        alike, in parts that are nearly of the same size.

    Raises
    ------
    ValueError
        If an argument makes no sense, or there are fewer usable pixels than parts.
    """
    likelihood = make_likelihood(objective)
    if kind == "thinning" and likelihood.observed != ("counts",):
        raise ValueError(
            f"folds='thinning' deals out stars: it needs objective='poisson', got {objective!r}"
        )
    tensors, shape = _read(data, likelihood, units)
    index = usable_pixels(likelihood, tensors).nonzero().squeeze(-1).numpy()
    if len(index) < n_folds:
        raise ValueError(
            f"n_folds = {n_folds} parts need as many usable pixels, got {len(index)}: use fewer "
            "folds, or leave these data out"
        )
    rng = np.random.default_rng(seed)
    if kind == "thinning":
        parts = _deal(tensors["counts"].numpy(), index, n_folds, rng)
        return [_thinned(data, likelihood, tensors, part, index, shape, n_folds) for part in parts]
    dealt = np.arange(len(tensors["pos"])) if whole_grid else index
    pos, vel = (tensors[name].numpy()[dealt] for name in ("pos", "vel"))
    part_of = _assign(pos, vel, n_folds, kind, rng)
    part_of = part_of[index] if whole_grid else part_of
    held = [index[part_of == k] for k in range(n_folds)]
    return [
        Fold(_blank(data, where, shape), _pixels(likelihood, tensors, where), where)
        for where in held
    ]


def _read(
    data: BinnedData, likelihood: Likelihood, units: UnitSystem
) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    """Return what a likelihood needs as tensors (N,) on the host, and the shape of the grid.

    The terms of a selection function have the shape (J, N).
    """
    tensors = data_to_tensors(data, likelihood.observed, units, device="cpu")
    terms = tensors.pop("selection_terms", None)
    try:
        same = torch.broadcast_tensors(*tensors.values())
    except RuntimeError:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"data must have the same shape, got {shapes}") from None
    flat = {name: x.reshape(-1) for name, x in zip(tensors, same, strict=True)}
    if terms is not None:
        flat["selection_terms"] = terms.flatten(1)
    return flat, tuple(same[0].shape)


def _pixels(likelihood: Likelihood, tensors: Mapping[str, torch.Tensor], where: Array) -> Pixels:
    return Pixels.clean(likelihood, {name: x[..., where] for name, x in tensors.items()})


def _thinned(
    data: BinnedData,
    likelihood: Likelihood,
    tensors: Mapping[str, torch.Tensor],
    part: Array,
    index: Array,
    shape: tuple[int, ...],
    n_folds: int,
) -> Fold:
    """Hold out some stars of each pixel."""
    rest = (tensors["counts"].numpy() - part).reshape(shape)
    held = _pixels(likelihood, {**tensors, "counts": torch.from_numpy(part)}, index)
    train = {**data, "counts": _alike(rest, data["counts"])}
    return Fold(train, held, index, -float(np.log(n_folds - 1)))


def _assign(pos: Array, vel: Array, n_folds: int, kind: str, rng: Generator) -> Array:
    """Return the part, in [0, n_folds), that each pixel is in."""
    if kind == "pixels":
        return rng.permutation(np.arange(len(pos)) % n_folds)
    tile = _tile(pos) * _TILES + _tile(vel)
    found, which = np.unique(tile, return_inverse=True)
    if len(found) < n_folds:
        raise ValueError(
            f"n_folds = {n_folds} parts need as many tiles with data, got {len(found)}: use "
            "folds='pixels'"
        )
    return rng.permutation(np.arange(len(found)) % n_folds)[which]


def _tile(x: Array) -> Array:
    span = float(np.ptp(x)) or 1.0
    return np.minimum((_TILES * (x - x.min()) / span).astype(int), _TILES - 1)


def _blank(data: BinnedData, where: Array, shape: tuple[int, ...]) -> Binned:
    """Return data with nan in some pixels.

    Not with weight 0 alone: nothing that looks at the data, such as the low-order fit that places
    the knots, may see them.
    """
    blanked = {}
    for name in _OBSERVED:
        if name in data:
            given = data[name].detach().cpu() if isinstance(data[name], Tensor) else data[name]
            values: Array = np.ma.filled(np.ma.asarray(given, dtype=float), np.nan)
            values = np.broadcast_to(values, shape).copy()
            values.reshape(-1)[where] = np.nan
            blanked[name] = _alike(values, data[name])
    return {**data, **blanked}


def _alike(values: Array, given: object) -> Array | u.Quantity | Tensor:
    """Return values with the unit of what was given, or as a tensor where that is."""
    if isinstance(given, Tensor):
        return torch.from_numpy(values).to(given)
    unit = getattr(given, "unit", None)
    return values if unit is None else u.Quantity(values, unit, subok=True)


def _deal(counts: Array, index: Array, n_folds: int, rng: Generator) -> Array:
    """Return the stars of each part with shape (n_folds, N).

    Raises
    ------
    ValueError
        If there are fractions of stars.
    """
    if (counts[index] % 1 != 0).any():
        raise ValueError(
            "folds='thinning' deals out stars: it needs counts that are whole numbers; use "
            "folds='pixels' for weighted ones"
        )
    parts = np.zeros((n_folds, len(counts)))
    shares = np.full(n_folds, 1 / n_folds)
    parts[:, index] = rng.multinomial(counts[index].astype(np.int64), shares).T
    return parts


def check_folds(n_folds: object, kind: object) -> None:
    """Check the arguments that need no data.

    Raises
    ------
    ValueError
        If one makes no sense.
    """
    if isinstance(n_folds, bool) or not isinstance(n_folds, (int, np.integer)) or n_folds < 2:
        raise ValueError(f"n_folds must be a whole number of at least 2, got {n_folds!r}")
    one_of(kind, "folds", get_args(FoldKind))
