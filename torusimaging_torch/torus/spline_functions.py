"""The label and the distortions as splines: what their parameters mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torusimaging_torch.numerics.params import column
from torusimaging_torch.numerics.splines import Spline, make_spline
from torusimaging_torch.torus.radial_function import Derivatives, RadialFunction

__all__ = ["LinearEFunction", "PointMaps", "SplineEFunction", "SplineLabelFunction"]


class PointMaps(nn.Module):
    """What turns the slopes of a spline into its value, slope and curvature at fixed points.

    Points that never move have their intervals found once: there a spline is linear in its slopes.

    Parameters
    ----------
    spline
        The spline.
    x
        Points with shape (*B, N).
    """

    maps: Tensor
    """Matrices with shape (*B, 3, N, K), for K extended slopes; see `Spline.linear_maps`."""

    def __init__(self, spline: Spline, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("maps", spline.linear_maps(x))

    @property
    def n_batch(self) -> int:
        """Number of batch dimensions of the points and knots."""
        return self.maps.ndim - 3

    def forward(self, extended: Tensor) -> Derivatives:
        """Return value, slope and curvature, (*B, N) each, for zero at the first knot.

        Parameters
        ----------
        extended
            Slopes with the last one, with shape (*B, K); see `Spline.extended`.
        """
        rows = (self.maps @ extended[..., None, :, None]).squeeze(-1)
        value, slope, curvature = rows.unbind(-2)
        return value, slope, curvature


class SplineFunction(RadialFunction):
    """What the label and the distortions share as splines."""

    linear = True

    def __init__(self, spline: Spline) -> None:
        super().__init__()
        self.spline = spline

    @property
    def knots(self) -> Tensor:
        """The spline's knots, with shape (*B, K)."""
        return self.spline.knots

    @property
    def degree(self) -> int:  # type: ignore[override]
        """Degree of the spline's pieces."""
        return self.spline.degree

    @property
    def kind(self) -> str:
        """The spline's kind, "quadratic" or "cubic"."""
        return type(self.spline).__name__.removesuffix("Spline").lower()

    def __repr__(self) -> str:
        """Show the kind and the knots."""
        first, last = (float(self.knots[..., i].max()) for i in (0, -1))
        knots = f"{self.knots.shape[-1]} knots from {first:.4g} to {last:.4g}"
        parts = [self.kind, knots, self.extra_repr()]
        return f"{type(self).__name__}({', '.join(filter(None, parts))})"

    def fix(self, x: Tensor) -> PointMaps:
        """Return what gives the spline at points (*B, N) that never move."""
        return PointMaps(self.spline, x)


class SplineEFunction(SplineFunction):
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

    linear = True
    logarithmic = ("vals",)
    degree = SplineFunction.degree
    sign: Tensor

    def __init__(self, knots: Tensor, sign: float, kind: str = "cubic") -> None:
        super().__init__(make_spline(kind, knots, positive=True))
        self.register_buffer("sign", torch.as_tensor(sign, dtype=self.spline.knots.dtype))

    def forward(self, r_e: Tensor, vals: Tensor) -> Tensor:  # type: ignore[override]
        """Return :math:`e_m` at ``r_e`` (*B, N), from the log slopes ``vals`` (*B, K-1)."""
        slopes = self.slopes(vals)
        return self.spline(r_e, torch.zeros_like(slopes[..., 0]), slopes)

    def extra_repr(self) -> str:
        """Show the sign of the slope."""
        return f"sign {float(self.sign):+g}"

    def slopes(self, vals: Tensor) -> Tensor:
        """Return the slopes of the spline, (*B, K-1), from their logs."""
        return self.sign * vals.exp()

    def basis(self, x: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, with shape (*B, N, C)."""
        return self.spline.basis(x)

    def coefficients(self, vals: Tensor) -> Tensor:  # type: ignore[override]
        """Return the coefficients, with shape (*B, C), in which the function is linear."""
        return self.spline.coefficients(self.slopes(vals))

    def derivatives(self, r_e: Tensor, vals: Tensor) -> Derivatives:  # type: ignore[override]
        """Return :math:`e_m` and its first two derivatives with respect to ``r_e``."""
        slopes = self.slopes(vals)
        return self.spline.derivatives(r_e, torch.zeros_like(slopes[..., 0]), slopes)

    def at(self, points: PointMaps, vals: Tensor) -> Derivatives:  # type: ignore[override]
        """Return the same as `derivatives`, at points of `fix`."""
        return points(self.spline.extended(self.slopes(vals)))


class LinearEFunction(SplineFunction):
    r"""A Fourier coefficient :math:`e_m(r_e)`, zero at the first knot, with slopes of either sign.

    It is a correction: nothing says which way it goes.

    Parameters
    ----------
    knots
        Knot positions in :math:`r_e` with shape (*B, K).
    kind
        "cubic" or "quadratic".
    """

    linear = True
    degree = SplineFunction.degree

    def __init__(self, knots: Tensor, kind: str = "cubic") -> None:
        super().__init__(make_spline(kind, knots))

    def forward(self, r_e: Tensor, vals: Tensor) -> Tensor:  # type: ignore[override]
        """Return :math:`e_m` at ``r_e`` (*B, N), from the slopes ``vals`` (*B, K-1)."""
        return self.spline(r_e, torch.zeros_like(vals[..., 0]), vals)

    def basis(self, x: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, with shape (*B, N, C)."""
        return self.spline.basis(x)

    def coefficients(self, vals: Tensor) -> Tensor:  # type: ignore[override]
        """Return the coefficients, with shape (*B, C), in which the function is linear."""
        return self.spline.coefficients(vals)

    def derivatives(self, r_e: Tensor, vals: Tensor) -> Derivatives:  # type: ignore[override]
        """Return :math:`e_m` and its first two derivatives with respect to ``r_e``."""
        return self.spline.derivatives(r_e, torch.zeros_like(vals[..., 0]), vals)

    def at(self, points: PointMaps, vals: Tensor) -> Derivatives:  # type: ignore[override]
        """Return the same as `derivatives`, at points of `fix`."""
        return points(self.spline.extended(vals))


class SplineLabelFunction(SplineFunction):
    """The label as a function of the distorted radius: a value and slopes of any sign.

    Parameters
    ----------
    knots
        Knot positions in r with shape (*B, K).
    kind
        "quadratic" or "cubic".
    """

    linear = True
    degree = SplineFunction.degree

    def __init__(self, knots: Tensor, kind: str = "quadratic") -> None:
        super().__init__(make_spline(kind, knots))

    def forward(self, r: Tensor, label_vals: Tensor) -> Tensor:  # type: ignore[override]
        """Return the label at ``r`` (*B, N); ``label_vals`` (*B, K) are value, then slopes."""
        return self.spline(r, label_vals[..., 0], label_vals[..., 1:])

    def basis(self, x: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, with shape (*B, N, C)."""
        basis = self.spline.basis(x)
        return torch.cat([torch.ones_like(basis[..., :1]), basis], dim=-1)

    def coefficients(self, label_vals: Tensor) -> Tensor:  # type: ignore[override]
        """Return the coefficients, with shape (*B, C), in which the function is linear."""
        return torch.cat(
            [label_vals[..., :1], self.spline.coefficients(label_vals[..., 1:])], dim=-1
        )

    def derivatives(self, r: Tensor, label_vals: Tensor) -> Derivatives:  # type: ignore[override]
        """Return the label and its first two derivatives with respect to ``r``."""
        return self.spline.derivatives(r, label_vals[..., 0], label_vals[..., 1:])

    def at(self, points: PointMaps, label_vals: Tensor) -> Derivatives:  # type: ignore[override]
        """Return the same as `derivatives`, at points of `fix`."""
        value, slope, curvature = points(self.spline.extended(label_vals[..., 1:]))
        return column(label_vals[..., 0]) + value, slope, curvature
