"""Model parameters: a nested dictionary of tensors, and the same numbers as one vector.

Parameters travel as a nested dictionary with upstream's keys, for example::

    {
        "pos0": ...,
        "vel0": ...,
        "ln_Omega0": ...,
        "e_params": {2: {"vals": ...}, 4: {"vals": ...}},
        "label_params": {"label_vals": ...},
    }

Optimizers and samplers want one vector per problem. `Layout` goes from one to the other. Leaves are
taken in sorted-key order at every level, so the order of a vector's entries does not depend on the
order in which a dictionary was filled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.numerics.shapes import broadcast_shapes

__all__ = [
    "Key",
    "Layout",
    "Nested",
    "Params",
    "Path",
    "batch_shape",
    "column",
    "function_params",
    "iter_leaves",
    "join",
    "map_leaves",
    "problems_of",
    "to_numpy",
]

Params = Mapping[str, Any]
"""A nested dictionary whose leaves are tensors (or what becomes one)."""

Nested: TypeAlias = dict[str, Any]
"""Parameters, bounds or starts of one's own: a nested dictionary of tensors or arrays."""

Path = tuple[Hashable, ...]
"""The keys that lead to a leaf."""

Key = TypeVar("Key", str, int)
"""What leads from one level of parameters to the next: a name, or further down an order m."""

# The leaves that every model has, each one number per problem: they tell how a batch is shaped.
_SCALARS = ("pos0", "vel0", "ln_Omega0")


def iter_leaves(params: Mapping[Key, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield (path, leaf) for every leaf of a nested dictionary, in the order of its sorted keys."""
    for key in sorted(params, key=lambda key: (type(key).__name__, key)):
        if isinstance(params[key], Mapping):
            yield from iter_leaves(params[key], (*prefix, key))
        else:
            yield (*prefix, key), params[key]


def map_leaves(
    fun: Callable[..., Any], params: Mapping[Key, Any], *others: Mapping[Key, Any]
) -> dict[Key, Any]:
    """Apply ``fun`` to each leaf of ``params`` and the leaves at the same place in ``others``.

    Raises
    ------
    ValueError
        If one of ``others`` lacks a key of ``params`` or has one more.
    """
    for other in others:
        if set(other) != set(params):
            raise ValueError(
                f"parameter dictionaries must have the same keys: expected {sorted(params)}, "
                f"got {sorted(other)}"
            )
    found: dict[Key, Any] = {}
    # Within one comprehension PyTorch 2.11 cannot compile it on Python 3.12.
    for key, value in params.items():
        rest = [other[key] for other in others]
        apply = partial(map_leaves, fun) if isinstance(value, Mapping) else fun
        found[key] = apply(value, *rest)
    return found


def to_numpy(params: Mapping[Key, Any]) -> dict[Key, Any]:
    """Return the same nested dictionary with arrays of NumPy in place of tensors.

    Examples
    --------
    >>> params = {"pos0": torch.tensor(0.02), "e_params": {2: {"vals": torch.tensor([-3.0, -2.5])}}}
    >>> to_numpy(params)
    {'pos0': array(0.02, dtype=float32),
     'e_params': {2: {'vals': array([-3. , -2.5], dtype=float32)}}}
    """
    return map_leaves(
        lambda x: x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x), params
    )


def batch_shape(params: Params) -> torch.Size:
    """Return the batch shape ``*B`` of a dictionary of tensors, ``()`` for one problem.

    Raises
    ------
    ValueError
        If its numbers are of different batches.
    """
    for k in _SCALARS:
        if isinstance(params.get(k), Mapping):
            raise TypeError(f"{k} must be a number, or (*B,) of them, got a dictionary")
    shapes = {k: params[k].shape for k in _SCALARS if k in params}
    try:
        return broadcast_shapes(*shapes.values())
    except ValueError:
        found = {k: tuple(shape) for k, shape in shapes.items()}
        raise ValueError(
            f"params must have one batch shape, got {found}: give each a number, or all (*B,)"
        ) from None


def column(per_problem: Tensor) -> Tensor:
    """Make numbers with shape (*B,) broadcast against points (*B, N); a single one already does."""
    return per_problem if per_problem.ndim == 0 else per_problem.unsqueeze(-1)


def function_params(params: Params, key: str, n_batch: int | None = None) -> dict[Any, Any]:
    """Return the parameters under ``key``, those of a function, ready to broadcast against points.

    In a batch a scalar with shape (*B,) becomes (*B, 1): it meets points with shape (*B, N). The
    number of batch dimensions is read off the other parameters if it is not given.
    """
    n_batch = len(batch_shape(params)) if n_batch is None else n_batch
    # What has no leaf, as without any distortion, a vector cannot tell of.
    own = params.get(key, {})
    if n_batch == 0:
        return dict(own)
    return map_leaves(lambda leaf: leaf.unsqueeze(-1) if leaf.ndim <= n_batch else leaf, own)


def path_name(path: Path) -> str:
    """Return how a path is written in Python: ``e_params[2].vals``."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in path]
    return "".join(parts).lstrip(".")


def join(pieces: list[Tensor]) -> Tensor:
    """Concatenate vectors with shapes (*B, K) that broadcast to a common batch shape."""
    batch = broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
    return torch.cat([piece.expand(*batch, piece.shape[-1]) for piece in pieces], dim=-1)


@dataclass(frozen=True)
class Layout:
    """How a nested dictionary of parameters is laid out in a vector with shape (*B, P).

    Attributes
    ----------
    paths
        The keys that lead to each leaf, in sorted order.
    sizes
        For each leaf its length ``K``, or None for a scalar leaf: a scalar stays a scalar.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int | None, ...]

    @classmethod
    def of(cls, params: Params) -> Layout:
        """Read the layout off an example.

        Parameters
        ----------
        params
            Nested dictionary of tensors: scalars with shape (*B,), vectors with shape (*B, K).
            The shape of pos0, vel0 and ln_Omega0 tells what ``*B`` is.

        Raises
        ------
        ValueError
            If a leaf has more than one dimension beyond the batch.
        """
        n_batch = len(batch_shape(params))
        paths, sizes = [], []
        for path, leaf in iter_leaves(params):
            if leaf.ndim > n_batch + 1:
                raise ValueError(
                    f"{path_name(path)} has shape {tuple(leaf.shape)}: expected at most one "
                    f"dimension beyond the batch shape {tuple(batch_shape(params))}"
                )
            paths.append(path)
            sizes.append(leaf.shape[-1] if leaf.ndim == n_batch + 1 else None)
        return cls(tuple(paths), tuple(sizes))

    @property
    def size(self) -> int:
        """Number of parameters P of one problem."""
        return sum(1 if size is None else size for size in self.sizes)

    @property
    def names(self) -> list[str]:
        """The name of each entry of the vector, such as ``e_params[2].vals[0]``."""
        return [
            path_name(path) + ("" if size is None else f"[{i}]")
            for path, size in zip(self.paths, self.sizes, strict=True)
            for i in range(1 if size is None else size)
        ]

    def flatten(self, params: Params) -> Tensor:
        """Join the leaves of a nested dictionary into one vector with shape (*B, P).

        Raises
        ------
        ValueError
            If the dictionary does not have this layout.
        """
        leaves = dict(iter_leaves(params))
        if set(leaves) != set(self.paths):
            raise ValueError(
                "parameters do not match: expected "
                f"{[path_name(p) for p in self.paths]}, got {[path_name(p) for p in leaves]}"
            )
        pieces = [
            self._as_vector(path, leaves[path], size)
            for path, size in zip(self.paths, self.sizes, strict=True)
        ]
        return join(pieces)

    def fill(self, params: Params, default: float, like: Tensor) -> Tensor:
        """Join a partial dictionary, such as bounds, into one vector, with ``default`` elsewhere.

        A number given for a vector leaf holds for all its entries. ``like`` tells the type and
        device of what is not given.

        Raises
        ------
        ValueError
            If the dictionary has a key that this layout lacks.
        """
        given = dict(iter_leaves(params))
        unknown = [path_name(path) for path in given if path not in self.paths]
        if unknown:
            raise ValueError(
                f"no parameter is called {', '.join(unknown)}: expected some of "
                f"{[path_name(path) for path in self.paths]}"
            )
        pieces = []
        for path, size in zip(self.paths, self.sizes, strict=True):
            leaf = given.get(path, like.new_tensor(default))
            if size is not None and leaf.ndim == 0:
                leaf = leaf.expand(size)
            pieces.append(self._as_vector(path, leaf, size))
        return join(pieces)

    @staticmethod
    def _as_vector(path: Path, leaf: Tensor, size: int | None) -> Tensor:
        if size is None:
            return leaf.unsqueeze(-1)
        if leaf.ndim == 0 or leaf.shape[-1] != size:
            raise ValueError(
                f"{path_name(path)} must have {size} values, got shape {tuple(leaf.shape)}"
            )
        return leaf

    def unflatten(self, vector: Tensor) -> Nested:
        """Split a vector with shape (*B, P) into the dictionary; scalars have shape (*B,)."""
        pieces = vector.split([1 if size is None else size for size in self.sizes], dim=-1)
        params: dict[Any, Any] = {}
        for path, size, piece in zip(self.paths, self.sizes, pieces, strict=True):
            branch = params
            for key in path[:-1]:
                branch = branch.setdefault(key, {})
            branch[path[-1]] = piece.squeeze(-1) if size is None else piece
        return params


def problems_of(p: Params) -> Iterator[Params]:
    """Yield each problem of a batch by itself, in order."""
    shape = batch_shape(p)
    for index in np.ndindex(*shape):
        yield map_leaves(lambda leaf, i=index: leaf[i] if leaf.ndim >= len(i) else leaf, p)
