"""A fit in which stars with wrong labels are sought, and what is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torusimaging_torch.analysis.binning import COUNTS, PixelGrid, pixel_edges
from torusimaging_torch.catalogue.tables import SelectedStars
from torusimaging_torch.model.outliers import OutlierFit
from torusimaging_torch.numerics.params import Params
from torusimaging_torch.results.description import Model
from torusimaging_torch.settings import Settings
from torusimaging_torch.units import BinnedData, Bounds

__all__ = ["check_outliers", "describe_outliers", "pixels_of", "seek_outliers"]


def check_outliers(stars: SelectedStars, settings: Settings) -> None:
    """Raise where outliers cannot be sought.

    Raises
    ------
    ValueError
        If stars have no label, or its scatter is given, which is found together with the outliers.
    """
    if settings.outliers and not stars.labels:
        raise ValueError("outliers are stars with a wrong label: star counts have none")
    if settings.outliers and settings.s is not None:
        raise ValueError("the scatter is found together with the outliers: leave it out")


def seek_outliers(
    model: Model,
    start: Params,
    bounds: Bounds,
    stars: SelectedStars,
    data_sets: Mapping[str, BinnedData],
    grid: PixelGrid,
    **options: Any,
) -> OutlierFit:
    """Fit stars by `fit_outliers`.

    Parameters
    ----------
    model, start, bounds
        What `auto_init` returned for all stars.
    stars
        The stars.
    data_sets
        Their pixels, by name.
    grid
        As from `torusimaging_torch.analysis.binning.bin_stars`.
    **options
        As for `optimize`.
    """
    labels: Any = dict(stars.labels)
    errors: Any = {name: stars.label_errs.get(name) for name in labels}
    beside = {name: one for name, one in data_sets.items() if name == COUNTS}
    if len(data_sets) == 1:
        (labels,), (errors,) = labels.values(), errors.values()
    columns = {"pos": stars.pos, "vel": stars.vel, "label": labels, "label_err": errors}
    return model.fit_outliers(start, columns, pixel_edges(grid), bounds, beside=beside, **options)


def pixels_of(found: OutlierFit, data_sets: Mapping[str, BinnedData]) -> Mapping[str, BinnedData]:
    """Return the pixels without the outliers, by name."""
    return dict.fromkeys(data_sets, found.binned) if len(data_sets) == 1 else found.binned


def describe_outliers(
    found: OutlierFit, data_sets: Mapping[str, BinnedData]
) -> dict[str, dict[str, float]]:
    """Return eps, s_out and s of each label as plain numbers, and the number of stars they mean."""
    names = [name for name in data_sets if name != COUNTS]
    told = {}
    for name in names:
        eps, s_out, s, p = (
            each[name] if len(data_sets) > 1 else each
            for each in (found.eps, found.s_out, found.s, found.probability)
        )
        told[name] = {
            "eps": float(eps),
            "s_out": float(getattr(s_out, "value", s_out)),
            "s": float(getattr(s, "value", s)),
            "n_outliers": float(np.nansum(1 - p)),
            "n_stars": int(np.isfinite(p).sum()),
        }
    return told
