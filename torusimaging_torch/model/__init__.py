"""The model that users hold: parameters and data with units in, quantities out."""

from torusimaging_torch.model.torus_imaging import TorusImaging1D
from torusimaging_torch.numerics.params import to_numpy

__all__ = ["TorusImaging1D", "to_numpy"]


def __dir__() -> list[str]:
    return __all__
