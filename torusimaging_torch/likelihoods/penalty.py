r"""The default penalty of the spline model.

It keeps densities positive, values small and splines smooth. With ``softplus`` the soft rectifier
:math:`\ln(1 + e^x)`,

.. math::

    R = s\sum_m\sum_k \mathrm{softplus}\left(\frac{(da/dq)_{mk}}{\mathrm{scale}}\right)
      + \sum_m\sum_k \left(\frac{e_m(x_{mk})}{\sigma_m}\right)^2
      + \sum_k \left(\frac{l(x_k)}{\sigma_l}\right)^2
      + \sum_m\sum_k \left(\frac{\Delta v_{mk}}{\tau_m}\right)^2
      + \sum_k \left(\frac{\Delta l'_k}{\tau_l}\right)^2

where the gradient of the acceleration is taken at the knots of :math:`e_m` but the first, at
:math:`q = q_0 + x_{mk}/\sqrt{\Omega_0}`; v are the log slopes of e and l' the slopes of the label.

This is the penalty that upstream's ``torusimaging`` 0.1 uses, but for one thing. It takes the
gradient at :math:`q = x_{mk}/\sqrt{\Omega_0}`, on one side of the knot or the other by the sign of
:math:`q_0`. Where the second derivative of e jumps, so does the penalty, at :math:`q_0 = 0`, and an
optimizer gets stuck there. With quadratic splines, which jump at every knot, upstream's positions
are kept, so that its numbers come out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from torusimaging_torch.numerics.params import Params, column, map_leaves
from torusimaging_torch.numerics.ranges import check_all, not_negative, positive
from torusimaging_torch.torus.acceleration import acceleration_gradient
from torusimaging_torch.torus.at_knots import AtKnots
from torusimaging_torch.torus.orbital_torus import OrbitalTorus

__all__ = [
    "Penalized",
    "PenalizedModel",
    "Penalty",
    "PenaltyFunction",
    "PenaltyOfMany",
    "SumOfPenalties",
    "bind_regularization",
    "move_penalty",
    "no_regularization",
    "regularization_func_default",
    "regularization_func_label",
    "subset_penalty",
]

PenaltyFunction: TypeAlias = Callable[..., Tensor]
"""What a model takes off ln L: called with the model and its parameters, it returns R."""

Scale = float | Tensor


class Penalized(Protocol):
    """What a penalty may use of a model."""

    torus: OrbitalTorus

    def at_knots(self, params: Params) -> AtKnots:
        """Return the label and each e_m at their knots."""


OwnPenalty = TypeVar("OwnPenalty", bound="Penalty")


class PenalizedModel(Protocol):
    """What a posterior needs of a model."""

    @property
    def torus(self) -> OrbitalTorus:
        """What predicts labels."""

    @property
    def regularization_func(self) -> PenaltyFunction:
        """The penalty R in nats, called with the model and a dictionary of tensors."""


class Penalty:
    """The contract of a penalty R, a function of the model and its parameters in nats.

    A plain function ``f(model, params)`` does as well. A class is for a penalty that differs from
    problem to problem of a batch: the batch is divided among devices, and problems that have ended
    leave it.
    """

    def __call__(self, model: Penalized, params: Params) -> Tensor:
        """Return R with shape (*B,), differentiable twice.

        Parameters
        ----------
        model
            The model; ``model.at_knots(params)`` has its functions at their knots.
        params
            Nested dictionary of tensors in model units.
        """
        raise NotImplementedError

    def subset(self: OwnPenalty, index: object) -> OwnPenalty:
        """Return the penalty of some problems, in any order, also more than once."""
        return self

    def to(self: OwnPenalty, like: Tensor) -> OwnPenalty:
        """Return the same on the device, and of the type, of a tensor."""
        return self


def no_regularization(model: Penalized, params: Params) -> Tensor:
    """Return no penalty at all: zeros with shape (*B,)."""
    return torch.zeros_like(params["pos0"])


def regularization_func_default(
    model: Penalized,
    params: Params,
    label_l2_sigma: Scale,
    label_smooth_sigma: Scale,
    e_l2_sigmas: Mapping[int, Scale],
    e_smooth_sigmas: Mapping[int, Scale],
    dacc_dpos_scale: Scale = 1e-4,
    dacc_strength: Scale = 1.0,
) -> Tensor:
    """Return the default penalty in nats, with shape (*B,).

    Scales and strengths are numbers, or tensors with shape (*B,).

    Parameters
    ----------
    model
        A `~torusimaging_torch.TorusImaging1DSpline`.
    params
        Nested dictionary of tensors.
    label_l2_sigma
        Scale of the label function's values at its knots, in the label's unit.
    label_smooth_sigma
        Scale of the change of its slope from knot to knot.
    e_l2_sigmas, e_smooth_sigmas
        The same for each e function, by order m; its smoothness is that of the log slopes.
    dacc_dpos_scale
        Softness of the wall that keeps da/dq negative, in model units (1 / time^2).
    dacc_strength
        Height of that wall; 0 takes it away.

    Examples
    --------
    >>> scales = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
    >>> scales |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}
    >>> regularization_func_default(model, model.border.params(params), **scales).round(decimals=3)
    tensor(4.3260, dtype=torch.float64)
    """
    penalty = torch.zeros_like(params["pos0"])
    at = model.at_knots(params)
    walls = isinstance(dacc_strength, Tensor) and dacc_strength.ndim > 0
    if (walls or dacc_strength > 0) and at.harmonics:
        penalty = penalty + dacc_strength * _negative_density(model, params, at, dacc_dpos_scale)
    for m in at.harmonics:
        changes = params["e_params"][m]["vals"].diff(dim=-1)
        penalty = penalty + _sum_square(at.e(m) / _per_knot(e_l2_sigmas[m]))
        penalty = penalty + _sum_square(changes / _per_knot(e_smooth_sigmas[m]))
    slopes = params["label_params"]["label_vals"][..., 1:]
    penalty = penalty + _sum_square(at.label / _per_knot(label_l2_sigma))
    return penalty + _sum_square(slopes.diff(dim=-1) / _per_knot(label_smooth_sigma))


def regularization_func_label(
    model: Penalized,
    params: Params,
    label_smooth_sigma: Scale,
    label_l2_sigma: Scale | None = None,
) -> Tensor:
    """Return the part of the default penalty that is the label function's, with shape (*B,).

    Parameters
    ----------
    model, params, label_smooth_sigma, label_l2_sigma
        As in `regularization_func_default`; without the last there is no penalty on values.
    """
    slopes = params["label_params"]["label_vals"][..., 1:]
    penalty = _sum_square(slopes.diff(dim=-1) / _per_knot(label_smooth_sigma))
    if label_l2_sigma is None:
        return penalty
    return penalty + _sum_square(model.at_knots(params).label / _per_knot(label_l2_sigma))


@dataclass(frozen=True)
class SumOfPenalties(Penalty):
    """Several penalties together.

    Attributes
    ----------
    penalties
        Each is called with the model and the parameters.
    """

    penalties: tuple[PenaltyFunction, ...]

    def __call__(self, model: Penalized, params: Params) -> Tensor:
        """Return their sum, with shape (*B,)."""
        total = torch.zeros_like(params["pos0"])
        for penalty in self.penalties:
            total = total + penalty(model, params)
        return total

    def subset(self, index: object) -> SumOfPenalties:
        """Return the sum of some problems, in any order, also more than once."""
        return SumOfPenalties(tuple(subset_penalty(p, index) for p in self.penalties))

    def to(self, like: Tensor) -> SumOfPenalties:
        """Return the same on the device, and of the type, of a tensor."""
        return SumOfPenalties(tuple(move_penalty(p, like) for p in self.penalties))


def subset_penalty(penalty: PenaltyFunction, index: object) -> PenaltyFunction:
    """Return a penalty of some problems; a plain function is the same for all."""
    return penalty.subset(index) if isinstance(penalty, Penalty) else penalty


def move_penalty(penalty: PenaltyFunction, like: Tensor) -> PenaltyFunction:
    """Return a penalty on the device, and of the type, of a tensor."""
    return penalty.to(like) if isinstance(penalty, Penalty) else penalty


def _negative_density(model: Penalized, params: Params, at: AtKnots, scale: Scale) -> Tensor:
    """Return the sum of the soft rectifier over the outer knots of every e function."""
    degrees = [f.degree for f in model.torus.distortion.e_funcs.values()]
    if 2 in degrees:
        # Upstream's positions leave pos0 out, so that the piece they lie on changes with its sign.
        pos = at.radii / column((0.5 * params["ln_Omega0"]).exp())
        gradient = acceleration_gradient(model.torus, pos, params)
    else:
        gradient = at.acceleration_deriv()
    excess = gradient / _per_knot(scale)
    # Not softplus, which torch cuts off at 20, its second derivative with it; nor logaddexp, whose
    # second derivative is nan where an exponential overflows.
    return -functional.logsigmoid(-excess).sum(-1)


def _per_knot(scale: Scale) -> Scale:
    return column(scale) if isinstance(scale, Tensor) else scale


def _sum_square(x: Tensor) -> Tensor:
    return (x * x).sum(-1)


@dataclass(frozen=True, eq=False)
class PenaltyOfMany(Penalty):
    """A penalty with arguments of its own for each problem of a batch.

    Attributes
    ----------
    arguments
        Those of the function, nested as there, as tensors with shape (B,).
    function
        Called with the model, the parameters and the arguments; None for the default penalty.
    """

    arguments: Mapping[str, Any]
    function: PenaltyFunction | None = None

    @classmethod
    def stack(cls, arguments: Sequence[Mapping[str, Any]]) -> PenaltyOfMany:
        """Join the arguments of B problems, all of them numbers or by order m.

        Raises
        ------
        ValueError
            If the problems do not have the same arguments.
        """
        return cls(_stack(arguments))

    def __call__(self, model: Penalized, params: Params) -> Tensor:
        """Return the penalty with shape (B,), where the parameters are."""
        here = self.to(params["pos0"])
        function = self.function or regularization_func_default
        return function(model, params, **here.arguments)

    def subset(self, index: object) -> PenaltyOfMany:
        """Return the penalty of some problems, in any order, also more than once."""
        return replace(self, arguments=map_leaves(lambda x: x[index], self.arguments))

    def to(self, like: Tensor) -> PenaltyOfMany:
        """Return the same on the device, and of the type, of a tensor."""
        return replace(self, arguments=map_leaves(lambda x: x.to(like), self.arguments))


def _stack(values: Sequence[Any]) -> Any:
    first = values[0]
    if not isinstance(first, Mapping):
        return torch.tensor([float(value) for value in values], dtype=torch.float64)
    if any(set(value) != set(first) for value in values):
        raise ValueError(f"all problems of a batch must have the same arguments {sorted(first)}")
    return {key: _stack([value[key] for value in values]) for key in first}


_KINDS = {
    **dict.fromkeys(("label_l2_sigma", "label_smooth_sigma", "dacc_dpos_scale"), positive),
    **dict.fromkeys(("e_l2_sigmas", "e_smooth_sigmas"), positive),
    "dacc_strength": not_negative,
}


def bind_regularization(
    function: PenaltyFunction | bool | None, kwargs: Mapping[str, Any]
) -> PenaltyFunction:
    """Return a penalty of (model, params) alone, its further arguments bound.

    Parameters
    ----------
    function
        Called as ``function(model, params, **kwargs)``; None or True for the default one, False
        for none.
    kwargs
        The further arguments.

    Raises
    ------
    ValueError
        If an argument without a default is missing, or a width is not positive.
    TypeError
        If there is one that the function does not take.
    """
    if function is False:
        if kwargs:
            raise TypeError(f"without regularization, {sorted(kwargs)} have no meaning")
        return no_regularization
    if function is None or function is True:
        function = regularization_func_default
    parameters = list(inspect.signature(function).parameters.values())[2:]
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    takes_any = len(names) < len(parameters)
    missing = [
        p.name for p in parameters if p.default is p.empty and p.name in set(names) - set(kwargs)
    ]
    if missing:
        raise ValueError(
            f"the regularization function needs {missing}: pass them as keyword arguments, or "
            "regularization_func=False for none"
        )
    unknown = sorted(set(kwargs) - set(names))
    if unknown and not takes_any:
        raise TypeError(f"unknown arguments {unknown}: the regularization function takes {names}")
    if function in (regularization_func_default, regularization_func_label):
        check_all(kwargs, _KINDS)
    return partial(function, **kwargs) if kwargs else function
