"""What speaks against the fits of a batch, as far as their numbers tell: without their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from torusimaging_torch.analysis.verdict import LARGER, LIMIT, about_the_orbits
from torusimaging_torch.results.batch_result import BatchResult

__all__ = ["Doubts", "doubts"]

Doubts: TypeAlias = Mapping[str, tuple[str, ...]]
"""What speaks against each fit, by its name."""

# The deviance of a star count is this much at most on average, where it is expected to be about 1.5
# (of many stars it is 1, as chi^2 is).
_DEVIANCE = 1.16


def doubts(result: BatchResult) -> Doubts:
    """Return what speaks against the converged fits of groups' own stars, by the fit's name.

    It is the verdict of one fit (`torusimaging_torch.analysis.verdict.judge`) but for what needs
    its pixels: whether residuals of neighbours, or of both sides of the midplane, go together.

    Parameters
    ----------
    result
        The fits. Resamplings are left out: the scatter of their labels is that of two errors.
    """
    resampling = np.asarray(result.columns.get("resampling", np.full(len(result), -1)))
    looked_at = np.flatnonzero(result.success.numpy() & (resampling < 0))
    return {result.names[i]: tuple(_of_fit(result, int(i))) for i in looked_at}


def _of_fit(result: BatchResult, i: int) -> list[str]:
    one, reasons = result[i], []
    if one.state.at_bound:
        reasons.append(f"held back by a bound: {', '.join(one.state.at_bound)}")
    objective = one.objective
    kinds = objective.values() if isinstance(objective, Mapping) else [objective]
    expected = _DEVIANCE if "poisson" in kinds else 1.0
    n = max(1, int(result.n_pixels[i]) - result.layout.size)
    excess = (float(result.chi2_dof[i]) - expected) * np.sqrt(n / 2)
    if excess > LIMIT:
        reasons.append(f"{LARGER} ({excess:.0f} sigma)")
    elif excess < -LIMIT and "poisson" not in kinds:
        reasons.append(f"errors are too large ({-excess:.0f} sigma)")
    return reasons + about_the_orbits(one)
