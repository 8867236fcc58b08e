r"""What of the stars a survey sees, position by position, and how wrong that may be.

Expected star counts are :math:`\ln\Lambda = g(r) + \ln S(q) + \sum_j s_j B_j(q)`, with the
selection function S and what may be wrong with it,
:math:`B = |q|, q^2, \exp(-(q/0.15\,\mathrm{kpc})^2)`, with small factors
:math:`s_j \sim N(0, \sigma_S^2)`. Positions q are the survey's, in kpc, not counted from the
midplane; powers are those of q over the largest height where that is more than a kpc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from torusimaging_torch.numerics.params import Params
from torusimaging_torch.numerics.ranges import not_negative
from torusimaging_torch.units import Binned, BinnedData, Numbers, to_tensor, with_unit

__all__ = ["SELECTION_TERMS", "SelectionFunction", "selection_offset", "with_selection"]

SELECTION_TERMS = ("|q|", "q^2", "exp(-(q/.15 kpc)^2)")
"""What may be wrong with a selection function, in the order of ``selection_params``."""

SelectionFunction: TypeAlias = Callable[[u.Quantity], Numbers] | Numbers
"""Which share of the stars is seen: a function of positions, or its values in the pixels."""

_NEAR = 0.15


def with_selection(
    binned: BinnedData, selection: SelectionFunction | None = None, selection_error: float = 0.05
) -> Binned:
    """Return binned star counts with the selection function that they went through.

    Parameters
    ----------
    binned
        Star counts, as `get_binned_counts` returns them: "pos", "vel", "counts".
    selection
        The selection function: called with positions, a `~astropy.units.Quantity`; or its values,
        or exposures, in the pixels. Its scale is of no importance. None if all stars are seen.
        Pixels where it is zero are left out of fits.
    selection_error
        Strength of the smooth terms that may be wrong with it: a fraction of the counts; 0 if it is
        exact.

    Returns
    -------
    dict
        Also with "exposure", "selection_terms" with shape (3, ...) and "selection_error".

    Raises
    ------
    ValueError
        If there are no counts, or the selection function is negative or of another shape.

    Examples
    --------
    >>> pos, vel = np.meshgrid([-0.5, 0.5] * u.kpc, [-20, 20] * u.km / u.s)
    >>> binned = {"pos": pos, "vel": vel, "counts": np.array([[3, 4], [2, 5]])}
    >>> found = with_selection(binned, lambda q: np.exp(-np.abs(q.to_value(u.kpc))))
    >>> found["exposure"].round(3)[0].tolist(), found["selection_terms"].shape
    ([0.607, 0.607], (3, 2, 2))
    """
    if "counts" not in binned:
        raise ValueError(f"a selection function is one of star counts, got {sorted(binned)}")
    if np.ndim(not_negative(selection_error, "selection_error")):
        raise ValueError(f"selection_error must be one number, got {selection_error!r}")
    pos = with_unit(binned["pos"])
    to_tensor(pos, "pos", "length")
    if not isinstance(pos, u.Quantity):
        raise ValueError("positions, pos, must have a unit of length, got none")
    found = {**binned, "exposure": _exposure(pos, selection), "selection_error": selection_error}
    if selection_error > 0:
        found["selection_terms"] = _terms(pos.to_value(u.kpc))
    return found


def selection_offset(binned: BinnedData, params: Params) -> NDArray[np.floating] | float:
    """Return what a selection function adds to the logs of expected star counts.

    Parameters
    ----------
    binned
        Pixels of any shape, what `with_selection` returned, or others.
    params
        Parameters of the model; those of the data set itself where there are several.

    Returns
    -------
    ndarray or float
        ln S + sum s_j B_j in the pixels, nan where no star can be seen; 0 without such a function.
    """
    offset: NDArray[np.floating] | float = 0.0
    if binned.get("exposure") is not None:
        seen = np.asarray(binned["exposure"], dtype=float)
        offset = np.log(np.where(seen > 0, seen, np.nan))
    if binned.get("selection_terms") is not None and "selection_params" in params:
        vals = params["selection_params"]["vals"]
        s = np.asarray(vals.detach().cpu() if hasattr(vals, "detach") else vals, dtype=float)
        offset = offset + np.tensordot(s, binned["selection_terms"], 1)
    return offset


def _exposure(pos: u.Quantity, selection: SelectionFunction | None) -> NDArray[np.floating]:
    if selection is None:
        return np.ones(pos.shape)
    given = selection(pos) if callable(selection) else selection
    values = to_tensor(given, "selection", None).detach().numpy()
    try:
        values = np.broadcast_to(values, pos.shape).copy()
    except ValueError:
        raise ValueError(
            f"selection must have the shape of the pixels {pos.shape}, got {values.shape}"
        ) from None
    if not (values >= 0).all():
        raise ValueError("selection must not be negative or nan anywhere")
    if not (values > 0).any():
        raise ValueError("selection is zero in all pixels: nothing would be seen")
    return values


def _terms(q: NDArray[np.floating]) -> NDArray[np.floating]:
    with np.errstate(over="ignore", invalid="ignore"):  # where no pixel can be
        x = q / np.abs(q).max(initial=1.0)
        return np.stack([np.abs(x), x**2, np.exp(-((q / _NEAR) ** 2))])
