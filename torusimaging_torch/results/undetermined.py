"""What stars do not determine of the frame of orbits: of such a fit no number is a result."""

from __future__ import annotations

import torch

from torusimaging_torch.inference.propagation import propagated, vanished
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.results.batch_result import BatchResult

__all__ = ["FRAME", "OPEN", "lost_of_frame"]

FRAME = ("pos0", "vel0", "ln_Omega0")
"""A slope of a label or of e_m on a bound makes a function flat, not a fit worthless: these do."""
OPEN = 1.0
"""The error of a log frequency from which on it says nothing: densities to a factor of seven."""


def lost_of_frame(result: BatchResult) -> list[str]:
    """Return what the stars of each fit do not determine, in words; nothing if they do.

    Parameters
    ----------
    result
        The fits, B of them.

    Returns
    -------
    list of str
        With length B: parameters of the frame that rest on a bound or have no variance, and the
        frequency if its error is as large as itself.
    """
    names = result.layout.names
    lost: list[list[str]] = [[] for _ in range(len(result))]
    covariance = result.covariance
    unknown = None if covariance is None else covariance.diagonal(dim1=-2, dim2=-1).isnan()
    for name in FRAME:
        if name not in names:
            continue
        held = result.at_bound[:, names.index(name)]
        flags = held if unknown is None else held | unknown[:, names.index(name)]
        for row in flags.nonzero().flatten().tolist():
            lost[row].append(name)
    for row in (_log_frequency_errors(result) > OPEN).nonzero().flatten().tolist():
        lost[row].append("the frequency Omega0")
    return [", ".join(dict.fromkeys(words)) for words in lost]


def _log_frequency_errors(result: BatchResult) -> torch.Tensor:
    """Return standard errors of ln Omega0 with shape (B,); nan where they are not known."""
    if result.covariance is None:
        return torch.full((len(result),), torch.nan)
    torus, layout = result.model.torus, result.layout
    with torch.enable_grad():
        x = result.values["x"].detach().requires_grad_()
        frame = torus.transform.frame(layout.unflatten(x))
        (slope,) = torch.autograd.grad(torus.transform.ln_frequency(*frame).sum(), x)
    box = Box(result.values["lower"], result.values["upper"], validate_args=False)
    still = vanished(x.detach(), box, torus.logarithmic_in(layout))
    covariance = result.covariance.to(x)
    return propagated(slope.unsqueeze(-2), covariance, still).squeeze(-1)
