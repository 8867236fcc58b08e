"""Numbers without astronomy: parameters as vectors, splines, roots, coordinates, L-BFGS.

All of it is batched PyTorch that knows no units, no stars and no files, so it can be read, tested
and used one piece at a time: the optimizer is an optimizer, the splines are splines.
"""

from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.lbfgs import minimize
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.numerics.roots import increasing_root
from torusimaging_torch.numerics.splines import CubicSpline, QuadraticSpline
from torusimaging_torch.numerics.whitening import Whitening

__all__ = [
    "Box",
    "CubicSpline",
    "Layout",
    "QuadraticSpline",
    "Status",
    "Whitening",
    "increasing_root",
    "minimize",
]


def __dir__() -> list[str]:
    return __all__
