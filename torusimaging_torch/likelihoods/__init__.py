"""What data and priors say about labels: likelihoods and penalties, in nats."""

from torusimaging_torch.likelihoods.likelihood import (
    LIKELIHOODS,
    GaussianLikelihood,
    Likelihood,
    PoissonLikelihood,
)
from torusimaging_torch.likelihoods.penalty import no_regularization, regularization_func_default

__all__ = [
    "LIKELIHOODS",
    "GaussianLikelihood",
    "Likelihood",
    "PoissonLikelihood",
    "no_regularization",
    "regularization_func_default",
]


def __dir__() -> list[str]:
    return __all__
