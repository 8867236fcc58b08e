"""The likelihoods that have a name, and which of them data are for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torusimaging_torch.likelihoods.gaussian import GaussianLikelihood
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.likelihoods.poisson import PoissonLikelihood

__all__ = ["LIKELIHOODS", "Objective", "likelihood_of", "make_likelihood"]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": GaussianLikelihood,
    "poisson": PoissonLikelihood,
}
"""The likelihood of each objective's name."""


Objective = str | Likelihood | Mapping[str, str | Likelihood]
"""What is fitted: the name of a likelihood or one of your own, or one for each data set."""


def make_likelihood(objective: str | Likelihood) -> Likelihood:
    """Return the likelihood of an objective, "gaussian" or "poisson"; one of your own as it is.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if isinstance(objective, Likelihood):
        return objective
    if not isinstance(objective, str) or objective not in LIKELIHOODS:
        raise ValueError(
            f"objective must be one of {sorted(LIKELIHOODS)}, got {objective!r}, or be a Likelihood"
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
