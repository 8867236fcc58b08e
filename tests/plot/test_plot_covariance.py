"""Ellipses and corners of a covariance as drawn: read back from matplotlib objects."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from drawings import render
from matplotlib.figure import Figure

from torusimaging_torch import plot


@pytest.mark.parametrize("nstd", [1, 2.5])
def test_every_point_of_the_ellipse_is_as_many_sigma_away(nstd):
    mean, cov = np.array([0.3, -2.0]), np.array([[2.0, -0.9], [-0.9, 0.7]])
    ax = Figure().subplots()
    ellipse = plot.plot_cov_ellipse(mean, cov, nstd, ax, color="C3")
    assert ellipse in ax.patches
    points = ellipse.get_patch_transform().transform(ellipse.get_path().vertices[:-1:3]) - mean
    distance = np.einsum("ni,ij,nj->n", points, np.linalg.inv(cov), points)
    np.testing.assert_allclose(distance, nstd**2, rtol=1e-9)


def test_ellipse_goes_to_the_current_axes_by_default():
    _, ax = plt.subplots()
    assert plot.plot_cov_ellipse(np.zeros(2), np.eye(2)) in ax.patches


@pytest.mark.parametrize(
    ("mean", "cov", "words"),
    [
        (np.zeros(3), np.eye(2), "shapes"),
        (np.zeros(2), np.diag([1.0, -1.0]), "negative"),
    ],
)
def test_bad_ellipses_are_refused(mean, cov, words):
    with pytest.raises(ValueError, match=words):
        plot.plot_cov_ellipse(mean, cov, ax=Figure().subplots())


def test_corner_shows_every_pair_in_place():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(4, 4))
    cov, mean = root @ root.T, np.arange(4.0)
    _, axes = plot.plot_cov_corner(torch.tensor(cov), mean, ["a", "b", "c", "d"], nstd=(1, 2))
    assert axes.shape == (4, 4)
    for row, column in np.ndindex(4, 4):
        ax = axes[row, column]
        assert ax.get_visible() == (column <= row)
        if column < row:
            one, two = ax.patches
            np.testing.assert_allclose(one.center, (mean[column], mean[row]))
            assert two.width == pytest.approx(2 * one.width)
            sigma_x, sigma_y = np.sqrt([cov[column, column], cov[row, row]])
            assert np.diff(ax.get_xlim())[0] == pytest.approx(5 * sigma_x)
            assert np.diff(ax.get_ylim())[0] == pytest.approx(5 * sigma_y)
            # a tilt to the right for a positive covariance
            tangent = np.tan(np.radians(one.angle))
            assert np.sign(tangent) == np.sign(cov[row, column])
        if column == row:
            x, y = ax.get_lines()[0].get_data()
            assert np.average(x, weights=y) == pytest.approx(mean[row], abs=1e-9)
    assert [ax.get_xlabel() for ax in axes[-1]] == ["a", "b", "c", "d"]
    assert [ax.get_ylabel() for ax in axes[1:, 0]] == ["b", "c", "d"]


def test_undetermined_parameters_say_so():
    cov = np.diag([1.0, np.nan, 4.0])
    fig, axes = plot.plot_cov_corner(cov)
    said = np.array([[bool(ax.texts) for ax in row] for row in axes])
    np.testing.assert_array_equal(said, [[0, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert len(axes[2, 0].patches) == 2
    render(fig)


@pytest.mark.parametrize(
    "arguments",
    [(np.eye(3)[:2],), (np.eye(3), np.zeros(2)), (np.eye(3), np.zeros(3), ["a"])],
)
def test_corner_shapes_must_agree(arguments):
    with pytest.raises(ValueError, match="shapes"):
        plot.plot_cov_corner(*arguments)
