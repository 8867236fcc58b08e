"""Is the fit good: numbers of good fits are normal deviates, and what is wrong is named."""

from __future__ import annotations

import re
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from scipy.stats import poisson

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.analysis.report import are_apart, describe, models_differ, summary
from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.analysis.verdict import _deviance_of, judge
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.results import FitResult
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way_disk, simulate_stars
from torusimaging_torch.simulate.potentials import HarmonicOscillator

SETTINGS = Settings(uncertainty="none", n_bins=30, pos_max=1.2 * u.kpc, vel_max=70 * u.km / u.s)


def analysed(stars, label="label"):
    read = read_stars(stars, "z", "v_z", label, "label_err" if label else None)
    return analyse(read, SETTINGS)


@pytest.fixture(scope="module")
def stars():
    return milky_way_disk(40_000, seed=3)


@pytest.fixture(scope="module")
def analysis(stars):
    return analysed(stars)


def test_a_good_fit_is_called_good(analysis):
    for each in (analysis, analysis.beside):
        verdict = judge(each.result, each.binned)
        assert verdict.good
        assert max(abs(x) for x in verdict.numbers.values()) < 3.5
        assert str(verdict).startswith("GOOD FIT")
        assert each.result.provenance["verdict"] == {"good": True, "reading": str(verdict)}


def changed(analysis, change):
    """Return the numbers of a fit whose labels are shifted, in their errors, by a pattern."""
    binned = dict(analysis.binned)
    z = binned["pos"].to_value(u.kpc) / 1.2
    v = binned["vel"].to_value(u.km / u.s) / 70
    binned["label"] = binned["label"] + change(z, v) * np.nan_to_num(binned["label_err"])
    return judge(analysis.result, binned)


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda z, v: 0.8 * np.sign(z), "odd in position", "both sides of the midplane"),
        (lambda z, v: 0.8 * np.sign(v), "odd in velocity", "between up and down"),
        (lambda z, v: 0.8 * np.cos(9 * z) * np.cos(9 * v), "neighbours", "go together"),
        (lambda z, v: 3 * np.sin(1e6 * (z + 3 * v)), "chi2", "larger than their errors"),
    ],
)
def test_what_is_wrong_is_named(analysis, change, name, words):
    verdict = changed(analysis, change)
    assert not verdict.good
    assert abs(verdict.numbers[name]) > 4
    assert words in str(verdict)


def test_moments_of_the_deviance_of_counts():
    rng = np.random.default_rng(0)
    for expected in (0.02, 0.5, 3.0, 30.0, 80.0):
        n = poisson.rvs(expected, size=400_000, random_state=rng)
        log = np.where(n > 0, n * np.log(np.maximum(n, 1) / expected), 0.0)
        deviance = 2 * (log - (n - expected))
        mean, variance = (float(x) for x in _deviance_of(np.array(expected)))
        assert mean == pytest.approx(deviance.mean(), rel=0.02)
        assert variance == pytest.approx(deviance.var(), rel=0.03)


def test_star_counts_of_a_disk_are_good(stars):
    analysis = analysed(stars, None)
    for each in (analysis, analysis.beside):
        assert judge(each.result, each.binned).good


def test_a_selection_that_nobody_told_sets_both_models_apart():
    stars = milky_way_disk(100_000, seed=3)
    chance = np.exp(-np.abs(stars["z"].to_value(u.kpc)) / 0.15)
    seen = np.random.default_rng(0).uniform(size=len(stars)) < chance
    read = read_stars(stars[seen], "z", "v_z", None, None)
    analysis = analyse(read, replace(SETTINGS, uncertainty="crlb"))
    heights = [0.25, 0.5] * u.kpc
    assert are_apart(analysis, analysis.beside, heights)
    assert models_differ(analysis)
    assert describe(analysis)[0].startswith("the models differ by more than their errors")
    assert all(cell.endswith(", but the models differ") for cell in summary(analysis).rows[0][1:3])


def test_models_of_good_stars_agree(analysis):
    assert not models_differ(analysis)
    assert "differ by more" not in "\n".join(describe(analysis))


def test_the_end_of_a_fit_counts(analysis):
    result = analysis.result
    state = result.state._replace(success=False, message="too few steps", at_bound=("pos0",))
    assert isinstance(result.model, TorusImaging1DSpline)
    ended = FitResult(result.model, result.params, result.bounds, state, "gaussian")
    reading = str(judge(ended, analysis.binned))
    assert "it did not converge (too few steps); held back by a bound: pos0" in reading


def test_a_density_that_hardly_falls_is_bad_for_a_potential(stars):
    """Residuals do not tell that sheets follow an oscillator badly; their density does."""
    oscillator = simulate_stars(HarmonicOscillator(0.08 * u.rad / u.Myr), 20_000, seed=3)
    settings = Settings(uncertainty="none", model="potential")
    found = analyse(read_stars(oscillator, "z", "v_z", "label", "label_err"), settings)
    (reason,) = judge(found.result, found.binned).reasons
    assert re.search(r"the density falls by \d\d? % only up to .* kpc.*use ellipses", reason)
    disk = analyse(read_stars(stars, "z", "v_z", "label", "label_err"), settings)
    assert judge(disk.result, disk.binned).good
