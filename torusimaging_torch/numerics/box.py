"""The box: a smooth bijection between bounded parameters and the real line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.distributions.transforms import ExpTransform, SigmoidTransform
from torch.nn import functional

__all__ = ["Box"]


class Box(Transform):
    r"""Map the real line onto a box, entry by entry.

    An entry between two bounds is a logistic function of its coordinate,
    :math:`x = a + (b - a)/(1 + e^{-u})`; with one bound it is an exponential away from it, with
    none the coordinate itself; with equal bounds it is held there. As a
    `torch.distributions.Transform` it can be given to Pyro.

    Parameters
    ----------
    lower, upper
        Bounds with shape (*B, P), infinite where there is none.
    names
        Names of the P entries, for error messages.
    validate_args
        Whether to look at the bounds: that waits for the device that they are on.

    Raises
    ------
    ValueError
        If a bound is nan or a lower bound lies above the upper one; the message names the entry.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(
        self,
        lower: Tensor,
        upper: Tensor,
        names: Sequence[str] | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        self.lower, self.upper = torch.broadcast_tensors(lower, upper)
        self.names = list(names) if names is not None else _numbered(self.lower.shape[-1])
        if validate_args:
            self._refuse_empty()
        # Where a bound is missing the other cases' formulas still run: give them harmless numbers.
        self._has_lower, self._has_upper = self.lower.isfinite(), self.upper.isfinite()
        self._fixed = self.lower == self.upper
        self._a = torch.where(self._has_lower, self.lower, 0.0)
        self._b = torch.where(self._has_upper, self.upper, 0.0)
        self._both = self._has_lower & self._has_upper
        width = torch.where(self._both & ~self._fixed, self._b - self._a, 1.0)
        self.width = width
        self._span = torch.where(self._fixed, 0.0, width)
        # 1 with a lower bound alone, -1 with an upper one, 0 otherwise: for exponentials.
        lower, upper = (x.to(width.dtype) for x in (self._has_lower, self._has_upper))
        self._side, self._edge = lower - upper, self._a + self._b

    def of(self, shape: torch.Size, rows: Tensor | None = None) -> Box:
        """Return the box of problems with shape (*B, P), one after the other as (B, P).

        Parameters
        ----------
        shape
            The shape of their points.
        rows
            Which of them, with shape (R,); all by default.
        """
        bounds = [x.expand(shape).reshape(-1, shape[-1]) for x in (self.lower, self.upper)]
        if rows is not None:
            bounds = [x.index_select(0, rows) for x in bounds]
        lower, upper = bounds
        return Box(lower, upper, self.names, validate_args=False)

    def with_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters and dx/du, with shape (*B, P) each; 0 for entries that are held."""
        fraction = u.sigmoid()
        x, slope = self._between(fraction), self._span * fraction * (1 - fraction)
        if self._has_two_sides_everywhere:
            return x, slope
        grown = (self._side * u).exp()
        return torch.where(self._both, x, self._open(u, grown)), torch.where(
            self._both, slope, grown
        )

    @cached_property
    def _has_two_sides_everywhere(self) -> bool:
        return bool(self._both.all())

    def _call(self, u: Tensor) -> Tensor:
        x = self._between(u.sigmoid())
        return torch.where(self._both, x, self._open(u, (self._side * u).exp()))

    def _between(self, fraction: Tensor) -> Tensor:
        return torch.addcmul(self._a, self._span, fraction)

    def _open(self, u: Tensor, grown: Tensor) -> Tensor:
        """Entries with one bound, an exponential away from it, or none."""
        return torch.where(self._side == 0, u, torch.addcmul(self._edge, self._side, grown))

    def _inverse(self, x: Tensor) -> Tensor:
        fraction = ((x - self._a) / self.width).clamp(0, 1)
        sigmoid = SigmoidTransform().inv(torch.where(self._both & ~self._fixed, fraction, 0.5))
        above = ExpTransform().inv(torch.where(self._only(self._has_lower), x - self._a, 1.0))
        below = -ExpTransform().inv(torch.where(self._only(self._has_upper), self._b - x, 1.0))
        return self._choose(sigmoid, above, below, x, torch.zeros_like(x))

    def log_slope(self, u: Tensor) -> Tensor:
        """Return the log of dx/du, with shape (*B, P); 0 for entries that are held."""
        log_slope = self.width.log() + functional.logsigmoid(u) + functional.logsigmoid(-u)
        if not self._has_two_sides_everywhere:
            log_slope = torch.where(self._both, log_slope, self._side * u)
        return torch.where(self._fixed, 0.0, log_slope)

    def bend(self, u: Tensor) -> Tensor:
        """Return the derivative of the log of dx/du, (*B, P); 0 for entries that are held."""
        bend = torch.where(self._both, 1 - 2 * u.sigmoid(), self._side)
        return torch.where(self._fixed, 0.0, bend)

    def jet(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the parameters, dx/du, its log and the derivative of that, all with one look."""
        return *self.with_slope(u), self.log_slope(u), self.bend(u)

    def slope(self, u: Tensor) -> Tensor:
        """Return dx/du, with shape (*B, P); 0 for entries that are held."""
        return torch.where(self._fixed, 0.0, self.log_slope(u).exp())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-Jacobian summed over the entries, with shape (*B,)."""
        return self.log_slope(x).sum(-1)

    def nudge_inside(self, x: Tensor, fraction: float = 1e-2) -> Tensor:
        """Move entries on a bound, or close to one, a little way in.

        Parameters
        ----------
        x
            Points with shape (*B, P).
        fraction
            How far in, as a fraction of the box; with a single bound, of the larger of 1 and the
            bound's size.

        Raises
        ------
        ValueError
            If an entry lies outside its bounds by more than rounding; the message names it.
        """
        slack = 1e-9 * torch.where(self._both, self.width, 1.0)
        outside = (x < self.lower - slack) | (x > self.upper + slack) | x.isnan()
        self._refuse(outside, "lies outside its bounds or is nan: give a start between them", x)
        margin = fraction * torch.where(
            self._both, self.width, torch.maximum(self._a.abs(), self._b.abs()).clamp(min=1.0)
        )
        inner = torch.where(self._has_lower, torch.maximum(x, self.lower + margin), x)
        inner = torch.where(self._has_upper, torch.minimum(inner, self.upper - margin), inner)
        return torch.where(self._fixed, self.lower, inner)

    def _only(self, has_bound: Tensor) -> Tensor:
        return has_bound & ~self._both

    def _choose(
        self, both: Tensor, above: Tensor, below: Tensor, none: Tensor, fixed: Tensor
    ) -> Tensor:
        """Pick each entry's own case."""
        one_sided = torch.where(self._has_lower, above, torch.where(self._has_upper, below, none))
        return torch.where(self._fixed, fixed, torch.where(self._both, both, one_sided))

    def _refuse_empty(self) -> None:
        empty = ~(self.lower <= self.upper) | (self.lower == torch.inf) | (self.upper == -torch.inf)
        self._refuse(empty, "has a lower bound above the upper one, or nan, or nothing between")

    def _refuse(self, bad: Tensor, what: str, x: Tensor | None = None) -> None:
        if not bool(bad.any()):
            return
        i = int(bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[0, 0])
        low, high = (t.reshape(-1, t.shape[-1])[..., i] for t in (self.lower, self.upper))
        got = "" if x is None else f"{x.reshape(-1, x.shape[-1])[..., i].tolist()} "
        raise ValueError(
            f"{self.names[i]} {got}{what} (lower {low.tolist()}, upper {high.tolist()})"
        )


def _numbered(n: int) -> list[str]:
    return [f"entry {i}" for i in range(n)]
