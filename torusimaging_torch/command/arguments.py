"""The arguments of the command line, and the texts of its help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from torusimaging_torch import __version__
from torusimaging_torch.command.argument_groups import (
    CONDITIONS,
    Help,
    add_columns,
    add_command,
    add_figure_format,
    add_known,
    add_model,
    add_penalty,
    add_reading,
    add_selection,
    add_settings,
    read_count,
)
from torusimaging_torch.command.batch_arguments import add_batch, add_merge, add_plot
from torusimaging_torch.command.prepare_arguments import add_prepare

__all__ = ["PROGRAM", "make_parser"]

PROGRAM = "torusimaging-torch"
"""The name of the command."""

_DESCRIPTION = """\
Orbital Torus Imaging: stars keep their labels (abundances, age) along their orbits, so
contours of the mean label in position and velocity are orbits. Their shapes give the orbital
frequency, the acceleration and the mass density."""

_EPILOG = """\
exit codes: 0 done; 1 done, but no fit is good (the line BAD FIT says why); 2 error, in one line.
'torusimaging-torch COMMAND --help' explains a command."""

_FIT_DESCRIPTION = """\
Bin the stars in position and velocity, fit the model, and write tables and figures to a folder:
report.html (all in one page), fit.ecsv (the fit itself), profiles.ecsv, pixels.ecsv, profiles.png,
data.png, splines.png; with --uncertainty nuts also samples.ecsv. Labels and star counts of the same
stars are fitted together; where both models are fitted, star counts are for the potential alone."""

_FIT_EPILOG = (
    """\
examples:
  torusimaging-torch fit stars.fits --pos z --vel v_z --label MG_FE --out fit \\
      --where "R > 7 and R < 9" --where "abs(z) < 1.5 kpc"
  torusimaging-torch fit stars.csv --pos z --vel vz --units z=pc,vz=km/s --counts \\
      --pos-max 400pc --vel-max "60 km/s" --out fit
  torusimaging-torch fit stars.fits --pos z --vel v_z --label MG_FE --counts \\
      --selection seen.ecsv --out fit

"""
    + CONDITIONS
)

_DEMO_DESCRIPTION = """\
Simulate stars in gala's Milky Way at R = 8.3 kpc, fit them like real ones, and compare what the
fit recovers with the truth. Takes about fifteen seconds."""


_ACTIONS_DESCRIPTION = """\
Add the action J, the angle theta, the frequency Omega and the period T of each star's orbit to a
catalogue, and a column 'valid': false where the orbit leaves the fit, and all else is nan.

From parquet to parquet a catalogue of any size goes through in chunks, in little memory, and keeps
all that it has. All other formats (FITS, ECSV, CSV, HDF5, VOTable) are held in memory whole."""

_ACTIONS_EPILOG = """\
examples:
  torusimaging-torch actions fit stars.fits --out stars_with_actions.fits
  torusimaging-torch actions fit gaia.parquet --out gaia_actions.parquet --errors 50"""


def make_parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser, and those of its commands by name.

    What it parses has the name of the command as ``command``.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=Help
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    add_prepare(commands)
    _add_fit(commands)
    _add_actions(commands)
    add_batch(commands)
    add_merge(commands)
    add_plot(commands)
    return parser, commands.choices


def _add_demo(commands: object) -> None:
    summary = "simulate stars, fit them, compare with the truth"
    demo = add_command(commands, "demo", help=summary, description=_DEMO_DESCRIPTION)
    demo.add_argument(
        "--out",
        metavar="DIR",
        default="demo_output",
        help="folder for tables and figures, where earlier results are replaced (default: "
        "demo_output)",
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)"
    )
    add_settings(demo, "uncertainty", "num_samples")
    add_figure_format(demo)
    demo.add_argument("--n-stars", type=int, default=200_000, metavar="N", help="default: 200000")


def _add_fit(commands: object) -> None:
    fit = add_command(
        commands,
        "fit",
        help="fit a table of stars",
        description=_FIT_DESCRIPTION,
        epilog=_FIT_EPILOG,
    )
    fit.add_argument("stars", metavar="STARS", help="a file: FITS, ECSV, CSV, parquet, ...")
    stars = fit.add_argument_group("stars")
    add_columns(stars)
    add_selection(stars)
    add_settings(stars, "outliers")
    stars.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder for tables and figures; earlier results in it are replaced, other files stay",
    )
    add_figure_format(stars)
    add_model(fit.add_argument_group("pixels and model (chosen from the data unless given)"))
    add_penalty(fit.add_argument_group("penalty (widths in sigma: smaller is stronger)"))
    add_known(fit.add_argument_group("known beforehand"), weak=True)


def _add_actions(commands: object) -> None:
    actions = add_command(
        commands,
        "actions",
        help="add actions, angles and frequencies to a catalogue",
        description=_ACTIONS_DESCRIPTION,
        epilog=_ACTIONS_EPILOG,
    )
    add = actions.add_argument
    add("result", metavar="RESULT", help="the folder that 'fit' wrote, or the fit.ecsv in it")
    add("stars", metavar="STARS", help="a file: FITS, ECSV, CSV, parquet, ...")
    add("--out", required=True, metavar="TABLE", help="the catalogue with the new columns")
    add("--pos", metavar="COL", help="column of positions (by default the one that was fitted)")
    add("--vel", metavar="COL", help="column of velocities (by default the one that was fitted)")
    add_reading(actions)
    add("--prefix", default="", metavar="TEXT", help="before the names of the new columns")
    add(
        "--method",
        choices=["auto", "exact", "table"],
        default="auto",
        help="trace each orbit (exact), or interpolate (table: errors below 1e-6)",
    )
    add(
        "--errors",
        type=read_count,
        default=0,
        metavar="N",
        help="add standard errors J_err, theta_err, Omega_err and T_err, from N draws of the fit's "
        "parameters (takes N times as long)",
    )
    add("--overwrite", action="store_true", help="replace TABLE if it exists")
