"""Signs of e_m: which way a harmonic bends the contours, tried where nothing else tells it.

The slopes of e_m are exponentials, so a sign decides once for all whether it grows or falls. Where
the ellipse's angle is zero on the velocity axis, orbits widen in position wherever the density
falls outwards, and the signs follow. On the position axis, as for radial motion, orbits are not
alike on both sides, and no sign follows from anything: the fit of either sign is what tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from torusimaging_torch.inference.propagation import vanished
from torusimaging_torch.likelihoods.objectives import likelihood_of
from torusimaging_torch.model.border import Fronted, SomeModel, Start
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Nested
from torusimaging_torch.units import BinnedData

__all__ = ["default_signs", "switched_off", "try_signs", "warn_switched_off", "without"]

# Of a fit that is to tell signs apart.
_MAX_ITER = 100


def default_signs(orders: Mapping[int, object], convention: str) -> dict[int, float]:
    """Return the sign with which each harmonic widens the contours along the position axis."""
    if convention == "vp":
        return dict.fromkeys(orders, -1.0)
    # cos(m pi/2) is 1, 0, -1, 0 for m = 0, 1, 2, 3; odd ones widen nothing.
    return {m: -1.0 if m % 4 == 0 else 1.0 for m in orders}


def try_signs(
    make: Callable[[dict[int, float]], Start[SomeModel]],
    signs: Mapping[int, float],
    given: Mapping[int, float],
    data: BinnedData,
) -> Start[SomeModel]:
    """Return the model with the signs that fit best, its bounds and start.

    One order after the other is fitted with either sign, all others as they are best so far.

    Parameters
    ----------
    make
        Returns a model with some signs, bounds and start.
    signs
        What to begin with, by order.
    given
        Those that are not to be changed.
    data
        Binned data that tell signs apart.
    """
    signs = {**signs, **given}
    best = make(signs)
    if not (open_orders := [m for m in signs if m not in given]):
        return best
    lowest = _objective(best, data)
    for m in open_orders:
        other = {**signs, m: -signs[m]}
        found = make(other)
        if (value := _objective(found, data)) < lowest:
            signs, best, lowest = other, found, value
    return best


def _objective(made: tuple[Any, Nested, Nested], data: BinnedData) -> float:
    """Return the objective of the best fit."""
    model, bounds, start = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        _, state = model.optimize(start, likelihood_of(data), bounds, max_iter=_MAX_ITER, **data)
    return float(state.fun_val)


def switched_off(model: Fronted, x: Tensor, box: Box, layout: Layout) -> dict[int, Tensor]:
    """Return where nothing is left of an e_m, all its log slopes being on their lower bounds.

    Parameters
    ----------
    model
        The model.
    x, box, layout
        Parameters (*B, P), their bounds, and how they are laid out.

    Returns
    -------
    dict
        Of the orders of which this may be said truth values with shape (*B,).
    """
    gone = vanished(x, box, model.torus.logarithmic_in(layout).to(x.device))
    found = {}
    for m in model.torus.distortion.orders:
        where = [i for i, name in enumerate(layout.names) if name.startswith(f"e_params[{m}].")]
        if where:
            found[m] = gone[..., where].all(-1)
    return found


def without(off: Mapping[int, Tensor], row: int) -> str:
    """Return which harmonics a fit does without, as the end of a message; empty if it has all."""
    names = [f"e_{m}" for m, where in off.items() if bool(where.reshape(-1)[row])]
    return f"; without {', '.join(names)}, whose slopes vanished" if names else ""


def warn_switched_off(model: Fronted, off: Mapping[int, Tensor]) -> None:
    """Warn of orders that are off where the sign may be what is wrong: with "vp"."""
    if model.torus.convention != "vp":
        return
    for m, where in off.items():
        if bool(where.any()):
            many = f" in {int(where.sum())} of {where.numel()} fits" if where.ndim else ""
            sign = int(getattr(model.torus.distortion.e_funcs[m], "sign", 1))
            warnings.warn(
                f"e_{m} is switched off{many}: its slopes ended on their lower bound, so these "
                f"data have none with the sign {sign:+d}; try e_signs={{{m}: {-sign}}}, or leave "
                "this order out",
                RuntimeWarning,
                stacklevel=4,
            )
