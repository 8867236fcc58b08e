r"""Is the fit good? Tests of what a good fit leaves behind, and one line that says so.

Standardized residuals of a good fit are independent with variance one. What is looked at: their sum
of squares (or the deviance of star counts) against its expected scatter; whether neighbouring
pixels have the same sign more often than by chance; and their parts that are odd in position or in
velocity, which no model of symmetric orbits can have. Contours are no orbits where two formulas of
the acceleration differ by far more than its error, and no matter makes a negative density. A
fit that did not converge, that rests on a bound or leaves a parameter undetermined is not good
either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from torusimaging_torch.model.diagnostics import describe_flat_density, describe_negative_density
from torusimaging_torch.results.fit_result import FitResult
from torusimaging_torch.units import BinnedData

__all__ = ["LARGER", "LIMIT", "Verdict", "about_the_orbits", "judge"]

Array = NDArray[np.floating]

LIMIT = 4.0
"""Standard deviations beyond which chance is no explanation: see benchmarks/verdict.py."""
LARGER = "residuals are larger than their errors"
"""What a large chi^2 means."""
# The gap of the two formulas, in errors of the acceleration: 4.2 at most of 40 good disks, 33 at
# least of stars from two radii.
_GAP = 8.0
# Errors by which a density must be negative before it counts.
_SURE = 2.0
# Where k-hat is as large the Gaussian of the bound says nothing about the posterior.
_FAR = 5.0
# Deviances of star counts from so many expected stars on are those of a Gaussian.
_MANY = 50.0


@dataclass(frozen=True)
class Verdict:
    """What speaks against a fit.

    Attributes
    ----------
    numbers
        Each test in standard deviations of what chance does, by name.
    reasons
        What is wrong, in words; nothing if the fit is good.
    remark
        What is to be said of a good fit all the same: that its errors do not hold.
    """

    numbers: Mapping[str, float]
    reasons: tuple[str, ...]
    remark: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the fit."""
        return not self.reasons

    def __str__(self) -> str:
        """Return the verdict in a line."""
        numbers = ", ".join(f"{name} {x:+.1f}" for name, x in self.numbers.items())
        if self.good:
            return f"GOOD FIT: nothing speaks against it{self.remark} (in sigma: {numbers})"
        return f"BAD FIT: {'; '.join(self.reasons)} (in sigma: {numbers})"


def judge(result: FitResult, binned: BinnedData) -> Verdict:
    """Judge a fit by what it leaves behind.

    Parameters
    ----------
    result
        The fit.
    binned
        Its pixels, on a grid with shape (V, Q), velocities along the first axis; of several data
        sets by their names.

    Returns
    -------
    Verdict
        Of a good fit all numbers are those of a standard normal distribution.
    """
    parts = {name: (result.part(name), binned[name]) for name in result.data_sets}
    found = {name: _judge_data(*part) for name, part in (parts or {"": (result, binned)}).items()}
    reasons = _about_the_end(result, sum(n_seen for _, _, n_seen in found.values()))
    numbers: dict[str, float] = {}
    for name, (own, words, _) in found.items():
        numbers |= {f"{name}: {test}" if name else test: x for test, x in own.items()}
        reasons += [f"{name}: {word}" if name else word for word in words]
    bound = result.provenance.get("bound", {})
    khat = bound.get("khat", 0.0)  # none without a bound
    far = not bound.get("good", True) and (khat is None or not khat < _FAR)  # no infinity in files
    remark = ", but its errors do not hold: use --uncertainty nuts" if far else ""
    return Verdict(numbers, tuple(reasons), remark)


def _judge_data(result: FitResult, binned: BinnedData) -> tuple[dict[str, float], list[str], int]:
    """Return the tests of one data set, what is wrong with it, and the number of its pixels."""
    counts = result.objective == "poisson"
    residual, excess = _of_counts(result, binned) if counts else _of_labels(result, binned)
    seen = np.isfinite(residual)
    numbers = {
        "deviance" if counts else "chi2": excess,
        "neighbours": _neighbours(residual),
        "odd in position": _odd(residual, 1),
        "odd in velocity": _odd(residual, 0),
    }
    hint = "" if result.provenance.get("outliers") else ": are some labels wrong (--outliers)?"
    larger = f"{LARGER}{hint}"
    words = {
        "chi2": larger if excess > 0 else "errors are too large",
        "deviance": "star counts scatter by more than their numbers do",
        "neighbours": "residuals of neighbouring pixels go together",
        "odd in position": "residuals differ on both sides of the midplane",
        "odd in velocity": "residuals differ between up and down",
    }
    reasons = [words[name] for name, x in numbers.items() if abs(x) > LIMIT and _counts(name, x)]
    return numbers, reasons, int(seen.sum())


def _counts(name: str, value: float) -> bool:
    """Return whether a deviation in this direction speaks against a fit."""
    return name == "chi2" or value > 0


def _about_the_end(result: FitResult, n_pixels: int) -> list[str]:
    reasons, state = [], result.state
    if not state.success:
        reasons.append(f"it did not converge ({state.message})")
    if state.at_bound:
        reasons.append(f"held back by a bound: {', '.join(state.at_bound)}")
    names, n_free = np.array(result.to_table()["name"]), _n_free(result)
    if n_free >= n_pixels:
        reasons.append(f"{n_free} parameters for {n_pixels} pixels")
    if result.covariance is not None:
        told = np.isin(names, [*state.at_bound, *result.vanished])
        lost = names[np.isnan(np.diagonal(result.covariance)) & ~told]
        if len(lost):
            reasons.append(f"undetermined: {', '.join(lost)}")
    return reasons + about_the_orbits(result)


def about_the_orbits(result: FitResult) -> list[str]:
    """Return why contours are no orbits of a potential that matter makes."""
    reasons = []
    if result.model.torus.distortion.orders:
        gap, sigma = result.formula_gap()
        if sigma > _GAP:
            reasons.append(
                f"the two formulas of the acceleration differ by {100 * gap:.0f} %, {sigma:.0f} "
                "times its error: the contours are no orbits of one potential"
            )
    said = [_about_the_density(result), describe_flat_density(result.model, result.params)]
    return reasons + [words for words in said if words]


def _about_the_density(result: FitResult) -> str:
    """Return where the density is negative, unless its error lets it be positive as well."""
    said = describe_negative_density(result.model, result.params)
    if not said or result.covariance is None:
        return said
    lowest = result.model.get_lowest_density(result.params)
    error = result.profiles(lowest.pos[None])["density_err"][0]
    return "" if lowest.density > -_SURE * error else said


def _n_free(result: FitResult) -> int:
    """Return the number of parameters that are not held."""
    table = result.to_table()
    return int((table["lower"] < table["upper"]).sum())


def _of_labels(result: FitResult, binned: BinnedData) -> tuple[Array, float]:
    label, error = (np.asarray(binned[name], dtype=float) for name in ("label", "label_err"))
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = (label - result.predict(binned)) / np.where(error > 0, error, np.nan)
    n = np.isfinite(residual).sum() - _n_free(result)
    return residual, float((np.nansum(residual**2) - n) / np.sqrt(2 * max(n, 1)))


def _of_counts(result: FitResult, binned: BinnedData) -> tuple[Array, float]:
    n, expected = np.asarray(binned["counts"], dtype=float), np.exp(result.predict(binned))
    terms = np.where(n > 0, n * np.log(np.where(n > 0, n, 1.0) / expected), 0.0) - (n - expected)
    mean, variance = _deviance_of(expected)
    excess = np.nansum(2 * terms - mean) / np.sqrt(np.nansum(variance))
    # Pixels without an expected star tell nothing about their neighbours.
    residual = np.where(expected > 1, (n - expected) / np.sqrt(expected), np.nan)
    return residual, float(excess)


def _deviance_of(expected: Array) -> tuple[Array, Array]:
    """Return mean and variance of the deviance of a star count, by its expected number."""
    grid = np.geomspace(1e-6, _MANY, 200)
    n = np.arange(int(_MANY + 12 * np.sqrt(_MANY)))
    # Poisson's formula: to load scipy.stats for it would take as long as a fit.
    weight = np.exp(xlogy(n, grid[:, None]) - grid[:, None] - gammaln(n + 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(n > 0, n * np.log(n / grid[:, None]), 0.0)
    deviance = 2 * (log - (n - grid[:, None]))
    mean = (weight * deviance).sum(1)
    variance = (weight * deviance**2).sum(1) - mean**2
    few = expected < _MANY
    return (
        np.where(few, np.interp(expected, grid, mean), 1 + 1 / (6 * expected)),
        np.where(few, np.interp(expected, grid, variance), 2.0),
    )


def _neighbours(residual: Array) -> float:
    """Return the sum of products of neighbouring residuals, in its own standard deviations."""
    products = [
        (residual[1:] * residual[:-1]).ravel(),
        (residual[:, 1:] * residual[:, :-1]).ravel(),
    ]
    x = np.concatenate(products)
    x = x[np.isfinite(x)]
    scale = np.nanmean(residual**2)
    return float(x.sum() / (scale * np.sqrt(max(len(x), 1)))) if len(x) else 0.0


def _odd(residual: Array, axis: int) -> float:
    """Return how much of the residuals is odd along an axis, on large scales, as a normal deviate.

    The odd part is compared with smooth odd patterns; the chi^2 of their amplitudes is turned into
    the normal deviate of the same probability.
    """
    odd = (residual - np.flip(residual, axis)) / np.sqrt(2)
    half = np.take(odd, range((odd.shape[axis] + 1) // 2, odd.shape[axis]), axis)
    x = np.linspace(0, 1, half.shape[axis] + 1)[1:]
    y = np.linspace(-1, 1, half.shape[1 - axis])
    along, across = (x[:, None], y[None, :]) if axis == 0 else (x[None, :], y[:, None])
    patterns = [along**i * across**j for i in (1, 3) for j in (0, 1, 2)]
    seen = np.isfinite(half)
    A = np.stack([np.broadcast_to(p, half.shape)[seen] for p in patterns], -1)
    if len(A) <= A.shape[1]:
        return 0.0
    Q, _ = np.linalg.qr(A)
    scale = np.nanmean(residual**2)
    amplitude = (Q.T @ half[seen]) ** 2 / scale
    # The square root of a chi^2 is nearly normal (Fisher 1922).
    return float(np.sqrt(2 * amplitude.sum()) - np.sqrt(2 * len(amplitude) - 1))
