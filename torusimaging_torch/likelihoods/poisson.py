"""The likelihood of star counts, whose log expectation is the label."""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.likelihoods.likelihood import Likelihood

__all__ = ["PoissonLikelihood"]


class PoissonLikelihood(Likelihood):
    r"""Star counts with expectation :math:`\Lambda = e^l`: the label is the log-density.

    .. math:: \ln L = \sum_n N_n l_n - e^{l_n} - \ln\Gamma(N_n + 1)

    Observed are the counts. Pixels where the count is not finite or negative say nothing; a count
    of zero does.

    Examples
    --------
    >>> PoissonLikelihood()(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor(-1.)
    """

    observed = ("counts",)

    def usable(self, *observed: Tensor) -> Tensor:
        """Return which pixels can be used, with shape (*B, N)."""
        (counts,) = observed
        return counts.isfinite() & (counts >= 0)

    def terms(self, model_label: Tensor, *observed: Tensor) -> Tensor:
        """Return the log-likelihood of each pixel, with shape (*B, N), all being usable."""
        (counts,) = observed
        return counts * model_label - model_label.exp() - torch.lgamma(counts + 1)

    def curvature(self, model_label: Tensor, *observed: Tensor) -> Tensor:
        r"""Return :math:`e^l`, with shape (*B, N)."""
        return model_label.exp()

    def saturated(self, *observed: Tensor) -> Tensor:
        """Return that of an expectation equal to the count, with shape (*B, N)."""
        (counts,) = observed
        return torch.xlogy(counts, counts) - counts - torch.lgamma(counts + 1)

    def as_labels(self, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln(counts) and 1/sqrt(counts), nan where there is no star, with shape (*B, N)."""
        counts = torch.where(observed[0] > 0, observed[0], torch.nan)
        return counts.log(), counts**-0.5
