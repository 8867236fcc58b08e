"""Actions, angles and periods from a table against the exact ones, and those of a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from orbit_models import MODELS, random_stars, smooth_model, spline_model, tensor

from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.orbits.actions import action_angle, phase_space
from torusimaging_torch.orbits.table import OrbitTable, can_be_tabulated


@pytest.mark.parametrize("kind", ["cubic", "quadratic"])
@pytest.mark.parametrize(("convention", "signs"), MODELS)
def test_table_equals_the_exact_path(convention, signs, kind):
    torus, params = spline_model(convention, signs, kind)
    pos, vel = random_stars(4000)
    exact = action_angle(torus, pos, vel, params)
    table = OrbitTable.of(torus, params)(pos, vel)
    assert torch.equal(exact.valid, table.valid)
    ok = exact.valid
    assert (table.J / exact.J - 1)[ok].abs().max() < 1e-6
    assert (table.T / exact.T - 1)[ok].abs().max() < 1e-6
    difference = (table.theta - exact.theta + math.pi).remainder(2 * math.pi) - math.pi
    assert difference[ok].abs().max() < 1e-6


def test_period_of_an_action_from_the_table():
    torus, params = spline_model("pv", {2: 1.0, 4: -1.0})
    exact = action_angle(torus, *random_stars(500), params)
    T = OrbitTable.of(torus, params).period(exact.J[exact.valid])
    torch.testing.assert_close(T, exact.T[exact.valid], rtol=1e-6, atol=0)
    assert OrbitTable.of(torus, params).period(tensor([1.0])).isnan().all()


def test_model_without_knots_has_no_table():
    torus, params = smooth_model("pv", {2: 0.1})
    assert not can_be_tabulated(torus)
    with pytest.raises(ValueError, match="knots"):
        OrbitTable.of(torus, params)


@pytest.mark.parametrize("tabulated", [False, True])
@pytest.mark.parametrize(
    ("convention", "signs"), [("pv", {2: 1.0, 4: -1.0}), ("vp", {1: 1.0}), ("pv", {1: 1.0})]
)
def test_batch_equals_one_by_one(convention, signs, tabulated):
    torus, params = spline_model(convention, signs, batch=(2, 2))
    pos, vel = random_stars(40, batch=(2, 2))

    def solve(p, q, v):
        return (
            OrbitTable.of(torus, p, 8, 64)(q, v) if tabulated else action_angle(torus, q, v, p, 8)
        )

    # The tables of a batch are refined together, within what they promise.
    tolerance = 4e-7 if tabulated else 1e-12
    together = solve(params, pos, vel)
    layout = Layout.of(params)
    vector = layout.flatten(params)
    for index in np.ndindex(2, 2):
        alone = solve(layout.unflatten(vector[index]), pos[index], vel[index])
        for new, old in zip(together, alone, strict=True):
            torch.testing.assert_close(
                new[index], old, rtol=tolerance, atol=tolerance, equal_nan=True
            )
    if not tabulated and convention == "vp":
        J, theta, _, valid = together
        back = phase_space(torus, J, theta, params, 8)
        torch.testing.assert_close(back[0][valid], pos[valid], rtol=0, atol=1e-9)
        shared = solve(params, pos[0, 0], vel[0, 0])
        torch.testing.assert_close(shared.J[0, 0], together.J[0, 0], equal_nan=True)
