"""What an analysis leaves behind: a folder of tables and figures."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch import plot
from torusimaging_torch.analysis.page import html_page
from torusimaging_torch.analysis.single import Analysis
from torusimaging_torch.catalogue.endings import as_path
from torusimaging_torch.catalogue.outputs import check_writable
from torusimaging_torch.plot.canvas import own_style
from torusimaging_torch.plot.profiles import Truth
from torusimaging_torch.results.atomic import replaced_folder
from torusimaging_torch.results.file_format import is_result
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.results.profile_values import PROFILES
from torusimaging_torch.units import BinnedData, label_values

__all__ = ["RESULT", "check_folder", "pixel_table", "save"]

RESULT = "fit.ecsv"
"""The name of the fit itself in a folder of results."""

_TITLE = "Orbital Torus Imaging"
_FILES = {
    "report.html": "all in one page, with how to repeat it",
    RESULT: "the fit: parameters, bounds, knots, and where it came from",
    "profiles.ecsv": "acceleration, densities and potential against height",
    "pixels.ecsv": "binned data and model",
    "samples.ecsv": "samples of the posterior",
    "potential.ecsv": "the fit of the potential to the same stars",
    "profiles_potential.ecsv": "its profiles",
    "samples_potential.ecsv": "its samples of the posterior",
    "comparison.ecsv": "recovered and true values",
}
_FIGURES = {
    "profiles": "acceleration and densities",
    "data": "data, model and residual",
    "splines": "the fitted functions",
    "data_potential": "data, the potential's model and residual",
    "splines_potential": "the density of the potential and the label",
}
_OURS = {f"{name}.{ending}" for name in _FIGURES for ending in ("png", "pdf")} | set(_FILES)
# Files of each of several data sets, by how their names begin.
_OF_EACH = {
    "pixels_": "binned data and model of {}",
    "data_": "data, model and residual of {}",
    "splines_": "the fitted functions of {}",
}

# Fewer expected stars than this in a pixel are too noisy to be shown as a logarithm.
_MIN_EXPECTED = 3.0
_N_PROFILE = 101
_DPI = 150


def check_folder(path: str | os.PathLike[str]) -> None:
    """Check that results may go to a folder: that it is new, without such files, or one of ours.

    Raises
    ------
    ValueError
        If it is a file, or holds files that would be replaced and are not from here.
    """
    path = as_path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: choose a folder for the results")
    check_writable(path)
    taken = [name for name in sorted(_OURS) if (path / name).exists()]
    if taken and not is_result(path / RESULT):
        raise ValueError(
            f"{path} has a file {taken[0]} and no fit from here: nothing is overwritten; choose "
            "another folder"
        )


def save(
    path: str | os.PathLike[str],
    analysis: Analysis,
    *,
    truth: Truth | None = None,
    comparison: QTable | None = None,
    command: str = "",
    config: str = "",
    figure_format: str = "png",
) -> list[str]:
    """Write tables and figures of an analysis to a folder; they appear when all are complete.

    Parameters
    ----------
    path
        The folder. Earlier results in it are replaced, other files stay.
    analysis
        Fit and data.
    truth
        For the figure of the profiles; see `torusimaging_torch.plot.plot_acceleration_density`.
    comparison
        A table of recovered and true values.
    command, config
        How it was made, for the report; see `torusimaging_torch.analysis.page.html_page`.
    figure_format
        "png", "pdf", or "none" for tables and a report without pictures.

    Returns
    -------
    list of str
        A line for each file: its name and what it is.

    Raises
    ------
    ValueError
        If the folder holds files that are not from here.

    Warns
    -----
    RuntimeWarning
        If figures cannot be drawn: the tables are written without them.
    """
    check_folder(path)
    result, shown = analysis.result, _shown(analysis)
    pos = np.linspace(0, 1, _N_PROFILE) * analysis.edge + result.quantity("pos0")
    with replaced_folder(path, last=RESULT) as folder:
        result.write(folder / RESULT)
        _write_profiles(folder, analysis, pos, "")
        if analysis.beside is not None:
            analysis.beside.result.write(folder / "potential.ecsv")
            _write_profiles(folder, analysis.beside, pos, "_potential")
        for ending, part in shown.items():
            pixel_table(part).write(folder / f"pixels{ending}.ecsv", format="ascii.ecsv")
        if comparison is not None:
            comparison.write(folder / "comparison.ecsv", format="ascii.ecsv")
        texts = _texts(shown, figure_format)
        figures: dict[str, tuple[str, str]] = {}
        try:
            with own_style():
                drawn = figure_format != "none"
                for name, figure in _figures(analysis, shown, pos, truth) if drawn else ():
                    _settle(figure)
                    figure.savefig(folder / f"{name}.{figure_format}", dpi=_DPI)
                    figures[name] = (texts[f"{name}.{figure_format}"], as_svg(figure))
            page = html_page(analysis, figures, title=_TITLE, command=command, config=config)
            (folder / "report.html").write_text(page, encoding="utf-8")
        except Exception as error:  # whatever it is, the fit is worth more than its figures
            reason = (str(error).splitlines() or [""])[0]
            warnings.warn(
                f"figures or the report are missing ({type(error).__name__}: {reason}); all tables "
                "are there",
                RuntimeWarning,
                stacklevel=2,
            )
        written = {file.name for file in folder.iterdir()}
    for name in _OURS - written:
        (as_path(path) / name).unlink(missing_ok=True)  # of an earlier run
    width = max(map(len, written))
    return [f"{name:{width}s}  {text}" for name, text in texts.items() if name in written]


def _texts(shown: Mapping[str, _Part], figure_format: str) -> dict[str, str]:
    """Return what each file is, by its name, in the order in which they are listed."""
    figures = {f"{name}.{figure_format}": text for name, text in _FIGURES.items()}
    formats = dict.fromkeys(_OF_EACH, figure_format) | {"pixels_": "ecsv"}
    each = {
        f"{stem}{ending[1:]}.{formats[stem]}": text.format(part.name)
        for ending, part in shown.items()
        if ending
        for stem, text in _OF_EACH.items()
    }
    return _FILES | figures | each


def _settle(figure: Any) -> None:
    # Once for all files: each of them would lay it out anew, and draw it once more to do so.
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)


def as_svg(figure: Any) -> str:
    """Return a figure as a text in SVG."""
    text = io.StringIO()
    figure.savefig(text, format="svg", dpi=_DPI)
    return text.getvalue()


@dataclass(frozen=True)
class _Part:
    """A data set as tables and figures show it."""

    name: str
    result: FitResult
    binned: BinnedData

    @property
    def label_name(self) -> str:
        """What figures call the label."""
        if self.result.objective != "poisson":
            return self.name
        return "ln(stars per pixel)" if "exposure" not in self.binned else "ln(stars/S per pixel)"


def _shown(analysis: Analysis) -> dict[str, _Part]:
    """Return the data sets by what their files' names end in, nothing if there is but one.

    What the model beside was fitted to alone is shown with that model.
    """
    parts = {
        name: _Part(name, result, analysis.data_sets[name])
        for name, result in analysis.parts.items()
    }
    alone = {"": next(iter(parts.values()))} if len(parts) == 1 else {}
    more = {}
    if (other := analysis.beside) is not None:
        more = {
            name: _Part(name, result, other.data_sets[name])
            for name, result in other.parts.items()
            if name not in parts
        }
    named = more if alone else parts | more
    return alone | {"_" + re.sub(r"[^\w.-]+", "_", name): part for name, part in named.items()}


def _write_profiles(folder: Path, analysis: Analysis, pos: u.Quantity, ending: str) -> None:
    table = analysis.result.profiles(pos, analysis.samples)
    if analysis.undetermined:
        table.meta["NOTE"] = analysis.undetermined
        for name in [n for n in table.colnames if n.startswith(PROFILES)]:
            table[name] = np.nan * table[name].unit
    table.write(folder / f"profiles{ending}.ecsv", format="ascii.ecsv")
    if analysis.samples is not None:
        found = analysis.samples.to_table()
        found.write(folder / f"samples{ending}.ecsv", format="ascii.ecsv")


def _figures(
    analysis: Analysis, shown: Mapping[str, _Part], pos: u.Quantity, truth: Truth | None
) -> Iterable[tuple[str, Any]]:
    if (figure := _draw_all_profiles(analysis, pos, truth)) is not None:
        yield "profiles", figure
    for ending, part in shown.items():
        yield f"data{ending}", _draw_pixels(part)
        yield f"splines{ending}", _draw_functions(part)
    if analysis.beside is not None:
        name, result = next(iter(analysis.beside.parts.items()))
        part = _Part(name, result, analysis.beside.data_sets[name])
        yield "data_potential", _draw_pixels(part)
        yield "splines_potential", _draw_functions(part)


def _draw_all_profiles(analysis: Analysis, pos: u.Quantity, truth: Truth | None) -> Any:
    """Draw the profiles of the models that the stars determine; None if there is none."""
    made = [(analysis, "ellipses and harmonics"), (analysis.beside, "potential")]
    drawn = [(one, label) for one, label in made if one is not None and not one.undetermined]
    figure: Any = None
    options: dict[str, Any] = {}
    for i, (one, label) in enumerate(drawn):
        if analysis.beside is not None:
            options["model_label"] = label
            options |= {"truth_label": None} if i < len(drawn) - 1 else {}
        figure, axes = _draw_profiles(one, pos, truth, **options)
        options = {"axes": axes}
    return figure


def _draw_pixels(part: _Part) -> Any:
    data, error = _shown_pixels(part)
    figure, _ = plot.plot_data_model_residual(
        data,
        part.result.model,
        part.result.params,
        residual_normalization=error,
        residual_label="(data \N{MINUS SIGN} model) / error",
        label_name=part.label_name,
        vlim_residual=4.0,
        pyplot=False,
    )
    return figure


def _draw_functions(part: _Part) -> Any:
    result = part.result
    return plot.plot_spline_functions(
        result.model, result.params, label_name=part.label_name, pyplot=False
    )[0]


def _draw_profiles(analysis: Analysis, pos: u.Quantity, truth: Truth | None, **options: Any) -> Any:
    result = analysis.result
    return plot.plot_acceleration_density(
        result.model,
        result.params,
        pos,
        truth,
        covariance=None if analysis.samples is not None else result.covariance,
        samples=analysis.samples,
        pyplot=False,
        **options,
    )


def _shown_pixels(part: _Part) -> tuple[Mapping[str, Any], Any]:
    """Return the pixels to draw, and the errors that their residuals are measured in."""
    if part.result.objective != "poisson":
        return part.binned, part.binned["label_err"]
    expected = np.exp(part.result.predict(part.binned))
    label = np.where(expected >= _MIN_EXPECTED, part.binned["label"], np.nan)
    return {**part.binned, "label": label}, expected**-0.5


def pixel_table(part: _Part) -> QTable:
    """Return a table with a row for each pixel: position, velocity, counts, label, error, model."""
    binned = part.binned
    shape = np.shape(binned["pos"])
    flat = {name: values for name, values in binned.items() if np.shape(values) == shape}
    table = QTable({name: np.ravel(values) for name, values in flat.items()})
    unit = label_values(binned["label"])[2]
    model = np.ravel(part.result.predict(binned))
    table["model"] = model if unit is None else u.Quantity(model, unit, subok=True)
    table.meta["shape"] = list(shape)
    return table
