"""The arguments of the commands batch, merge and plot, and the texts of their help."""

from __future__ import annotations

import argparse

from torusimaging_torch.command.argument_groups import (
    CONDITIONS,
    Group,
    add_columns,
    add_command,
    add_known,
    add_model,
    add_penalty,
    add_selection,
)

__all__ = ["add_batch", "add_merge", "add_plot"]

_BATCH_DESCRIPTION = """\
Fit many groups of stars at once, each also in bootstrap or jackknife resamplings. Results go to a
store, a folder that survives whatever happens: the same command again goes on where it ended. What
is not given is chosen from the data, once, the same for all fits."""

_BATCH_EPILOG = (
    """\
examples:
  torusimaging-torch batch stars.parquet --pos z --vel v_z --label MG_FE \\
      --group "R_g: 6..12 step 0.25 width 2 kpc" --bootstrap 25 --store run
  torusimaging-torch merge run --out run.fits
  torusimaging-torch plot run --out run.pdf

  the same as an array of 10 jobs on one store:
  torusimaging-torch batch ... --store run --shard $SLURM_ARRAY_TASK_ID/10

groups (of several --group all combinations are made):
  COLUMN: START..STOP step STEP [width WIDTH] [UNIT]
                windows centred on START, START + STEP, ..., which overlap if they are wider than
                STEP; by default they are as wide. Without UNIT numbers are in the column's unit.
  COLUMN: START..STOP [UNIT]
                one group of all between; here and above COLUMN may be an expression as in
                conditions, such as "L_z / 229 km/s: 6..12 step 0.5"
  COLUMN in A, B, ...
                a group for each of these values
  COLUMN        a group for each value

"""
    + CONDITIONS
)

_MERGE_DESCRIPTION = """\
Write all fits of a store to one table, a row for each: parameters with errors and units, how the
fit ended, its group and the number of its resampling (-1 for the stars themselves)."""

_MERGE_EPILOG = """\
example:
  torusimaging-torch merge run --out run.ecsv
in Python: BatchResult.read("run.ecsv") has the fits again, to the last bit."""

_PLOT_DESCRIPTION = """\
Draw surface density and acceleration at one height against the centres of the groups, with bands of
68 and 95 per cent over their bootstraps (or from the jackknife, or from the Cramer-Rao bound)."""

_PLOT_EPILOG = """\
example:
  torusimaging-torch plot run --out run.pdf --height 1.1kpc"""


def _shard(text: str) -> tuple[int, int]:
    """Read "0/4"."""
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError:
        i, n = 0, 0
    if not 0 <= i < n:
        raise argparse.ArgumentTypeError(
            f"expected I/N with I from 0 to N - 1, such as 0/4 to 3/4, got {text!r}"
        )
    return i, n


def add_batch(commands: object) -> None:
    """Add the command batch."""
    batch = add_command(
        commands,
        "batch",
        help="fit many groups of stars, with resamplings",
        description=_BATCH_DESCRIPTION,
        epilog=_BATCH_EPILOG,
    )
    batch.add_argument(
        "stars",
        metavar="STARS",
        nargs="+",
        help="files that count as one catalogue: parquet of any size, read in chunks; or FITS, "
        "ECSV, CSV, HDF5, read into memory",
    )
    stars = batch.add_argument_group("stars and groups")
    add_columns(stars, blur=False)
    add_selection(stars)
    stars.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="GROUP",
        help="which stars belong together, see below; repeat for combinations",
    )
    again = stars.add_mutually_exclusive_group()
    again.add_argument("--bootstrap", type=int, metavar="N", help="fit N bootstraps of each too")
    again.add_argument("--jackknife", type=int, metavar="N", help="or leave out each of N blocks")
    stars.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (0)")
    _add_run(batch.add_argument_group("where to compute, and to keep results"))
    title = "pixels and model (chosen from the data unless given, the same for all)"
    model = batch.add_argument_group(title)
    add_model(model, many=True)
    model.add_argument(
        "--multistart", type=int, default=1, metavar="N", help="starts of each fit (1)"
    )
    add_penalty(batch.add_argument_group("penalty (widths in sigma: smaller is stronger)"))
    add_known(batch.add_argument_group("known beforehand (the same for all fits)"))


def _add_run(group: Group) -> None:
    add = group.add_argument
    add("--store", required=True, metavar="DIR", help="new folder, or that of a run to go on with")
    add(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only part I, from 0, of N: for N jobs on one store",
    )
    add("--shard-size", type=int, metavar="N", help="fits that are stored together")
    place = group.add_mutually_exclusive_group()
    place.add_argument("--device", metavar="DEVICE", help="such as cuda; the CPU by default")
    place.add_argument(
        "--dask", metavar="ADDRESS", help="of a Dask scheduler whose workers see the store"
    )


def _add_partial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--partial", action="store_true", help="take what is there of a store not yet complete"
    )


def add_merge(commands: object) -> None:
    """Add the command merge."""
    merge = add_command(
        commands,
        "merge",
        help="write the fits of a batch to one table",
        description=_MERGE_DESCRIPTION,
        epilog=_MERGE_EPILOG,
    )
    merge.add_argument("store", metavar="DIR", help="the store that 'batch' filled")
    merge.add_argument(
        "--out", required=True, metavar="TABLE", help="a name in .ecsv, .parquet, .hdf5 or .fits"
    )
    _add_partial(merge)
    merge.add_argument("--overwrite", action="store_true", help="replace TABLE if it exists")


def add_plot(commands: object) -> None:
    """Add the command plot."""
    plot = add_command(
        commands,
        "plot",
        help="draw what a batch found against its groups",
        description=_PLOT_DESCRIPTION,
        epilog=_PLOT_EPILOG,
    )
    plot.add_argument("batch", metavar="DIR_OR_TABLE", help="a store, or a table made by 'merge'")
    plot.add_argument(
        "--out", required=True, metavar="FIGURE", help="a name in .pdf, .png, .svg, ..."
    )
    plot.add_argument(
        "--x", metavar="COL", help="what to draw against (the column of the first windows)"
    )
    plot.add_argument(
        "--height",
        metavar="LENGTH",
        help="above the midplane, as 1.1kpc (the default, or as far as all fits reach)",
    )
    _add_partial(plot)
