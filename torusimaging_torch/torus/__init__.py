"""The model of an orbit's shape: from position and velocity to a label, and to forces.

The elliptical transform, its Fourier distortion and the label function are modules that hold what
is fixed; parameters are arguments. Tensors in model units go in and come out.
"""

from torusimaging_torch.torus.distortion import FourierDistortion
from torusimaging_torch.torus.elliptical import EllipticalTransform
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.radial_function import RadialFunction
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

__all__ = [
    "EllipticalTransform",
    "FourierDistortion",
    "OrbitalTorus",
    "RadialFunction",
    "SplineEFunction",
    "SplineLabelFunction",
]


def __dir__() -> list[str]:
    return __all__
