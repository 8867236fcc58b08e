"""What a minimization comes to: the minimum of each problem, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

__all__ = ["Minimum", "Status"]


class Status(IntEnum):
    """How a problem ended."""

    RUNNING = 0
    CONVERGED = 1
    MAX_ITER = 2
    MAX_EVAL = 3
    LINE_SEARCH_FAILED = 4
    NON_FINITE = 5

    @property
    def message(self) -> str:
        """The status in words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "still running",
    Status.CONVERGED: "converged: the expected gain is below gain_tol",
    Status.MAX_ITER: "stopped: max_iter iterations were made",
    Status.MAX_EVAL: "stopped: max_eval evaluations were made",
    Status.LINE_SEARCH_FAILED: (
        "stopped: no lower point found along steepest descent (rounding errors dominate, "
        "or the gradient does not belong to the function)"
    ),
    Status.NON_FINITE: "not started: the function or its gradient is not finite at the start",
}


@dataclass(frozen=True)
class Minimum:
    """Where a batch of minimizations ended.

    Attributes
    ----------
    x
        Best point of each problem, with shape (*B, P).
    fun
        Function value there, with shape (*B,). Never above the value at the start.
    grad
        Gradient there, with shape (*B, P).
    status
        `Status` code of each problem, with shape (*B,), int64.
    nit
        Accepted steps of each problem, with shape (*B,), int64.
    nfev
        Evaluations made while the problem was running, with shape (*B,), int64.
    """

    x: Tensor
    fun: Tensor
    grad: Tensor
    status: Tensor
    nit: Tensor
    nfev: Tensor
