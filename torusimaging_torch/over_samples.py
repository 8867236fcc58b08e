"""Orbits over samples of parameters: the samples put together, one at a time, and summed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
import torch
from numpy.typing import NDArray

from torusimaging_torch.params import Params, batch_shape, map_leaves

__all__ = ["problems_of", "quantiles", "stack_samples", "summarize_orbits"]

Array = NDArray[Any]


def stack_samples(params: Params | Sequence[Params]) -> Params:
    """Return samples as one dictionary whose leaves have a leading dimension."""
    if isinstance(params, Mapping):
        return params
    samples = list(params)
    if not samples:
        raise ValueError("params must have at least one sample, got an empty list")
    return map_leaves(lambda *leaves: _stack_leaves(leaves), samples[0], *samples[1:])


def _stack_leaves(leaves: Sequence[Any]) -> Any:
    if isinstance(leaves[0], u.Quantity):
        return u.Quantity(leaves)
    if isinstance(leaves[0], torch.Tensor):
        return torch.stack(list(leaves))
    return np.stack(leaves)


def problems_of(p: Params) -> Iterator[Params]:
    """Yield each problem of a batch by itself, in order."""
    shape = batch_shape(p)
    for index in np.ndindex(*shape):
        yield map_leaves(lambda leaf, i=index: leaf[i] if leaf.ndim >= len(i) else leaf, p)


def quantiles(name: str, values: Array, percentiles: Sequence[float]) -> dict[str, Array]:
    """Return median and percentiles over the first axis; nan where one value is nan."""
    rows = np.percentile(values, [50, *percentiles], axis=0)
    names = [name, *(f"{name}_p{q:g}" for q in percentiles)]
    return dict(zip(names, rows, strict=True))


def summarize_orbits(
    samples: Mapping[str, Array], percentiles: Sequence[float]
) -> dict[str, Array]:
    """Summarize samples (S, N) of each quantity."""
    theta = samples["theta"]
    # Angles are compared with their mean direction, so that 0.1 and 6.2 are neighbours.
    middle = np.angle(np.mean(np.exp(1j * theta), axis=0))
    theta = middle + np.remainder(theta - middle + np.pi, 2 * np.pi) - np.pi
    turns = 2 * np.pi * np.floor(np.median(theta, axis=0) / (2 * np.pi))
    return {
        **quantiles("T", samples["T"], percentiles),
        **quantiles("Omega", 2 * np.pi / samples["T"], percentiles),
        **quantiles("J", samples["J"], percentiles),
        **quantiles("theta", theta - turns, percentiles),
        "valid": np.all(samples["valid"], axis=0),
        "valid_fraction": np.mean(samples["valid"], axis=0),
    }
