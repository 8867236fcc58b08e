"""The likelihoods that have a name, and which of them data are for."""

from __future__ import annotations

from collections.abc import Collection

from torusimaging_torch.likelihoods.gaussian import GaussianLikelihood
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.poisson import PoissonLikelihood

__all__ = ["LIKELIHOODS", "likelihood_of", "make_likelihood"]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": GaussianLikelihood,
    "poisson": PoissonLikelihood,
}
"""The likelihood of each objective's name."""


def make_likelihood(objective: str | Likelihood) -> Likelihood:
    """Return the likelihood of an objective, "gaussian" or "poisson"; one of your own as it is.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if isinstance(objective, Likelihood):
        return objective
    if objective not in LIKELIHOODS:
        raise ValueError(
            f"objective must be one of {sorted(LIKELIHOODS)} or a Likelihood, got {objective!r}"
        )
    return LIKELIHOODS[objective]()


def likelihood_of(names: Collection[str]) -> Likelihood:
    """Return the first likelihood all of whose observations are among the names of data.

    Raises
    ------
    KeyError
        If there is none.
    """
    for likelihood in LIKELIHOODS.values():
        if set(likelihood.observed) <= set(names):
            return likelihood()
    wanted = " or ".join(", ".join(likelihood.observed) for likelihood in LIKELIHOODS.values())
    raise KeyError(f"data must have {wanted}, got {sorted(names)}")
