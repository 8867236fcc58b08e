r"""What is known beforehand: priors of parameters, and parameters that are held.

Both are dictionaries by parameter, nested like parameters or by their names: ``{"pos0": ...}``,
``{"label_params.label_vals": ...}``, ``{"e_params[2].vals": ...}`` or ``{"e_params.2.vals": ...}``.

A prior is a pair of mean and standard deviation, with units where the parameter has one, or a
distribution of torch or Pyro of the bare number or vector in model units. It is a part of the
penalty: :math:`R` becomes :math:`R - \ln p`, without the constant of a normal distribution. It
takes the place of a prior of the same parameter that the model has already. Bounds end where a
distribution does. A density must be smooth: a fit does not end on the kink of a Laplace density.

A parameter that is held has equal bounds, and no error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import torch
from gala.units import UnitSystem
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from torusimaging_torch.likelihoods.priors import DensityPenalty, NormalPenalty, Prior
from torusimaging_torch.model.low_order import FRAME
from torusimaging_torch.numerics.params import (
    Layout,
    Params,
    Path,
    batch_shape,
    iter_leaves,
    path_name,
)
from torusimaging_torch.units import LEAVES, PARAM_KINDS, Hold, Priors, to_tensor

__all__ = [
    "AllKnown",
    "as_held",
    "as_priors",
    "by_path",
    "check_names",
    "describe_priors",
    "of_problems",
    "read_hold",
    "read_priors",
]

Known: TypeAlias = tuple[Tensor, Tensor] | Distribution
"""A prior that was read: mean and standard deviation, or a density of another kind."""


class AllKnown(TypedDict):
    """Priors and values that are held, read, by the keys that lead to each parameter."""

    priors: dict[Path, Known]
    hold: dict[Path, Tensor]


_STEP = re.compile(r"[^.\[\]]+")


def by_path(given: Priors) -> dict[Path, Any]:
    """Return what is given by parameter, nested or by name, by the keys that lead to each.

    Examples
    --------
    >>> by_path({"pos0": 0.0, "e_params[2].vals": -1.0})
    {('e_params', 2, 'vals'): -1.0, ('pos0',): 0.0}
    """
    return {
        (*_steps(path[0]), *(_step(key) for key in path[1:])): value
        for path, value in iter_leaves(given)
    }


def _steps(key: Hashable) -> Sequence[Hashable]:
    """Return the keys that a name is made of; keys already read stay as they are."""
    if not isinstance(key, str):
        return key if isinstance(key, tuple) else (key,)
    return [_step(step) for step in _STEP.findall(key)]


def _step(key: Hashable) -> Hashable:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def check_names(given: Mapping[Any, Any], what: str) -> None:
    """Refuse names that are no parameter of any model, before their units are looked at.

    Parameters
    ----------
    given
        Anything by parameter.
    what
        What is given, for the message.

    Raises
    ------
    ValueError
        If no model has such a parameter.
    """
    for path in by_path(given):
        if not path or path[0] not in LEAVES:
            raise _no_parameter(path, what, sorted(LEAVES))


def _no_parameter(path: Path, what: str, names: Sequence[str]) -> ValueError:
    name = path_name(path)
    return ValueError(f"{what}: no parameter is called {name}: expected some of {list(names)}")


def as_priors(priors: Priors, units: UnitSystem) -> dict[Path, Known]:
    """Return priors by keys: each a pair of tensors in model units, mean and sigma, or a density.

    Raises
    ------
    TypeError
        If one is neither a pair nor a distribution.
    ValueError
        If no model has such a parameter, a standard deviation is not positive, or a number not
        finite.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.
    """
    check_names(priors, "priors")
    found = {}
    for path, given in by_path(priors).items():
        name = path_name(path)
        pair = _pair(name, given)
        if pair is None:
            found[path] = given
            continue
        kind = PARAM_KINDS.get(str(path[0]))
        mean, sigma = (to_tensor(x, f"priors[{name!r}]", kind, units) for x in pair)
        if not bool(mean.isfinite().all() and sigma.isfinite().all() and (sigma > 0).all()):
            raise ValueError(
                f"priors[{name!r}] must have a finite mean and a positive, finite standard "
                f"deviation, got {given!r}; use hold for what is known exactly"
            )
        found[path] = (mean, sigma)
    return found


def as_held(hold: Mapping[Any, Any], units: UnitSystem) -> dict[Path, Tensor]:
    """Return values of parameters that are held, by keys, in model units.

    Raises
    ------
    ValueError
        If no model has such a parameter, or a value is not finite.
    TypeError
        If one is not numeric.
    astropy.units.UnitConversionError
        If a quantity has the wrong dimension.
    """
    check_names(hold, "hold")
    found = {}
    for path, value in by_path(hold).items():
        what = f"hold[{path_name(path)!r}]"
        found[path] = to_tensor(value, what, PARAM_KINDS.get(str(path[0])), units)
        if not bool(found[path].isfinite().all()):
            raise ValueError(f"{what} must be finite, got {value!r}")
    return found


def describe_priors(priors: Mapping[Path, Known]) -> dict[str, Any]:
    """Return priors, as `as_priors` makes them, as numbers, texts, lists and dictionaries.

    A pair is a list of mean and standard deviation; any other density has its name and arguments.
    """
    described: dict[str, Any] = {}
    for path, prior in priors.items():
        if isinstance(prior, tuple):
            described[path_name(path)] = [x.tolist() for x in prior]
            continue
        arguments = {k: getattr(prior, k).tolist() for k in getattr(prior, "arg_constraints", {})}
        described[path_name(path)] = {"distribution": type(prior).__name__, **arguments}
    return described


def of_problems(given: Mapping[Path, Any], indices: Sequence[int]) -> dict[Path, Any]:
    """Return what is known of some problems of a batch.

    Parameters
    ----------
    given
        Priors or values as `as_priors` or `as_held` make them, with shape (B,) or (B, K) where
        problems differ.
    indices
        Which problems.

    Raises
    ------
    ValueError
        If there is none for one of the problems.
    """

    def pick(path: Path, x: Tensor) -> Tensor:
        if x.ndim <= (path not in FRAME.paths):
            return x
        if len(x) <= max(indices):
            raise ValueError(
                f"what is known of {path_name(path)} has {len(x)} values, but there are more "
                f"subsamples (number {max(indices)}): give one for each, or one for all"
            )
        return x[list(indices)]

    found: dict[Path, Any] = {}
    for path, value in given.items():
        if isinstance(value, tuple):
            found[path] = tuple(pick(path, x) for x in value)
        else:
            found[path] = pick(path, value) if isinstance(value, Tensor) else value
    return found


def _pair(name: str, given: Any) -> tuple[Any, Any] | None:
    """Return mean and standard deviation, or None if it is a distribution of another kind."""
    if isinstance(given, Independent) and given.base_dist.batch_shape == given.event_shape:
        given = given.base_dist
    if isinstance(given, Normal) and type(given).log_prob is Normal.log_prob:
        return given.loc.double(), given.scale.double()
    if callable(getattr(given, "log_prob", None)):
        return None
    if isinstance(given, str) or not hasattr(given, "__len__") or len(given) != 2:
        raise TypeError(
            f"priors[{name!r}] must be a pair (mean, standard deviation) or a distribution of "
            f"torch, got {given!r}"
        )
    return given[0], given[1]


def read_priors(
    priors: Priors, layout: Layout, units: UnitSystem, batch: torch.Size | None
) -> list[Prior]:
    """Return priors as penalties of a model's leaves.

    Parameters
    ----------
    priors
        Dictionary by parameter.
    layout
        The parameters of the model.
    units
        Its unit system.
    batch
        The batch shape *B, to which numbers with a shape of their own broadcast; None if it is not
        known: then they keep theirs.

    Raises
    ------
    ValueError
        If there is no such parameter, or a shape is not that of it.
    """
    penalties: list[Prior] = []
    sizes = {path: _size_of(path, layout, "priors") for path in by_path(priors)}
    for path, value in as_priors(priors, units).items():
        name, size = path_name(path), sizes[path]
        if isinstance(value, tuple):
            mean, sigma = (_shaped(x, size, batch, f"priors[{name!r}]") for x in value)
            penalties.append(NormalPenalty(path, size, mean, sigma))
            continue
        _check_shape(name, value, size)
        penalties.append(DensityPenalty(path, size, value))
    return penalties


def _size_of(path: Path, layout: Layout, what: str) -> int | None:
    if path not in layout.paths:
        raise _no_parameter(path, what, [path_name(p) for p in layout.paths])
    return layout.sizes[layout.paths.index(path)]


def _shaped(x: Tensor, size: int | None, batch: torch.Size | None, what: str) -> Tensor:
    """Return a number, or one for each entry, and for each problem if they differ."""
    own = () if size is None else (size,)
    if x.ndim <= len(own):
        expected: tuple[int, ...] = own
    else:
        expected = (*(x.shape[: x.ndim - len(own)] if batch is None else batch), *own)
    try:
        return x.expand(expected)
    except RuntimeError:
        raise ValueError(
            f"{what} must have shape {own}, or {(*(batch or ('B',)), *own)} where problems differ, "
            f"got {tuple(x.shape)}"
        ) from None


def _check_shape(name: str, distribution: Distribution, size: int | None) -> None:
    shape = (*distribution.batch_shape, *distribution.event_shape)
    if shape not in ((), (1,), *([] if size is None else [(size,)])):
        raise ValueError(
            f"priors[{name!r}] must be a distribution with shape {() if size is None else (size,)},"
            f" got {tuple(shape)}; what differs from problem to problem must be normal"
        )


def read_hold(hold: Hold, params: Params, units: UnitSystem) -> dict[Path, Tensor]:
    """Return the values of parameters that are held, by the keys that lead to each.

    Parameters
    ----------
    hold
        Values by parameter, or names alone, of parameters that stay where they are.
    params
        Parameters, tensors.
    units
        The unit system of bare numbers.

    Raises
    ------
    ValueError
        If there is no such parameter, or a value is not finite or has another shape.
    TypeError
        If it is neither a dictionary nor names.
    """
    layout, leaves = Layout.of(params), dict(iter_leaves(params))
    if isinstance(hold, str):
        hold = [hold]
    good = isinstance(hold, Mapping) or (
        isinstance(hold, Sequence) and all(isinstance(x, str) for x in hold)
    )
    if not good:
        raise TypeError(
            "hold must be a dictionary of values by parameter, or a list of names, got "
            f"{type(hold).__name__}: {hold!r}"
        )
    named = not isinstance(hold, Mapping)
    found, batch = {}, batch_shape(params)
    for path, value in by_path(hold if isinstance(hold, Mapping) else dict.fromkeys(hold)).items():
        size, what = _size_of(path, layout, "hold"), f"hold[{path_name(path)!r}]"
        like = leaves[path]
        x = like if named else to_tensor(value, what, PARAM_KINDS.get(str(path[0])), units)
        if not bool(x.isfinite().all()):
            raise ValueError(f"{what} must be finite, got {value!r}")
        found[path] = _shaped(x.to(like), size, batch, what)
    return found
