"""The contract of a function of a radius: the label l(r), or one e_m(r_e)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["FixedPoints", "Function", "RadialFunction", "as_function"]

Derivatives = tuple[Tensor, Tensor, Tensor]


class FixedPoints(nn.Module):
    """Points that never move, as a function that knows no better keeps them.

    Parameters
    ----------
    x
        Points with shape (*B, N).
    """

    x: Tensor

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x)

    @property
    def n_batch(self) -> int:
        """Number of batch dimensions of the points."""
        return self.x.ndim - 1


class RadialFunction(nn.Module):
    """What the model asks of its label function and of each e_m.

    A subclass has to write `forward`. All else has a default that is right, and can be overridden
    by something faster. Parameters are keyword arguments: tensors, scalars with shape (*B, 1),
    or () without a batch, and vectors with shape (*B, K). What is fixed belongs into buffers.

    A class that overrides `forward` or `derivatives` promises nothing that it does not say itself:
    ``degree``, ``linear`` and ``logarithmic`` go back to their defaults, rather than be inherited
    from a function that is computed in another way.

    Attributes
    ----------
    degree
        Degree of the polynomials between knots, and beyond them; None if it is no such function.
        Up to 3 the function can be tabulated, which makes many orbits or samples many times faster.
    linear
        Whether the function is `basis` times `coefficients`, which the fit makes use of.
    logarithmic
        Names of parameters that are logarithms of what the function depends on linearly: the fit
        makes them straight.
    without_knots
        What to do where knots are needed, and the function has none.

    Examples
    --------
    >>> class Parabola(RadialFunction):
    ...     def forward(self, x, c):
    ...         return c * x**2
    >>> [float(d) for d in Parabola().derivatives(torch.tensor(3.0), c=torch.tensor(2.0))]
    [18.0, 12.0, 4.0]
    """

    degree: int | None = None
    linear: bool = False
    logarithmic: tuple[str, ...] = ()
    without_knots: str = "use a spline, or give it knots"

    _promises: ClassVar[dict[str, object]] = {"degree": None, "linear": False, "logarithmic": ()}

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Take back the promises of a class whose values are computed in another way now."""
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "forward" in own and "derivatives" not in own:
            cls.derivatives = RadialFunction.derivatives  # type: ignore[method-assign]
        if {"forward", "derivatives"} & set(own):
            for name, default in cls._promises.items():
                if name not in own:
                    setattr(cls, name, default)
            if "at" not in own:
                cls.fix, cls.at = RadialFunction.fix, RadialFunction.at  # type: ignore[method-assign]

    @property
    def knots(self) -> Tensor | None:
        """Where the function changes from one piece to the next, (*B, K); None without pieces."""
        return None

    def forward(self, x: Tensor, **params: Tensor) -> Tensor:
        """Return the function at points with shape (*B, N), elementwise."""
        raise NotImplementedError

    def derivatives(self, x: Tensor, **params: Tensor) -> Derivatives:
        """Return the function and its first two derivatives by ``x``, with shape (*B, N) each."""
        value = self(x, **params)
        x = x.expand_as(value)

        def total(x: Tensor) -> Tensor:
            return self(x, **params).sum()

        def slope(x: Tensor) -> Tensor:
            return torch.func.grad(total)(x)

        return value, slope(x), torch.func.grad(lambda x: slope(x).sum())(x)

    def basis(self, x: Tensor) -> Tensor:
        """Return what the coefficients are multiplied with, (*B, N, C), where it is linear."""
        raise NotImplementedError

    def coefficients(self, **params: Tensor) -> Tensor:
        """Return the coefficients, with shape (*B, C), where the function is linear in them."""
        raise NotImplementedError

    def fix(self, x: Tensor) -> nn.Module:
        """Return a module with all that can be found once about points (*B, N) that never move."""
        return FixedPoints(x)

    def at(self, points: Any, **params: Tensor) -> Derivatives:
        """Return the same as `derivatives`, at points of `fix`."""
        return self.derivatives(points.x, **params)

    @property
    def can_be_tabulated(self) -> bool:
        """Whether the function is cubic at most, between knots that all problems share."""
        cubic = self.degree is not None and self.degree <= 3
        return cubic and self.knots is not None and self.knots.ndim == 1


class Function(RadialFunction):
    """A plain callable f(x, **params) as a module that knows its derivatives.

    Parameters
    ----------
    function
        Elementwise in its first argument and written in torch operations.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, **params: Tensor) -> Tensor:
        """Evaluate the function."""
        return self.function(x, **params)


def as_function(function: Callable[..., Tensor]) -> RadialFunction:
    """Return a radial function, wrapping anything that is not one already.

    Raises
    ------
    TypeError
        If it cannot be called.
    """
    if isinstance(function, RadialFunction):
        return function
    if not callable(function):
        raise TypeError(f"expected a callable f(x, **params), got {type(function).__name__}")
    return Function(function)
