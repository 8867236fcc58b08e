"""Splines against SciPy's, integrated from their slopes; smoothness, monotonicity, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline
from spline_cases import CASES, KNOTS, SLOPES, cases, inner_slopes, points, reference, tensor

from torusimaging_torch.numerics.splines import CubicSpline, QuadraticSpline, make_spline
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction


@cases
@pytest.mark.parametrize(
    "knots",
    [KNOTS, KNOTS - 0.6, np.array([0.0, 0.5]), np.array([-1.0, 2.0, 2.5])],
    ids=["five", "negative", "two", "three"],
)
def test_value_and_derivatives_equal_scipy(kind, positive, knots):
    slopes = SLOPES[: len(knots) - 1]
    x = points(knots)
    got = make_spline(kind, tensor(knots), positive).derivatives(
        tensor(x), tensor(0.3), tensor(slopes)
    )
    for ours, theirs in zip(got, reference(kind, knots, slopes, 0.3, x, positive), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=1e-11)


@cases
def test_forward_is_the_value(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x, slopes = tensor(points(KNOTS)), tensor(SLOPES)
    value0 = tensor(0.3)
    assert torch.equal(spline(x, value0, slopes), spline.derivatives(x, value0, slopes)[0])
    assert torch.equal(spline(tensor(KNOTS[:1]), value0, slopes), value0.reshape(1))


@pytest.mark.parametrize("signs", [[1, 1, 1, 1], [1, -1, 1, -1], [0, 0, 1, 0]])
@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
def test_slopes_of_any_sign_and_zero(kind, signs):
    slopes = SLOPES * np.array(signs)
    x = points(KNOTS)
    got = make_spline(kind, tensor(KNOTS))(tensor(x), tensor(-1.0), tensor(slopes))
    expected = reference(kind, KNOTS, slopes, -1.0, x)[0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-11)


def test_quadratic_is_the_running_trapezoid_of_its_slopes():
    all_slopes = np.append(SLOPES[0], SLOPES)
    trapezoid = np.concatenate(
        [[0.0], np.cumsum(np.diff(KNOTS) * (all_slopes[1:] + all_slopes[:-1]) / 2)]
    )
    got = QuadraticSpline(tensor(KNOTS))(tensor(KNOTS), tensor(2.0), tensor(SLOPES))
    np.testing.assert_allclose(got.numpy(), 2 + trapezoid, rtol=1e-14)


def test_quadratic_end_pieces_go_on():
    spline, value0, slopes = QuadraticSpline(tensor(KNOTS)), tensor(2.0), tensor(SLOPES)
    below = spline(tensor([-1.0]), value0, slopes)
    assert below.item() == pytest.approx(2.0 - SLOPES[0], rel=1e-14)
    inside = spline(tensor(np.linspace(0.5, 1.0, 3)), value0, slopes).numpy()
    parabola = np.polyfit(np.linspace(0.5, 1.0, 3), inside, 2)
    beyond = np.array([1.1, 2.0, 5.0])
    got = spline(tensor(beyond), value0, slopes)
    np.testing.assert_allclose(got.numpy(), np.polyval(parabola, beyond), rtol=1e-12)


def test_cubic_slopes_at_the_knots():
    _, slope, _ = CubicSpline(tensor(KNOTS), positive=True).derivatives(
        tensor(KNOTS), tensor(0.0), tensor(SLOPES)
    )
    inner = inner_slopes(KNOTS, SLOPES)
    expected = np.concatenate([SLOPES[:1], inner, [SLOPES[-1] ** 2 / inner[-1]]])
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-13)
    _, slope, _ = CubicSpline(tensor(KNOTS)).derivatives(
        tensor(KNOTS[-1:]), tensor(0.0), tensor(SLOPES)
    )
    assert slope.item() == pytest.approx(2 * SLOPES[-1] - inner[-1], rel=1e-13)


@pytest.mark.parametrize("positive", [False, True])
def test_cubic_is_the_hermite_spline_through_its_own_ends(positive):
    spline, value0, slopes = CubicSpline(tensor(KNOTS), positive), tensor(0.1), tensor(SLOPES)
    y, dydx, _ = (t.numpy() for t in spline.derivatives(tensor(KNOTS), value0, slopes))
    x = points(KNOTS, outside=False)
    hermite = CubicHermiteSpline(KNOTS, y, dydx)
    got = spline.derivatives(tensor(x), value0, slopes)
    np.testing.assert_allclose(got[0].numpy(), hermite(x), rtol=1e-12)
    np.testing.assert_allclose(got[1].numpy(), hermite(x, 1), rtol=1e-11)


@pytest.mark.parametrize("positive", [False, True])
def test_cubic_has_equal_curvature_on_both_sides_of_inner_knots(positive):
    spline = CubicSpline(tensor(KNOTS), positive)
    left, right = (
        spline.derivatives(tensor(KNOTS[:-1] + side), tensor(0.0), tensor(SLOPES))
        for side in (-1e-11, 1e-11)
    )
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-8)
    # So it would not have passed for the quadratic one:
    spline = QuadraticSpline(tensor(KNOTS))
    left, right = (
        spline.derivatives(tensor(KNOTS[1:-1] + side), tensor(0.0), tensor(SLOPES))[2]
        for side in (-1e-11, 1e-11)
    )
    assert (left - right).abs().min() > 1


increasing = st.lists(st.floats(0.01, 10), min_size=1, max_size=8).map(
    lambda widths: np.concatenate([[0.0], np.cumsum(widths)])
)


@settings(max_examples=60, deadline=None)
@given(increasing, st.randoms(use_true_random=False), st.sampled_from([1.0, -1.0]))
def test_cubic_e_functions_are_monotone_for_any_parameters(knots, random, sign):
    vals = [random.uniform(-16, 10) for _ in knots[1:]]
    x = torch.linspace(-1, 1.5 * knots[-1], 501, dtype=torch.float64)
    e, slope, _ = SplineEFunction(tensor(knots), sign).derivatives(x, tensor(vals))
    # Rounding is that of the steepest interval, which may be 1e11 times steeper than another.
    assert (sign * slope >= -1e-15 * slope.abs().max()).all()
    assert (sign * e.diff() >= -1e-12 * e.abs().max()).all()
    assert slope.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(increasing, st.randoms(use_true_random=False), st.sampled_from(CASES))
def test_random_splines_equal_scipy(knots, random, case):
    kind, positive = case
    slopes = np.array([random.uniform(0.1, 5) for _ in knots[1:]])
    x = points(knots)
    got = make_spline(kind, tensor(knots), positive)(tensor(x), tensor(0.0), tensor(slopes))
    expected = reference(kind, knots, slopes, 0.0, x, positive)[0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "knots", [[1.0], 1.0, [0.0, 1.0, 1.0], [0.0, 2.0, 1.0], [0.0, np.nan], [[0.0, 1], [1.0, 0.0]]]
)
def test_bad_knots_are_refused(knots):
    with pytest.raises(ValueError, match="knots"):
        QuadraticSpline(tensor(knots))


def test_integer_knots_become_float64():
    assert QuadraticSpline(torch.arange(3)).knots.dtype == torch.float64


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'quadratic' or 'cubic', got 'quintic'"):
        make_spline("quintic", tensor(KNOTS))


@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_e_function_is_zero_at_the_first_knot_and_has_exponential_slopes(kind, sign):
    e_func = SplineEFunction(tensor(KNOTS), sign, kind)
    x = points(KNOTS)
    got = e_func.derivatives(tensor(x), tensor(np.log(SLOPES)))
    expected = reference(kind, KNOTS, SLOPES, 0.0, x, positive=True)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), sign * theirs, rtol=1e-10, atol=1e-11)
    assert torch.equal(got[0], e_func(tensor(x), tensor(np.log(SLOPES))))
    assert e_func(tensor([0.0]), tensor(np.log(SLOPES))) == 0


@pytest.mark.parametrize("kind", ["quadratic", "cubic"])
def test_label_function_takes_value_then_slopes(kind):
    x = points(KNOTS)
    got = SplineLabelFunction(tensor(KNOTS), kind).derivatives(
        tensor(x), tensor(np.append(0.4, -SLOPES))
    )
    expected = reference(kind, KNOTS, -SLOPES, 0.4, x)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=1e-11)


def test_buffers_travel_by_state_dict():
    e_func = SplineEFunction(tensor(KNOTS), -1.0)
    other = SplineEFunction(tensor(KNOTS) + 1, 1.0)
    other.load_state_dict(e_func.state_dict())
    assert torch.equal(other.spline.knots, tensor(KNOTS))
    assert other.sign == -1
