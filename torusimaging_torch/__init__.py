"""Orbital Torus Imaging in PyTorch: stars in phase space to orbits, acceleration and mass density.

Stars keep their labels (abundances, ages, or the phase-space density itself) along their orbits, so
contours of a label in position and velocity are orbits. `TorusImaging1DSpline` fits those contours
as distorted ellipses (Price-Whelan et al. 2021, arXiv:2012.00015; Price-Whelan et al. 2025,
ApJ 979, 115), `TorusImaging1DPotential` as the orbits of a potential; their shapes give frequency,
acceleration and mass density.

Names are loaded when first used, so that ``import torusimaging_torch`` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        batch,
        catalogue,
        cross_validation,
        data,
        model,
        model_helpers,
        model_potential,
        model_spline,
        plot,
        results,
        simulate,
    )
    from .model import TorusImaging1D
    from .model_potential import TorusImaging1DPotential
    from .model_spline import TorusImaging1DSpline

__all__ = [
    "TorusImaging1D",
    "TorusImaging1DPotential",
    "TorusImaging1DSpline",
    "__version__",
    "batch",
    "catalogue",
    "cross_validation",
    "data",
    "model",
    "model_helpers",
    "model_potential",
    "model_spline",
    "plot",
    "results",
    "simulate",
]
__version__ = "0.1.0"

_HOME_OF_CLASS = {
    "TorusImaging1D": "model",
    "TorusImaging1DPotential": "model_potential",
    "TorusImaging1DSpline": "model_spline",
}


def __getattr__(name: str) -> object:
    if name in _HOME_OF_CLASS:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF_CLASS[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
