"""Subsamples of any size as one rectangle of pixels, padded with weight 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.inference.posterior import Pixels, usable_pixels
from torusimaging_torch.likelihoods import GaussianLikelihood, Likelihood
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model.low_order import label_data
from torusimaging_torch.units import data_to_tensors

__all__ = ["Subsample", "read_subsample", "stack_pixels"]


@dataclass(frozen=True)
class Subsample:
    """The usable pixels of one subsample, with shape (N,), or why it cannot be fitted.

    Attributes
    ----------
    pixels
        What the objective compares with; None if there is no usable pixel.
    labels
        Pixels with labels, from which knots, bounds and the start are made: the same object, unless
        star counts are fitted.
    problem
        Empty, or why there is nothing to fit.
    """

    pixels: Pixels | None
    labels: Pixels | None
    problem: str = ""


def read_subsample(data: Mapping[str, Any], objective: str, units: UnitSystem) -> Subsample:
    """Read binned data of one subsample.

    Parameters
    ----------
    data
        Dictionary with keys pos, vel, and label and label_err, or counts; any shape.
    objective
        "gaussian" or "poisson".
    units
        Unit system of the result.

    Raises
    ------
    TypeError
        If something is missing or not numeric.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.
    """
    likelihood = make_likelihood(objective)
    pixels = labels = _usable(data, likelihood, units)
    if likelihood.observed != GaussianLikelihood.observed:
        labels = _usable(label_data(data), GaussianLikelihood(), units)
    if pixels is None or labels is None:
        return Subsample(None, None, "no usable pixel")
    return Subsample(pixels, labels, _problem(labels))


def _usable(data: Mapping[str, Any], likelihood: Likelihood, units: UnitSystem) -> Pixels | None:
    tensors = data_to_tensors(data, likelihood.observed, units)
    used = usable_pixels(likelihood, tensors)
    return Pixels.clean(likelihood, tensors) if bool(used.any()) else None


def _problem(pixels: Pixels) -> str:
    """Return why pixels tell nothing about orbits, or nothing if they do."""
    for name, x in (("position", pixels.pos), ("velocity", pixels.vel)):
        if not bool(x.max() > x.min()):
            return f"all {len(x)} usable pixels have the same {name}"
    label = pixels.observed[0]
    if not bool(label.max() > label.min()):
        return f"all {len(label)} usable pixels have the same label: it has no gradient"
    return ""


def stack_pixels(problems: Sequence[Pixels], place: Mapping[str, Any]) -> Pixels:
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
        return torch.stack([_pad(row, width, row[:1]) for row in rows]).to(**place)

    weight = None
    if any(len(p.pos) < width or p.weight is not None for p in problems):
        rows = [torch.ones_like(p.pos) if p.weight is None else p.weight for p in problems]
        weight = torch.stack([_pad(row, width, torch.zeros(1).to(row)) for row in rows])
        weight = weight.to(**place)
    observed = zip(*(problem.observed for problem in problems), strict=True)
    return Pixels(
        join([problem.pos for problem in problems]),
        join([problem.vel for problem in problems]),
        tuple(join(list(rows)) for rows in observed),
        weight,
        torch.stack([problem.n for problem in problems]).to(place["device"]),
        sum(problem.n_masked for problem in problems),
    )


def _pad(row: Tensor, width: int, fill: Tensor) -> Tensor:
    return row if len(row) == width else torch.cat([row, fill.expand(width - len(row))])
