"""What a batch found at one height: a row for each group, with bands over its resamplings."""

from __future__ import annotations

from collections import Counter

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from torusimaging_torch.arrays import Array
from torusimaging_torch.orbits.contours import edge
from torusimaging_torch.results.arguments import one_quantity
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.undetermined import lost_of_frame
from torusimaging_torch.units import Numbers, unit_of

__all__ = ["BANDS", "count_failures", "default_height", "group_columns", "summarize"]


BANDS = (2.5, 16.0, 84.0, 97.5)
"""Percentiles of the bands of 95 and 68 per cent."""

# The same in standard deviations of a Gaussian.
_SIGMAS = (-1.96, -1.0, 1.0, 1.96)
# Where surface densities are quoted, if the data reach as far.
_HEIGHT = 1.1 * u.kpc
_KEYS = ("label", "group", "resampling", "resampling_kind", "n_stars", "s")


def group_columns(result: BatchResult) -> list[str]:
    """Return the names of the columns that tell one group from another, such as R_g."""
    return [name for name in result.columns if name not in _KEYS]


def count_failures(result: BatchResult) -> Counter[str]:
    """Return how many fits did not converge, by reason."""
    pairs = zip(result.message, result.success.tolist(), strict=True)
    return Counter(message for message, good in pairs if not good)


def _column(result: BatchResult, name: str, default: object) -> Array:
    return np.asarray(result.columns.get(name, np.full(len(result), default)))


def _reach(result: BatchResult) -> u.Quantity:
    """Return how far each fit reaches above its midplane, with shape (B,).

    It is the height of the last knot, or of the farthest pixel: knots are as far out as the fastest
    stars, which need not have been seen there.
    """
    units = result.model.units
    torus = result.model.torus
    end, transform = edge(torus), torus.transform
    # All label functions end at the same knot.
    label = next(knots for name, knots in result.values.items() if name.endswith("label_knots"))
    r_e = label.amax(-1) if end is None else end
    with torch.no_grad():
        found = transform.axis_at(r_e.unsqueeze(-1), *transform.frame(result.params)).offset
    reach = found.squeeze(-1)
    if "reach" in result.values:
        reach = torch.fmin(reach, result.values["reach"])
    return reach.numpy() * unit_of("length", units)


def default_height(result: BatchResult) -> u.Quantity:
    """Return 1.1 kpc, or less if the knots of a fit to a group's own stars do not reach as far.

    Raises
    ------
    ValueError
        If no such fit converged.
    """
    plain = _column(result, "resampling", -1) < 0
    good = result.success.numpy() & plain
    if not good.any():
        raise ValueError("no fit to the stars of a group converged: there is nothing to show")
    reach = float(_reach(result)[good].min().to_value(u.kpc))
    if reach >= _HEIGHT.value:
        return _HEIGHT
    step = 10.0 ** np.floor(np.log10(reach) - 1)
    return float(f"{np.floor(0.999 * reach / step) * step:.2g}") * u.kpc


def _height_of(result: BatchResult, height: Numbers) -> u.Quantity:
    if height is None:
        return default_height(result)
    return one_quantity(height, "height", "length", result.model.units)


def summarize(result: BatchResult, height: u.Quantity | None = None) -> QTable:
    """Return acceleration and surface density of each group at one height.

    Parameters
    ----------
    result
        The fits. Resamplings are told by the column "resampling", groups by "group" (and "label"),
        as `torusimaging_torch.batch.fit_many` has them of `torusimaging_torch.data.bin_many`;
        without those each fit is a group.
    height
        Above each fit's own midplane; by default see `default_height`.

    Returns
    -------
    astropy.table.QTable
        One row for each group: group, its columns, n_stars, n_fits, n_failed, n_on_bound (those
        that a bound holds back: the data ask for what the model cannot be), on_bound (whether that
        of its own stars is one of them); acceleration and
        surface_density of the fit to its own stars, nan if that did not converge, each with
        percentiles such as acceleration_p16: over the bootstraps that converged, nan where these
        are too few (20 for 95 per cent, 4 for 68); of a Gaussian with the jackknife's variance,
        (n - 1)/n sum_j (t_j - t)^2; or else of one with the Cramer-Rao bound's.
        ``undetermined``: what the group's own stars do not determine of the frame of orbits, in
        words: all numbers are nan then. ``inside``: whether the height is within the last knot and
        the farthest pixel.
        In the header HEIGHT and BANDS, where these percentiles come from.

    Raises
    ------
    ValueError
        If no fit converged, or there is more than one fit of a group's own stars.

    Examples
    --------
    >>> from torusimaging_torch.results import summarize
    >>> summary = summarize(batch, 0.5 * u.kpc)
    >>> len(summary)
    2
    """
    height = _height_of(result, height)
    good = result.success.numpy()
    resampling = _column(result, "resampling", -1)
    keys = list(zip(_column(result, "label", ""), _group_names(result), strict=True))
    places: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    rows = {key: np.array(some) for key, some in places.items()}
    plain = [some[resampling[some] < 0] for some in rows.values()]
    if any(len(own) > 1 for own in plain):
        raise ValueError("a group has several fits of its own stars: their names must differ")
    kinds = set(_column(result, "resampling_kind", "none").tolist()) - {"none"}
    kind = str(min(kinds, default="crlb"))
    values, errors = _at(result, good, height, kind == "crlb")
    first = np.array([some[0] for some in rows.values()])
    table = QTable({"group": np.array([str(key[1]) for key in rows])})
    if len({key[0] for key in rows}) > 1:
        table["label"] = np.array([str(key[0]) for key in rows])
    for name in group_columns(result):
        table[name] = result.columns[name][first]
    if "n_stars" in result.columns:
        table["n_stars"] = result.columns["n_stars"][first]
    table["n_fits"] = [len(some) for some in rows.values()]
    table["n_failed"] = [int((~good[some]).sum()) for some in rows.values()]
    held = good & result.at_bound.any(-1).numpy()
    table["n_on_bound"] = [int(held[some].sum()) for some in rows.values()]
    reach = _reach(result)
    own = np.array([some[0] if len(some) else -1 for some in plain])
    table["on_bound"] = (own >= 0) & held[own]
    table["inside"] = np.where(own >= 0, reach[own] >= height, False)
    words = np.array(lost_of_frame(result))
    table["undetermined"] = np.where((own >= 0) & good[own], words[own], "")
    given = (own >= 0) & (table["undetermined"] == "")
    for name, value in values.items():
        table[name] = np.where(given, value[own], np.nan)
        sets = [value[some[resampling[some] >= 0]] for some in rows.values()]
        sets = [some if there else some[:0] for some, there in zip(sets, given, strict=True)]
        edges = np.stack(
            [
                _edges(center, some, kind, error)
                for center, some, error in zip(
                    table[name].value, sets, errors[name].value[own], strict=True
                )
            ]
        )
        for percent, end in zip(BANDS, edges.T, strict=True):
            table[f"{name}_p{percent:g}"] = end * value.unit
    table.meta = {"HEIGHT": str(height), "BANDS": kind}
    return table


def _group_names(result: BatchResult) -> Array:
    return np.asarray(result.columns.get("group", np.array(result.names)))


def _at(
    result: BatchResult, good: Array, height: u.Quantity, with_errors: bool
) -> tuple[dict[str, u.Quantity], dict[str, u.Quantity]]:
    """Return values at one height and their errors with shape (B,), nan if not converged."""
    found = result.profiles(u.Quantity([height]), with_errors, from_midplane=True)
    values, errors = {}, {}
    for name in ("acceleration", "surface_density"):
        value = found[name][:, 0]
        values[name] = np.where(good, value, np.nan)
        errors[name] = found.get(f"{name}_err", np.full_like(value, np.nan)[:, None])[:, 0]
    return values, errors


def _edges(center: float, resampled: u.Quantity, kind: str, error: float) -> Array:
    """Return the ends of the bands with shape (4,), from the lowest to the highest."""
    t = resampled.value[np.isfinite(resampled.value)]
    if kind == "bootstrap":
        return _percentiles(t)
    if kind == "jackknife":
        n = len(t)
        error = np.sqrt((n - 1) / n * np.sum((t - t.mean()) ** 2)) if n > 1 else np.nan
    return center + error * np.array(_SIGMAS)


def _percentiles(t: Array) -> Array:
    """Return the percentiles of the bands, nan for those beyond what n values reach.

    The lowest of them stands where 1/(2 n) of all lie below (Hazen 1914).
    """
    levels = np.array(BANDS) / 100
    reached = np.minimum(levels, 1 - levels) * len(t) >= 1 / 2
    return np.where(reached, np.percentile(t, BANDS), np.nan) if len(t) else np.full(4, np.nan)
