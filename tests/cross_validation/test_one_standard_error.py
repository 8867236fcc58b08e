"""The rule of one standard error, and which of two candidates is simpler."""

from __future__ import annotations

import numpy as np
import pytest
from selections import MODEL, candidates, scores

import disks
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.cross_validation.one_standard_error import judge
from torusimaging_torch.numerics.params import Layout


def test_the_simplest_within_one_error_is_chosen():
    # One standard error of a difference is 1/20, though that of a score is ten times as large.
    many = candidates(label_knots=[6, 5, 4, 3])
    found = judge(many, scores([0, 0.02, 0.049, 0.051]), np.ones(400), np.full(4, 5), 5)
    np.testing.assert_allclose(found.delta, [0, 0.02, 0.049, 0.051], atol=1e-12)
    np.testing.assert_allclose(found.delta_err[1:], 0.05)
    assert found.score_err.min() > 0.4
    assert found.within.tolist() == [True, True, True, False]
    assert (found.best_index, found.chosen_index) == (0, 2)
    assert found.chosen["label_knots"] == 4
    assert found.best["label_knots"] == 6


def test_selection_shows_best_and_chosen():
    many = candidates(label_knots=[6, 4], e_knots=[{2: 5}])
    found = judge(many, scores([0, 0.02]), np.ones(400), np.full(2, 5), 5)
    assert repr(found).splitlines() == [
        "Selection: 2 candidates, 2 as good as the best one",
        "  best: label_knots = 6; e_knots = 2: 5",
        "  chosen: label_knots = 4; e_knots = 2: 5",
    ]
    none = judge(many, scores([0, 0.02]), np.ones(400), np.zeros(2), 5)
    assert repr(none).splitlines()[0] == "Selection: 2 candidates, 0 with a score"


def test_differences_that_say_nothing_are_within():
    many = candidates(label_knots=[4, 3])
    found = judge(many, scores([0, 2e-4], spread=1e-5), np.ones(400), np.full(2, 5), 5)
    assert found.chosen_index == 1
    found = judge(many, scores([0, 3e-4], spread=1e-5), np.ones(400), np.full(2, 5), 5)
    assert found.chosen_index == 0


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"e_smooth_sigmas": [0.5, 0.1, 2.0]}, 1),
        ({"dacc_strength": [1.0, 100.0, 0.0]}, 1),
        ({"e_knots": [{2: 4, 4: 3}, {2: 4}, {2: 5}]}, 1),
        ({"label_knots": [4, [0.0, 0.1, 0.3], 5]}, 1),
        # None is simpler: the best score decides.
        ({"e_spline": ["cubic", "quadratic", "cubic"]}, 0),
    ],
)
def test_simpler_is_fewer_parameters_then_a_stronger_penalty(grid, expected):
    many = candidates(**grid, e_l2_sigmas=[{2: 1.0, 4: 1.0}], **{
        k: [{2: 0.5, 4: 0.5}] for k in ["e_smooth_sigmas"] if k not in grid
    })  # fmt: skip
    found = judge(many, scores([0, 0.01, 0.01]), np.ones(400), np.full(3, 5), 5)
    assert found.within.all()
    assert found.chosen_index == expected


def test_number_of_parameters_is_the_models():
    for one in candidates(label_knots=[3, 5], e_knots=[{2: 4}, {1: 3, 2: 5}], e_smooth_sigmas=[1]):
        _, _, init = TorusImaging1DSpline.auto_init(disks.draw(MODEL, "gaussian"), **one.settings)
        assert one.n_params == Layout.of(init).size
