"""Whether stars determine a fit at all: if not, its numbers are no results, and one sentence is."""

from __future__ import annotations

import numpy as np
from gala.units import galactic

from torusimaging_torch.model.known_applied import frame_known
from torusimaging_torch.model.low_order import low_order_fit
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.results.undetermined import FRAME, OPEN
from torusimaging_torch.settings import Settings
from torusimaging_torch.units import BinnedData

__all__ = ["is_frequency_open", "why_undetermined"]


def is_frequency_open(binned: BinnedData, settings: Settings) -> bool:
    """Return whether the quick fit, from which knots and priors follow, ends without a frequency.

    Parameters
    ----------
    binned
        The pixels.
    settings
        With what is known beforehand.
    """
    known = frame_known(settings.priors, settings.hold, galactic)
    quick = low_order_fit(binned, galactic, settings.elliptical_angle_convention, known=known)
    held = "ln_Omega0" in known.lower and bool(known.lower["ln_Omega0"] == known.upper["ln_Omega0"])
    return not held and not bool(quick.has_frequency(galactic))


def why_undetermined(result: FitResult, frequency_open: bool = False) -> str:
    """Return what stars do not determine, in one sentence; nothing if they determine the fit.

    Parameters
    ----------
    result
        The fit.
    frequency_open
        See `is_frequency_open`.
    """
    held = [name for name in result.state.at_bound if name in FRAME]
    lost = [f"{name} (it rests on a bound)" for name in held]
    if result.covariance is not None:
        names, variance = result.to_table()["name"], np.diagonal(result.covariance)
        open_ones = [str(name) for name in np.array(names)[np.isnan(variance)]]
        lost += [name for name in open_ones if name in FRAME and name not in held]
    omega, error = result.measured("Omega0")
    wide = bool(error > OPEN * omega) and "ln_Omega0" not in result.state.at_bound
    if wide or (frequency_open and "ln_Omega0" not in result.state.at_bound):
        lost.insert(0, "the frequency Omega0")
    if not lost:
        return ""
    return (
        f"these stars do not determine {', '.join(lost)}: no numbers of this model are given; "
        "more stars, or what is known of a parameter (priors, held parameters), may help"
    )
