"""Shapes that broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["broadcast_shapes"]


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """Return the shape that tensors of these shapes broadcast to.

    `torch.broadcast_shapes` does the same, but loads SymPy when it is first called: half a second
    of every process that fits anything.

    Raises
    ------
    ValueError
        If they do not broadcast.

    Examples
    --------
    >>> broadcast_shapes((5, 1), (3,), ())
    torch.Size([5, 3])
    """
    found = [1] * max([0, *map(len, shapes)])
    for shape in shapes:
        for i, size in enumerate(reversed(shape), 1):
            if size != 1 and found[-i] != 1 and size != found[-i]:
                listed = ", ".join(str(tuple(one)) for one in shapes)
                raise ValueError(f"shapes must broadcast, got {listed}")
            found[-i] = found[-i] if size == 1 else size
    return torch.Size(found)
