"""One shard of a batch: some subsamples from binned data to fits, in one process on one device.

What is here pickles and keeps nothing, so that any executor, or a cluster's scheduler, can run it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import astropy.units as u
import torch
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.batch.chunk import fit_chunk
from torusimaging_torch.batch.memory import chunk_size, in_chunks
from torusimaging_torch.batch.reading import Subsample, read_subsample
from torusimaging_torch.batch.settings import BatchSettings
from torusimaging_torch.batch.store import DamagedPartError, Store, data_fingerprint
from torusimaging_torch.inference.pixels import too_many_parameters
from torusimaging_torch.model.joining import selection_of
from torusimaging_torch.model.low_order import unit_grid
from torusimaging_torch.model.signs import switched_off, without
from torusimaging_torch.model.start import count_knots, upstream_extent
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout, Nested
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.description import LABEL_KNOTS, SELECTION, SMOOTH, column_of
from torusimaging_torch.results.file_format import INTEGERS, NUMBERS
from torusimaging_torch.units import BinnedData

__all__ = ["Shard", "complete_shard", "fit_shard", "harmonics_off"]


@dataclass(frozen=True)
class Shard:
    """Some subsamples that are fitted, and stored, together.

    Attributes
    ----------
    number
        Of the shard.
    first
        Number of its first subsample in the whole list.
    names, subsamples
        Their names and binned data.
    columns
        What else is known of them, see `BatchResult`.
    """

    number: int
    first: int
    names: tuple[str, ...]
    subsamples: tuple[BinnedData, ...]
    columns: Mapping[str, Array | u.Quantity] = field(default_factory=dict)


def fit_shard(
    settings: BatchSettings,
    shard: Shard,
    device: torch.device | str | None = None,
    max_memory: float | None = None,
) -> BatchResult:
    """Fit the subsamples of a shard.

    Parameters
    ----------
    settings
        What is the same for all.
    shard
        The subsamples.
    device
        Where to compute; the CPU by default.
    max_memory
        Bytes to use at most.

    Returns
    -------
    BatchResult
        On the host. One subsample that cannot be fitted has a status and a message, and nan.
    """
    device = torch.device(device or "cpu")
    problems = [_read(settings, shard, i) for i in range(len(shard.names))]
    layout, values = _blank(settings, len(problems), _selections(settings, shard))
    values["n_pixels"] = torch.tensor([p.n for p in problems])
    values["n_masked"] = torch.tensor([p.n_masked for p in problems])
    reasons = [p.problem or _refusal(layout.size, p.n) for p in problems]
    message = [f"not started: {reason}" for reason in reasons]
    # Of similar size side by side, so that little is padded.
    good = [i for i, reason in enumerate(reasons) if not reason]
    good.sort(key=lambda i: int(values["n_pixels"][i]))
    if good:
        size = chunk_size(
            int(values["n_pixels"].max()) * settings.multistart,
            layout.size,
            device,
            max_memory,
            torch.finfo(settings.dtype).bits // 8,
            settings.uncertainty is not None and settings.hessian in ("full", "data"),
        )
        run = partial(_run, settings, shard, problems, device)
        errors: list[Exception] = []
        for pieces in in_chunks(run, good, size):
            for rows, found in pieces:
                if isinstance(found, Exception):
                    message[rows[0]] = f"not started: {found}"
                    errors.append(found)
                    continue
                for name, tensor in found.items():
                    values[name][rows] = tensor
                for row, status in zip(rows, found["status"].tolist(), strict=True):
                    message[row] = Status(status).message
        # What stops every subsample is not its data but an argument.
        if len(errors) == len(good) and isinstance(errors[0], ValueError):
            raise errors[0]
    described = settings.describe()
    made = BatchResult(shard.names, tuple(message), values, layout, described, shard.columns)
    off = harmonics_off(made)
    return replace(made, message=tuple(text + without(off, i) for i, text in enumerate(message)))


def _refusal(n_params: int, n_pixels: int) -> str:
    """Return why so few pixels are not fitted, or nothing."""
    text, refused = too_many_parameters(n_params, n_pixels)
    return text if refused else ""


def harmonics_off(result: BatchResult) -> dict[int, Tensor]:
    """Return by order m in which fits nothing is left of e_m, with shape (B,)."""
    fitted = result.values["x"].isfinite().all(-1)
    if not fitted.any():
        return {}
    x, lower, upper = (result.values[name][fitted] for name in ("x", "lower", "upper"))
    off = switched_off(result.model_of(fitted), x, Box(lower, upper), result.layout)
    return {m: torch.zeros_like(fitted).masked_scatter(fitted, gone) for m, gone in off.items()}


def _read(settings: BatchSettings, shard: Shard, i: int) -> Subsample:
    try:
        return read_subsample(shard.subsamples[i], settings.objectives, settings.units)
    except (TypeError, ValueError) as error:
        raise type(error)(f"subsample {shard.names[i]!r}: {error}") from None


def _selections(settings: BatchSettings, shard: Shard) -> dict[str, tuple[int, float]]:
    """Return the terms of the selection function of each data set that has some.

    Raises
    ------
    ValueError
        If subsamples differ in them.
    """
    found: dict[str, tuple[int, float]] = {}
    for name in settings.objectives:
        every = {selection_of(data[name] if name else data) for data in shard.subsamples}
        if len(every) > 1:
            pairs = sorted((0, 0.0) if one is None else one for one in every)
            raise ValueError(
                "all subsamples must have the same number of selection_terms, with the same "
                f"selection_error, got {', '.join(f'{n} with {error:g}' for n, error in pairs)}"
            )
        if (one := every.pop()) is not None:
            found[name] = one
    return found


Piece = tuple[list[int], "dict[str, Tensor] | Exception"]


def _run(
    settings: BatchSettings,
    shard: Shard,
    problems: Sequence[Subsample],
    device: torch.device,
    rows: Sequence[int],
) -> list[Piece]:
    """Fit a chunk; if one of its subsamples stops it, find out which, and fit the others."""
    extents = None
    if settings.knots == "upstream":
        name = settings.primary
        data = [shard.subsamples[i][name] if name else shard.subsamples[i] for i in rows]
        extents = [upstream_extent(one, settings.units) for one in data]
    indices = [shard.first + i for i in rows]
    try:
        chosen = [problems[i] for i in rows]
        return [(list(rows), fit_chunk(settings, chosen, indices, extents, device))]
    except (ValueError, torch.linalg.LinAlgError) as error:
        if len(rows) == 1:
            return [(list(rows), error)]
    half = len(rows) // 2
    parts = (rows[:half], rows[half:])
    return [piece for part in parts for piece in _run(settings, shard, problems, device, part)]


def _blank(
    settings: BatchSettings, n: int, selections: Mapping[str, tuple[int, float]]
) -> tuple[Layout, dict[str, Tensor]]:
    """Return the layout, and what stands for a subsample that was not fitted."""
    n_label = {
        name: count_knots(settings.label_knots_of(name), "label_knots")
        for name in settings.objectives
    }
    n_e = {m: count_knots(knots, f"e_knots[{m}]") for m, knots in (settings.e_knots or {}).items()}
    one = torch.zeros((), dtype=settings.dtype)
    layout = Layout.of(_blank_params(settings, one, n_label, n_e, selections))
    values = {name: one.new_full((n,), torch.nan) for name in NUMBERS}
    values |= {name: torch.zeros(n, dtype=torch.int64) for name in INTEGERS}
    values["status"] = torch.full((n,), int(Status.NON_FINITE))
    values |= {name: one.new_full((n, layout.size), torch.nan) for name in ("x", "lower", "upper")}
    values["at_bound"] = torch.zeros(n, layout.size, dtype=torch.bool)
    values["reach"] = one.new_full((n,), torch.nan)
    for name, size in n_label.items():
        values[column_of(name, LABEL_KNOTS)] = unit_grid(size, one).repeat(n, 1)
        if name != settings.primary:
            values[column_of(name, SMOOTH)] = one.new_full((n,), torch.nan)
    for name, (_, sigma) in selections.items():
        values[column_of(name, SELECTION)] = one.new_full((n,), sigma)
    values |= {f"e{m}_knots": unit_grid(size, one).repeat(n, 1) for m, size in n_e.items()}
    if settings.model == "potential":
        values["heights"] = unit_grid(settings.n_sheets, one).add(1.0).repeat(n, 1)
        values["plane_Omega"] = one.new_ones(n)
        values[SMOOTH] = one.new_full((n,), torch.nan)
    if settings.uncertainty is not None:
        values["covariance"] = one.new_full((n, layout.size, layout.size), torch.nan)
    return layout, values


def _blank_params(
    settings: BatchSettings,
    one: Tensor,
    n_label: Mapping[str, int],
    n_e: Mapping[int, int],
    selections: Mapping[str, tuple[int, float]],
) -> Nested:
    """Return parameters of the right shapes."""
    params: Nested = {"pos0": one, "vel0": one}
    if settings.model == "potential":
        params["ln_rho"] = one.expand(settings.n_sheets + 1)
    else:
        params["ln_Omega0"] = one
    if n_e:
        params["e_params"] = {m: {"vals": one.expand(size - 1)} for m, size in n_e.items()}
    own = {
        "label_params": {k: {"label_vals": one.expand(size)} for k, size in n_label.items()},
        "selection_params": {k: {"vals": one.expand(size)} for k, (size, _) in selections.items()},
    }
    return params | {key: leaves.get("", leaves) for key, leaves in own.items() if leaves}


def complete_shard(
    settings: BatchSettings,
    shard: Shard,
    folder: str | os.PathLike[str],
    device: torch.device | str | None = None,
    max_memory: float | None = None,
    wait: bool = False,
) -> str:
    """See to it that a store has a shard: fit it and write it, unless it is there.

    Parameters
    ----------
    settings, shard, device, max_memory
        As in `fit_shard`.
    folder
        The store's.
    wait
        Whether to wait for another process that is computing the shard.

    Returns
    -------
    str
        "there" if it was; "fitted"; "repaired" if what was there was damaged; "busy" if another
        process is at it.

    Raises
    ------
    ValueError
        If the store has the shard, of other data; or is one of other settings.
    OSError
        If the part cannot be written.
    """
    store = Store(folder, settings.fingerprint())
    known = [shard.columns] if shard.columns else []
    data = data_fingerprint([*shard.subsamples, *known], shard.names)
    with store.lock(shard.number, wait) as mine:
        if not mine:
            return "busy"
        outcome = "fitted"
        if store.part(shard.number).exists():
            try:
                store.read(shard.number, data)
            except DamagedPartError:
                outcome = "repaired"
            else:
                return "there"
        store.write(shard.number, fit_shard(settings, shard, device, max_memory), data)
        return outcome
