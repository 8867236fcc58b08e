"""What is known beforehand, put to use: in penalties, bounds, starts and low-order fits.

How it is given is told in `torusimaging_torch.model.known`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from gala.units import UnitSystem
from torch import Tensor, nn

from torusimaging_torch.arrays import Array
from torusimaging_torch.inference.parts import BY_NAME
from torusimaging_torch.likelihoods.penalty import (
    PenaltyFunction,
    SumOfPenalties,
    no_regularization,
)
from torusimaging_torch.likelihoods.priors import DensityPenalty, Prior
from torusimaging_torch.model.border import Fronted, SomeModel, Start
from torusimaging_torch.model.data_sets import JointPenalty
from torusimaging_torch.model.known import as_held, by_path, read_hold, read_priors
from torusimaging_torch.model.low_order import FRAME, FrameKnown
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import (
    Layout,
    Nested,
    Params,
    Path,
    batch_shape,
    iter_leaves,
)
from torusimaging_torch.torus.orbital_torus import LabelFunctions
from torusimaging_torch.units import Bounds, Hold, Priors

__all__ = [
    "added",
    "frame_known",
    "known_box",
    "of_frame",
    "start_known",
    "with_held",
    "with_priors",
]


def with_priors(model: SomeModel, p: Params, priors: Priors | None) -> SomeModel:
    """Return a model that has priors in its penalty: itself if there are none.

    Parameters
    ----------
    model
        The model.
    p
        Its parameters, tensors.
    priors
        Dictionary by parameter.
    """
    if not priors:
        return model
    border = model.border
    read = read_priors(priors, Layout.of(p), border.units, batch_shape(p))
    return added(model, [one.to(border.like) for one in read])


def added(model: SomeModel, priors: Sequence[Prior]) -> SomeModel:
    """Return a copy of a model with priors in its penalty, each in the place of an older one."""
    changed = copy.copy(model)
    # A penalty that is a module is among a model's own modules, and copies share these.
    modules = dict(vars(model).get("_modules", {}))
    modules.pop("regularization_func", None)
    vars(changed)["_modules"] = modules
    changed.regularization_func = _sum(model.regularization_func, priors, model)
    return changed


def _sum(penalty: PenaltyFunction, priors: Sequence[Prior], model: Fronted) -> PenaltyFunction:
    functions: nn.Module = model.torus.label_func
    if not isinstance(functions, LabelFunctions):
        return _plus(penalty, priors)
    if not (isinstance(penalty, JointPenalty) or penalty is no_regularization):
        return penalty  # which the posterior refuses
    # Of several data sets: what belongs to one goes there, and what they share to the first.
    names = list(functions.functions)
    paths = {prior.path for prior in priors}
    shares: dict[str, list[Prior]] = {name: [] for name in names}
    for prior in priors:
        own = prior.path[0] in BY_NAME
        name = str(prior.path[1]) if own else names[0]
        path = (prior.path[0], *prior.path[2:]) if own else prior.path
        shares[name].append(replace(prior, path=path))
    before = getattr(penalty, "functions", {})
    return JointPenalty(
        {name: _plus(before.get(name, no_regularization), shares[name], paths) for name in names}
    )


def _plus(
    penalty: PenaltyFunction, priors: Sequence[Prior], gone: Collection[Path] = ()
) -> PenaltyFunction:
    """Return a penalty with priors, without older ones of these leaves or of those in ``gone``."""
    paths = {*gone, *(prior.path for prior in priors)}
    parts = penalty.penalties if type(penalty) is SumOfPenalties else (penalty,)
    kept = [one for one in parts if not (isinstance(one, Prior) and one.path in paths)]
    if len(kept) == len(parts) and not priors:
        return penalty
    return SumOfPenalties((*kept, *priors))


def with_held(p: Params, held: Mapping[Path, object]) -> Nested:
    """Return parameters, or other leaves by parameter, with those of ``held`` in their place."""

    def branch(tree: Mapping[Any, Any], prefix: Path) -> dict[Any, Any]:
        return {
            key: branch(leaf, (*prefix, key))
            if isinstance(leaf, Mapping)
            else held.get((*prefix, key), leaf)
            for key, leaf in tree.items()
        }

    return branch(p, ())


def known_box(
    model: Fronted,
    bounds: Bounds,
    p: Params,
    held: Mapping[Path, Tensor],
    priors: Priors | None = None,
) -> Box:
    """Return bounds as a box, with equal ones for what is held, and none beyond a prior's density.

    Parameters
    ----------
    model
        The model.
    bounds
        As in `optimize`.
    p
        Parameters, tensors.
    held
        As `read_hold` returns them.
    priors
        Dictionary by parameter.
    """
    layout = Layout.of(p)
    box = model.border.box(bounds, layout)
    if not (held or priors):
        return box
    lower, upper = (layout.unflatten(x) for x in (box.lower, box.upper))
    ends = _ends(read_priors(priors or {}, layout, model.border.units, None))
    sides = []
    for side, edge, choose in ((lower, 0, torch.maximum), (upper, 1, torch.minimum)):
        leaves = dict(iter_leaves(side))
        inner = {
            path: choose(leaves[path], pair[edge].to(box.lower)) for path, pair in ends.items()
        }
        sides.append(layout.flatten(with_held(side, {**inner, **held})))
    return Box(sides[0], sides[1], layout.names)


def _ends(priors: Sequence[Prior]) -> dict[Path, tuple[Tensor, Tensor]]:
    """Return where densities end, of those that do."""
    pairs = {}
    for prior in priors:
        if isinstance(prior, DensityPenalty):
            support: Any = prior.distribution.support
            support = getattr(support, "base_constraint", support)
            low, high = (
                torch.as_tensor(getattr(support, name, default), dtype=torch.float64)
                for name, default in (("lower_bound", -torch.inf), ("upper_bound", torch.inf))
            )
            pairs[prior.path] = (low, high)
    return pairs


def of_frame(given: object) -> dict[Path, Any]:
    """Return what is given of the parameters that a low-order fit has, with values of their own."""
    if not isinstance(given, Mapping):
        return {}
    return {path: value for path, value in by_path(given).items() if path in FRAME.paths}


def frame_known(priors: Priors | None, hold: Hold | None, units: UnitSystem) -> FrameKnown:
    """Return what a low-order fit knows beforehand.

    Parameters
    ----------
    priors, hold
        As in `optimize`; those of parameters that the low-order fit lacks are left aside.
    units
        The unit system.
    """
    read = read_priors(of_frame(priors or {}), FRAME, units, None)
    ends = {str(path[0]): pair for path, pair in _ends(read).items()}
    held = {str(path[0]): x for path, x in as_held(of_frame(hold or {}), units).items()}
    lower, upper = ({k: pair[i] for k, pair in ends.items()} | held for i in (0, 1))
    return FrameKnown(tuple(read), lower, upper)


def start_known(
    model: SomeModel, bounds: Nested, start: Nested, priors: Priors | None, hold: Hold | None
) -> Start[SomeModel]:
    """Return a model with priors in its penalty, and bounds and a start with what is held.

    Parameters
    ----------
    model, bounds, start
        As `auto_init` makes them.
    priors, hold
        As in `optimize`.
    """
    if not (priors or hold):
        return model, bounds, start
    p = model.border.params(start)
    held = read_hold(hold or {}, p, model.border.units)
    box = known_box(model, bounds, p, held, priors)
    layout = Layout.of(p)
    inside = layout.flatten(p).clamp(box.lower, box.upper)
    start = layout.unflatten(box.nudge_inside(inside))
    sides = [dict(iter_leaves(layout.unflatten(x.cpu()))) for x in (box.lower, box.upper)]
    changed = {*held, *by_path(priors or {})}
    pairs: dict[Path, tuple[Array, ...]] = {
        path: tuple(side[path].numpy() for side in sides) for path in changed
    }
    return with_priors(model, p, priors), with_held(bounds, pairs), start
