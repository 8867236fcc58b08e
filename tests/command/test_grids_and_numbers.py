"""The default grid, labels of any size, the demo's truth, and numbers as they are printed."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch.analysis import demo
from torusimaging_torch.analysis.binning import bin_stars
from torusimaging_torch.analysis.report import heights_to_print, number
from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.catalogue.tables import SelectedStars, read_stars
from torusimaging_torch.settings import Settings


def test_truth_of_the_demo_is_that_of_the_potential():
    _, potential = demo.simulate(10, seed=0)
    z = np.linspace(-1, 1, 5) * u.kpc
    shifted = demo.Shifted(potential, 0.1 * u.kpc)
    for name in ("acceleration", "density", "surface_density"):
        assert u.allclose(getattr(shifted, name)(z + 0.1 * u.kpc), getattr(potential, name)(z))


def test_default_grid_holds_the_stars_and_suits_their_number():
    rng = np.random.default_rng(0)
    for n, n_bins in ((1000, 20), (12_800, 40), (200_000, 80)):
        pos, vel = rng.normal(0, 0.3, n) * u.kpc, rng.normal(0, 20, n) * u.km / u.s
        pos[0] = np.nan * u.kpc
        with pytest.warns(UserWarning, match="1 with pos or vel not finite"):
            data, grid = bin_stars(SelectedStars(pos, vel), Settings())
        assert grid["n_bins"] == pytest.approx(n_bins, abs=1)
        assert 0.96 * n < grid["n_stars"] < n
        assert data["counts"]["counts"].shape == (grid["n_bins"],) * 2


@pytest.mark.parametrize("counted", [False, True])
def test_who_is_left_out_is_said_once(counted):
    rng = np.random.default_rng(0)
    pos, vel = rng.normal(0, 0.3, 1000) * u.kpc, rng.normal(0, 20, 1000) * u.km / u.s
    pos[0] = np.nan * u.kpc
    stars = SelectedStars(pos, vel, {"fe": rng.normal(0, 0.1, 1000)}, counted=counted)
    with pytest.warns(UserWarning, match="1 with pos or vel not finite") as caught:
        data, _ = bin_stars(stars, Settings())
    assert len(caught) == 1
    assert set(data) == {"fe", *(["counts"] if counted else [])}


def test_labels_with_units_and_any_size_give_the_same_orbits(stars):
    """The default penalty scales with the label, so its unit does not matter."""
    settings = Settings(pos_max=1 * u.kpc, vel_max=60 * u.km / u.s, n_bins=12, e_knots={2: 3, 4: 2})
    first = analyse(read_stars(stars, "z", "v_z", "label"), settings).result
    scaled = stars.copy()
    scaled["label"] = 1000 * scaled["label"] * u.dex
    second = analyse(read_stars(scaled, "z", "v_z", "label"), settings).result
    # Knots are placed by a quick fit that stops early, so the two differ by little, but differ.
    for name in ("Omega0", "pos0", "vel0"):
        value, error = first.measured(name)
        assert abs(second.quantity(name) - value) < 0.1 * error


def test_unknown_uncertainty_is_refused(stars):
    with pytest.raises(ValueError, match="uncertainty must be one of"):
        analyse(read_stars(stars, "z", "v_z", "label"), Settings(uncertainty="guess"))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.08358, 0.0034, "0.0836 ± 0.0034"),
        (-18.34, 1.3, "-18.3 ± 1.3"),
        (1234.5, 56.0, "1234 ± 56"),
        (5.0, np.nan, "5.000"),
        (67.4, 0.0, "67.40"),
    ],
)
def test_numbers_have_the_digits_of_their_errors(value, error, text):
    assert number(value, error) == text


@pytest.mark.parametrize(
    ("limit", "first", "count"),
    [(1.185, 0.2, 5), (1.46, 0.25, 5), (0.18, 0.05, 3), (300, 50, 6), (0.0987, 0.02, 4)],
)
def test_heights_are_round(limit, first, count):
    heights = heights_to_print(limit * u.kpc)
    assert heights[0].value == pytest.approx(first)
    assert len(heights) == count
    assert heights[-1].value <= limit
