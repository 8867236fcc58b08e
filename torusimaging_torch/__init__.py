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
import logging
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
    "__citation__",
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
# What is logged is silent until somebody asks for it, as libraries do.
logging.getLogger(__name__).addHandler(logging.NullHandler())
__citation__ = """\
@article{oti2021,
  author = {Price-Whelan, Adrian M. and Hogg, David W. and Johnston, Kathryn V. and others},
  title = {Orbital Torus Imaging: Using Element Abundances to Map Orbits and Mass in the Milky Way},
  journal = {The Astrophysical Journal},
  volume = {910},
  pages = {17},
  year = {2021},
  doi = {10.48550/arXiv.2012.00015}
}
@article{oti2024,
  author = {Horta, Danny and Price-Whelan, Adrian M. and Hogg, David W. and others},
  title = {Orbital Torus Imaging: Acceleration, density, and dark matter in the Galactic disk
           measured with element abundance gradients},
  journal = {The Astrophysical Journal},
  volume = {962},
  pages = {165},
  year = {2024},
  doi = {10.48550/arXiv.2312.07664}
}
@article{oti2025,
  author = {Price-Whelan, Adrian M. and Hunt, Jason A. S. and Horta, Danny and others},
  title = {Data-driven Dynamics with Orbital Torus Imaging: A Flexible Model of the Vertical Phase
           Space of the Galaxy},
  journal = {The Astrophysical Journal},
  volume = {979},
  pages = {115},
  year = {2025},
  doi = {10.48550/arXiv.2401.07903}
}
"""
"""The papers to cite, as BibTeX; ``CITATION.cff`` says the same."""

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
