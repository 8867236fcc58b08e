"""The posterior of a torus and what is done with it: fits, bounds, samples, a layer to train.

It knows tensors alone; units and tables come later.
"""

from torusimaging_torch.inference.fisher import CramerRaoBound, bound_at
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior

__all__ = ["CramerRaoBound", "Pixels", "Posterior", "bound_at"]


def __dir__() -> list[str]:
    return __all__
