"""Log-likelihoods of pixels given the label that the model predicts there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LIKELIHOODS", "GaussianLikelihood", "PoissonLikelihood"]


class GaussianLikelihood(nn.Module):
    r"""Gaussian errors: :math:`\ln L = -\frac12 \sum_n ((y_n - l_n)/\sigma_n)^2`, up to a constant.

    Pixels whose label or error is not finite, or whose error is not positive, say nothing and
    count as zero.
    """

    observed = ("label", "label_err")
    """Names of what is observed in each pixel, in the order of `forward`."""

    def usable(self, label: Tensor, label_err: Tensor) -> Tensor:
        """Return which pixels can be used, with shape (*B, N)."""
        return label.isfinite() & label_err.isfinite() & (label_err > 0)

    def forward(
        self, model_label: Tensor, label: Tensor, label_err: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return ln L, summed over the last dimension, with shape (*B,).

        Parameters
        ----------
        model_label
            Predicted label, with shape (*B, N).
        label, label_err
            Observed label and its error, with shape (*B, N).
        weight
            Weight of each pixel, with shape (*B, N); 1 if not given.
        """
        usable = self.usable(label, label_err)
        residual = torch.where(usable, label - model_label, 0.0)
        chi = residual / torch.where(usable, label_err, 1.0)
        return -0.5 * _weighted(chi * chi, weight).sum(-1)

    def information(self, model_label: Tensor, label: Tensor, label_err: Tensor) -> Tensor:
        """Return the expected curvature of -ln L in the predicted label, shape (*B, N)."""
        usable = self.usable(label, label_err)
        return torch.where(usable, torch.where(usable, label_err, 1.0) ** -2, 0.0)


class PoissonLikelihood(nn.Module):
    r"""Star counts with expectation :math:`\Lambda = e^l`: the label is the log-density.

    .. math:: \ln L = \sum_n N_n l_n - e^{l_n} - \ln\Gamma(N_n + 1)

    Pixels whose count is not finite or negative say nothing; a count of zero does.
    """

    observed = ("counts",)
    """Names of what is observed in each pixel, in the order of `forward`."""

    def usable(self, counts: Tensor) -> Tensor:
        """Return which pixels can be used, with shape (*B, N)."""
        return counts.isfinite() & (counts >= 0)

    def forward(self, model_label: Tensor, counts: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return ln L, summed over the last dimension, with shape (*B,).

        Parameters
        ----------
        model_label
            Log of the expected count, with shape (*B, N).
        counts
            Observed counts, with shape (*B, N).
        weight
            Weight of each pixel, with shape (*B, N); 1 if not given.
        """
        usable = self.usable(counts)
        counts = torch.where(usable, counts, 0.0)
        terms = counts * model_label - model_label.exp() - torch.lgamma(counts + 1)
        return _weighted(torch.where(usable, terms, 0.0), weight).sum(-1)

    def information(self, model_label: Tensor, counts: Tensor) -> Tensor:
        """Return the expected curvature of -ln L in the predicted label, shape (*B, N)."""
        return torch.where(self.usable(counts), model_label.exp(), 0.0)


def _weighted(terms: Tensor, weight: Tensor | None) -> Tensor:
    return terms if weight is None else terms * weight


LIKELIHOODS: dict[str, type[GaussianLikelihood | PoissonLikelihood]] = {
    "gaussian": GaussianLikelihood,
    "poisson": PoissonLikelihood,
}
"""The likelihood of each objective's name."""
