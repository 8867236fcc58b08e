"""Orbits of a torus: contours, actions, angles and periods, both ways, as tensors."""

from torusimaging_torch.orbits.actions import action_angle, phase_space
from torusimaging_torch.orbits.contours import Contours
from torusimaging_torch.orbits.table import OrbitTable

__all__ = ["Contours", "OrbitTable", "action_angle", "phase_space"]


def __dir__() -> list[str]:
    return __all__
