"""The contract of a likelihood: what is observed in a pixel, given the label of the model there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Likelihood"]


class Likelihood(nn.Module):
    """What the fit asks of a likelihood; pixels that cannot be used say nothing and count as zero.

    A subclass writes the methods that raise here. All take the predicted label and what was
    observed, with shape (*B, N) each, and work element by element. An object of it stands for its
    name wherever an ``objective`` is asked for; ``LIKELIHOODS`` has those with a name.

    Attributes
    ----------
    observed
        Names of what is observed in each pixel, in the order in which the methods take it. Data
        have it under these names.
    goodness
        What `deviance` is called in reports.
    """

    observed: tuple[str, ...]
    goodness: str = "deviance"

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

    def as_labels(self, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return a label and its error for each pixel, nan without one: the fit starts from them.

        They need no more than the size of the truth: knots, bounds and a start come from them.
        """
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
