r"""Fisher information and the Cramer-Rao bound: the covariance that the data allow at best.

The information is the curvature of the negative log-posterior, :math:`F = -\nabla\nabla(\ln L - R)`
at a parameter vector, and the bound its inverse (Cramer 1946; Rao 1945). What the data leave open
has no bound: it is nan here, never zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.fit import held_by_bound
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.eigen import eigh

__all__ = [
    "KINDS",
    "CramerRaoBound",
    "bound_at",
    "cramer_rao_bound",
    "fisher_information",
    "known",
    "on_bound",
    "warn_undefined",
]

KINDS = ("full", "data", "expected", "sandwich")
"""Which Hessian: see `bound_at`."""

# Curvature, as a fraction of what the parameters have one at a time, that rounding can fake.
_ROUNDING = 1e-12
# A direction without a bound spoils a parameter whose variance it would raise by this fraction.
_SHARE = 1e-2


def fisher_information(posterior: LogPosterior, vector: Tensor, kind: str = "full") -> Tensor:
    r"""Return the information matrix at a parameter vector.

    Parameters
    ----------
    posterior
        ln L - R of a vector.
    vector
        Parameters with shape (*B, P).
    kind
        "full": the Hessian of :math:`-(\ln L - R)`, which is positive definite at an optimum alone;
        "data": that of :math:`-\ln L`; "expected": :math:`J^T W J` with the Jacobian of the labels
        and the expected curvature of the likelihood, plus the Hessian of R without its negative
        curvatures, never negative whatever the vector.

    Returns
    -------
    Tensor
        Information in nats, with shape (*B, P, P).

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind == "full":
        one = vector.ndim == 1
        return -(batched_hessian(posterior, vector) if one else posterior.hessian(vector))
    if kind == "data":
        return -posterior.data_hessian(vector)
    if kind == "expected":
        return posterior.data_information(vector) + _without_negative(
            posterior.penalty_hessian(vector)
        )
    expected_kinds = ", ".join(KINDS[:3])
    raise ValueError(f"the information is that of one of {expected_kinds}, got {kind!r}")


def _without_negative(matrix: Tensor) -> Tensor:
    finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = eigh(torch.where(finite, (matrix + matrix.mT) / 2, 0.0))
    found = vectors * values.clamp(min=0).unsqueeze(-2) @ vectors.mT
    return torch.where(finite, found, torch.nan)


@dataclass(frozen=True)
class CramerRaoBound:
    """The bound of a batch of problems, and where there is none.

    Attributes
    ----------
    covariance
        With shape (*B, P, P); nan in rows and columns of parameters without a bound.
    held
        Parameters left out because they were asked to be (they sit on a bound), shape (*B, P).
    known
        Parameters that are known, with shape (*B, P): their variances are zero.
    undetermined
        Parameters that the information says nothing about, that lie along a direction of negative
        curvature, or whose bounds say more than it, with shape (*B, P).
    positive_definite
        Whether the information on what was neither held nor known is positive definite, (*B,).
    root
        Matrix A with shape (*B, P, P): ``A @ A.mT`` is the covariance, with zeros, not nan, for the
        parameters without a bound: draws from it hold them where they are.
    """

    covariance: Tensor
    held: Tensor
    undetermined: Tensor
    positive_definite: Tensor
    root: Tensor
    known: Tensor

    @property
    def undefined(self) -> Tensor:
        """Parameters without a bound, with shape (*B, P)."""
        return self.held | self.undetermined

    @property
    def still(self) -> Tensor:
        """Parameters that draws leave where they are, with shape (*B, P)."""
        return self.undefined | self.known

    @property
    def sigma(self) -> Tensor:
        """Standard deviations with shape (*B, P); nan where there is no bound."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()


def cramer_rao_bound(
    information: Tensor,
    held: Tensor | None = None,
    known: Tensor | None = None,
    width: Tensor | None = None,
) -> CramerRaoBound:
    """Invert an information matrix as far as it can be.

    Parameters
    ----------
    information
        Symmetric with shape (*B, P, P).
    held
        Parameters to leave out, with shape (*B, P): the others have the bound that they would have
        if these were known, and these have none.
    known
        Parameters that are known, with shape (*B, P).
    width
        How wide the bounds of each parameter are, with shape (*B, P), infinite where there are
        none (see `torusimaging_torch.inference.propagation.room`): a parameter whose standard
        deviation is larger is undetermined.

    Returns
    -------
    CramerRaoBound
        Parameters are put on the scale of their own curvatures first, so that units do not matter;
        directions whose curvature there is zero to rounding, or negative, have no bound, and no
        parameter that has a share in them.
    """
    nothing = torch.zeros_like(information[..., 0], dtype=torch.bool)
    known = nothing if known is None else nothing | known
    held = nothing if held is None else held & ~known
    apart = held | known
    left_out = apart.unsqueeze(-1) | apart.unsqueeze(-2)
    finite = information.isfinite().all(-1).all(-1)
    matrix = torch.where(left_out | ~finite[..., None, None], 0.0, information)
    matrix = (matrix + matrix.mT) / 2
    curvature = matrix.diagonal(dim1=-2, dim2=-1)
    # A parameter with no curvature of its own keeps scale one, and shows up as a flat direction.
    scale = torch.where(curvature != 0, curvature.abs(), 1.0).rsqrt()
    values, vectors = eigh(scale.unsqueeze(-1) * matrix * scale.unsqueeze(-2))
    good = values > _ROUNDING
    size = values.abs().clamp(min=_ROUNDING).unsqueeze(-2)
    spoiled = (vectors.square() > _SHARE * size) & ~good.unsqueeze(-2)
    undetermined = (spoiled.any(-1) | ~finite.unsqueeze(-1)) & ~apart
    sigma = torch.where(good, values.clamp(min=_ROUNDING).rsqrt(), 0.0)
    root = scale.unsqueeze(-1) * vectors * sigma.unsqueeze(-2)
    if width is not None:
        undetermined = undetermined | ((root.square().sum(-1) > width.square()) & ~apart)
    undefined = held | undetermined
    root = torch.where((undefined | known).unsqueeze(-1), 0.0, root)
    covariance = root @ root.mT
    no_bound = undefined.unsqueeze(-1) | undefined.unsqueeze(-2)
    definite = finite & (good.sum(-1) == (~apart).sum(-1))
    return CramerRaoBound(
        torch.where(no_bound, torch.nan, covariance), held, undetermined, definite, root, known
    )


def bound_at(
    posterior: LogPosterior,
    vector: Tensor,
    kind: str = "full",
    held: Tensor | None = None,
    known: Tensor | None = None,
    width: Tensor | None = None,
) -> CramerRaoBound:
    r"""Return the Cramer-Rao bound at a parameter vector.

    Parameters
    ----------
    posterior
        ln L - R of a vector.
    vector
        Parameters with shape (*B, P), at the optimum.
    kind
        "full", "data" or "expected": the inverse of that `fisher_information`. In the first and
        the last the penalty counts as a prior: they say how far the truth may be, if it was drawn
        from it. "sandwich": :math:`F^{-1} F_L F^{-1}` with the expected information F and that of
        the likelihood alone, :math:`F_L`. It says how far the estimate would be from its mean, were
        the data drawn anew, as a bootstrap does: never more, since the penalty narrows the scatter,
        and nothing of the bias for which it does so.
    held, known, width
        As in `cramer_rao_bound`.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"hessian must be one of {', '.join(KINDS)}, got {kind!r}")
    sandwich = kind == "sandwich"
    information = fisher_information(posterior, vector, "expected" if sandwich else kind)
    bound = cramer_rao_bound(information, held, known, width)
    if not sandwich:
        return bound
    values, vectors = eigh(posterior.data_information(vector))
    filling = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    root = bound.root @ (bound.root.mT @ filling)
    undefined = bound.undefined.unsqueeze(-1) | bound.undefined.unsqueeze(-2)
    covariance = torch.where(undefined, torch.nan, root @ root.mT)
    return replace(bound, covariance=covariance, root=root)


def on_bound(posterior: LogPosterior, box: Box, vector: Tensor) -> Tensor:
    """Return which parameters a bound holds back at a vector (*B, P), with shape (*B, P).

    Those that are known are none of them.
    """
    return held_by_bound(posterior, box, vector)


def known(box: Box) -> Tensor:
    """Return which parameters equal bounds hold, with shape (*B, P): they are known."""
    return box.lower == box.upper


def warn_undefined(bound: CramerRaoBound, names: Sequence[str], stacklevel: int = 3) -> None:
    """Warn, naming the parameters, of all that the bound does not say."""
    problems = []
    if bool(bound.held.any()):
        problems.append(f"on a bound: {_listed(bound.held, names)}")
    if bool(bound.undetermined.any()):
        problems.append(f"undetermined: {_listed(bound.undetermined, names)}")
    if not problems:
        return
    message = f"no Cramer-Rao bound for some parameters, they are nan ({'; '.join(problems)})"
    failed = int((~bound.positive_definite).sum())
    if failed:
        message += (
            f"; {failed} of {bound.positive_definite.numel()} information matrices are not "
            'positive definite: are these parameters at the optimum? (hessian="expected" has no '
            "negative curvature anywhere)"
        )
    warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


def _listed(mask: Tensor, names: Sequence[str]) -> str:
    """Name the entries of a mask with shape (*B, P), in a batch with their number of problems."""
    counts = mask.reshape(-1, mask.shape[-1]).sum(0).tolist()
    many = mask.ndim > 1
    return ", ".join(
        f"{name} ({count} problems)" if many else name
        for name, count in zip(names, counts, strict=True)
        if count
    )
