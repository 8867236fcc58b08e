"""Orbits over samples of parameters, summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from torusimaging_torch.arrays import Array

__all__ = ["quantiles", "summarize_orbits"]


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
