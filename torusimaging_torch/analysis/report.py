"""An analysis as a page: how the fit ended, how good it is, its numbers and what others found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable

from torusimaging_torch.analysis.blocks import Block, Heading, Table, as_text
from torusimaging_torch.analysis.single import Analysis
from torusimaging_torch.results.derived import derived_quantities
from torusimaging_torch.results.description import describe_model
from torusimaging_torch.results.fit_result import FitResult

__all__ = [
    "MODELS_DIFFER",
    "are_apart",
    "describe",
    "heights_to_print",
    "interval",
    "measured_centre",
    "measured_profile",
    "models_differ",
    "number",
    "profile_rows",
    "sections",
    "summary",
]

# The surface density that papers quote is no result where no star is as high, or nearly.
_NEAR_EDGE = 0.95
# Combined errors beyond which two models do not agree.
_APART = 3.0
MODELS_DIFFER = (
    "the models differ by more than their errors: whatever they have in common, one of them at "
    "least does not describe these stars"
)
"""What is said first, where that is so."""


def heights_to_print(limit: u.Quantity) -> u.Quantity:
    """Return about five round heights up to a limit."""
    raw = limit.value / 5
    decade = 10.0 ** math.floor(math.log10(raw))
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * decade >= 0.8 * raw) * decade
    return np.arange(1, math.floor(limit.value / step * (1 + 1e-9)) + 1) * step * limit.unit


def describe(analysis: Analysis) -> list[str]:
    """Return a page of text on a fit: how it ended, how good it is, its parameters and profiles."""
    return as_text(block for blocks in sections(analysis).values() for block in blocks)


def sections(analysis: Analysis) -> dict[str, list[Block]]:
    """Return the same as blocks: of each model by "torus" or "potential", and of both by "both"."""
    heights = heights_to_print(analysis.edge)
    other = analysis.beside
    kind = describe_model(analysis.result.model)["model"]
    if other is None:
        return {kind: _describe_model(analysis, heights)}
    first = [MODELS_DIFFER] if models_differ(analysis) else []
    found: dict[str, list[Block]] = {
        "torus": [*first, Heading("ELLIPSES AND HARMONICS"), *_describe_model(analysis, heights)],
        "potential": [
            Heading(f"POTENTIAL, of the same {_same(analysis, other)}"),
            *_describe_model(other, heights),
        ],
    }
    if not (analysis.undetermined or other.undetermined):
        title = "DIFFERENCE BETWEEN THE MODELS (potential - ellipses, over ellipses)"
        found["both"] = [Heading(title), *_describe_difference(analysis, other, heights)]
    return found


def summary(analysis: Analysis) -> Table:
    """Return verdict and main numbers, of two models side by side, beside published ones."""
    made = {describe_model(one.result.model)["model"]: one for one in _both(analysis)}
    names = {"torus": "ellipses and harmonics", "potential": "potential"}
    but = ", but the models differ" if models_differ(analysis) else ""
    verdicts = [
        one.result.provenance["verdict"]["reading"].partition(":")[0].lower() + but
        for one in made.values()
    ]
    rows = [("", *verdicts, "")]
    vertical = [one for one in made.values() if _is_vertical(one.result)]
    if vertical and not any(one.undetermined for one in vertical):
        tables = [_describe_derived(one) for one in vertical]
        for cells in zip(*(table.rows for table in tables), strict=True):
            name, _, unit, published = cells[0]
            rows.append((f"{name} [{unit}]", *(cell[1] for cell in cells), published))
    header = ["", *(names[kind] for kind in made), "published near the Sun"]
    return Table(header, rows, left=(len(header) - 1,))


def _both(analysis: Analysis) -> list[Analysis]:
    return [analysis] if analysis.beside is None else [analysis, analysis.beside]


def _same(analysis: Analysis, beside: Analysis) -> str:
    """Say what two models were fitted to."""
    more = beside.data_sets.keys() - analysis.data_sets.keys()
    return "labels, and of star counts" if more else "pixels"


def _describe_model(analysis: Analysis, heights: u.Quantity) -> list[Block]:
    end = [*_describe_end(analysis.result), *_describe_known(analysis.result)]
    if analysis.undetermined:
        return [*end, analysis.undetermined]
    return [
        *end,
        *_describe_errors(analysis.result),
        _describe_centre(analysis),
        _describe_profiles(analysis, heights),
        *([_describe_derived(analysis)] if _is_vertical(analysis.result) else []),
    ]


def _is_vertical(result: FitResult) -> bool:
    """Return whether positions are heights: of radial data there is no surface density."""
    return result.model.elliptical_angle_convention == "pv"


def _describe_derived(analysis: Analysis) -> Table:
    """Say what papers quote, beside what they say of the Sun's neighbourhood."""
    names = {"Sigma": "Sigma(1.1 kpc)", "rho_0": "rho(0)", "z_sun": "z_sun", "w_sun": "w_sun"}
    units = {"Sigma": "Msun/pc^2", "rho_0": "Msun/pc^3", "z_sun": "pc", "w_sun": "km/s"}
    rows = [
        (
            names[row["quantity"]],
            number(row["value"], row["error"]),
            units[row["quantity"]],
            str(row["published"]),
        )
        for row in derived_quantities(analysis.result, samples=analysis.samples)
        if row["quantity"] != "Sigma" or analysis.edge > _NEAR_EDGE * 1.1 * u.kpc
    ]
    header = ["with a flat rotation curve", "", "", "published near the Sun"]
    return Table(header, rows, left=(2, 3))


def _describe_difference(one: Analysis, other: Analysis, heights: u.Quantity) -> list[Block]:
    """Compare two models at equal heights, each above its own midplane, in per cent."""
    tables = [profile_rows(analysis, heights) for analysis in (one, other)]
    names = ("acceleration", "density", "surface_density")
    columns = []
    for name in names:
        first, second = (measured_profile(table, name)[:, 1] for table in tables)
        columns.append([f"{x:+.1f} %" for x in 100 * (second / first - 1).to_value("")])
    labels = [f"{height:.6g}" for height in heights.to_value(u.kpc)]
    rows = list(zip(labels, *columns, strict=True))
    found: list[Block] = [Table(["height [kpc]", "a", "rho", "Sigma"], rows)]
    if are_apart(one, other, heights):
        found.append(MODELS_DIFFER)
    return found


def models_differ(analysis: Analysis) -> bool:
    """Return whether two models were fitted, and their accelerations differ by far."""
    other = analysis.beside
    if other is None or analysis.undetermined or other.undetermined:
        return False
    return are_apart(analysis, other, heights_to_print(analysis.edge))


def are_apart(one: Analysis, other: Analysis, heights: u.Quantity) -> bool:
    """Return whether the accelerations of two models differ by more than their errors.

    Parameters
    ----------
    one, other
        Fits of the same stars.
    heights
        Where they are compared, above each one's own midplane.
    """
    tables = (profile_rows(analysis, heights) for analysis in (one, other))
    a, b = (measured_profile(table, "acceleration").value for table in tables)
    sigma = np.hypot(a[:, 2] - a[:, 0], b[:, 2] - b[:, 0]) / 2
    return bool((np.abs(a[:, 1] - b[:, 1]) > _APART * sigma).any())


def _describe_end(result: FitResult) -> list[str]:
    state, provenance = result.state, result.provenance
    goodness = provenance["goodness"]
    found = goodness if result.data_sets else {"": goodness}
    each = [_describe_goodness(name, own) for name, own in found.items()]
    lines = [
        f"{'converged' if state.success else 'NOT CONVERGED: ' + state.message} after "
        f"{state.iter_num} iterations; {', '.join(each)} and {len(result.to_table())} parameters"
    ]
    if state.at_bound:
        lines.append(f"held back by a bound: {', '.join(state.at_bound)}")
    outliers = provenance.get("outliers") or {}
    lines += provenance.get("blur") or []
    lines += [_describe_outliers(*of_label) for of_label in outliers.items()]
    if result.model.torus.distortion.orders:
        lines.append(_describe_gap(result))
    return [*lines, provenance["verdict"]["reading"]]


def _describe_gap(result: FitResult) -> str:
    gap, sigma = result.formula_gap()
    errors = "" if math.isnan(sigma) else f", {sigma:.1f} times its error"
    return (
        f"acceleration by energies and by turning points: they differ by up to {100 * gap:.1f} %"
        f"{errors}"
    )


def _describe_goodness(name: str, goodness: Mapping[str, Any]) -> str:
    measure = "chi^2" if "chi2" in goodness else "deviance"
    value, n = goodness.get("chi2", goodness.get("deviance")), goodness["n_pixels"]
    return f"{measure}{f' of {name}' if name else ''} = {value:.0f} for {n} pixels"


def _describe_outliers(name: str, found: Mapping[str, float]) -> str:
    return (
        f"outliers of {name}: {100 * found['eps']:.2g} % of "
        f"{found['n_stars']:,} stars, with a scatter of {found['s_out']:.3g} beyond the intrinsic "
        f"one, {found['s']:.3g}; a star counts by its probability to be none"
    )


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
    if "khat" not in found:
        return [found["reading"]]
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


def _describe_centre(analysis: Analysis) -> Table:
    omega = measured_centre(analysis, "Omega0").to_value(u.rad / u.Myr)
    rows = [
        ("Omega0", interval(omega), "rad/Myr"),
        # The longest period belongs to the lowest frequency.
        ("period 2 pi/Omega0", interval(_period(analysis, omega)), "Myr"),
        ("midplane pos0", interval(measured_centre(analysis, "pos0").to_value(u.pc)), "pc"),
        ("midplane vel0", interval(measured_centre(analysis, "vel0").to_value(u.km / u.s)), "km/s"),
    ]
    return Table(["at the centre", "", ""], rows, left=(2,))


def _period(analysis: Analysis, omega: np.ndarray) -> np.ndarray:
    period = 2 * math.pi / omega
    if analysis.samples is not None:
        return period[::-1]
    error = period[1] * (omega[2] - omega[1]) / omega[1]
    return np.array([period[1] - error, period[1], period[1] + error])


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


def _describe_profiles(analysis: Analysis, heights: u.Quantity) -> Table:
    table = profile_rows(analysis, heights)
    columns = [
        [interval(ends) for ends in measured_profile(table, name).value]
        for name in ("acceleration", "density", "surface_density")
    ]
    notes = ["extrapolated" if beyond else "" for beyond in table["extrapolated"]]
    labels = [f"{height:.6g}" for height in heights.to_value(u.kpc)]
    header = ["height [kpc]", "a [km/s/Myr]", "rho [Msun/pc^3]", "Sigma [Msun/pc^2]", ""]
    return Table(header, list(zip(labels, *columns, notes, strict=True)))
