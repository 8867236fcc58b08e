"""What an analysis leaves behind: a folder of tables and figures, and a page of text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable

from torusimaging_torch import plot
from torusimaging_torch.analysis.single import Analysis
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.results.atomic import replaced_folder
from torusimaging_torch.results.derived import derived_quantities
from torusimaging_torch.results.file_format import is_result
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.results.profile_values import PROFILES
from torusimaging_torch.units import label_values

__all__ = [
    "RESULT",
    "check_folder",
    "describe",
    "heights_to_print",
    "interval",
    "measured_centre",
    "measured_profile",
    "number",
    "profile_rows",
    "save",
    "text_table",
]

RESULT = "fit.ecsv"
"""The name of the fit itself in a folder of results."""

_FILES = {
    RESULT: "the fit: parameters, bounds, knots, and where it came from",
    "profiles.ecsv": "acceleration, densities and potential against height",
    "pixels.ecsv": "binned data and model",
    "samples.ecsv": "samples of the posterior",
    "potential.ecsv": "the fit of the potential to the same pixels",
    "profiles_potential.ecsv": "its profiles",
    "samples_potential.ecsv": "its samples of the posterior",
    "data.png": "data, model and residual",
    "splines.png": "the fitted functions",
    "profiles.png": "acceleration and densities",
    "comparison.ecsv": "recovered and true values",
}

# Fewer expected stars than this in a pixel are too noisy to be shown as a logarithm.
_MIN_EXPECTED = 3.0
_N_PROFILE = 101
_DPI = 150
# Combined errors beyond which two models do not agree.
_APART = 3.0


def check_folder(path: str | os.PathLike[str]) -> None:
    """Check that results may go to a folder: that it is new, without such files, or one of ours.

    Raises
    ------
    ValueError
        If it is a file, or holds files that would be replaced and are not from here.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: choose a folder for the results")
    taken = [name for name in _FILES if (path / name).exists()]
    if taken and not is_result(path / RESULT):
        raise ValueError(
            f"{path} has a file {taken[0]} and no fit from here: nothing is overwritten; choose "
            "another folder"
        )


def save(
    path: str | os.PathLike[str],
    analysis: Analysis,
    *,
    label_name: str = "label",
    truth: Any = None,
    comparison: QTable | None = None,
) -> list[str]:
    """Write tables and figures of an analysis to a folder; they appear when all are complete.

    Parameters
    ----------
    path
        The folder. Earlier results in it are replaced, other files stay.
    analysis
        Fit and data.
    label_name
        What the figures call the label.
    truth
        For the figure of the profiles; see `torusimaging_torch.plot.plot_acceleration_density`.
    comparison
        A table of recovered and true values.

    Returns
    -------
    list of str
        A line for each file: its name and what it is.

    Raises
    ------
    ValueError
        If the folder holds files that are not from here.
    """
    check_folder(path)
    result = analysis.result
    pos = np.linspace(0, 1, _N_PROFILE) * np.abs(analysis.binned["pos"]).max()
    pos = pos + result.quantity("pos0")
    with replaced_folder(path, last=RESULT) as folder:
        result.write(folder / RESULT)
        _write_profiles(folder, analysis, pos, "")
        if analysis.beside is not None:
            analysis.beside.result.write(folder / "potential.ecsv")
            _write_profiles(folder, analysis.beside, pos, "_potential")
        pixel_table(analysis).write(folder / "pixels.ecsv", format="ascii.ecsv")
        if comparison is not None:
            comparison.write(folder / "comparison.ecsv", format="ascii.ecsv")
        for name, figure in _figures(analysis, pos, label_name, truth):
            figure.savefig(folder / name, dpi=_DPI)
        written = {file.name for file in folder.iterdir()}
    for name in set(_FILES) - written:
        (Path(path) / name).unlink(missing_ok=True)  # of an earlier run
    width = max(map(len, written))
    return [f"{name:{width}s}  {text}" for name, text in _FILES.items() if name in written]


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
    analysis: Analysis, pos: u.Quantity, label_name: str, truth: Any
) -> Iterable[tuple[str, Any]]:
    result = analysis.result
    fit = result.model, result.params
    data, error = _shown_pixels(analysis)
    figure, _ = plot.plot_data_model_residual(
        data,
        *fit,
        residual_normalization=error,
        residual_label="(data \N{MINUS SIGN} model) / error",
        label_name=label_name,
        vlim_residual=4.0,
        pyplot=False,
    )
    yield "data.png", figure
    yield "splines.png", plot.plot_spline_functions(*fit, label_name=label_name, pyplot=False)[0]
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
    if figure is not None:
        yield "profiles.png", figure


def _draw_profiles(analysis: Analysis, pos: u.Quantity, truth: Any, **options: Any) -> Any:
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


def _model_label(analysis: Analysis) -> np.ndarray:
    binned, result = analysis.binned, analysis.result
    with torch.no_grad():
        label = result.model.get_label(binned["pos"], binned["vel"], result.params)
    return label.cpu().numpy()


def _shown_pixels(analysis: Analysis) -> tuple[Mapping[str, Any], Any]:
    """Return the pixels to draw, and the errors that their residuals are measured in."""
    if "label_err" in make_likelihood(analysis.result.objective).observed:
        return analysis.binned, analysis.binned["label_err"]
    expected = np.exp(_model_label(analysis))
    label = np.where(expected >= _MIN_EXPECTED, analysis.binned["label"], np.nan)
    return {**analysis.binned, "label": label}, expected**-0.5


def pixel_table(analysis: Analysis) -> QTable:
    """Return a table with a row for each pixel: position, velocity, counts, label, error, model."""
    binned = analysis.binned
    table = QTable({name: np.ravel(values) for name, values in binned.items()})
    unit = label_values(binned["label"])[2]
    model = np.ravel(_model_label(analysis))
    table["model"] = model if unit is None else u.Quantity(model, unit, subok=True)
    table.meta["shape"] = list(binned["pos"].shape)
    return table


def heights_to_print(limit: u.Quantity) -> u.Quantity:
    """Return about five round heights up to a limit."""
    raw = limit.value / 5
    decade = 10.0 ** math.floor(math.log10(raw))
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * decade >= 0.8 * raw) * decade
    return np.arange(1, math.floor(limit.value / step * (1 + 1e-9)) + 1) * step * limit.unit


def text_table(header: list[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Align columns of text: the first one left, the others right."""
    table = [header, *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in table
    ]


def describe(analysis: Analysis) -> list[str]:
    """Return a page of text on a fit: how it ended, how good it is, its parameters and profiles."""
    heights = heights_to_print(np.abs(analysis.binned["pos"]).max())
    if analysis.beside is None:
        return _describe_model(analysis, heights)
    return [
        "ELLIPSES AND HARMONICS",
        *_describe_model(analysis, heights),
        "",
        "POTENTIAL, of the same pixels",
        *_describe_model(analysis.beside, heights),
        *_describe_both(analysis, analysis.beside, heights),
    ]


def _describe_both(one: Analysis, other: Analysis, heights: u.Quantity) -> list[str]:
    if one.undetermined or other.undetermined:
        return []
    title = "DIFFERENCE BETWEEN THE MODELS (potential - ellipses, over ellipses)"
    return ["", title, *_describe_difference(one, other, heights)]


def _describe_model(analysis: Analysis, heights: u.Quantity) -> list[str]:
    end = [*_describe_end(analysis.result), *_describe_known(analysis.result)]
    if analysis.undetermined:
        return [*end, analysis.undetermined]
    return [
        *end,
        *_describe_errors(analysis.result),
        "",
        *_describe_centre(analysis),
        "",
        *_describe_profiles(analysis, heights),
        *(["", *_describe_derived(analysis)] if _is_vertical(analysis.result) else []),
    ]


def _is_vertical(result: FitResult) -> bool:
    """Return whether positions are heights: of radial data there is no surface density."""
    return result.model.elliptical_angle_convention == "pv"


def _describe_derived(analysis: Analysis) -> list[str]:
    """Say what papers quote, beside what they say of the Sun's neighbourhood."""
    names = {"Sigma": "Sigma(1.1 kpc)", "rho_0": "rho(0)", "z_sun": "z_sun", "w_sun": "w_sun"}
    units = {"Sigma": "Msun/pc^2", "rho_0": "Msun/pc^3", "z_sun": "pc", "w_sun": "km/s"}
    found = derived_quantities(analysis.result)
    rows = [
        (names[row["quantity"]], number(row["value"], row["error"]), units[row["quantity"]])
        for row in found
    ]
    lines = text_table(["with a flat rotation curve", "", ""], rows)
    width = max(map(len, lines))
    more = ["published near the Sun", *found["published"]]
    return [f"{line:{width}s}  {text}" for line, text in zip(lines, more, strict=True)]


def _describe_difference(one: Analysis, other: Analysis, heights: u.Quantity) -> list[str]:
    """Compare two models at equal heights, each above its own midplane, in per cent."""
    tables = [profile_rows(analysis, heights) for analysis in (one, other)]
    names = ("acceleration", "density", "surface_density")
    columns = []
    for name in names:
        first, second = (measured_profile(table, name)[:, 1] for table in tables)
        columns.append([f"{x:+.1f} %" for x in 100 * (second / first - 1).to_value("")])
    labels = [f"{height:.6g}" for height in heights.to_value(u.kpc)]
    lines = text_table(["height [kpc]", "a", "rho", "Sigma"], zip(labels, *columns, strict=True))
    a, b = (measured_profile(table, "acceleration").value for table in tables)
    sigma = np.hypot(a[:, 2] - a[:, 0], b[:, 2] - b[:, 0]) / 2
    if bool((np.abs(a[:, 1] - b[:, 1]) > _APART * sigma).any()):
        lines.append(
            "the models differ by more than their errors: whatever they have in common, one of "
            "them at least does not describe these stars"
        )
    return lines


def _describe_end(result: FitResult) -> list[str]:
    state, goodness = result.state, result.provenance["goodness"]
    measure = "chi^2" if "chi2" in goodness else "deviance"
    value, n = goodness.get("chi2", goodness.get("deviance")), goodness["n_pixels"]
    lines = [
        f"{'converged' if state.success else 'NOT CONVERGED: ' + state.message} after "
        f"{state.iter_num} iterations; {measure} = {value:.0f} for {n} pixels and "
        f"{len(result.to_table())} parameters"
    ]
    if state.at_bound:
        lines.append(f"held back by a bound: {', '.join(state.at_bound)}")
    return [*lines, result.provenance["verdict"]["reading"]]


def _describe_known(result: FitResult) -> list[str]:
    """Say what was known beforehand, and what the data lack."""
    known = result.provenance.get("known") or []
    return [f"known beforehand: {'; '.join(known)}"] if known else []


def _describe_errors(result: FitResult) -> list[str]:
    """Say where the errors come from, and whether to believe them."""
    if "sampling" in result.provenance:
        found = result.provenance["sampling"]
        ess = min(found["min_ess_bulk"], found["min_ess_tail"])
        count = found["divergences"]
        divergent = f"{count} divergent trajector{'y' if count == 1 else 'ies'}" if count else ""
        return [
            f"errors: median and 68 % of {found['n_samples']:,} samples of the posterior; R-hat up "
            f"to {found['max_rhat']:.3f}, effective sample size from {ess:.0f}, "
            f"{divergent or 'no divergence'}"
        ]
    if "bound" not in result.provenance:
        return []
    found = result.provenance["bound"]
    advice = "" if found["good"] else "; use --uncertainty nuts"
    return [f"errors: Cramer-Rao bound; {found['reading']}{advice}"]


def measured_centre(analysis: Analysis, name: str) -> u.Quantity:
    """Return pos0, vel0 or Omega0 between its errors, with shape (3,): see `FitResult.interval`."""
    return analysis.result.interval(name, analysis.samples)


def profile_rows(analysis: Analysis, heights: u.Quantity) -> QTable:
    """Return profiles at heights above the midplane."""
    pos = analysis.result.quantity("pos0") + heights
    return analysis.result.profiles(pos, analysis.samples)


def measured_profile(table: QTable, name: str) -> u.Quantity:
    """Return a profile of a table between its errors, with shape (N, 3), as `measured_centre`."""
    if f"{name}_p50" in table.colnames:
        ends = [table[f"{name}_p{percentile}"] for percentile in (16, 50, 84)]
    else:
        value = table[name]
        known = f"{name}_err" in table.colnames
        error = table[f"{name}_err"] if known else np.full(len(value), np.nan) * value.unit
        ends = [value - error, value, value + error]
    return u.Quantity(ends).T


def _describe_centre(analysis: Analysis) -> list[str]:
    omega = measured_centre(analysis, "Omega0").to_value(u.rad / u.Myr)
    rows = [
        ("Omega0", interval(omega), "rad/Myr"),
        # The longest period belongs to the lowest frequency.
        ("period 2 pi/Omega0", interval(_period(analysis, omega)), "Myr"),
        ("midplane pos0", interval(measured_centre(analysis, "pos0").to_value(u.pc)), "pc"),
        ("midplane vel0", interval(measured_centre(analysis, "vel0").to_value(u.km / u.s)), "km/s"),
    ]
    return text_table(["at the centre", "", ""], rows)


def _period(analysis: Analysis, omega: np.ndarray) -> np.ndarray:
    period = 2 * math.pi / omega
    if analysis.samples is not None:
        return period[::-1]
    error = period[1] * (omega[2] - omega[1]) / omega[1]
    return period[1] + error * np.array([-1, 0, 1])


def interval(ends: Iterable[float]) -> str:
    """Return a number with its errors from its lower, middle and upper value.

    The two errors are given one by one if they differ in the two digits that are printed.
    """
    low, middle, high = (float(x) for x in ends)
    plus, minus = high - middle, middle - low
    if not min(plus, minus) > 0:
        return number(middle)
    digits = min(max(1 - math.floor(math.log10(min(plus, minus))), 0), 12)
    if f"{plus:.{digits}f}" == f"{minus:.{digits}f}":
        return number(middle, (high - low) / 2)
    return f"{middle:.{digits}f} +{plus:.{digits}f} \N{MINUS SIGN}{minus:.{digits}f}"


def number(value: float, error: float = math.nan) -> str:
    """Return a number with its error, to two digits of the error, or with four digits."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:#.4g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 12)
    return f"{value:.{digits}f} \N{PLUS-MINUS SIGN} {error:.{digits}f}"


def _describe_profiles(analysis: Analysis, heights: u.Quantity) -> list[str]:
    table = profile_rows(analysis, heights)
    columns = [
        [interval(ends) for ends in measured_profile(table, name).value]
        for name in ("acceleration", "density", "surface_density")
    ]
    notes = ["extrapolated" if beyond else "" for beyond in table["extrapolated"]]
    labels = [f"{height:.6g}" for height in heights.to_value(u.kpc)]
    header = ["height [kpc]", "a [km/s/Myr]", "rho [Msun/pc^3]", "Sigma [Msun/pc^2]", ""]
    return text_table(header, zip(labels, *columns, notes, strict=True))
