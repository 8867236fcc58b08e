"""Many fits with a store: what ``torusimaging-torch batch``, ``merge`` and ``plot`` do."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from torusimaging_torch import plot
from torusimaging_torch.analysis.automatic import in_unit
from torusimaging_torch.analysis.binning import SELECTION_ERROR
from torusimaging_torch.analysis.grouped_stars import GroupedStars
from torusimaging_torch.analysis.request import BatchRequest, Choices, keep, recall
from torusimaging_torch.batch.cluster import connect
from torusimaging_torch.batch.many import check_device, fit_many
from torusimaging_torch.batch.store import Store, merge
from torusimaging_torch.catalogue.endings import FORMATS, as_path
from torusimaging_torch.catalogue.outputs import check_output, check_writable
from torusimaging_torch.data.binned_sums import BinnedSums
from torusimaging_torch.data.joint_subsamples import JointSubsamples
from torusimaging_torch.data.selected_subsamples import SelectedSubsamples
from torusimaging_torch.data.subsamples import Subsamples
from torusimaging_torch.plot.canvas import check_figure_format, own_style
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.settings import LABEL_KNOTS, ModelSettings
from torusimaging_torch.units import unit_of

__all__ = ["draw_batch", "load_batch", "merge_batch", "run_batch"]

# Parts of a run, which is told and kept part by part, and their sizes: small ones waste time.
_N_PARTS, _SIZES, _SIZES_GPU = 16, (16, 64), (64, 512)
# From so many stars on it is told how far each pass is.
_MANY_STARS = 2_000_000
_DPI = 200


def _silent(line: str) -> None:
    pass


def run_batch(
    paths: Sequence[str | os.PathLike[str]],
    request: BatchRequest,
    store: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    shard_size: int | None = None,
    device: str | None = None,
    dask: str | None = None,
    tell: Callable[[str], None] = _silent,
    progress: bool = False,
) -> BatchResult | None:
    """Bin stars group by group, with resamplings, and fit them all, or go on with that.

    Parameters
    ----------
    paths
        The catalogue, see `GroupedStars.open`.
    request
        What is asked for.
    store
        A folder; what is there is not computed again.
    shard
        A pair (i, n): only every n-th part of the store, from the i-th on.
    shard_size
        Number of fits in a part of the store; by default what the store has, or such that there
        are some 16 parts.
    device
        Where to fit, such as "cuda".
    dask
        The address of a Dask scheduler whose workers fit.
    tell
        Called with short lines about what is going on.
    progress
        Whether to report each part on standard error.

    Returns
    -------
    BatchResult or None
        The fits of the whole store, or with ``shard`` those of its own parts; None if it has none.

    Raises
    ------
    ValueError
        If the request makes no sense, or the store is of another one.
    KeyboardInterrupt
        If interrupted; its message says what is in the store.
    """
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be i/n with 0 <= i < n, got {shard[0]}/{shard[1]}")
    check_device(device, here=dask is None)
    store = as_path(store)
    check_writable(store)
    known, was_there = recall(store, request), store.exists()
    stars = GroupedStars.open(paths, request, tell)
    tell(f"binning {stars.source.n_rows:,} stars of {_listed(paths)}")
    far = progress and stars.source.n_rows >= _MANY_STARS
    binned, choices = stars.prepare(known, far)
    agreed = keep(store, request, choices)
    begun_here = known is None and agreed == choices and shard is None
    if agreed != choices:  # another process was faster
        binned, choices = stars.prepare(agreed, far)
    for line in choices.lines():
        tell(line)
    subsamples = _subsamples(binned, request)
    size = _shard_size(store, len(subsamples), device) if shard_size is None else shard_size
    n_parts = -(-len(subsamples) // size)
    tell(f"{len(subsamples)} fits in {n_parts} parts: {_composition(binned)}")
    if shard is not None and shard[0] >= n_parts:
        return None
    try:
        with connect(dask) as executor, warnings.catch_warnings():
            # The summary tells it, with the reasons.
            warnings.filterwarnings("ignore", ".*fits did not converge", RuntimeWarning)
            return fit_many(
                subsamples,
                **_settings(request, choices),
                store=store,
                shard_size=size,
                shard=shard,
                device=device,
                executor=executor,
                progress=progress,
            )
    except (ValueError, TypeError):
        if begun_here:
            _forget(store, was_there)
        raise
    except KeyboardInterrupt:
        there = len(Store(store).shards()) if Path(store, "store.json").exists() else 0
        raise KeyboardInterrupt(
            f"{store} holds {there} of {n_parts} parts; the same command goes on from there"
        ) from None


def _subsamples(binned: BinnedSums, request: BatchRequest) -> Subsamples:
    """Return what is fitted: all labels of a group together, star counts as they were selected."""
    found = JointSubsamples(binned) if len(request.labels) > 1 else binned
    selection, error = request.settings.selection, request.settings.selection_error
    if selection is None and error is None:
        return found
    return SelectedSubsamples(found, selection, SELECTION_ERROR if error is None else error)


def _forget(store: Path, was_there: bool) -> None:
    """Take back what begins a store, if it has no part: its request is one that cannot be done.

    Left there, it would refuse the same command with the option put right. Of jobs that share a
    store none does this: others may be at their own parts.
    """
    if any(store.glob("*.parquet")):
        return
    for path in (path for path in store.iterdir() if path.is_file()):  # see `recall`
        path.unlink(missing_ok=True)
    if not was_there:
        shutil.rmtree(store)


def _listed(paths: Sequence[str | os.PathLike[str]]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"


def _composition(binned: BinnedSums) -> str:
    n = binned.n_resamplings
    kind = type(binned.resampling).__name__.lower()
    again = f", each also in {n} {kind} resamplings" if n else ""
    return f"{len(binned.groups)} groups{again}"


def _shard_size(store: str | os.PathLike[str], n: int, device: str | None) -> int:
    if Path(store, "store.json").exists():
        return Store(store).shard_size
    sizes = _SIZES if device in (None, "cpu") else _SIZES_GPU
    return int(np.clip(-(-n // _N_PARTS), *sizes))


def _settings(request: BatchRequest, choices: Choices) -> dict[str, Any]:
    """Return the arguments of `fit_many`."""
    settings = request.settings
    own = {one.name: getattr(settings, one.name) for one in fields(ModelSettings)}
    own["objective"] = request.objective
    own |= {"multistart": request.multistart, "seed": request.seed}
    n = own["label_knots"]
    if n is None and settings.model != "potential":
        n = LABEL_KNOTS
    several = n is not None and len(request.labels) > 1
    own["label_knots"] = dict.fromkeys(request.label, n) if several else n
    if settings.model == "potential":
        # Its splines are what it has by default.
        for name in ("e_knots", "e_signs", "e_knots_spacing_power", "e_spline"):
            del own[name]
        return own | {"label_smooth_sigma": settings.label_smooth_sigma}
    own["model"] = "torus"
    return {**own, **choices.penalty}


def load_batch(path: str | os.PathLike[str], partial: bool = False) -> BatchResult:
    """Read a batch: a store, or a table that was made of one.

    Parameters
    ----------
    path
        A folder or a file.
    partial
        Whether to be content with the parts of a store that are there.

    Raises
    ------
    ValueError, OSError
        If it is neither, or a store is not complete.
    """
    path = as_path(path)
    if path.is_dir():
        try:
            return merge(path, partial)
        except ValueError as error:
            text = str(error).replace("merge with partial=True", "say --partial")
            raise ValueError(
                text.replace("run fit_many again with this store", "run the 'batch' command again")
            ) from None
    if not path.exists():
        raise FileNotFoundError(f"no store or table {str(path)!r}")
    return BatchResult.read(path)


def merge_batch(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    partial: bool = False,
    overwrite: bool = False,
) -> BatchResult:
    """Write all fits of a store to one table, and return them.

    Parameters
    ----------
    store
        The folder.
    out
        The table; its ending decides the format.
    partial
        Whether to be content with the parts that are there.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    ValueError
        If the store is not complete, or the table exists.
    """
    check_output(out, overwrite, FORMATS)
    result = load_batch(store, partial)
    result.write(out)
    return result


def draw_batch(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    x: str | None = None,
    height: u.Quantity | None = None,
    partial: bool = False,
) -> BatchResult:
    """Draw a batch, and return it; see `torusimaging_torch.plot.plot_batch`.

    Parameters
    ----------
    path
        A store or a table.
    out
        The figure, replaced if it is there; its ending decides the format.
    x, height
        As for `torusimaging_torch.plot.plot_batch`.
    partial
        Whether to be content with the parts of a store that are there.

    Raises
    ------
    ValueError
        If there is nothing to draw, or the format is not known.
    """
    check_figure_format(out)
    check_writable(out)
    result = load_batch(path, partial)
    height = in_unit(height, unit_of("length", result.model.units), "--height")
    with own_style(), replaced_file(out) as temporary:
        figure: Any = plot.plot_batch(result, x, height=height, pyplot=False)[0]
        figure.savefig(temporary, dpi=_DPI)
    return result
