"""Actions, angles and periods of stars as columns with units, exact, by a table, or of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.model.border import Border, Fronted
from torusimaging_torch.numerics.params import Params, batch_shape, problems_of
from torusimaging_torch.numerics.ranges import one_of
from torusimaging_torch.orbits.actions import ActionAngle, stars_on
from torusimaging_torch.orbits.contours import Contours
from torusimaging_torch.orbits.summary import summarize_orbits
from torusimaging_torch.orbits.table import OrbitTable, can_be_tabulated
from torusimaging_torch.torus.orbital_torus import OrbitalTorus

__all__ = ["METHODS", "choose_method", "exact_chunk", "in_chunks", "sampled", "single"]

METHODS = ("auto", "exact", "table")
"""How orbits may be computed: "exact" traces each star's contour, "table" interpolates."""

Columns = TypeVar("Columns", bound=tuple[Tensor, ...])

Orbits = Callable[[Tensor, Tensor], ActionAngle]
TableOfStars = Callable[[Tensor, Tensor], QTable]

# From this many stars on, tabulating first takes less time than tracing each star's contour.
_WORTH_A_TABLE = 2048
# Stars at once, traced and looked up: on a CPU they stay in its cache, elsewhere they keep it busy.
_EXACT_CHUNK, _TABLE_CHUNK = 512, 16384
_EXACT_CHUNK_THERE, _TABLE_CHUNK_THERE = 4096, 2**20
_MAX_SAMPLED = 2**22  # numbers held at once where there are samples: 32 MiB each of J, T, theta


def choose_method(torus: OrbitalTorus, method: str, n_stars: int) -> str:
    """Return "exact" or "table", whichever "auto" comes to for a number of stars."""
    one_of(method, "method", METHODS)
    if method == "auto":
        worth = n_stars > _WORTH_A_TABLE and can_be_tabulated(torus)
        return "table" if worth else "exact"
    return method


def _orbits(
    torus: OrbitalTorus, p: Params, n_grid: int, method: str, n_stars: int
) -> tuple[Orbits, int]:
    """Return what computes orbits, and for how many stars at once it does so best."""
    method = choose_method(torus, method, n_stars)
    with torch.no_grad():
        if method == "table":
            on_cpu = p["pos0"].device.type == "cpu"
            return OrbitTable.of(torus, p, n_grid), _TABLE_CHUNK if on_cpu else _TABLE_CHUNK_THERE
        return partial(stars_on, Contours.of(torus, p, n_grid)), exact_chunk(p["pos0"])


def exact_chunk(like: Tensor) -> int:
    """Return how many stars are traced at once on the device of a tensor."""
    return _EXACT_CHUNK if like.device.type == "cpu" else _EXACT_CHUNK_THERE


def _table(border: Border, values: Mapping[str, Tensor]) -> QTable:
    every = {**values, "Omega": 2 * math.pi / values["T"]}
    names = ("T", "Omega", "J", "theta", "valid")
    return _with_units(border, {name: every[name].cpu().numpy() for name in names})


def single(model: Fronted, p: Params, n_grid: int, method: str, n_stars: int) -> TableOfStars:
    """Return what computes the orbits of stars, with shape (*B, N), or any if no batch."""
    orbits, chunk = _orbits(model.torus, p, n_grid, method, n_stars)
    flat = (lambda x: x) if batch_shape(p) else torch.flatten

    def compute(pos: Tensor, vel: Tensor) -> QTable:
        result = in_chunks(orbits, chunk, flat(pos), flat(vel))
        return _table(model.border, {k: v.reshape(pos.shape) for k, v in result._asdict().items()})

    return compute


def sampled(
    model: Fronted, p: Params, n_grid: int, method: str, n_stars: int, percentiles: Sequence[float]
) -> TableOfStars:
    """Return what computes medians and percentiles over samples of parameters, stars (N,)."""
    orbits = [_orbits(model.torus, problem, n_grid, method, n_stars) for problem in problems_of(p)]
    size = max(_MAX_SAMPLED // len(orbits), 1)

    def compute(pos: Tensor, vel: Tensor) -> QTable:
        parts: list[dict[str, Array]] = []
        for z, v in zip(pos.split(size), vel.split(size), strict=True):
            results = [in_chunks(o, chunk, z, v) for o, chunk in orbits]
            stacked = {
                name: torch.stack([getattr(r, name) for r in results]).cpu().numpy()
                for name in ActionAngle._fields
            }
            parts.append(summarize_orbits(stacked, percentiles))
        return _with_units(
            model.border,
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        )

    return compute


def _with_units(border: Border, columns: Mapping[str, Array]) -> QTable:
    kinds = {"T": "time", "Omega": "frequency", "J": "action", "theta": "angle"}
    return QTable(
        {
            name: values
            if name.startswith("valid")
            else border.quantity(torch.as_tensor(values), kinds[name.split("_")[0]])
            for name, values in columns.items()
        }
    )


def in_chunks(function: Callable[..., Columns], size: int, *data: Tensor, dim: int = -1) -> Columns:
    """Call a function of stars (*B, N) on a few at a time, without gradients, and join the results.

    ``dim`` is where the stars are in the results, a tuple of tensors.
    """
    if data[0].ndim == 0:
        data = tuple(x.unsqueeze(0) for x in data)
    with torch.no_grad():
        parts = [function(*part) for part in zip(*(x.split(size, -1) for x in data), strict=True)]
    joined = [torch.cat(pieces, dim=dim) for pieces in zip(*parts, strict=True)]
    whole: Any = type(parts[0])(*joined) if hasattr(parts[0], "_fields") else tuple(joined)
    return whole
