"""Splines at points that never move: there they are linear in their slopes.

The penalty looks at the splines at their own knots, at every step of every fit. To find these
points' intervals again each time would cost it more than half of its time, and on a GPU hundreds of
small kernels.
"""

from __future__ import annotations

from torch import Tensor, nn

from torusimaging_torch.numerics.splines import Spline

__all__ = ["FixedPoints"]


class FixedPoints(nn.Module):
    """What turns the slopes of a spline into its value, slope and curvature at fixed points.

    Parameters
    ----------
    spline
        The spline.
    x
        Points with shape (*B, N).
    """

    maps: Tensor

    def __init__(self, spline: Spline, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("maps", spline.linear_maps(x))

    @property
    def n_batch(self) -> int:
        """Number of batch dimensions of the points and knots."""
        return self.maps.ndim - 3

    def forward(self, extended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, slope and curvature, (*B, N) each, for zero at the first knot.

        Parameters
        ----------
        extended
            Slopes with the last one, with shape (*B, K); see `Spline.extended`.
        """
        rows = (self.maps @ extended[..., None, :, None]).squeeze(-1)
        value, slope, curvature = rows.unbind(-2)
        return value, slope, curvature
