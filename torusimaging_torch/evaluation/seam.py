"""The seam between the formulas and autograd: a function whose derivatives are formulas, too.

The gradient is a second result of the same function. So whoever differentiates it finds the Hessian
behind it, and does not take it for a constant.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Evaluation", "evaluate"]


class Evaluation(Protocol):
    """A function of vectors (*B, P) with its derivatives, each problem's by its own vector."""

    def value(self, vector: Tensor) -> Tensor:
        """Return values with shape (*B,)."""

    def value_and_gradient(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return values with shape (*B,), and gradients with shape (*B, P)."""

    def hessian(self, vector: Tensor) -> Tensor:
        """Return second derivatives with shape (*B, P, P)."""


def evaluate(evaluation: Evaluation, vector: Tensor) -> Tensor:
    """Return the function at vectors (*B, P), differentiable twice by autograd, with shape (*B,).

    Parameters
    ----------
    evaluation
        The function.
    vector
        Where, also more of them than there are problems: (*S, *B, P).
    """
    if torch.is_grad_enabled():
        return _ValueAndGradient.apply(evaluation, vector)[0]
    return _Value.apply(evaluation, vector)


class _Value(torch.autograd.Function):
    """The value alone, where nothing is differentiated."""

    @staticmethod
    def forward(evaluation: Evaluation, vector: Tensor) -> Tensor:
        return evaluation.value(vector)

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[None, int], evaluation: Evaluation, vector: Tensor
    ) -> tuple[Tensor, int]:
        return _Value.apply(evaluation, vector.movedim(in_dims[1], 0)), 0


class _ValueAndGradient(torch.autograd.Function):
    """The value and its gradient."""

    @staticmethod
    def forward(evaluation: Evaluation, vector: Tensor) -> tuple[Tensor, Tensor]:
        return evaluation.value_and_gradient(vector)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Evaluation, Tensor], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.evaluation, vector = inputs
        ctx.save_for_backward(vector, output[1])
        ctx.save_for_forward(vector, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None
    ) -> tuple[None, Tensor | None]:
        vector, gradient = ctx.saved_tensors
        total = None if by_value is None else by_value.unsqueeze(-1) * gradient
        if by_gradient is not None:
            product = _HessianProduct.apply(ctx.evaluation, vector, by_gradient)
            total = product if total is None else total + product
        return None, total

    @staticmethod
    def jvp(ctx: Any, _: None, tangent: Tensor) -> tuple[Tensor, Tensor]:
        vector, gradient = ctx.saved_tensors
        product = _HessianProduct.apply(ctx.evaluation, vector, tangent)
        return (gradient * tangent).sum(-1), product

    @staticmethod
    def vmap(
        info: object, in_dims: tuple[None, int], evaluation: Evaluation, vector: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _ValueAndGradient.apply(evaluation, vector.movedim(in_dims[1], 0)), (0, 0)


class _HessianProduct(torch.autograd.Function):
    """The Hessian times a vector for each problem."""

    @staticmethod
    def forward(evaluation: Evaluation, vector: Tensor, times: Tensor) -> Tensor:
        return (evaluation.hessian(vector) @ times.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Evaluation, Tensor, Tensor], output: object) -> None:
        ctx.evaluation, vector, _ = inputs
        ctx.save_for_backward(vector)

    @staticmethod
    def backward(ctx: Any, by_product: Tensor) -> tuple[None, None, Tensor]:
        if ctx.needs_input_grad[1]:
            raise NotImplementedError(
                "third derivatives of a posterior are not worked out by formulas: "
                'use evaluation="autograd"'
            )
        (vector,) = ctx.saved_tensors
        return None, None, _HessianProduct.apply(ctx.evaluation, vector, by_product)

    @staticmethod
    def vmap(
        info: object,
        in_dims: Any,
        evaluation: Evaluation,
        vector: Tensor,
        times: Tensor,
    ) -> tuple[Tensor, int]:
        _, of_vector, of_times = in_dims
        if of_vector is None:
            # One Hessian serves all that it is multiplied with.
            return _HessianProduct.apply(evaluation, vector, times.movedim(of_times, 0)), 0
        # There may be more of what it is multiplied with already: its own dimension comes after.
        vector, n_dim = vector.movedim(of_vector, 0), times.ndim
        where = n_dim - vector.ndim + (of_times is None)
        times = times.unsqueeze(where) if of_times is None else times.movedim(of_times, where)
        return _HessianProduct.apply(evaluation, vector, times), where
