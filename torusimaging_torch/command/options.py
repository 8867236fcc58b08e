"""What was typed on the command line, as the settings and quantities that it means."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields

from torusimaging_torch.analysis.binning import SelectionTable
from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.command.known_options import read_held, read_known_priors
from torusimaging_torch.command.quantities import read_quantity
from torusimaging_torch.settings import Settings, option_of

__all__ = ["check_data_sets", "read_settings"]


def check_data_sets(args: Namespace) -> None:
    """Check that what is to be fitted makes sense together.

    Raises
    ------
    ValueError
        If there is nothing to fit, or options belong to what is not fitted.
    """
    if not (args.label or args.counts):
        raise ValueError("say what to fit: --label COL, --counts, or both")
    if args.label_err and not args.label:
        raise ValueError("--label-err has no meaning with --counts")
    selection, error = (getattr(args, x, None) for x in ("selection", "selection_error"))
    if not args.counts and (selection is not None or error is not None):
        raise ValueError("--selection and --selection-error are of star counts: add --counts")
    if error is not None and not error >= 0:
        raise ValueError(f"--selection-error must not be negative, got {error:g}")


def read_settings(args: Namespace) -> Settings:
    """Return the settings of an analysis; ranges without a unit are dimensionless.

    Raises
    ------
    ValueError
        If a range is not a number with or without a unit, or what is known beforehand makes no
        sense.
    """
    # Not every command has every option.
    typed = {one.name: getattr(args, one.name, None) for one in fields(Settings)}
    given = {name: value for name, value in typed.items() if value is not None}
    for one in fields(Settings):
        if one.metadata["metavar"] in ("LENGTH", "SPEED"):
            text = given.get(one.name)
            given[one.name] = None if text is None else read_quantity(text, option_of(one))
    given["priors"] = read_known_priors(given.get("priors", ()))
    given["hold"] = read_held(given.get("hold", ()))
    if "selection" in given:
        given["selection"] = read_selection(args)
    return Settings(**given)


def read_selection(args: Namespace) -> SelectionTable:
    """Return the selection function in the file that was named."""
    source = open_stars(args.selection, units=args.units)
    return SelectionTable.of(source, args.pos)
