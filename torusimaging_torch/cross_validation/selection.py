"""Knots and penalty by cross-validation: what a fit predicts of pixels that it has not seen."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gala.units import UnitSystem, galactic
from numpy.random import SeedSequence

from torusimaging_torch.arrays import Array
from torusimaging_torch.batch.many import fit_many
from torusimaging_torch.cross_validation.candidates import Candidate, Grid, make_candidates
from torusimaging_torch.cross_validation.folds import Fold, FoldKind, check_folds, make_folds
from torusimaging_torch.cross_validation.one_standard_error import Selection, judge
from torusimaging_torch.inference.parts import part_params
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.likelihoods.penalty import PenaltyOfMany
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.units import BinnedData, as_unit_system

__all__ = ["Selection", "select"]


# How fit_many runs, and what it must be left to us: what the subsamples are, and their errors.
_RUN = {
    name
    for name, parameter in inspect.signature(fit_many).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
} - {"label_knots", "e_knots", "objective", "store"}
# Nats that a fit may lack: scores are compared to tenths of a nat.
_TOL = 1e-6
_OURS = {"names", "shard", "uncertainty", "hessian"}


@with_autograd
def select(
    data: BinnedData | Iterable[BinnedData],
    grid: Grid,
    *,
    n_folds: int = 5,
    folds: FoldKind = "pixels",
    seed: int = 0,
    objective: str | Mapping[str, str] = "gaussian",
    store: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Selection:
    r"""Choose knots and penalty by K-fold cross-validation over a grid.

    Each candidate is fitted to all parts of the data but one, and its score is the mean
    log-likelihood, without penalty, of the pixels in the part that was held out, over all parts.
    Chosen is the simplest candidate whose score is within one standard error of the best one; see
    `torusimaging_torch.cross_validation.one_standard_error` for the error and the order of
    simplicity.

    Start, bounds and knots are found anew from what is fitted each time, so that the held-out
    pixels judge the whole procedure (Hastie, Tibshirani & Friedman 2009, The Elements of
    Statistical Learning, section 7.10.2). The penalty is the same for fewer data, so in the folds
    it weighs :math:`K/(K-1)` times more against the data than in a fit to all of them.

    Parameters
    ----------
    data
        One binned data set, as `torusimaging_torch.data` returns it, or dictionaries of several
        that are fitted together, by name; or many of them, a list or a dictionary, that share one
        choice: their pixels are judged together. Labels of the same stars are fitted with their
        covariance and judged as if they had none.
    grid
        For each setting a list of its candidates: all combinations are tried. Or a list of
        dictionaries of settings. Any argument of
        `~torusimaging_torch.TorusImaging1DSpline.auto_init` can vary, those of the regularization
        included. A number for e_l2_sigmas or e_smooth_sigmas stands for all orders m.
    n_folds
        Number of parts K of each data set.
    folds
        How the parts are made: "pixels", "blocks" or "thinning"; see
        `torusimaging_torch.cross_validation.folds.make_folds`.
    seed
        Of the parts, and of starts if there are many.
    objective
        "gaussian" or "poisson"; of data sets that are fitted together by name.
    store
        A folder for what is finished, with one store of `fit_many` for each batch in it: the same
        call goes on from there.
    **settings
        Settings that are the same for all candidates, as in `fit_many`, and how to run: device,
        executor, max_memory, shard_size, progress and others. With an executor a task is one
        candidate with all its folds, unless shard_size says something else. By default ``tol`` is
        1e-6 nats, since scores are compared to tenths of a nat.

    Returns
    -------
    Selection
        ``.chosen`` and ``.best`` are settings to go on with, ``.table`` has all candidates. One
        that fails in any fold has no score and is never chosen; a warning counts them.

    Raises
    ------
    TypeError, ValueError
        If an argument makes no sense; the message names it.

    Examples
    --------
    >>> from torusimaging_torch.cross_validation import select
    >>> scales = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5, "e_smooth_sigmas": 0.5}
    >>> grid = {"e_l2_sigmas": [0.1, 1.0]}
    >>> rest = {"label_knots": 3, "e_knots": {2: 3}, "n_folds": 2, "progress": False}
    >>> found = select(data, grid, **rest, **scales)
    >>> len(found), sorted(found.chosen)[:2]
    (2, ['e_knots', 'e_l2_sigmas'])
    """
    check_folds(n_folds, folds)
    _refuse(settings)
    run = {name: settings.pop(name) for name in _RUN & set(settings)}
    settings["units"] = as_unit_system(settings.get("units", galactic))
    candidates = make_candidates(grid, settings, objective)
    seed = whole(seed, "seed", 0)
    every = _fold_all(data, objective, n_folds, folds, seed, settings["units"])
    if run.get("executor") is not None:
        run.setdefault("shard_size", len(every))
    fit = {name: value for name, value in settings.items() if name not in candidates[0].settings}
    fit |= {**run, "seed": seed, "objective": objective}
    if fit.get("dtype", torch.float64) == torch.float64:
        fit.setdefault("tol", _TOL)
    ends = np.cumsum([0, *(len(_weight(folds)) for folds in every)])
    terms = np.full((len(candidates), ends[-1]), np.nan)
    converged = np.zeros(len(candidates), dtype=int)
    for number, rows in enumerate(_batches(candidates)):
        place = None if store is None else Path(store) / f"batch-{number:04d}"
        result = _fit_batch([candidates[i] for i in rows], every, {**fit, "store": place})
        converged[rows] = result.success.reshape(len(rows), -1).sum(-1)
        for k, fold in enumerate(every):
            terms[rows, ends[k] : ends[k + 1]] = _held_out(result, k, len(every), fold, objective)
    meta = {"objective": objective, "n_folds": n_folds, "folds": folds, "seed": seed}
    weight = np.concatenate([_weight(fold) for fold in every])
    selection = judge(candidates, terms, weight, converged, len(every), meta)
    _warn_failed(selection)
    return selection


def _refuse(settings: Collection[str]) -> None:
    ours = sorted(_OURS & set(settings))
    if ours:
        raise TypeError(f"{ours} have no meaning in a cross-validation: leave them out")


Folds = Mapping[str, Fold]
"""What is held out at once of each data set, by its name; of one alone by ""."""


def _fold_all(
    data: BinnedData | Iterable[BinnedData],
    objective: str | Mapping[str, str],
    n_folds: int,
    kind: FoldKind,
    seed: int,
    units: UnitSystem,
) -> list[Folds]:
    """Return the folds of all data; each has random numbers of its own."""
    several = not isinstance(objective, str)
    if isinstance(data, Mapping):
        alone = set(data) == set(objective) if several else "pos" in data
        data = [data] if alone else list(data.values())
    objectives = {"": objective} if isinstance(objective, str) else objective
    found: list[Folds] = []
    for i, one in enumerate(data):
        sets = one if several else {"": one}
        if set(sets) != set(objectives):
            raise ValueError(f"data set {i}: expected {sorted(objectives)}, got {sorted(sets)}")
        try:
            # Pixels of all data sets are dealt out alike: they may have stars in common.
            folds = {
                name: make_folds(
                    sets[name],
                    kind_of,
                    n_folds,
                    kind,
                    SeedSequence(seed, spawn_key=(i,)),
                    units,
                    whole_grid=several,
                )
                for name, kind_of in objectives.items()
            }
        except ValueError as error:
            raise ValueError(f"data set {i}: {error}") from None
        found += [{name: parts[k] for name, parts in folds.items()} for k in range(n_folds)]
    if not found:
        raise ValueError("data must be at least one dictionary of binned data, got none")
    return found


def _batches(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Return which candidates are fitted together."""
    batches: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        batches.setdefault(candidate.batch_key(), []).append(i)
    return list(batches.values())


def _fit_batch(
    candidates: Sequence[Candidate], folds: Sequence[Folds], fit: Mapping[str, Any]
) -> BatchResult:
    """Fit candidates that differ in scales of the penalty alone: all of them, in all folds."""
    settings = dict(candidates[0].settings)
    penalties = [candidate.penalty() for candidate in candidates]
    if len(candidates) > 1 and all(penalties):
        for name in penalties[0]:  # type: ignore[union-attr]
            del settings[name]
        each = [penalty for penalty in penalties for _ in folds]
        settings["regularization_func"] = PenaltyOfMany.stack(each)  # type: ignore[arg-type]
    subsamples = (_train(fold) for _ in candidates for fold in folds)
    with warnings.catch_warnings():
        # Failures are counted by candidate, at the end.
        warnings.filterwarnings("ignore", ".*fits did not converge", RuntimeWarning)
        return fit_many(subsamples, **settings, **fit, uncertainty=None)


def _train(folds: Folds) -> BinnedData:
    return folds[""].train if "" in folds else {name: fold.train for name, fold in folds.items()}


def _held_out(
    result: BatchResult,
    k: int,
    n_folds: int,
    folds: Folds,
    objective: str | Mapping[str, str],
) -> Array:
    """Return the log-likelihood of the pixels held out, below the highest, with shape (C, N)."""
    rows = slice(k, None, n_folds)
    model, params = result.model_of(rows), result.layout.unflatten(result.values["x"][rows])
    found = []
    for name, fold in folds.items():
        own = part_params(params, name) if name else params
        torus = model.torus.part(name) if name else model.torus
        kind = objective if isinstance(objective, str) else objective[name]
        likelihood, pixels = make_likelihood(kind), fold.test.to(result.values["x"])
        with torch.no_grad():
            label = pixels.add_to(torus(pixels.pos, pixels.vel, own), own) + fold.shift
            terms = likelihood.terms(label, *pixels.observed)
            found.append(terms - likelihood.saturated(*pixels.observed))
    return torch.cat(found, -1).numpy()


def _weight(folds: Folds) -> Array:
    """Return the weights of the pixels held out, with shape (N,)."""
    every = [fold.test for fold in folds.values()]
    ones = (np.ones(len(x.pos)) if x.weight is None else x.weight.numpy() for x in every)
    return np.concatenate(list(ones))


def _warn_failed(selection: Selection) -> None:
    failed = int((selection.fits_converged < selection.n_fits).sum())
    if failed:
        warnings.warn(
            f"{failed} of {len(selection)} candidates have fits that did not converge, and no "
            "score: see fits_converged in the table",
            RuntimeWarning,
            stacklevel=4,
        )
