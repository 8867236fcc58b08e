"""Binned data of subsamples, read: what can be fitted of each, and why others cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.inference.crossed import TwoLabels
from torusimaging_torch.inference.pixels import same_shape, selection_terms, usable_pixels
from torusimaging_torch.likelihoods import GaussianLikelihood, Likelihood
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.model.correlation import read_covariances, take_apart
from torusimaging_torch.model.joining import selection_of
from torusimaging_torch.model.low_order import label_data, why_no_gradient
from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.tensors import data_to_tensors
from torusimaging_torch.units import BinnedData

__all__ = ["Columns", "DataColumns", "Subsample", "read_subsample"]


@dataclass(frozen=True)
class Columns:
    """The pixels of one data set of a subsample, before a batch copies those that can be used.

    Attributes
    ----------
    observed
        Names of what the likelihood compares with.
    values
        Positions, velocities, what is observed, and where there are some weights and exposures:
        flat arrays of all N pixels by name, which may be the user's own.
    usable
        Which of the pixels can be used, with shape (N,).
    terms
        Those of the selection function, with shape (J, N), if it has any.
    """

    observed: tuple[str, ...]
    values: Mapping[str, Array]
    usable: Array
    terms: Array | None = None

    @cached_property
    def n(self) -> int:
        """The number of usable pixels."""
        return int(self.usable.sum())

    @property
    def n_masked(self) -> int:
        """The number of pixels that cannot be used."""
        return len(self.usable) - self.n

    def of(self, name: str) -> Array:
        """Return the values of usable pixels, with shape (n,)."""
        return self.pick(self.values[name])

    def pick(self, values: Array) -> Array:
        """Return the usable of values (N,) or (J, N), with shape (n,) or (J, n)."""
        if self.n_masked == 0:
            return values
        # An Ellipsis alone makes this six times slower.
        return values[self.usable] if values.ndim == 1 else values[:, self.usable]


@dataclass(frozen=True)
class DataColumns:
    """One data set of a subsample.

    Attributes
    ----------
    pixels
        What the objective compares with.
    labels
        Pixels with labels, from which knots, bounds and the start are made: the same object, unless
        star counts are fitted, or labels that are not independent of others.
    selection
        The number of terms that may be wrong with a selection function, and their strength.
    """

    pixels: Columns
    labels: Columns
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

    parts: Mapping[str, DataColumns]
    problem: str = ""
    crossed: Mapping[tuple[str, str], Columns] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """The number of usable pixels."""
        return sum(part.pixels.n for part in self.parts.values())

    @property
    def n_masked(self) -> int:
        """The number of pixels that cannot be used."""
        return sum(part.pixels.n_masked for part in self.parts.values())


def read_subsample(data: BinnedData, objectives: Mapping[str, str], units: UnitSystem) -> Subsample:
    """Read binned data of one subsample.

    Nothing is copied that need not be: with many subsamples, whatever is touched once more shows.

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
        If there are other data sets than objectives, or shapes do not match.
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
        name: data_to_tensors(several[name], likelihood.observed, units, copy=False)
        for name, likelihood in likelihoods.items()
    }
    covariances = read_covariances(several, torch.zeros((), dtype=torch.float64))
    apart, crossed = take_apart(tensors, covariances)
    parts: dict[str, DataColumns] = {}
    for name, likelihood in likelihoods.items():
        pixels = labels = _columns(apart[name], likelihood)
        if likelihood.observed != GaussianLikelihood.observed:
            labels = _as_labels(several[name], units)
        elif apart[name] is not tensors[name]:
            labels = _columns(tensors[name], likelihood)  # errors of the label by itself
        if not (pixels.n and labels.n):
            return Subsample({}, f"no usable pixel{f' of {name}' if name else ''}")
        parts[name] = DataColumns(pixels, labels, selection_of(several[name]))
    for name, part in parts.items():
        if problem := why_no_gradient(*map(part.labels.of, ("pos", "vel", "label"))):
            return Subsample(parts, f"{name}: {problem}" if name else problem)
    between = {pair: _columns(both, TwoLabels()) for pair, both in crossed.items()}
    return Subsample(parts, crossed=between)


def _as_labels(data: BinnedData, units: UnitSystem) -> Columns:
    """Return the pixels of star counts as those of labels."""
    likelihood = GaussianLikelihood()
    tensors = data_to_tensors(label_data(data), likelihood.observed, units, copy=False)
    return _columns(tensors, likelihood)


def _columns(tensors: Mapping[str, Tensor], likelihood: Likelihood) -> Columns:
    """Return flat columns of what a likelihood needs."""
    tensors = {name: tensor.detach().cpu().resolve_neg() for name, tensor in tensors.items()}
    needed = ("pos", "vel", *likelihood.observed, "weight", "exposure")
    flat = same_shape({name: tensors[name] for name in needed if name in tensors}, 0)
    shape = broadcast_shapes(*(tensors[name].shape for name in flat))
    terms = selection_terms(tensors.get("selection_terms"), shape, 0)
    return Columns(
        likelihood.observed,
        {name: tensor.numpy() for name, tensor in flat.items()},
        usable_pixels(likelihood, flat).numpy(),
        None if terms is None else terms.numpy(),
    )
