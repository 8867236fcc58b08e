"""Many subsamples at once: one call that fits them all, and goes on from a store."""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial
from typing import Any

import torch

from torusimaging_torch.batch_result import BatchResult
from torusimaging_torch.batch_settings import BatchSettings
from torusimaging_torch.batch_shard import Shard, complete_shard, fit_shard
from torusimaging_torch.store import Store

__all__ = ["fit_many", "make_shards"]

_SHARD_SIZE = 64


def fit_many(
    subsamples: Iterable[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]],
    *,
    label_knots: Any,
    e_knots: Mapping[int, Any],
    objective: str = "gaussian",
    names: Iterable[Any] | None = None,
    device: torch.device | str | None = None,
    max_memory: float | None = None,
    shard_size: int | None = None,
    shard: tuple[int, int] | None = None,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    **settings: Any,
) -> BatchResult:
    r"""Fit many subsamples, each as `auto_init` and `optimize` would, many at a time.

    Parameters
    ----------
    subsamples
        Binned data of each subsample, as `torusimaging_torch.data` returns them, of any size: a
        list, a generator (read one shard at a time), or a dictionary of them by name.
    label_knots, e_knots
        Number of knots, which each subsample gets where its own data are, or positions for all.
    objective
        "gaussian" (labels) or "poisson" (star counts).
    names
        A name for each subsample; its number by default.
    device
        Where to compute, such as "cuda"; the CPU by default.
    max_memory
        Bytes to use at most: it decides how many subsamples are fitted at once, and no number. What
        does not fit after all is halved. By default what a CUDA device has free.
    shard_size
        Number of subsamples that are stored, or handed to the executor, together; 64 by default.
    shard
        A pair (i, n): only every n-th shard, from the i-th on, as for n jobs on one store.
    store
        A folder where each finished shard is kept. What is there is not computed again; several
        processes may share it. Needs the extra ``io``.
    executor
        Any `concurrent.futures.Executor` that runs the shards; by default this process does.
    progress
        Whether to report on standard error.
    **settings
        As in `~torusimaging_torch.TorusImaging1DSpline.auto_init`: e_signs, regularization_func
        with its arguments (label_l2_sigma, ...), units, label_knots_spacing_power,
        e_knots_spacing_power, re_max_factor, bounds, elliptical_angle_convention, e_spline,
        label_spline and knots. Also ``init``, the start for all, nested like parameters;
        ``uncertainty``, "crlb" or None, and ``hessian``, "expected" (positive, and fast), "full" or
        "data", for the Cramer-Rao bound; ``multistart``, the number of starts, of which the best is
        kept, and ``seed``; ``dtype``; ``max_iter``, ``history`` and ``tol`` of the fit, the last so
        small by default that parameters are the same in any company to 1e-6 of their errors.

    Returns
    -------
    BatchResult
        One entry for each subsample, in order, those that failed included; with ``shard`` those of
        its own shards. A warning counts the failed ones.

    Raises
    ------
    ValueError, TypeError
        If an argument makes no sense, or the store was made with other settings or data.
    OSError
        If the store cannot be written; what is there stays.
    """
    chosen = _settings(
        dict(settings, label_knots=label_knots, e_knots=e_knots, objective=objective)
    )
    place = None
    if store is not None:
        place = Store(store, chosen.fingerprint(), shard_size, _SHARD_SIZE)
        shard_size = place.shard_size
    pairs = _name(subsamples, names)
    shards = make_shards(pairs, _SHARD_SIZE if shard_size is None else shard_size, shard)
    report = _Report(progress)
    if place is None:
        task: Callable[..., Any] = partial(_fit_numbered, chosen)
        tasks = (partial(task, one, device, max_memory) for one in shards)
        done = dict(_run_all(tasks, executor, report))
        _check_some(done)
        result = BatchResult.concatenate([done[number] for number in sorted(done)])
    else:
        result = _fill(place, chosen, shards, device, max_memory, executor, report, shard)
    _warn_failed(result)
    return result


def _settings(given: dict[str, Any]) -> BatchSettings:
    """Tell settings from arguments of the penalty."""
    known = {name for name in BatchSettings.__dataclass_fields__ if name != "penalty_arguments"}
    penalty = {name: value for name, value in given.items() if name not in known}
    mine = {name: value for name, value in given.items() if name in known}
    return BatchSettings(**mine, penalty_arguments=penalty)


def _name(subsamples: Any, names: Iterable[Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return pairs of a name and binned data."""
    if isinstance(subsamples, Mapping):
        if "pos" in subsamples:
            raise TypeError(
                "subsamples must be a list of binned data, got one: put it into a list, or use "
                "auto_init and optimize"
            )
        return ((str(name), data) for name, data in subsamples.items())
    if names is None:
        return ((str(i), data) for i, data in enumerate(subsamples))
    return ((str(name), data) for name, data in zip(names, subsamples, strict=True))


def make_shards(
    pairs: Iterable[tuple[str, Mapping[str, Any]]],
    size: int,
    only: tuple[int, int] | None = None,
) -> Iterator[Shard]:
    """Cut named subsamples into shards, as they come.

    Parameters
    ----------
    pairs
        Names and binned data.
    size
        Subsamples per shard.
    only
        A pair (i, n): only every n-th shard, from the i-th on.

    Raises
    ------
    ValueError
        If the pair makes no sense, or a subsample is not a dictionary.
    """
    i, n = only or (0, 1)
    if not 0 <= i < n:
        raise ValueError(f"shard must be a pair (i, n) with 0 <= i < n, got {only!r}")
    if size < 1:
        raise ValueError(f"shard_size must be at least 1, got {size!r}")
    pairs = iter(pairs)
    for number in itertools.count():
        block = tuple(itertools.islice(pairs, size))
        if not block:
            return
        if number % n == i:
            names, data = zip(*block, strict=True)
            yield Shard(number, number * size, names, data)


def _fit_numbered(settings: BatchSettings, one: Shard, *place: Any) -> tuple[int, BatchResult]:
    return one.number, fit_shard(settings, one, *place)


def _complete_numbered(
    settings: BatchSettings, one: Shard, *place: Any
) -> tuple[int, tuple[str, Shard | None]]:
    outcome = complete_shard(settings, one, *place)
    return one.number, (outcome, one if outcome == "busy" else None)


def _fill(
    place: Store,
    settings: BatchSettings,
    shards: Iterable[Shard],
    device: Any,
    max_memory: float | None,
    executor: Executor | None,
    report: _Report,
    only: tuple[int, int] | None,
) -> BatchResult:
    """Complete a store and read it."""
    numbers: list[int] = []
    busy: dict[int, Shard] = {}
    tasks = (
        partial(_complete_numbered, settings, one, place.folder, device, max_memory)
        for one in shards
    )
    for number, (_, left) in _run_all(tasks, executor, report):
        numbers.append(number)
        busy |= {} if left is None else {number: left}
        # Data that others have finished need not be kept.
        busy = {n: one for n, one in busy.items() if not place.part(n).exists()}
    # What other processes were at: theirs is done when the lock is free, or it is for us to do.
    again = (
        partial(_complete_numbered, settings, one, place.folder, device, max_memory, True)
        for one in busy.values()
    )
    for _ in _run_all(again, executor, report):
        pass
    _check_some(numbers)
    if only is not None:
        return BatchResult.concatenate([place.read(number) for number in sorted(numbers)])
    place.set_count(len(numbers))
    return place.merge()


def _run_all(
    tasks: Iterator[Callable[[], Any]], executor: Executor | None, report: _Report
) -> Iterator[Any]:
    """Run tasks, here or by an executor, a few ahead, and yield what they return as they end."""
    if executor is None:
        for task in tasks:
            result = task()
            report(*result)
            yield result
        return
    ahead = 2 * (getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
    running: set[Future[Any]] = set()
    try:
        while True:
            running |= {executor.submit(t) for t in itertools.islice(tasks, ahead - len(running))}
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                result = future.result()
                report(*result)
                yield result
    finally:
        for future in running:
            future.cancel()


class _Report:
    """Progress on standard error, a line for each shard."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.start, self.n, self.converged = wanted, time.monotonic(), 0, 0

    def __call__(self, number: int, outcome: Any) -> None:
        if not self.wanted:
            return
        if isinstance(outcome, BatchResult):
            self.n += len(outcome)
            self.converged += int(outcome.success.sum())
            what = f"{self.converged} of {self.n} subsamples converged"
        else:
            what = outcome[0]
        seconds = time.monotonic() - self.start
        print(f"shard {number}: {what}, {seconds:.1f} s", file=sys.stderr, flush=True)


def _check_some(done: Any) -> None:
    if not done:
        raise ValueError("subsamples must be at least one dictionary of binned data, got none")


def _warn_failed(result: BatchResult) -> None:
    """Warn once, with a count and the reasons, if fits did not converge."""
    reasons: dict[str, int] = {}
    for message, good in zip(result.message, result.success.tolist(), strict=True):
        if not good:
            reasons[message] = reasons.get(message, 0) + 1
    if reasons:
        listed = "; ".join(f"{n}: {message}" for message, n in reasons.items())
        warnings.warn(
            f"{sum(reasons.values())} of {len(result)} fits did not converge ({listed})",
            RuntimeWarning,
            stacklevel=3,
        )
