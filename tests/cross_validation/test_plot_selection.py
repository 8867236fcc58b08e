"""The figure of a selection: read back from matplotlib objects."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from selections import candidates, scores

from torusimaging_torch.cross_validation.one_standard_error import judge
from torusimaging_torch.plot import plot_selection


def synthetic(deltas, **grid):
    many = candidates(**grid)
    converged = np.where(np.isnan(deltas), 4, 5)
    return judge(many, scores(np.nan_to_num(deltas)), np.ones(400), converged, 5)


def test_figure_shows_each_candidate():
    grid = {"label_knots": [3, 6], "e_smooth_sigmas": [0.01, 0.1, 1.0]}
    found = synthetic([0, 0.01, np.nan, 3.0, 0.04, 0.2], **grid)
    fig, ax = plot_selection(found, pyplot=False)
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.01", "0.1", "1"]
    points = [
        c
        for c in ax.collections
        if isinstance(c, PathCollection) and not c.get_label()[0].isalpha()
    ]
    drawn = np.concatenate([np.ma.compressed(c.get_offsets()[:, 1]) for c in points])
    expected = -400 * found.delta[np.isfinite(found.delta)]
    np.testing.assert_allclose(np.sort(drawn), np.sort(expected), atol=1e-9)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert sorted(labels) == ["best", "chosen", "label knots 3", "label knots 6"]
    fig.draw_without_rendering()


@pytest.mark.parametrize(
    ("grid", "x"),
    [
        ({"e_spline": ["cubic", "quadratic"]}, None),
        ({"label_knots": [3]}, None),
        ({"label_knots": [3, 4], "e_knots": [{2: 3}, {2: 5}], "e_spline": ["cubic"]}, "e_knots"),
        ({"label_knots": [3, 4], "e_smooth_sigmas": [1, 2], "e_l2_sigmas": [1, 2]}, "label_knots"),
    ],
)
def test_any_grid_can_be_drawn(grid, x):
    n = math.prod(map(len, grid.values()))
    fig, ax = plt.subplots()
    same, _ = plot_selection(synthetic(np.linspace(0, 0.1, n), **grid), x, axes=ax)
    assert same is fig
    fig.draw_without_rendering()
    plt.close(fig)


def test_axis_must_be_a_setting_that_varies(selection):
    with pytest.raises(ValueError, match=r"one of the settings that vary, \['e_smooth_sigmas'\]"):
        plot_selection(selection, "label_knots")
