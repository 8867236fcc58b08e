"""What samples of the posterior say of a fit: its centre and its profiles, with percentiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.results.profile_table import PERCENTILES, PROFILES, profiles
from torusimaging_torch.units import to_quantity

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["sampled_centre", "sampled_profiles"]

_CENTRE = {"pos0": "length", "vel0": "velocity", "Omega0": "frequency"}


def sampled_centre(result: FitResult, samples: Samples, name: str) -> u.Quantity:
    """Return the 16th, 50th and 84th percentile of pos0, vel0 or Omega0, with shape (3,)."""
    params = samples.params
    draws = params["ln_Omega0"].exp() if name == "Omega0" else params[name]
    return np.percentile(to_quantity(draws, _CENTRE[name], result.model.units), [16, 50, 84])


def sampled_profiles(result: FitResult, samples: Samples, pos: u.Quantity) -> QTable:
    """Return the table of profiles of a fit with what samples say of them.

    Parameters
    ----------
    result
        The fit.
    samples
        Samples of its posterior.
    pos
        Positions with shape (N,).

    Returns
    -------
    astropy.table.QTable
        As `FitResult.profile_table` returns it, values being those of the best fit. In addition the
        percentiles of the samples, such as ``density_p16``; an error such as ``density_err`` is
        half of what lies between the 16th and the 84th.
    """
    table = result.profile_table(pos)
    found = profiles(result.model, samples, table["pos"])
    for name in PROFILES:
        unit = table[name].unit
        for percentile in PERCENTILES:
            column = f"{name}_p{percentile:g}"
            table[column] = found[column].to(unit)
        table[f"{name}_err"] = (table[f"{name}_p84"] - table[f"{name}_p16"]) / 2
    table.meta["n_samples"] = len(samples)
    return table
