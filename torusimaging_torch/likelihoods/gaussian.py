"""The likelihood of labels with Gaussian errors."""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.likelihoods.likelihood import Likelihood

__all__ = ["GaussianLikelihood"]


class GaussianLikelihood(Likelihood):
    r"""Gaussian errors: :math:`\ln L = -\frac12 \sum_n ((y_n - l_n)/\sigma_n)^2`, up to a constant.

    Observed are the label and its error. Pixels where one is not finite, or the error is not
    positive, say nothing.

    Examples
    --------
    >>> GaussianLikelihood()(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([2.0]))
    tensor(-0.5000)
    """

    observed = ("label", "label_err")
    goodness = "chi2"

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

    def as_labels(self, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels and their errors as they are, with shape (*B, N)."""
        label, label_err = observed
        return label, label_err
