"""Functions that the tests of the minimizer share, where it starts, and whether it is done."""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.numerics.minimum import Minimum, Status


def rosenbrock(x: Tensor, height: float | Tensor = 100.0) -> Tensor:
    valley = x[..., 1:] - x[..., :-1] ** 2
    return ((1 - x[..., :-1]) ** 2).sum(-1) + height * (valley**2).sum(-1)


def reversed_gradient(x: Tensor) -> Tensor:
    """Value of |x|^2 with the gradient of -|x|^2: every promised descent climbs."""
    square = (x * x).sum(-1)
    return 2 * square.detach() - square


class LogisticRegression:
    """Penalized logistic regressions on random data, one per batch element."""

    def __init__(self, n_problems: int, n_features: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        spread = torch.logspace(-0.5, 1, n_features, dtype=torch.float64)
        self.features = normal(n_problems, 150, n_features) * spread
        logits = (self.features * normal(n_problems, 1, n_features)).sum(-1) / 5
        self.classes = (logits + normal(n_problems, 150) > 0).double()

    def __call__(self, x: Tensor, rows: slice | int = slice(None)) -> Tensor:
        logits = (self.features[rows] * x[..., None, :]).sum(-1)
        loss = torch.nn.functional.softplus(logits) - self.classes[rows] * logits
        return loss.sum(-1) + 0.05 * (x * x).sum(-1)


def converged(result: Minimum) -> bool:
    gain = (result.grad**2).sum(-1) / 2
    return bool((result.status == Status.CONVERGED).all() and (gain <= 1e-8).all())


def starts(*shape: int, seed: int = 1, scale: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
