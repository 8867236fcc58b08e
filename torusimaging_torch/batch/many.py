"""Many subsamples at once: one call that fits them all, and goes on from a store."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import Executor
from functools import partial
from typing import Any

import astropy.units as u
import torch
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.batch.cluster import where_seen
from torusimaging_torch.batch.runners import Report, Runner, Task, choose_runner
from torusimaging_torch.batch.settings import BatchSettings
from torusimaging_torch.batch.shard import Shard, complete_shard, fit_shard, harmonics_off
from torusimaging_torch.batch.store import Store
from torusimaging_torch.catalogue.endings import as_path
from torusimaging_torch.data.subsamples import Subsamples
from torusimaging_torch.model.data_sets import SELECTION_MATTERS, by_data_set, is_off
from torusimaging_torch.model.signs import warn_switched_off
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.description import SELECTION, column_of
from torusimaging_torch.results.file_format import check_columns
from torusimaging_torch.units import BinnedData, Knots, LabelKnots

__all__ = ["check_device", "fit_many", "make_shards"]

# On a CPU, and on a device, which is busy only with many fits at once.
_SHARD_SIZE, _SHARD_SIZE_THERE = 64, 4096


@with_autograd
def fit_many(
    subsamples: Iterable[BinnedData] | Mapping[str, BinnedData],
    *,
    label_knots: LabelKnots | None = None,
    e_knots: Mapping[int, Knots] | None = None,
    objective: str | Mapping[str, str] = "gaussian",
    names: Iterable[object] | None = None,
    columns: Mapping[str, object] | None = None,
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
        list, a generator (read one shard at a time), a dictionary of them by name, or what
        `torusimaging_torch.data.bin_many` returns, which knows names and columns itself. Where
        several data sets are fitted together, each subsample is a dictionary of them by name.
    label_knots, e_knots
        Number of knots, which each subsample gets where its own data are, or positions for all;
        a potential has default ones. Those of the label functions of several data sets by name.
    objective
        "gaussian" (labels) or "poisson" (star counts); of several data sets by name, such as
        ``{"mg_fe": "gaussian", "counts": "poisson"}``.
    names
        A name for each subsample; its number by default.
    columns
        What else is known of each subsample, anything with shape (B,) by name, such as the centre
        of its group: it comes out again as ``BatchResult.columns``, and in its table.
    device
        Where to compute, such as "cuda"; the CPU by default.
    max_memory
        Bytes to use at most: it decides how many subsamples are fitted at once, and no number. What
        does not fit after all is halved. By default what a CUDA device has free.
    shard_size
        Number of subsamples that are stored, or handed to the executor, together; by default 64,
        and 4096 on a GPU.
    shard
        A pair (i, n): only every n-th shard, from the i-th on, as for n jobs on one store.
    store
        A folder where each finished shard is kept. What is there is not computed again; several
        processes may share it. Needs the extra ``io``.
    executor
        Any `concurrent.futures.Executor` that runs the shards; by default this process does. Its
        workers write a store themselves, so all must see its folder. That of a Dask cluster is
        ``client.get_executor()`` (extra ``dask``): a shard whose worker dies is run again, and with
        ``device="cuda"`` each worker uses the first GPU that it sees.
    progress
        Whether to report on standard error.
    **settings
        As in `~torusimaging_torch.TorusImaging1DSpline.auto_init`: e_signs, regularization_func
        with its arguments (label_l2_sigma, ...), units, label_knots_spacing_power,
        e_knots_spacing_power, re_max_factor, bounds, elliptical_angle_convention, e_spline,
        label_spline and knots; ``priors`` and ``hold``, with shape (B,) or (B, K) where subsamples
        differ. Or ``model="potential"`` for
        `~torusimaging_torch.TorusImaging1DPotential` with n_components, heights,
        label_smooth_sigma, ln_rho_sigma and e_sigma. Also ``init``, the start for all, nested like
        parameters; ``uncertainty``, "crlb" or None, and ``hessian``, "expected" (positive, and
        fast), "full", "data" or "sandwich", for the Cramer-Rao bound; ``multistart``, the number of
        starts, of which the best is kept, and ``seed``; ``dtype``; ``max_iter``, ``history`` and
        ``tol`` of the fit, the last so small by default that parameters are the same in any company
        to some 1e-6 of their errors.

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
        If the store cannot be written, or a worker cannot see it; what is there stays.
    distributed.KilledWorker
        If shards of a Dask cluster ended several workers each, when all others have been finished:
        the store has them.
    RuntimeError
        If the executor or its cluster goes away.

    Examples
    --------
    >>> from torusimaging_torch.batch import fit_many
    >>> scales = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
    >>> scales |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}
    >>> result = fit_many([data, data], label_knots=3, e_knots={2: 3}, progress=False, **scales)
    >>> len(result), result.success
    (2, tensor([True, True]))
    >>> one = result[0]
    >>> one.state.success
    True
    """
    check_device(device, here=executor is None)
    report = Report(progress)
    run = choose_runner(executor, device, report)
    chosen = _settings(
        dict(settings, label_knots=label_knots, e_knots=e_knots, objective=objective)
    )
    on_cpu = torch.device(device or "cpu").type == "cpu"
    usual, place = _SHARD_SIZE if on_cpu else _SHARD_SIZE_THERE, None
    if store is not None:
        place = Store(as_path(store).absolute(), chosen.fingerprint(), shard_size, usual)
        shard_size = place.shard_size
        sized = isinstance(subsamples, Sized)
        # Until the end of a generator nobody knows whether the store is complete.
        place.set_count(-(-len(subsamples) // shard_size) if sized else None)  # type: ignore[arg-type]
    if isinstance(subsamples, Sized):
        n_shards = -(-len(subsamples) // (shard_size or usual))
        report.total = len(range(*(shard[0], n_shards, shard[1]) if shard else (n_shards,)))
    if isinstance(subsamples, Subsamples):
        names = subsamples.names if names is None else names
        columns = subsamples.table() if columns is None else columns
    known = check_columns({} if columns is None else columns)
    pairs = _name(subsamples, names)
    shards = make_shards(pairs, usual if shard_size is None else shard_size, shard, known)
    if place is None:
        work: Callable[..., BatchResult | str] = partial(fit_shard, chosen)
        result = _collect(run((s.number, partial(work, s, device, max_memory)) for s in shards))
    else:
        work = partial(complete_shard, chosen)
        if executor is not None:
            work = partial(where_seen, place.folder, place.identity, work)
        where = place.folder, device, max_memory
        tasks = ((one.number, partial(work, one, *where)) for one in shards)
        result = _fill(place, tasks, run, shard)
    _warn(result)
    return result


def check_device(device: torch.device | str | None, here: bool = False) -> None:
    """Raise a ValueError if there is no such kind of device, or none of them in this process."""
    try:
        torch.device(device or "cpu")
    except RuntimeError:
        raise ValueError(f'device must be one of torch, such as "cuda", got {device!r}') from None
    if not here:
        return
    try:
        torch.empty(0, device=device or "cpu")
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"there is no device {str(device)!r} here: {reason}") from None


def _settings(given: dict[str, Any]) -> BatchSettings:
    """Tell settings from arguments of the penalty."""
    known = {name for name in BatchSettings.__dataclass_fields__ if name != "penalty_arguments"}
    penalty = {name: value for name, value in given.items() if name not in known}
    mine = {name: value for name, value in given.items() if name in known}
    return BatchSettings(**mine, penalty_arguments=penalty)


def _name(
    subsamples: Iterable[BinnedData] | Mapping[str, BinnedData], names: Iterable[object] | None
) -> Iterator[tuple[str, BinnedData]]:
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
    pairs: Iterable[tuple[str, BinnedData]],
    size: int,
    only: tuple[int, int] | None = None,
    columns: Mapping[str, Array | u.Quantity] | None = None,
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
    columns
        What else is known of the subsamples, arrays with shape (B,) by name.

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
            first = number * size
            known = {k: _rows(k, v, first, len(block)) for k, v in (columns or {}).items()}
            yield Shard(number, first, names, data, known)


def _rows(name: str, values: Array | u.Quantity, first: int, n: int) -> Array | u.Quantity:
    if len(values) < first + n:
        raise ValueError(
            f"columns must have a value for each subsample, got {len(values)} of {name!r}"
        )
    return values[first : first + n]


def _collect(outcomes: Iterator[tuple[Task, Any]]) -> BatchResult:
    """Join results as they come."""
    done = {number: outcome for (number, _), outcome in outcomes}
    _check_some(done)
    return BatchResult.concatenate([done[number] for number in sorted(done)])


def _fill(
    place: Store, tasks: Iterator[Task], run: Runner, only: tuple[int, int] | None
) -> BatchResult:
    """Complete a store and read it."""
    numbers: list[int] = []
    busy: dict[int, Callable[..., BatchResult | str]] = {}
    for (number, call), outcome in run(tasks):
        numbers.append(number)
        busy |= {number: call} if outcome == "busy" else {}
        # Data that others have finished need not be kept.
        busy = {n: kept for n, kept in busy.items() if not place.part(n).exists()}
    # What other processes were at: theirs is done when the lock is free, or it is for us to do.
    for _ in run((number, partial(call, wait=True)) for number, call in busy.items()):
        pass
    _check_some(numbers)
    if only is None:
        place.set_count(len(numbers))
    # What is in the store beside these was not asked for.
    return BatchResult.concatenate([place.read(one, trust=True) for one in sorted(numbers)])


def _check_some(done: object) -> None:
    if not done:
        raise ValueError("subsamples must be at least one dictionary of binned data, got none")


def _warn(result: BatchResult) -> None:
    """Warn once of each kind: failures with their reasons, and what is odd in other fits."""
    if result.settings.get("elliptical_angle_convention") == "vp":
        warn_switched_off(result.model_of(slice(1)), harmonics_off(result))
    reasons: dict[str, int] = {}
    for message, good in zip(result.message, result.success.tolist(), strict=True):
        if not good:
            reasons[message] = reasons.get(message, 0) + 1
    n_params = result.layout.size
    few = int((result.success & (result.n_pixels < n_params)).sum())
    texts = []
    if reasons:
        listed = "; ".join(f"{n}: {message}" for message, n in reasons.items())
        texts.append(f"{sum(reasons.values())} of {len(result)} fits did not converge ({listed})")
    if few:
        texts.append(
            f"{few} of {len(result)} fits have fewer pixels than their {n_params} parameters: use "
            "fewer knots, or smaller pixels"
        )
    if off := int((_selection_off(result) & result.success).sum()):
        texts.append(
            f"the selection function of {off} of {len(result)} fits is off by more than 3 times "
            f"its selection_error; {SELECTION_MATTERS}"
        )
    for text in texts:
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _selection_off(result: BatchResult) -> Tensor:
    """Return in which fits the selection function of any data set is off, with shape (B,)."""
    off, factors = torch.zeros(len(result), dtype=torch.bool), result.params.get("selection_params")
    for name, own in ({} if factors is None else by_data_set(factors)).items():
        off |= is_off(own["vals"], result.values[column_of(name, SELECTION)])
    return off
