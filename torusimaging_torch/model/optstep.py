"""What `optimize` gives back: parameters, and a state that says how the fit ended."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from torusimaging_torch.inference.fit import Fit
from torusimaging_torch.model.data_sets import are_several
from torusimaging_torch.model.signs import without
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout, Nested

__all__ = ["OptState", "OptStep", "Report", "opt_step", "upstream_options", "warn_failed"]


class OptState(NamedTuple):
    """How an optimization ended; tensors with shape (*B,) where a batch was fitted.

    Attributes
    ----------
    success
        Whether the fit converged.
    fun_val
        The objective -(ln L - R)/N at the end.
    iter_num, num_fun_eval
        Iterations and function evaluations.
    status
        A `~torusimaging_torch.numerics.Status`.
    message
        The status in words, harmonics that vanished, and how many pixels were left out.
    expected_gain
        Nats of ln L - R still to be had.
    at_bound
        Names of the parameters that a bound holds back; in a batch, a list of them per problem.
    num_masked
        Number of pixels left out because they could not be used.
    evaluation
        Who worked ln L - R out, and if not by formulas, why.
    """

    success: bool | Tensor
    fun_val: float | Tensor
    iter_num: int | Tensor
    num_fun_eval: int | Tensor
    status: Status | Tensor
    message: Any
    expected_gain: float | Tensor
    at_bound: Any
    num_masked: int
    evaluation: str = ""


class OptStep(NamedTuple):
    """Result of an optimization: the parameters (nested dictionary of tensors) and its state."""

    params: Nested
    state: OptState


def opt_step(
    result: Fit,
    layout: Layout,
    n_pixels: Tensor,
    n_masked: int,
    evaluation: str,
    off: Mapping[int, Tensor],
) -> OptStep:
    """Return a fit in upstream's shape; a single problem has plain numbers in its state.

    Parameters
    ----------
    result
        The fit of a batch, or of one problem.
    layout
        How its parameters are laid out.
    n_pixels
        Number of usable pixels, with shape (*B,).
    n_masked
        Number of pixels left out.
    evaluation
        Who worked the posterior out.
    off
        By order m whether nothing is left of e_m, with shape (*B,).
    """
    single = result.status.ndim == 0
    masked = f"; {n_masked} pixels without usable data left out" if n_masked else ""
    messages = [
        f"{Status(int(status)).message}{without(off, i)}{masked}"
        for i, status in enumerate(result.status.reshape(-1))
    ]
    held = [
        tuple(name for name, at in zip(layout.names, row, strict=True) if at)
        for row in result.at_bound.reshape(-1, layout.size).tolist()
    ]

    def value(tensor: Tensor) -> Any:
        return tensor.item() if single else tensor

    state = OptState(
        success=value(result.success),
        fun_val=value(-result.log_prob / n_pixels),
        iter_num=value(result.nit),
        num_fun_eval=value(result.nfev),
        status=Status(int(result.status)) if single else result.status,
        message=messages[0] if single else messages,
        expected_gain=value(result.expected_gain),
        at_bound=held[0] if single else held,
        num_masked=n_masked,
        evaluation=evaluation,
    )
    return OptStep(layout.unflatten(result.x), state)


def upstream_options(
    options: Mapping[str, Any] | None, max_iter: int, tol: float
) -> tuple[int, float]:
    """Take over the two options of upstream's optimizer that have a counterpart here.

    Raises
    ------
    ValueError
        If there is another one; the message names what to use instead.
    TypeError
        If they are binned data.
    """
    if options is None:
        return max_iter, tol
    if "pos" in options or are_several(options):
        raise TypeError(
            "jaxopt_kwargs must be options of upstream's optimizer, got binned data: pass "
            "data=binned, or **binned of one data set"
        )
    unknown = sorted(set(options) - {"maxiter", "tol"})
    if unknown:
        raise ValueError(
            f"jaxopt_kwargs {unknown} have no counterpart: the optimizer is L-BFGS in whitened "
            "coordinates; use the arguments max_iter, tol (nats) and history of optimize instead"
        )
    warnings.warn(
        "jaxopt_kwargs is deprecated: use the arguments max_iter and tol (nats) of optimize",
        DeprecationWarning,
        stacklevel=4,
    )
    return options.get("maxiter", max_iter), options.get("tol", tol)


class Report:
    """Print on standard error, in one line, how far fits are, unless nothing has changed."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def __call__(self, result: Fit) -> None:
        """Print how far one fit is, or those of a batch."""
        running = int((result.status == Status.RUNNING).sum())
        now = int(result.nit.sum()), running
        if now == self._last:
            return
        self._last = now
        log_prob = f"ln L - R = {float(result.log_prob.mean()):.3f}"
        gain = f"expected gain {float(result.expected_gain.max()):.1e} nats"
        line = f"{log_prob}, {gain}"
        if result.status.ndim:
            line = f"{running} running, mean {log_prob}, largest {gain}"
        print(f"iteration {int(result.nit.max()):4d}: {line}", file=sys.stderr, flush=True)


def warn_failed(result: Fit) -> None:
    """Warn once, with a count and the reasons, if fits did not converge."""
    failed = int((~result.success).sum())
    if failed:
        codes = sorted({int(code) for code in result.status[~result.success].reshape(-1)})
        reasons = "; ".join(Status(code).message for code in codes)
        warnings.warn(
            f"{failed} of {result.status.numel()} fits did not converge ({reasons}); their state "
            "says which",
            RuntimeWarning,
            stacklevel=4,
        )
