"""The parameters of one of several data sets among those of all."""

from __future__ import annotations

from torusimaging_torch.numerics.params import Layout, Nested, Params, Path

__all__ = ["BY_NAME", "part_params", "part_rows"]

BY_NAME = ("label_params", "selection_params")
"""The parameters that each data set has of its own, by its name."""


def part_params(params: Params, name: str) -> Nested:
    """Return the parameters of one data set."""
    own = {key: params[key][name] for key in BY_NAME if name in params.get(key, {})}
    return {**{key: value for key, value in params.items() if key not in BY_NAME}, **own}


def part_rows(whole: Layout, own: Layout, name: str) -> list[int]:
    """Return where the parameters of a data set are among those of all.

    Parameters
    ----------
    whole, own
        The layouts of all parameters, and of those of `part_params`.
    name
        The name of the data set.
    """
    starts = _starts(whole)
    rows: list[int] = []
    for path, size in zip(own.paths, own.sizes, strict=True):
        where: Path = (path[0], name, *path[1:]) if path[0] in BY_NAME else path
        rows += range(starts[where], starts[where] + (1 if size is None else size))
    return rows


def _starts(layout: Layout) -> dict[Path, int]:
    """Return where each leaf begins in the vector."""
    starts, at = {}, 0
    for path, size in zip(layout.paths, layout.sizes, strict=True):
        starts[path] = at
        at += 1 if size is None else size
    return starts
