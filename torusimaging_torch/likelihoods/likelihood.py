"""Log-likelihoods of pixels given the label that the model predicts there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LIKELIHOODS", "GaussianLikelihood", "Likelihood", "PoissonLikelihood"]


class Likelihood(nn.Module):
    """What the likelihoods share: pixels that cannot be used say nothing and count as zero."""

    observed: tuple[str, ...]
    """Names of what is observed in each pixel, in the order of `forward`."""

    def usable(self, *observed: Tensor) -> Tensor:
        """Return which pixels can be used, with shape (*B, N)."""
        raise NotImplementedError

    def terms(self, model_label: Tensor, *observed: Tensor) -> Tensor:
        """Return the log-likelihood of each pixel, with shape (*B, N), all being usable."""
        raise NotImplementedError

    def curvature(self, model_label: Tensor, *observed: Tensor) -> Tensor:
        """Return the expected curvature of -ln L in each predicted label, with shape (*B, N)."""
        raise NotImplementedError

    def saturated(self, *observed: Tensor) -> Tensor:
        """Return the highest log-likelihood that each pixel can have, with shape (*B, N)."""
        raise NotImplementedError

    def forward(
        self, model_label: Tensor, *observed: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return ln L, summed over the last dimension, with shape (*B,).

        Parameters
        ----------
        model_label
            Predicted label, with shape (*B, N).
        *observed
            What was observed, with shape (*B, N) each.
        weight
            Weight of each pixel, with shape (*B, N); 1 if not given.
        """
        usable = self.usable(*observed)
        filled = (torch.where(usable, x, 1.0) for x in (model_label, *observed))
        used = usable.to(model_label.dtype) if weight is None else weight * usable
        return (self.terms(*filled) * used).sum(-1)


class GaussianLikelihood(Likelihood):
    r"""Gaussian errors: :math:`\ln L = -\frac12 \sum_n ((y_n - l_n)/\sigma_n)^2`, up to a constant.

    Observed are the label and its error. Pixels where one is not finite, or the error is not
    positive, say nothing.
    """

    observed = ("label", "label_err")

    def usable(self, *observed: Tensor) -> Tensor:
        """Return which pixels can be used, with shape (*B, N)."""
        label, label_err = observed
        return label.isfinite() & label_err.isfinite() & (label_err > 0)

    def terms(self, model_label: Tensor, *observed: Tensor) -> Tensor:
        """Return the log-likelihood of each pixel, with shape (*B, N), all being usable."""
        label, label_err = observed
        return -0.5 * ((label - model_label) / label_err).square()

    def curvature(self, model_label: Tensor, *observed: Tensor) -> Tensor:
        r"""Return :math:`1/\sigma^2`, with shape (*B, N)."""
        return observed[1] ** -2

    def saturated(self, *observed: Tensor) -> Tensor:
        """Return 0, that of a label without a residual, with shape (*B, N)."""
        return torch.zeros_like(observed[0])


class PoissonLikelihood(Likelihood):
    r"""Star counts with expectation :math:`\Lambda = e^l`: the label is the log-density.

    .. math:: \ln L = \sum_n N_n l_n - e^{l_n} - \ln\Gamma(N_n + 1)

    Observed are the counts. Pixels where the count is not finite or negative say nothing; a count
    of zero does.
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


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": GaussianLikelihood,
    "poisson": PoissonLikelihood,
}
"""The likelihood of each objective's name."""
