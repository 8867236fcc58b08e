"""The model that users hold: parameters and data with units in, quantities out."""

from torusimaging_torch.model.torus_imaging import TorusImaging1D

__all__ = ["TorusImaging1D"]


def __dir__() -> list[str]:
    return __all__
