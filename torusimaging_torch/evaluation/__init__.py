"""ln L - R, its gradient and its curvature by formulas written out, instead of by autograd.

A spline is looked up in a table of local polynomials, which are linear in its slopes; so all that
pixels have to say about the slopes are sums by interval. Three implementations do this, in torch,
in loops compiled by Numba, and in kernels; the modules of the torus and the likelihoods stay the
definition, and autograd on them is the way out where the formulas do not hold.
"""

from torusimaging_torch.evaluation.choose import IMPLEMENTATIONS, choose

__all__ = ["IMPLEMENTATIONS", "choose"]


def __dir__() -> list[str]:
    return __all__
