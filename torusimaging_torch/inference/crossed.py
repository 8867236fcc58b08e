r"""What two correlated labels say beyond each of them alone.

With residuals :math:`\rho_a` of the labels in a pixel and the inverse P of their covariance,

.. math::

    \ln L = -\tfrac12 \sum_a P_{aa} \rho_a^2 - \sum_{a<b} P_{ab} \rho_a \rho_b .

The first sum is that of labels that are independent, with the errors :math:`P_{aa}^{-1/2}`: what is
uncertain of a label where all others are known. Here is the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from torusimaging_torch.evaluation.crossed_form import CrossedForm, CrossedLabel, crossed_label
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.inference.parts import part_params, part_rows
from torusimaging_torch.inference.pixels import Index, Pixels
from torusimaging_torch.inference.posterior import subset_module
from torusimaging_torch.likelihoods.likelihood import Likelihood
from torusimaging_torch.numerics.params import Layout, Params, function_params
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.sensitivity import label_jacobian

__all__ = ["Crossed", "TwoLabels", "conditional_errors"]

# Correlation matrices keep at least this smallest eigenvalue.
_LEAST = 1e-3


class TwoLabels(Likelihood):
    """What is observed where two labels meet; tells which pixels can be used."""

    observed = ("first", "second", "precision")

    def usable(self, *observed: Tensor) -> Tensor:
        """Return where all three are numbers, with shape (*B, N)."""
        first, second, precision = observed
        return first.isfinite() & second.isfinite() & precision.isfinite()


@dataclass(frozen=True)
class Crossed:
    """The cross term of two labels, with what `ByAutograd` asks of a definition.

    Attributes
    ----------
    torus
        The torus of all data sets.
    names
        The two labels.
    layout
        How all parameters are laid out.
    pixels
        Both labels and the off-diagonal entry of the inverse covariance, with shape (*B, N).
    """

    torus: OrbitalTorus
    names: tuple[str, str]
    layout: Layout
    pixels: Pixels

    def ln_likelihood_at(self, vector: Tensor) -> Tensor:
        """Return the cross term of vectors (*B, P), with shape (*B,)."""
        return self.ln_likelihood(self.layout.unflatten(vector))

    def ln_likelihood(self, params: Params) -> Tensor:
        """Return the cross term of a parameter dictionary, with shape (*B,)."""
        radius = self.torus.radius(self.pixels.pos, self.pixels.vel, params)
        *labels, precision = self.pixels.observed
        product = -precision
        for name, label in zip(self.names, labels, strict=True):
            own = function_params(part_params(params, name), "label_params", params["pos0"].ndim)
            product = product * (label - self.torus.labels[name](radius, **own))
        return self._weighted(product).sum(-1)

    def penalty(self, vector: Tensor) -> Tensor:
        """Return 0: penalties are with the labels themselves, with shape (*B,)."""
        return 0.0 * vector.sum(-1)

    def expected_information(self, vector: Tensor) -> Tensor:
        """Return J_a^T P J_b and its transpose, with shape (*B, P, P)."""
        first, second = (self._jacobian(vector, name) for name in self.names)
        precision = self._weighted(self.pixels.observed[2])
        half = (precision.unsqueeze(-2) * first) @ second.mT
        return half + half.mT

    def subset(self, index: Index) -> Crossed:
        """Return the cross term of some problems of a batch."""
        torus = subset_module(self.torus, index)
        return Crossed(torus, self.names, self.layout, self.pixels.subset(index))

    def by_formulas(self, batch: torch.Size, *, compiled: bool = False) -> CrossedForm:
        """Return the same by formulas, for problems with shape *B, where these know the torus."""
        first, second = (self._label(i, name) for i, name in enumerate(self.names))
        form = CrossedForm(self, (first, second), batch)
        if not compiled:
            return form
        from torusimaging_torch.evaluation.compiled_crossed import CompiledCrossed

        return CompiledCrossed.of(form)

    def _label(self, i: int, name: str) -> CrossedLabel:
        pixels, shape = self.pixels, (-1, self.pixels.pos.shape[-1])
        weight = self._weighted(pixels.observed[2])
        tensors = pixels.pos, pixels.vel, pixels.observed[i], weight
        pos, vel, label, weight = (x.reshape(shape) for x in tensors)
        constant = pixels.pos.new_zeros(pixels.pos.shape[:-1]).reshape(-1)
        layout, places = self._part(name)
        index = torch.tensor(places, device=pixels.pos.device)
        observations = Observations(pos, vel, label, weight, constant, counts=False)
        return crossed_label(self.torus.part(name), layout, index, observations)

    def _part(self, name: str) -> tuple[Layout, list[int]]:
        """Return the layout of a label's parameters, and where they are among all."""
        params = self.layout.unflatten(self.pixels.pos.new_zeros(self.layout.size))
        layout = Layout.of(part_params(params, name))
        return layout, part_rows(self.layout, layout, name)

    def _jacobian(self, vector: Tensor, name: str) -> Tensor:
        """Return the derivatives of a label by all parameters, with shape (*B, P, N)."""
        pixels, vector = self.pixels, vector.detach()
        layout, places = self._part(name)
        torus, own = self.torus.part(name), vector[..., places]
        jacobian = label_jacobian(torus, pixels.pos, pixels.vel, own, layout)[1]
        every = jacobian.new_zeros(*jacobian.shape[:-2], vector.shape[-1], jacobian.shape[-1])
        every[..., places, :] = jacobian
        return every

    def _weighted(self, x: Tensor) -> Tensor:
        return x if self.pixels.weight is None else x * self.pixels.weight


def conditional_errors(
    errors: Mapping[str, Tensor], covariances: Mapping[tuple[str, str], Tensor]
) -> tuple[dict[str, Tensor], dict[tuple[str, str], Tensor]]:
    """Invert the covariance of labels in each pixel.

    Parameters
    ----------
    errors
        The error of each label, with shape (*B, N); nan where it is not known.
    covariances
        By both names, of the same shape.

    Returns
    -------
    errors
        What is uncertain of each label where the others are known, P_aa^(-1/2).
    precisions
        P_ab of all pairs by both names, also of those whose covariance is 0: a third label may
        link them. Labels that a pixel does not have say nothing of the others. A covariance that no
        labels can have is made smaller.

    Examples
    --------
    >>> one = torch.ones(1)
    >>> conditional_errors({"a": one, "b": 2 * one}, {("a", "b"): 1.2 * one})
    ({'a': tensor([0.8000]), 'b': tensor([1.6000])}, {('a', 'b'): tensor([-0.4688])})
    """
    names = list(errors)
    sigma = torch.stack([errors[name] for name in names], -1)
    known = sigma.isfinite() & (sigma > 0)
    sigma = torch.where(known, sigma, 1.0)
    off = torch.zeros(*sigma.shape, len(names), dtype=sigma.dtype, device=sigma.device)
    for (a, b), covariance in covariances.items():
        i, j = names.index(a), names.index(b)
        both = known[..., i] & known[..., j] & covariance.isfinite()
        off[..., i, j] = off[..., j, i] = torch.where(
            both, covariance.nan_to_num() / (sigma[..., i] * sigma[..., j]), 0.0
        )
    lowest = -torch.linalg.eigvalsh(off.detach())[..., :1, None]
    off = off * ((1 - _LEAST) / lowest.clamp(min=1 - _LEAST))
    inverse = torch.linalg.inv(off + torch.eye(len(names)).to(off))
    inverse = inverse / (sigma.unsqueeze(-1) * sigma.unsqueeze(-2))
    own = inverse.diagonal(dim1=-2, dim2=-1).rsqrt()
    found = {
        name: torch.where(known[..., i], own[..., i], torch.nan) for i, name in enumerate(names)
    }
    pairs = combinations(range(len(names)), 2)
    return found, {(names[i], names[j]): inverse[..., i, j] for i, j in pairs}
