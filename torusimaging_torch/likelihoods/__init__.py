"""What data and priors say about labels: likelihoods and penalties, in nats."""

from torusimaging_torch.likelihoods.gaussian import GaussianLikelihood
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.objectives import LIKELIHOODS
from torusimaging_torch.likelihoods.penalty import (
    Penalty,
    no_regularization,
    regularization_func_default,
)
from torusimaging_torch.likelihoods.poisson import PoissonLikelihood

__all__ = [
    "LIKELIHOODS",
    "GaussianLikelihood",
    "Likelihood",
    "Penalty",
    "PoissonLikelihood",
    "no_regularization",
    "regularization_func_default",
]


def __dir__() -> list[str]:
    return __all__
