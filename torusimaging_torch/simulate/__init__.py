"""Simulated stars with exact orbits, and the potentials that they move in."""

from torusimaging_torch.simulate.potentials import (
    HarmonicOscillator,
    IsothermalSheet,
    VerticalPotential,
    milky_way,
)
from torusimaging_torch.simulate.stars import milky_way_disk, simulate_stars

__all__ = [
    "HarmonicOscillator",
    "IsothermalSheet",
    "VerticalPotential",
    "milky_way",
    "milky_way_disk",
    "simulate_stars",
]


def __dir__() -> list[str]:
    return __all__
