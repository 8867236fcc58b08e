"""What an evaluation finds where it looks at the curvature, too."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Curvature"]


class Curvature(NamedTuple):
    """ln L - R of vectors (*B, P), its gradient, and the information of pixels and penalty.

    That of the pixels is J^T W J, that of the penalty its second derivatives, (*B, P, P) each.
    """

    value: Tensor
    gradient: Tensor
    data: Tensor
    penalty: Tensor

    @property
    def information(self) -> Tensor:
        """That of both together."""
        return self.data + self.penalty
