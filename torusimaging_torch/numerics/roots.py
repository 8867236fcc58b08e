"""Root of an increasing function in a bracket: elementwise, and differentiable.

The root itself is found without a graph, by Newton's method kept inside a shrinking bracket (as in
Press et al. 2007, Numerical Recipes, section 9.4). Its derivatives come from a few more Newton
steps, now with a graph, that start at the root and leave its value alone. One such step gives the
first derivatives of the implicit function theorem, dx = (dt - f_p dp)/f_x; and since each step of
Newton's method doubles the number of correct terms of a power series (Brent & Kung 1978, J. ACM 25,
581), n steps give all derivatives up to order 2^n - 1. Whatever `fun` depends on takes part, be it
handed over as an argument or closed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["increasing_root"]

Function = Callable[..., Tensor]


def increasing_root(
    fun: Function,
    target: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    *,
    args: Sequence[object] = (),
    fprime: Function | None = None,
    order: int = 3,
    max_iter: int = 60,
    xtol: float | None = None,
) -> Tensor:
    """Solve fun(x, *args) = target for lower <= x <= upper, element by element.

    Parameters
    ----------
    fun
        Called as ``fun(x, *args)``; increasing in x between the bounds and elementwise in x: it
        returns a tensor of the shape of x, broadcast with those of its parameters. Finite at both
        bounds, or -inf at the lower and inf at the upper one.
    target
        Values to be reached, a floating-point tensor with any shape (...).
    lower, upper
        Finite bounds of the root, numbers or tensors. They, `target` and the values of `fun`
        broadcast against each other. No gradient flows into them.
    args
        Further arguments of `fun` and `fprime`.
    fprime
        Derivative of `fun` by x, called and shaped like it; by default autograd provides it. For
        derivatives of the root it must itself be differentiable.
    order
        The root has correct derivatives up to this order (at least), by `target` and by every
        tensor that requires a gradient and takes part in `fun`. First derivatives cost one more
        evaluation of `fun` and its slope with a graph, orders 2 and 3 two, 4 to 7 three. Higher
        derivatives than these are wrong without a warning.
    max_iter
        Largest number of iterations.
    xtol
        An element is done when its step is at most xtol |x|; by default a few units in the last
        place.

    Returns
    -------
    Tensor
        Roots, with the broadcast shape. Where fun(lower) > target, fun(upper) < target, or an
        input is nan, there is no root: the element is nan, and gives zero gradient to everything
        (unless the gradient of `fun` itself is not finite in the middle of that bracket).

    Raises
    ------
    TypeError
        If `target` is not a floating-point tensor.
    ValueError
        If `order` is below 1.
    """
    if not isinstance(target, Tensor) or not target.is_floating_point():
        raise TypeError(f"target must be a floating-point tensor, got {target!r}")
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")

    problem = _Problem(fun, fprime, target, tuple(args))
    bracket = _bracket(problem, lower, upper)
    with torch.no_grad():
        root = _newton_in_bracket(problem, bracket, max_iter, xtol)
    if bracket.tracked:
        for _ in range(math.ceil(math.log2(order + 1))):
            root = _differentiable_step(problem, root, bracket.found)
    return torch.where(bracket.found, root, torch.nan)


@dataclass(frozen=True)
class _Problem:
    """The residual fun(x) - target and its slope."""

    fun: Function
    fprime: Function | None
    target: Tensor
    args: tuple[object, ...]

    def residual(self, x: Tensor) -> Tensor:
        return self.fun(x, *self.args) - self.target

    def residual_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both with a graph where gradients are enabled."""
        if self.fprime is not None:
            return self.residual(x), self.fprime(x, *self.args)
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            residual = self.residual(x)
            (slope,) = torch.autograd.grad(residual.sum(), x, create_graph=graph)
        return (residual, slope) if graph else (residual.detach(), slope)


@dataclass(frozen=True)
class _Bracket:
    """Bounds, a point between them to start from, and whether there is a root, all of one shape.

    `tracked` says whether anything in the residual requires a gradient.
    """

    low: Tensor
    high: Tensor
    start: Tensor
    found: Tensor
    tracked: bool


def _bracket(problem: _Problem, lower: Tensor | float, upper: Tensor | float) -> _Bracket:
    target = problem.target
    low, high, _ = torch.broadcast_tensors(_like(lower, target), _like(upper, target), target)
    below = problem.residual(low)
    tracked = below.requires_grad
    with torch.no_grad():
        below, above = below.detach(), problem.residual(high)
    found = (below <= 0) & (above >= 0) & (low <= high) & low.isfinite() & high.isfinite()
    # Where the secant starts nearly from an end the function is far from straight: keep off it.
    secant = (below / (below - above)).nan_to_num(0.5).clamp(0.05, 0.95)
    start = low + secant * (high - low)
    # A root on a bound is common (0 at 0), and slow to be reached within a relative tolerance.
    start = torch.where(below == 0, low, torch.where(above == 0, high, start))
    start = torch.where(found, start, _middle(low, high))
    low, high = low.expand_as(start), high.expand_as(start)
    return _Bracket(low, high, start, found, tracked)


def _like(bound: Tensor | float, target: Tensor) -> Tensor:
    return torch.as_tensor(bound, dtype=target.dtype, device=target.device).detach()


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """Harmless place for an element without a root: finite even where the bounds are not."""
    low = torch.where(low.isfinite(), low, high)
    high = torch.where(high.isfinite(), high, low)
    return (low + (high - low) / 2).nan_to_num(0, 0, 0)


def _newton_in_bracket(
    problem: _Problem, bracket: _Bracket, max_iter: int, xtol: float | None
) -> Tensor:
    """Newton's method, cut at the bracket, and bisection where it does not halve its steps."""
    eps = torch.finfo(problem.target.dtype).eps
    xtol = 4 * eps if xtol is None else xtol
    low, high, x, active = bracket.low, bracket.high, bracket.start, bracket.found
    last = high - low
    for _ in range(max_iter):
        if not active.any():
            break
        residual, slope = problem.residual_and_slope(x)
        low, high = torch.where(residual <= 0, x, low), torch.where(residual >= 0, x, high)
        newton = x - residual / slope
        step = (newton - x).abs()
        halved = step <= last / 2
        exact = residual.abs() <= eps * problem.target.abs()
        # Steps so short would be squared by Newton's method were they not rounding errors.
        noise = ~halved & (last <= math.sqrt(eps) * x.abs())
        done = exact | noise | (step <= xtol * x.abs())
        new = torch.where(halved | done, newton.clamp(low, high), (low + high) / 2)
        new = torch.where(new.isfinite(), new, x)  # 0/0: a stationary point that is the root
        x, last = torch.where(active, new, x), torch.where(active, (new - x).abs(), last)
        active = active & ~done
    return x


def _differentiable_step(problem: _Problem, root: Tensor, found: Tensor) -> Tensor:
    """Newton's step from the root, for its derivatives: its value is left out."""
    residual, slope = problem.residual_and_slope(root)
    residual = torch.where(found, residual, 0)
    # At a stationary point the derivative is infinite: huge instead, so that 0/0 is avoided.
    slope = torch.where(found, slope, 1).clamp(min=torch.finfo(root.dtype).tiny)
    return root - (residual - residual.detach()) / slope
