"""What a fit itself says against a model: two formulas that differ, or a density below zero."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.model.border import Fronted
from torusimaging_torch.model.leaves import checked_params
from torusimaging_torch.numerics.params import Params, column
from torusimaging_torch.orbits.contours import edge
from torusimaging_torch.torus import acceleration as dynamics
from torusimaging_torch.torus.energy import energy_forces
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse

__all__ = [
    "FormulaGap",
    "LowestDensity",
    "compare_formulas",
    "describe_flat_density",
    "describe_negative_density",
    "get_lowest_density",
    "warn_negative_density",
]

# Heights at which the two formulas are compared, and those at which the density is looked at, from
# the midplane to the last knot; near the midplane both formulas have the limit 0/0.
_N_GAP, _FIRST, _N_DENSITY = 10, 0.1, 400
_SOFT = 0.01
# Within so far from the midplane the density of a disk falls, and below this part of that there.
_DISK, _FLAT = 0.5 * u.kpc, 0.5


class FormulaGap(NamedTuple):
    """How far two formulas of the same acceleration differ.

    Attributes
    ----------
    pos
        Positions, with shape (*B, N).
    gap
        The acceleration by energies over the one by turning points, minus one; with the same shape.
    """

    pos: u.Quantity
    gap: Array


class LowestDensity(NamedTuple):
    """Where a model's density is lowest; quantities with shape (*B,)."""

    density: u.Quantity
    pos: u.Quantity


def compare_formulas(model: Fronted, params: Params) -> FormulaGap:
    """Compare the two formulas of the acceleration, out to the last knot.

    For orbits of any potential they agree. Where they differ by more than errors, the model's
    contours are no orbits: its harmonics cannot follow the stars, or the stars have no potential in
    common (see `torusimaging_torch.torus.energy`). A potential without corrections has no gap.

    Parameters
    ----------
    params
        Model parameters.

    Returns
    -------
    FormulaGap
        At ten heights, from a tenth of the way to the last knot; on both sides in the convention
        "vp".

    Raises
    ------
    ValueError
        If the model has no knots, which say where the data end.

    Examples
    --------
    >>> found = model.compare_formulas(params)
    >>> print(f"{abs(found.gap).max():.3f}")
    0.090
    """
    p = checked_params(model, params)
    with torch.no_grad():
        pos = _positions(model, p, torch.linspace(_FIRST, 1, _N_GAP, dtype=torch.float64))
        turning = dynamics.acceleration(model.torus, pos, p)
        energy, _ = energy_forces(model.torus, pos, p)
    return FormulaGap(model.border.quantity(pos, "length"), (energy / turning - 1).cpu().numpy())


def get_lowest_density(model: Fronted, params: Params) -> LowestDensity:
    """Return the lowest mass density between the midplane and the last knot, and where it is.

    Splines in the contours, and corrections to a potential, may make it negative.

    Parameters
    ----------
    params
        Model parameters.

    Raises
    ------
    ValueError
        If the model has no knots, which say where the data end.

    Examples
    --------
    >>> found = model.get_lowest_density(params)
    >>> print(f"{found.density.to(u.Msun / u.pc**3):.3f} at {found.pos.to(u.pc):.0f}")
    0.059 solMass / pc3 at 993 pc
    """
    p = checked_params(model, params)
    with torch.no_grad():
        pos = _positions(model, p, torch.linspace(0, 1, _N_DENSITY, dtype=torch.float64))
        lowest, at = dynamics.density(model.torus, pos, p, model.border.G).min(-1)
        where = pos.gather(-1, at.unsqueeze(-1)).squeeze(-1)
    quantity = model.border.quantity
    return LowestDensity(quantity(lowest, "density"), quantity(where, "length"))


def _positions(model: Fronted, p: Params, steps: Tensor) -> Tensor:
    """Return positions with shape (*B, N) at fractions of the last knot's distance from pos0."""
    end, transform = edge(model.torus), model.torus.transform
    if end is None:
        raise ValueError("this needs knots, which say where the data end: the model has none")
    frame = transform.frame(p)
    centre = column(p["pos0"])
    last = end.to(centre).expand(p["pos0"].shape).unsqueeze(-1)
    reach = transform.axis_at(last, *frame).offset.abs()
    steps = steps.to(centre)
    if transform.convention == "vp":
        steps = torch.cat([-steps.flip(-1), steps])
    return centre + reach * steps


def describe_negative_density(model: Fronted, params: Params) -> str:
    """Return where a density is negative, in a sentence; nothing if it is not.

    A density that is negative by less than a hundredth of the midplane's does not count: the wall
    that keeps splines from more is as soft as that.

    Parameters
    ----------
    params
        Parameters of one problem.
    """
    torus = model.torus
    # Sheets of matter have no negative densities; corrections to them may.
    is_matter = isinstance(torus.transform, PotentialEllipse) and not torus.distortion.orders
    if edge(torus) is None or is_matter:
        return ""
    density, pos = get_lowest_density(model, params)
    p = model.border.params(params)
    with torch.no_grad():
        plane = dynamics.density(torus, p["pos0"].unsqueeze(-1), p, model.border.G)
    if not density < -_SOFT * np.abs(model.border.quantity(plane[..., 0], "density")):
        return ""
    said = density.to(u.Msun / u.pc**3), pos.to(u.kpc)
    return f"the density is negative, down to {said[0]:.2g} at {said[1]:.2g}"


def describe_flat_density(model: Fronted, params: Params) -> str:
    """Return how little the density of a potential falls, in a sentence, where no disk does that.

    A sum of sheets follows disks. Matter that is as dense everywhere, as in a harmonic oscillator,
    is at the end of what it can do: the force is then off by several per cent, and no residual says
    so.

    Parameters
    ----------
    params
        Parameters of one problem.
    """
    if not isinstance(model.torus.transform, PotentialEllipse):
        return ""
    p = model.border.params(params)
    with torch.no_grad():
        pos = _positions(model, p, torch.tensor([0.0, 1.0]))
        plane, last = dynamics.density(model.torus, pos, p, model.border.G).tolist()
    reach = model.border.quantity((pos[1] - pos[0]).abs(), "length")
    if reach < _DISK or not last > _FLAT * plane:
        return ""
    return (
        f"the density falls by {100 * (1 - last / plane):.0f} % only up to {reach.to(u.kpc):.2g}: "
        "no disk is like that, and sheets do not describe it well; use ellipses"
    )


def warn_negative_density(model: Fronted, params: Params) -> None:
    """Warn of a negative density; see `describe_negative_density`."""
    if said := describe_negative_density(model, params):
        warnings.warn(
            f"{said}: no matter makes that; use fewer knots, or a smaller e_sigma",
            RuntimeWarning,
            stacklevel=4,
        )
