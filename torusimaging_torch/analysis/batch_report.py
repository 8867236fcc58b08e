"""What many fits found: how they ended and a table of groups, as text and as one page of HTML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable, Row

from torusimaging_torch import plot
from torusimaging_torch.analysis.batch_verdict import Doubts, doubts
from torusimaging_torch.analysis.blocks import Block, Table, as_text
from torusimaging_torch.analysis.folder import as_svg
from torusimaging_torch.analysis.page import document, facts, figure, render
from torusimaging_torch.analysis.report import number
from torusimaging_torch.analysis.request import BatchRequest, recall
from torusimaging_torch.plot.canvas import own_style
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.summary import count_failures, summarize

__all__ = ["describe_batch", "write_batch_page"]

_MAX_ROWS, _MAX_DOUBTS = 40, 10
_MORE = "'fit' looks at the pixels of one, too"
_ON_BOUND = (
    "fits that rest on a bound ask for what the model cannot be: do not believe their numbers "
    "before 'fit' has shown why"
)


def describe_batch(result: BatchResult, found: Doubts | None = None) -> list[str]:
    """Return what a batch found, as lines of text: how fits ended, and a table of the groups.

    What speaks against its fits may have been ``found`` before.
    """
    return as_text(_blocks(result, _MAX_ROWS, found))


def write_batch_page(
    store: str | os.PathLike[str],
    result: BatchResult,
    paths: Sequence[str | os.PathLike[str]],
    request: BatchRequest,
    *,
    found: Doubts | None = None,
    command: str,
    config: str,
) -> Path:
    """Write a batch as one page of HTML: how fits ended, figure, all groups, how to repeat it.

    Parameters
    ----------
    store
        The folder of the fits, where the page becomes ``report.html``.
    result
        The fits.
    paths, request
        The catalogue, and what was asked for.
    found
        What speaks against the fits, if it has been looked for.
    command, config
        The command line that made it, and the same as a file for ``--config``.

    Returns
    -------
    Path
        The file.
    """
    path, choices = Path(store, "report.html"), recall(store, request)
    told = {
        "file": ", ".join(map(str, paths)),
        "where": list(request.where),
        "groups": list(request.groups),
        "resampling": {
            name: n for name in ("bootstrap", "jackknife") if (n := getattr(request, name))
        },
        "model": "potential" if request.settings.model == "potential" else "ellipses and harmonics",
        "choices": [] if choices is None else choices.lines(),
    }
    if request.settings.selection is not None:
        told["selection"] = str(request.settings.selection)
    blocks = _blocks(result, len(result), found)
    words = [block for block in blocks if isinstance(block, str)]
    body = [*render(words[:1]), *_drawn(result), *render(blocks[1:])]
    body += ["<h2>Stars and choices</h2>", facts(told)]
    title = "Orbital torus imaging of many subsamples"
    page = document(title, str(told["file"]), body, command, config)
    with replaced_file(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")
    return path


def _drawn(result: BatchResult) -> list[str]:
    """Return the figure of the groups, where there is something to draw."""
    try:
        with own_style():
            drawn: Any = plot.plot_batch(result, pyplot=False)[0]
            drawing = as_svg(drawn)
    except Exception as error:  # whatever it is, the numbers are worth more than their figure
        return render([f"no figure: {error}"])
    caption = "surface density and acceleration of each group"
    return ["<h2>Groups</h2>", figure("batch", caption, drawing)]


def _blocks(result: BatchResult, max_rows: int, found: Doubts | None) -> list[Block]:
    failures = count_failures(result)
    n_bad = failures.total()
    fits = "1 fit" if len(result) == 1 else f"{len(result)} fits"
    ends: list[Block] = [f"{fits}: {len(result) - n_bad} converged, {n_bad} did not"]
    ends += [f"  {n} {message}" for message, n in failures.most_common()]
    try:
        table = summarize(result)
    except ValueError as error:
        return [*ends, str(error)]
    rows = [_row(row) for row in table[:max_rows]]
    height = table.meta["HEIGHT"]
    head = ["group", "stars", "converged", "on a bound", f"Sigma({height})", f"a_z({height})"]
    return [
        *ends,
        Table(head, rows),
        *([f"... and {len(table) - len(rows)} more"] if len(table) > len(rows) else []),
        f"(Sigma in Msun/pc^2, a_z in km/s/Myr; errors from {_bands(table)})",
        *([_ON_BOUND] if table["n_on_bound"].any() else []),
        *_undetermined(table),
        *_doubts(doubts(result) if found is None else found),
    ]


def _doubts(found: Doubts) -> list[Block]:
    """Say which fits of groups are bad, and why."""
    bad = {name: reasons for name, reasons in found.items() if reasons}
    if not found:
        return []
    if not bad:
        return [f"nothing that numbers tell speaks against these fits; {_MORE}"]
    lines = [f"  {name}: {'; '.join(reasons)}" for name, reasons in bad.items()]
    more = [f"  ... and {len(lines) - _MAX_DOUBTS} more"] if len(lines) > _MAX_DOUBTS else []
    return [f"BAD FITS: {len(bad)} of {len(found)}; {_MORE}", *lines[:_MAX_DOUBTS], *more]


def _undetermined(table: QTable) -> list[Block]:
    """Say of which groups there are no numbers, and why."""
    groups: dict[str, list[str]] = {}
    for row in table[table["undetermined"] != ""]:
        groups.setdefault(str(row["undetermined"]), []).append(str(row["group"]))
    return [
        f"no numbers of {', '.join(names)}: these stars do not determine {what}"
        for what, names in groups.items()
    ]


def _row(row: Row) -> Sequence[str]:
    good = row["n_fits"] - row["n_failed"]
    return (
        row["group"],
        f"{row['n_stars']:,}" if "n_stars" in row.colnames else "",
        f"{good}/{row['n_fits']}",
        str(row["n_on_bound"]),
        _with_error(row, "surface_density", u.Msun / u.pc**2),
        _with_error(row, "acceleration", u.km / u.s / u.Myr),
    )


def _bands(table: QTable) -> str:
    n = int(table["n_fits"].max()) - 1
    return {
        "crlb": "the Cramer-Rao bound",
        "bootstrap": f"{n} bootstraps",
        "jackknife": f"{n} jackknife blocks",
    }[table.meta["BANDS"]]


def _with_error(row: Row, name: str, unit: u.UnitBase) -> str:
    value, low, high = (float(row[f"{name}{end}"].to_value(unit)) for end in ("", "_p16", "_p84"))
    return number(value, (high - low) / 2) if np.isfinite(value) else "-"
