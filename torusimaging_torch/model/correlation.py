"""Labels of the same stars: their covariance in each pixel, read and taken apart for a fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.inference.crossed import conditional_errors
from torusimaging_torch.units import BinnedData, to_tensor, with_unit

__all__ = ["COVARIANCE", "read_covariances", "take_apart", "warn_same_stars"]

COVARIANCE = "label_covariance"
"""Where binned data of a label have its covariances with others, by their names."""

Pair = tuple[str, str]


def read_covariances(data: Mapping[str, BinnedData], like: Tensor) -> dict[Pair, Tensor]:
    """Return the covariances of labels that are fitted together, by both names.

    Parameters
    ----------
    data
        Binned data by name. Those of a label may have ``label_covariance``, a dictionary with the
        names of others; each pair is looked for at both.
    like
        Type and device of the result.

    Raises
    ------
    astropy.units.UnitConversionError
        If a covariance has not the dimension of the product of both labels.
    """
    found: dict[Pair, Tensor] = {}
    for name, one in data.items():
        for other, covariance in (one.get(COVARIANCE) or {}).items():
            if other in data and (other, name) not in found:
                units = [getattr(with_unit(data[x]["label"]), "unit", None) for x in (name, other)]
                found[name, other] = _bare(covariance, units, (name, other), like)
    return {pair: values for pair, values in found.items() if bool((values != 0).any())}


def _bare(covariance: object, units: list[u.UnitBase | None], pair: Pair, like: Tensor) -> Tensor:
    """Return a covariance in the product of the labels' units."""
    unit = getattr(with_unit(covariance), "unit", None)
    argument = f"{COVARIANCE} of {pair[0]!r} and {pair[1]!r}"
    if unit is not None:
        one, other = (u.dimensionless_unscaled if x is None else x for x in units)
        try:
            covariance = with_unit(covariance).to_value(one * other)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"{argument} must have the unit of both labels' product, '{one * other}', got "
                f"'{unit}'"
            ) from None
    return to_tensor(covariance, argument, None).to(like)


def take_apart(
    tensors: Mapping[str, Mapping[str, Tensor]], covariances: Mapping[Pair, Tensor]
) -> tuple[dict[str, Mapping[str, Tensor]], dict[Pair, dict[str, Tensor]]]:
    """Split labels with covariances into such as are independent, and what is between them.

    Parameters
    ----------
    tensors
        By name positions, velocities and what the likelihoods observe, as tensors.
    covariances
        By both names.

    Returns
    -------
    tensors
        With the errors of `conditional_errors`.
    crossed
        What `torusimaging_torch.inference.crossed.Crossed` needs of each pair.

    Raises
    ------
    ValueError
        If two labels with a covariance are not of the same pixels, or have weights.
    """
    if not covariances:
        return dict(tensors), {}
    names = [name for name in tensors if any(name in pair for pair in covariances)]
    _check_same_pixels({name: tensors[name] for name in names}, covariances)
    errors = {
        name: torch.where(tensors[name]["label"].isfinite(), tensors[name]["label_err"], torch.nan)
        for name in names
    }
    own, precisions = conditional_errors(errors, covariances)
    crossed = {
        (a, b): {
            **{axis: tensors[a][axis] for axis in ("pos", "vel")},
            "first": tensors[a]["label"],
            "second": tensors[b]["label"],
            "precision": torch.where(own[a].isfinite() & own[b].isfinite(), value, torch.nan),
        }
        for (a, b), value in precisions.items()
    }
    return {
        name: {**one, "label_err": own[name]} if name in own else one
        for name, one in tensors.items()
    }, crossed


def _check_same_pixels(
    tensors: Mapping[str, Mapping[str, Tensor]], covariances: Mapping[Pair, Tensor]
) -> None:
    for (a, b), covariance in covariances.items():
        same = all(torch.equal(tensors[a][axis], tensors[b][axis]) for axis in ("pos", "vel"))
        shapes = [tuple(tensors[x][key].shape) for x in (a, b) for key in ("label", "label_err")]
        shapes.append(tuple(covariance.shape))
        if not same or len(set(shapes)) > 1:
            raise ValueError(
                f"labels {a!r} and {b!r} with a covariance must be of the same pixels, with one "
                f"label, error and covariance in each, got shapes {shapes}"
            )
        if any("weight" in tensors[x] for x in (a, b)):
            raise ValueError(
                f"labels {a!r} and {b!r} with a covariance cannot have weights of pixels: change "
                "label_err, or leave label_covariance out"
            )


def warn_same_stars(data: Mapping[str, BinnedData]) -> None:
    """Warn of labels in the same pixels with the same stars whose covariance nobody tells."""
    labels = {name: one for name, one in data.items() if {"label_err", "counts"} <= set(one)}
    names = list(labels)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            told = second in (labels[first].get(COVARIANCE) or {})
            told = told or first in (labels[second].get(COVARIANCE) or {})
            a, b = (np.asarray(labels[name]["counts"]) for name in (first, second))
            if not told and a.shape == b.shape and (a == b).all():
                warnings.warn(
                    f"labels {first!r} and {second!r} are of the same stars, and are taken for "
                    "independent: where their residuals are correlated, errors of a joint fit are "
                    "too small; bin them together by get_binned_label, which tells their "
                    "covariance, or say independent=True there",
                    RuntimeWarning,
                    stacklevel=5,
                )
