"""Candidates for the settings of a fit: read from a grid, checked, and put in order."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from torusimaging_torch.batch.settings import BatchSettings
from torusimaging_torch.likelihoods.penalty import regularization_func_default
from torusimaging_torch.model.start import place_knots
from torusimaging_torch.model_potential import TorusImaging1DPotential
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.results.penalty_description import plain

__all__ = ["Candidate", "Grid", "make_candidates", "read_grid"]

_ARGUMENTS = {
    "torus": set(inspect.signature(TorusImaging1DSpline.auto_init).parameters),
    "potential": set(inspect.signature(TorusImaging1DPotential.auto_init).parameters),
}
_MODEL = {"model"} | set().union(*_ARGUMENTS.values()) - {"binned_data", "kwargs"}
# What a potential shares with the penalty of a torus.
_MODEL -= {"label_smooth_sigma"}
_FIT = {field.name for field in fields(BatchSettings)}
# Scales of the penalty for each order m.
_BY_ORDER = ("e_l2_sigmas", "e_smooth_sigmas")


@dataclass(frozen=True)
class Candidate:
    """One choice of settings.

    Attributes
    ----------
    varied
        The settings that differ between candidates.
    settings
        All settings of the model, as its `auto_init` takes them.
    n_params
        Number of parameters of the model.
    log_sigma
        Mean log of the scales of the penalty: the smaller, the stronger it is.
    wall
        Height of the wall against negative densities.
    """

    varied: dict[str, Any]
    settings: dict[str, Any]
    n_params: int
    log_sigma: float
    wall: float

    def penalty(self) -> dict[str, Any] | None:
        """Return the arguments of the default penalty; None if the penalty is another one."""
        if self.settings.get("model") == "potential":
            return None
        function = self.settings.get("regularization_func")
        if function not in (None, True, regularization_func_default):
            return None
        names = self.settings.keys() - _MODEL - _FIT
        return {name: self.settings[name] for name in sorted(names)}

    def batch_key(self) -> str:
        """Return a text that candidates share if they differ in scales of the penalty alone.

        They have the same number of parameters at the same knots, and are fitted in one batch.
        """
        penalty = self.penalty() or {}
        rest = {k: plain(v) for k, v in self.settings.items() if k not in penalty}
        return repr((sorted(rest.items(), key=lambda item: item[0]), sorted(penalty)))


Grid: TypeAlias = Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]]
"""For each setting its candidates, or candidates one by one."""


def read_grid(grid: Grid) -> list[dict[str, Any]]:
    """Return the settings of each candidate.

    Parameters
    ----------
    grid
        For each setting its candidates: their product is taken. Or a list of dictionaries.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or empty.
    """
    if not isinstance(grid, Mapping):
        candidates = list(_as_list(grid, "grid"))
        if not all(isinstance(candidate, Mapping) for candidate in candidates):
            raise TypeError(f"grid must be a dictionary, or a list of dictionaries, got {grid!r}")
        return [dict(candidate) for candidate in candidates]
    choices = [_as_list(values, f"grid[{name!r}]") for name, values in grid.items()]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*choices)]


def _as_list(values: object, name: str) -> list[Any]:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of candidates, got {values!r}: put it into a list")
    values = list(values)
    if not values:
        raise ValueError(f"{name} must have at least one candidate, got none")
    return values


def make_candidates(
    grid: Grid, settings: Mapping[str, Any], objective: str | Mapping[str, str]
) -> tuple[Candidate, ...]:
    """Return all candidates, checked as far as that needs no data.

    Parameters
    ----------
    grid
        As in `read_grid`. A number for e_l2_sigmas or e_smooth_sigmas stands for all orders.
    settings
        What is the same for all, options of the fit included.
    objective
        "gaussian" or "poisson"; of several data sets by name.

    Raises
    ------
    TypeError, ValueError
        If an argument makes no sense; the message names it.
    """
    return tuple(_make(one, settings, objective) for one in read_grid(grid))


def _make(
    varied: dict[str, Any], settings: Mapping[str, Any], objective: str | Mapping[str, str]
) -> Candidate:
    twice = sorted(set(varied) & set(settings))
    if twice:
        raise TypeError(f"{twice} are in the grid and are given once more: give each one once")
    choice = sorted(set(varied) & (_FIT - _MODEL))
    if choice:
        raise TypeError(f"{choice} are not settings of a model, and cannot be in the grid")
    every = {**settings, **varied}
    if every.get("model") == "potential":
        every = {"label_knots": 6, "e_knots": {}, **every}
    missing = [name for name in ("label_knots", "e_knots") if name not in every]
    if missing:
        raise TypeError(f"{missing} must be in the grid, or be given for all candidates")
    orders = _check_knots(every)
    for name in _BY_ORDER:
        if name in every:
            every[name] = _by_order(name, every[name], orders)
            varied = {**varied, name: every[name]} if name in varied else varied
    known = {name: value for name, value in every.items() if name in _FIT}
    penalty = {name: value for name, value in every.items() if name not in _FIT}
    fit = BatchSettings(**known, objective=objective, penalty_arguments=penalty)
    model = {name: every[name] for name in every if name in _MODEL or name in penalty}
    n_frame = 3 + (fit.n_sheets if fit.model == "potential" else 0)
    n_e = sum(_n_knots(every["e_knots"][m]) - 1 for m in orders)
    return Candidate(
        varied,
        model,
        n_frame + n_e + sum(_n_knots(fit.label_knots_of(x)) for x in fit.objectives),
        _mean_log_sigma(penalty),
        float(penalty.get("dacc_strength", 1.0)),
    )


def _check_knots(every: Mapping[str, Any]) -> list[int]:
    """Return the orders m."""
    if not isinstance(every["e_knots"], Mapping):
        raise TypeError(
            f"e_knots must be a dictionary of knots by order m, got {every['e_knots']!r}"
        )
    settings = BatchSettings.__dataclass_fields__
    for name in ("label_knots", "e_knots"):
        power = every.get(f"{name}_spacing_power", settings[f"{name}_spacing_power"].default)
        if not power > 0:
            raise ValueError(f"{name}_spacing_power must be positive, got {power!r}")
        knots = every[name] if isinstance(every[name], Mapping) else {"": every[name]}
        for m, value in knots.items():
            place_knots(value, 1.0, power, f"{name}[{m}]" if m else name, every["units"])
    return list(every["e_knots"])


def _by_order(name: str, value: Any, orders: Sequence[int]) -> dict[int, float]:
    scales = value if isinstance(value, Mapping) else dict.fromkeys(orders, value)
    missing = sorted(set(orders) - set(scales))
    if missing:
        raise ValueError(f"{name} must have a scale for every order of e_knots, lacks {missing}")
    return {m: scales[m] for m in orders}


def _mean_log_sigma(penalty: Mapping[str, Any]) -> float:
    logs = []
    for name, value in penalty.items():
        if not name.endswith(("_sigma", "_sigmas")):
            continue
        scales = list(value.values()) if isinstance(value, Mapping) else [value]
        if not all(isinstance(x, (int, float, np.number)) and x > 0 for x in scales):
            raise ValueError(f"{name} must be positive, got {value!r}")
        logs.append(sum(math.log(x) for x in scales) / max(len(scales), 1))
    return sum(logs) / max(len(logs), 1)


def _n_knots(knots: Any) -> int:
    return int(knots) if np.ndim(knots) == 0 else len(knots)
