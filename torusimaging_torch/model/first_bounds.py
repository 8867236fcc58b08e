"""Where parameters may lie, and slopes begin, before anything is known but the unit system."""

from __future__ import annotations

import math

import astropy.units as u
import torch
from gala.units import UnitSystem, galactic
from torch import Tensor

from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.units import (
    gravitational_constant,
    to_tensor,
    unit_of,
)

__all__ = [
    "LOG_SLOPES",
    "START_LOG_SLOPE",
    "VELOCITY_OFFSET",
    "ln_frequency_bounds",
    "log_slope_bounds",
    "log_slope_offset",
    "position_bounds",
    "start_vals",
]

# Midplane densities between the emptiest and the densest discs: Omega0^2 = 4 pi G rho.
MIDPLANE_DENSITY = (1e-3, 1e2) * u.Msun / u.pc**3
# The Sun lies within tens of pc of the midplane, and moves at several km/s across it.
POSITION_OFFSET = (-1.0, 1.0) * u.kpc
VELOCITY_OFFSET = (-100.0, 100.0) * u.km / u.s

# Log slopes of e, by r_e in (kpc^2 rad/Myr)^(1/2): from a distortion that no data could show to one
# that no orbit has.
LOG_SLOPES = (-16.0, 10.0)
# Log slope of e_2 from which the low-order fit starts, and those of all others in a full fit: a
# few per cent of distortion at the edge, where the likelihood feels each of them. In the same unit.
START_LOG_SLOPE = -2.0


def position_bounds(pixels: Pixels, units: UnitSystem) -> Tensor:
    """Return where pos0 may lie: near zero, or where the pixels are if that is somewhere else.

    The shape is (2,), or (2, *B) if it is somewhere else in any problem of a batch. Heights are
    counted from about the midplane; radii of orbits in the disk are not counted from about zero.
    """
    low, high = to_tensor(POSITION_OFFSET, "pos0", "length", units).to(pixels.pos)
    first, last = pixels.pos.amin(-1), pixels.pos.amax(-1)
    elsewhere = (first > high) | (last < low)
    if not elsewhere.any():
        return torch.stack((low, high))
    return torch.stack((torch.where(elsewhere, first, low), torch.where(elsewhere, last, high)))


def start_vals(n: int, like: Tensor, units: UnitSystem) -> Tensor:
    """Return the log slopes from which fits start, with shape (*B, n)."""
    return like.new_full((*like.shape, n), START_LOG_SLOPE + log_slope_offset(units))


def log_slope_bounds(units: UnitSystem) -> tuple[float, float]:
    """Return the bounds of the log slopes of e in a unit system."""
    offset = log_slope_offset(units)
    return LOG_SLOPES[0] + offset, LOG_SLOPES[1] + offset


def log_slope_offset(units: UnitSystem) -> float:
    """Return what a slope by r_e has more, in its log, than one by (kpc^2 rad/Myr)^(1/2)."""
    kind = "elliptical radius"
    return math.log(unit_of(kind, units).to(unit_of(kind, galactic)))


def ln_frequency_bounds(units: UnitSystem) -> Tensor:
    """Return the log frequencies that belong to the thinnest and the densest midplane."""
    density = to_tensor(MIDPLANE_DENSITY, "density", "density", units)
    return 0.5 * (4 * torch.pi * gravitational_constant(units) * density).log()
