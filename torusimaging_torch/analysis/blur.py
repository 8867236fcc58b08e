"""Errors of positions and velocities, which blur what the pixels show: when they matter."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np

from torusimaging_torch.analysis.binning import PixelGrid, pixel_edges
from torusimaging_torch.catalogue.tables import SelectedStars

__all__ = ["describe_blur", "warn_blur"]

# Of the thinnest sheet of a potential: errors beyond that make it thicker (docs/errors.md).
_OF_HEIGHT = 0.3

_EFFECTS = {
    "pos": "orbits come out higher than they are, and the density near the midplane too low",
    "vel": "orbits come out faster than they are, and the force too strong",
}


def describe_blur(
    stars: SelectedStars, grid: PixelGrid, heights: u.Quantity | None = None
) -> list[str]:
    """Return what is wrong with errors of positions and velocities, in sentences.

    Their median is compared with the size of a pixel, and that of positions with 0.3 of the
    smallest height.

    Parameters
    ----------
    stars
        The stars, with errors where they are known.
    grid
        As from `torusimaging_torch.analysis.binning.bin_stars`.
    heights
        Heights of the potential's sheets, if there is one.
    """
    edges, said = pixel_edges(grid), []
    inside = (np.abs(stars.pos) <= edges["pos"][-1]) & (np.abs(stars.vel) <= edges["vel"][-1])
    for name, error in (("pos", stars.pos_err), ("vel", stars.vel_err)):
        if error is None:
            continue
        pixel = (edges[name][1] - edges[name][0]).to(error.unit)
        limits = {f"a pixel is wide, {pixel:.3g}": pixel}
        if name == "pos" and heights is not None:
            thin = (_OF_HEIGHT * heights.min()).to(error.unit)
            limits[f"{_OF_HEIGHT:g} of the thinnest sheet, {thin:.3g}"] = thin
        median = np.nanmedian(error[inside])
        beyond = [text for text, limit in limits.items() if median > limit]
        if beyond:
            said.append(
                f"the median error of {name}, {median:.3g}, is larger than {' and '.join(beyond)}: "
                f"{_EFFECTS[name]}; use stars with smaller errors (--where)"
            )
    return said


def warn_blur(
    stars: SelectedStars, grid: PixelGrid, heights: u.Quantity | None = None
) -> list[str]:
    """Warn of what `describe_blur` says, and return it."""
    said = describe_blur(stars, grid, heights)
    for line in said:
        warnings.warn(line, RuntimeWarning, stacklevel=3)
    return said
