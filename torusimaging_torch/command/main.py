"""The command ``torusimaging-torch``: from a table of stars to acceleration and mass density.

Whatever is slow to import is imported when a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torusimaging_torch.command.argument_groups import refuse_empty
from torusimaging_torch.command.arguments import PROGRAM, make_parser
from torusimaging_torch.command.config import expand_config, in_options, to_config

if TYPE_CHECKING:
    from torusimaging_torch.analysis.single import Analysis

__all__ = ["main"]

OK, NOT_GOOD, ERROR, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv
        Arguments, those of the process by default.

    Returns
    -------
    int
        The exit code: 0, 1 if no fit is good, 2 after an error, 130 if interrupted.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know \N{PLUS-MINUS SIGN}
    parser, commands = make_parser()
    try:
        args = parser.parse_args(expand_config(typed, commands))
        refuse_empty(commands[args.command], args)
    except SystemExit as end:  # argparse has said why
        return end.code if isinstance(end.code, int) else ERROR
    except ValueError as error:
        _say(f"{PROGRAM}: error: {_reason(error)}")
        return ERROR
    args.typed = shlex.join([PROGRAM, *typed])
    args.as_config = to_config(commands[args.command], args)
    try:
        with warnings.catch_warnings():
            _tame_warnings()
            return _COMMANDS[args.command](args)
    except KeyboardInterrupt as stop:
        _say(f"{PROGRAM}: interrupted; {str(stop) or 'nothing was written'}")
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        _say(f"{PROGRAM}: error: {in_options(_reason(error), commands[args.command])}")
        return ERROR


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(text: str) -> None:
    """Print on standard output; whoever reads it may stop, as ``head`` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain again when it ends, and tries to write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reason(error: Exception) -> str:
    """Return an error in one line; one that nobody foresaw says what it is, and how to see more."""
    # A KeyError's text is the quoted key; ours carry a sentence.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(text).split())
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {line or 'less at once needs less of it'}"
    expected = isinstance(error, (ValueError, TypeError, KeyError, OSError))
    return line if expected and line else f"{type(error).__name__}: {line} (--debug shows where)"


def _tame_warnings() -> None:
    """Print warnings as single lines; hide what libraries tell their developers."""
    # Importing astropy puts its own printer of warnings in place: ours comes after it.
    import astropy  # noqa: F401

    warnings.simplefilter("default")
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter("ignore", category)

    def show(message: Warning | str, *_: object, **__: object) -> None:
        _say(f"{PROGRAM}: warning: {' '.join(str(message).split())}")

    warnings.showwarning = show


# -- the commands ----------------------------------------------------------------------------


def _run_demo(args: Namespace) -> int:
    from torusimaging_torch.analysis import demo
    from torusimaging_torch.analysis.folder import check_folder, save
    from torusimaging_torch.analysis.single import analyse

    start, tell = time.monotonic(), _teller(args)
    check_folder(args.out)
    tell(f"simulating {args.n_stars:,} stars (seed {args.seed})")
    stars, potential = demo.simulate(args.n_stars, args.seed)
    given = {name: getattr(args, name) for name in ("uncertainty", "num_samples")}
    settings = replace(demo.SETTINGS, **{k: v for k, v in given.items() if v is not None})
    analysis = analyse(stars, settings, tell, progress=not args.quiet)
    comparison = demo.compare(analysis, potential)
    truth = demo.Shifted(potential, analysis.result.quantity("pos0"))
    tell("drawing")
    files = save(args.out, analysis, truth=truth, comparison=comparison, **_of_page(args))
    lines = [] if analysis.undetermined else demo.describe_comparison(comparison)
    if analysis.beside is not None:
        other = demo.describe_comparison(demo.compare(analysis.beside, potential))
        other = [] if analysis.beside.undetermined else other
        lines = ["ELLIPSES AND HARMONICS", *lines, "", "POTENTIAL", *other]
    return _finish(args, analysis, lines, files, start)


def _run_fit(args: Namespace) -> int:
    from torusimaging_torch.analysis.automatic import in_unit
    from torusimaging_torch.analysis.folder import check_folder, save
    from torusimaging_torch.analysis.single import analyse
    from torusimaging_torch.catalogue.chunks import open_stars
    from torusimaging_torch.catalogue.files import file_digest
    from torusimaging_torch.catalogue.sky_source import on_the_way
    from torusimaging_torch.catalogue.tables import read_stars
    from torusimaging_torch.command.options import check_data_sets, read_settings

    start, tell = time.monotonic(), _teller(args)
    check_data_sets(args)
    check_folder(args.out)
    tell(f"reading {args.stars}")
    source = on_the_way(open_stars(args.stars, **_reading(args)), tell)
    columns = args.pos, args.vel, args.label, args.label_err
    blur = {"pos_err": args.pos_err, "vel_err": args.vel_err}
    stars = read_stars(source, *columns, args.where, counted=args.counts, **blur)
    stars.provenance.update(file=args.stars, **file_digest(args.stars))
    if args.selection is not None:
        stars.provenance["selection"] = args.selection
    tell(f"{len(stars):,} of {source.n_rows:,} stars selected")
    settings = read_settings(args)
    settings = replace(
        settings,
        pos_max=in_unit(settings.pos_max, stars.pos.unit, "--pos-max"),
        vel_max=in_unit(settings.vel_max, stars.vel.unit, "--vel-max"),
    )
    analysis = analyse(stars, settings, tell, progress=not args.quiet)
    tell("drawing")
    files = save(args.out, analysis, **_of_page(args))
    return _finish(args, analysis, [], files, start)


def _reading(args: Namespace) -> dict[str, Any]:
    """Return how the catalogue is to be read."""
    return {name: getattr(args, name) for name in ("units", "hdu", "table_format")}


def _of_page(args: Namespace) -> dict[str, Any]:
    """Return what the report says of the command, and the format of the figures."""
    return {
        "command": args.typed,
        "config": args.as_config,
        "figure_format": args.figure_format,
    }


def _run_prepare(args: Namespace) -> int:
    from torusimaging_torch.analysis.preparation import run_prepare
    from torusimaging_torch.command.prepare_options import read_preparation

    start, tell = time.monotonic(), _teller(args)
    given = read_preparation(args)
    _show(run_prepare(args.stars, args.out, tell=tell, progress=not args.quiet, **given))
    tell(f"done in {time.monotonic() - start:.0f} s")
    return OK


def _run_actions(args: Namespace) -> int:
    from torusimaging_torch.analysis.actions import run_actions

    options = ("pos", "vel", "prefix", "method", "errors", "overwrite")
    given = _reading(args) | {name: getattr(args, name) for name in options}
    start, tell = time.monotonic(), _teller(args)
    _show(
        run_actions(args.result, args.stars, args.out, tell=tell, progress=not args.quiet, **given)
    )
    tell(f"done in {time.monotonic() - start:.0f} s")
    return OK


def _run_batch(args: Namespace) -> int:
    from torusimaging_torch.analysis.batch import run_batch
    from torusimaging_torch.analysis.batch_report import describe_batch, write_batch_page
    from torusimaging_torch.analysis.batch_verdict import doubts
    from torusimaging_torch.analysis.request import BatchRequest
    from torusimaging_torch.command.options import check_data_sets, read_settings

    start, tell = time.monotonic(), _teller(args)
    check_data_sets(args)
    same = ("pos", "vel", "counts", "bootstrap", "jackknife", "seed", "multistart")
    request = BatchRequest(
        **{name: getattr(args, name) for name in same},
        label=tuple(args.label),
        label_err=tuple(args.label_err),
        groups=tuple(args.group),
        where=tuple(args.where),
        units=args.units or {},
        hdu=args.hdu,
        table_format=args.table_format,
        settings=read_settings(args),
    )
    options = {name: getattr(args, name) for name in ("shard", "shard_size", "device", "dask")}
    result = run_batch(
        args.stars, request, args.store, **options, tell=tell, progress=not args.quiet
    )
    if result is None:
        tell("there are fewer parts than jobs: nothing to do for this one")
        return OK
    found = doubts(result)  # none where this job had resamplings alone
    told = ["", *describe_batch(result, found), ""]
    if args.shard is None:
        said = {"command": args.typed, "config": args.as_config}
        page = write_batch_page(args.store, result, args.stars, request, found=found, **said)
        told += [f"all in one page, with how to repeat it: {page}"]
    _show("\n".join([*told, *_next_steps(args)]))
    tell(f"done in {time.monotonic() - start:.0f} s")
    good = bool(result.success.all()) and (not found or not all(found.values()))
    return OK if good else NOT_GOOD


def _next_steps(args: Namespace) -> list[str]:
    there = f"in {args.store}" if args.shard is None else f"in {args.store}, this job's part of it"
    return [
        f"{there}; next:",
        f"  {PROGRAM} merge {args.store} --out TABLE",
        f"  {PROGRAM} plot {args.store} --out FIGURE",
    ]


def _run_merge(args: Namespace) -> int:
    from torusimaging_torch.analysis.batch import merge_batch
    from torusimaging_torch.analysis.batch_report import describe_batch

    options = {name: getattr(args, name) for name in ("partial", "overwrite")}
    result = merge_batch(args.store, args.out, **options)
    _show("\n".join([*describe_batch(result), "", f"written to {args.out}"]))
    return OK


def _run_plot(args: Namespace) -> int:
    from torusimaging_torch.analysis.batch import draw_batch
    from torusimaging_torch.command.quantities import read_quantity

    height = None if args.height is None else read_quantity(args.height, "--height")
    result = draw_batch(args.batch, args.out, x=args.x, height=height, partial=args.partial)
    n_bad = int((~result.success).sum())
    left_out = f"; {n_bad} left out that did not converge" if n_bad else ""
    _show(f"{len(result)} fits{left_out}; written to {args.out}")
    return OK


def _teller(args: Namespace) -> Callable[[str], None]:
    return (lambda line: None) if args.quiet else _say


def _finish(
    args: Namespace, analysis: Analysis, more: list[str], files: list[str], start: float
) -> int:
    from torusimaging_torch.analysis.report import describe, models_differ

    page = [*describe(analysis), *(["", *more] if more else [])]
    _show("\n".join(["", *page, "", f"written to {args.out}:", *(f"  {f}" for f in files)]))
    _teller(args)(f"done in {time.monotonic() - start:.0f} s")
    made = [analysis, *([analysis.beside] if analysis.beside is not None else [])]
    good = any(each.result.provenance["verdict"]["good"] for each in made)
    return OK if good and not models_differ(analysis) else NOT_GOOD


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "demo": _run_demo,
    "prepare": _run_prepare,
    "fit": _run_fit,
    "actions": _run_actions,
    "batch": _run_batch,
    "merge": _run_merge,
    "plot": _run_plot,
}
