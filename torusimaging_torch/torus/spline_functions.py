"""The label and the distortions as splines: what their parameters mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.splines import make_spline

__all__ = ["SplineEFunction", "SplineLabelFunction", "n_slopes"]


class SplineEFunction(nn.Module):
    r"""A Fourier coefficient :math:`e_m(r_e)`: zero at the first knot and monotone.

    Parameters
    ----------
    knots
        Knot positions in :math:`r_e` with shape (*B, K).
    sign
        Sign of the slope, 1 or -1.
    kind
        "cubic" or "quadratic".
    """

    logarithmic = ("vals",)
    """Parameters that are logarithms of what the function depends on linearly."""

    sign: Tensor

    def __init__(self, knots: Tensor, sign: float, kind: str = "cubic") -> None:
        super().__init__()
        self.spline = make_spline(kind, knots, positive=True)
        self.register_buffer("sign", torch.as_tensor(sign, dtype=self.spline.knots.dtype))

    def forward(self, r_e: Tensor, vals: Tensor) -> Tensor:
        """Return :math:`e_m` at ``r_e`` (*B, N), from the log slopes ``vals`` (*B, K-1)."""
        slopes = self.slopes(vals)
        return self.spline(r_e, torch.zeros_like(slopes[..., 0]), slopes)

    def slopes(self, vals: Tensor) -> Tensor:
        """Return the slopes of the spline, (*B, K-1), from their logs."""
        return self.sign * vals.exp()

    def basis(self, r_e: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, with shape (*B, N, C)."""
        return self.spline.basis(r_e)

    def coefficients(self, vals: Tensor) -> Tensor:
        """Return the coefficients, with shape (*B, C), in which the function is linear."""
        return self.spline.coefficients(self.slopes(vals))

    def derivatives(self, r_e: Tensor, vals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return :math:`e_m` and its first two derivatives with respect to ``r_e``."""
        slopes = self.slopes(vals)
        return self.spline.derivatives(r_e, torch.zeros_like(slopes[..., 0]), slopes)


class SplineLabelFunction(nn.Module):
    """The label as a function of the distorted radius: a value and slopes of any sign.

    Parameters
    ----------
    knots
        Knot positions in r with shape (*B, K).
    kind
        "quadratic" or "cubic".
    """

    def __init__(self, knots: Tensor, kind: str = "quadratic") -> None:
        super().__init__()
        self.spline = make_spline(kind, knots)

    def forward(self, r: Tensor, label_vals: Tensor) -> Tensor:
        """Return the label at ``r`` (*B, N); ``label_vals`` (*B, K) are value, then slopes."""
        return self.spline(r, label_vals[..., 0], label_vals[..., 1:])

    def basis(self, r: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, with shape (*B, N, C)."""
        basis = self.spline.basis(r)
        return torch.cat([torch.ones_like(basis[..., :1]), basis], dim=-1)

    def coefficients(self, label_vals: Tensor) -> Tensor:
        """Return the coefficients, with shape (*B, C), in which the function is linear."""
        return torch.cat(
            [label_vals[..., :1], self.spline.coefficients(label_vals[..., 1:])], dim=-1
        )

    def derivatives(self, r: Tensor, label_vals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the label and its first two derivatives with respect to ``r``."""
        return self.spline.derivatives(r, label_vals[..., 0], label_vals[..., 1:])


def n_slopes(function: nn.Module) -> int:
    """Return the number of slopes of a function made of a spline."""
    assert isinstance(function, SplineEFunction | SplineLabelFunction)
    return function.spline.n_slopes
