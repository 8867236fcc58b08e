"""Subsamples of any size as one rectangle of pixels, padded with weight 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.inference.crossed import TwoLabels
from torusimaging_torch.inference.pixels import Pixels, usable_pixels
from torusimaging_torch.likelihoods import GaussianLikelihood, Likelihood
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model.correlation import read_covariances, take_apart
from torusimaging_torch.model.joining import selection_of
from torusimaging_torch.model.low_order import label_data, why_no_gradient
from torusimaging_torch.tensors import data_to_tensors
from torusimaging_torch.units import BinnedData, Place

__all__ = ["DataPixels", "Subsample", "read_subsample", "stack_crossed", "stack_pixels"]


@dataclass(frozen=True)
class DataPixels:
    """The usable pixels of one data set of a subsample, with shape (N,).

    Attributes
    ----------
    pixels
        What the objective compares with.
    labels
        Pixels with labels, from which knots, bounds and the start are made: the same object, unless
        star counts are fitted.
    selection
        The number of terms that may be wrong with a selection function, and their strength.
    """

    pixels: Pixels
    labels: Pixels
    selection: tuple[int, float] | None = None


@dataclass(frozen=True)
class Subsample:
    """The data of one subsample, or why it cannot be fitted.

    Attributes
    ----------
    parts
        By the name of the data set, "" if there is one alone; empty if a data set has no usable
        pixel.
    problem
        Empty, or why there is nothing to fit.
    crossed
        Of labels that are not independent, what is between them, by both names; see
        `torusimaging_torch.inference.crossed`.
    """

    parts: Mapping[str, DataPixels]
    problem: str = ""
    crossed: Mapping[tuple[str, str], Pixels] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """The number of usable pixels."""
        return sum(int(part.pixels.n) for part in self.parts.values())

    @property
    def n_masked(self) -> int:
        """The number of pixels that cannot be used."""
        return sum(part.pixels.n_masked for part in self.parts.values())


def read_subsample(data: BinnedData, objectives: Mapping[str, str], units: UnitSystem) -> Subsample:
    """Read binned data of one subsample.

    Parameters
    ----------
    data
        Dictionary with keys pos, vel, and label and label_err, or counts, of any shape; of several
        data sets a dictionary of such by name.
    objectives
        "gaussian" or "poisson", by the name of the data set; "" if there is one alone.
    units
        Unit system of the result.

    Raises
    ------
    TypeError
        If something is missing or not numeric.
    ValueError
        If there are other data sets than objectives.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.
    """
    several = {"": data} if "" in objectives else data
    if set(several) != set(objectives):
        raise ValueError(
            f"expected binned data of {sorted(objectives)} by name, got {sorted(map(str, several))}"
        )
    likelihoods = {name: make_likelihood(kind) for name, kind in objectives.items()}
    tensors = {
        name: data_to_tensors(several[name], likelihood.observed, units)
        for name, likelihood in likelihoods.items()
    }
    covariances = read_covariances(several, torch.zeros((), dtype=torch.float64))
    apart, crossed = take_apart(tensors, covariances)
    parts: dict[str, DataPixels] = {}
    for name, likelihood in likelihoods.items():
        labels = tensors[name]
        if likelihood.observed != GaussianLikelihood.observed:
            plain = label_data(several[name])
            labels = data_to_tensors(plain, GaussianLikelihood.observed, units)
        part = _read_part(apart[name], labels, likelihood, selection_of(several[name]))
        if part is None:
            return Subsample({}, f"no usable pixel{f' of {name}' if name else ''}")
        parts[name] = part
    for name, part in parts.items():
        if problem := why_no_gradient(part.labels):
            return Subsample(parts, f"{name}: {problem}" if name else problem)
    return Subsample(parts, crossed={pair: _crossed(both) for pair, both in crossed.items()})


def _read_part(
    tensors: Mapping[str, Tensor],
    as_labels: Mapping[str, Tensor],
    likelihood: Likelihood,
    selection: tuple[int, float] | None,
) -> DataPixels | None:
    pixels = labels = _usable(tensors, likelihood)
    if as_labels is not tensors:
        labels = _usable(as_labels, GaussianLikelihood())
    if pixels is None or labels is None:
        return None
    return DataPixels(pixels, labels, selection)


def _usable(tensors: Mapping[str, Tensor], likelihood: Likelihood) -> Pixels | None:
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}  # chunks are copied
    some = bool(usable_pixels(likelihood, tensors).any())
    return Pixels.clean(likelihood, tensors) if some else None


def _crossed(both: Mapping[str, Tensor]) -> Pixels:
    """Return the pixels that have two labels."""
    found = _usable(both, TwoLabels())
    return _no_pixel(both["pos"].dtype) if found is None else found


def _no_pixel(dtype: torch.dtype = torch.float64) -> Pixels:
    """Return a pixel with two labels that says nothing."""
    zero = torch.zeros(1, dtype=dtype)
    return Pixels(zero, zero, (zero, zero, zero), None, torch.tensor(0), 0)


def stack_crossed(problems: Sequence[Subsample], place: Place) -> dict[tuple[str, str], Pixels]:
    """Join what is between labels that are not independent, pair by pair; see `stack_pixels`."""
    pairs = dict.fromkeys(pair for problem in problems for pair in problem.crossed)
    return {
        pair: stack_pixels([x.crossed.get(pair, _no_pixel()) for x in problems], place)
        for pair in pairs
    }


def stack_pixels(problems: Sequence[Pixels], place: Place) -> Pixels:
    """Join problems with shape (N,) to a batch with shape (B, N).

    Parameters
    ----------
    problems
        The usable pixels of each.
    place
        Type and device of the batch, as arguments of `torch.Tensor.to`.

    Returns
    -------
    Pixels
        Shorter problems repeat their first pixel with weight 0: a harmless place, where the label
        cannot overflow.
    """
    width = max(len(problem.pos) for problem in problems)

    def join(rows: list[Tensor]) -> Tensor:
        return torch.stack([_pad(row, width, row[..., :1]) for row in rows]).to(**place)

    weight = None
    if any(len(p.pos) < width or p.weight is not None for p in problems):
        rows = [torch.ones_like(p.pos) if p.weight is None else p.weight for p in problems]
        weight = torch.stack([_pad(row, width, torch.zeros(1).to(row)) for row in rows])
        weight = weight.to(**place)
    observed = zip(*(problem.observed for problem in problems), strict=True)
    offset, terms = None, None
    if any(p.offset is not None for p in problems):
        offset = join([_or_zeros(p.offset, p.pos) for p in problems])
    if any(p.terms is not None for p in problems):
        terms = join([p.terms for p in problems if p.terms is not None])
    return Pixels(
        join([problem.pos for problem in problems]),
        join([problem.vel for problem in problems]),
        tuple(join(list(rows)) for rows in observed),
        weight,
        torch.stack([problem.n for problem in problems]).to(place["device"]),
        sum(problem.n_masked for problem in problems),
        offset,
        terms,
    )


def _or_zeros(x: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if x is None else x


def _pad(row: Tensor, width: int, fill: Tensor) -> Tensor:
    """Lengthen the last dimension."""
    missing = width - row.shape[-1]
    return row if missing == 0 else torch.cat([row, fill.expand(*row.shape[:-1], missing)], -1)
