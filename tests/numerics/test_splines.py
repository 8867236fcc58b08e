"""Splines against SciPy's, integrated from their slopes; smoothness, monotonicity, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BPoly, CubicHermiteSpline, PPoly
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.numerics.splines import CubicSpline, QuadraticSpline, make_spline
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

KNOTS = np.array([0.0, 0.1, 0.35, 0.4, 1.0])
SLOPES = np.array([0.7, 2.0, 0.3, 1.1])
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def points(knots, outside=True):
    """Return points between, below and beyond the knots, and the knots themselves."""
    span = knots[-1] - knots[0]
    ends = (knots[0] - 0.5 * span, knots[-1] + 0.7 * span) if outside else (knots[0], knots[-1])
    return np.sort(np.concatenate([knots, np.linspace(*ends, 101)]))


def integrate(slope: PPoly, value0, x):
    """Return the antiderivative that is ``value0`` at the first knot, its slope and curvature."""
    spline = slope.antiderivative()
    return value0 + spline(x) - spline(slope.x[0]), slope(x), slope.derivative()(x)


def quadratic_slope(knots, slopes):
    """Return the slope as SciPy's: linear through the slopes, constant on the first interval."""
    left = np.concatenate([slopes[:1], slopes[:-1]])
    return PPoly(np.array([(slopes - left) / np.diff(knots), left]), knots)


def inner_slopes(knots, b):
    h = np.diff(knots)
    return (h[1:] * b[:-1] + h[:-1] * b[1:]) / (h[:-1] + h[1:])


def cubic_slope(knots, b, positive):
    """Return the slope as SciPy's Bernstein polynomials, with a constant piece on each side."""
    s = np.concatenate([b[:1], inner_slopes(knots, b)])
    last = b[-1] ** 2 / s[-1] if positive else 2 * b[-1] - s[-1]
    s = np.append(s, last)
    inside = PPoly.from_bernstein_basis(BPoly(np.array([s[:-1], b, s[1:]]), knots))
    x = np.concatenate([[knots[0] - 100], knots, [knots[-1] + 100]])
    flat = np.zeros((3, 2))
    flat[2] = s[0], s[-1]
    return PPoly(np.hstack([flat[:, :1], inside.c, flat[:, 1:]]), x)


def reference(kind, knots, slopes, value0, x, positive=False):
    if kind == "quadratic":
        return integrate(quadratic_slope(knots, slopes), value0, x)
    slope = cubic_slope(knots, slopes, positive)
    value, first, second = integrate(slope, value0, x)
    # SciPy counts from its own first break, which lies below the first knot.
    shift = slope.antiderivative()(slope.x[0]) - slope.antiderivative()(knots[0])
    # At the last knot ours looks left.
    at_end = np.isclose(x, knots[-1], rtol=0, atol=0)
    second[at_end] = slope.derivative()(knots[-1] - 1e-13)
    return value + shift, first, second


CASES = [("quadratic", False), ("cubic", False), ("cubic", True)]
cases = pytest.mark.parametrize(("kind", "positive"), CASES)


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


@cases
def test_derivatives_equal_autograd(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor(points(KNOTS)).requires_grad_()
    value, first, second = spline.derivatives(x, tensor(0.3), tensor(SLOPES))
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(slope, first, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(curvature, second, rtol=1e-11, atol=1e-11)


@cases
@pytest.mark.parametrize("at_knots", [False, True])
def test_gradcheck(kind, positive, at_knots):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor(KNOTS if at_knots else [-0.3, 0.05, 0.2, 0.37, 0.8, 1.7]).requires_grad_()
    inputs = (x, tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_())
    # Central differences across the end of the knots see the jump of a derivative there.
    assert gradcheck(spline, inputs, atol=1e-4 if at_knots else 1e-6)


@cases
def test_gradgradcheck_between_knots(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor([-0.3, 0.05, 0.2, 0.37, 0.8, 1.7]).requires_grad_()
    inputs = (x, tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_())
    assert gradgradcheck(spline, inputs)


@pytest.mark.parametrize("positive", [False, True])
def test_cubic_gradgradcheck_exactly_at_knots(positive):
    spline = CubicSpline(tensor(KNOTS), positive)
    x = tensor(KNOTS[:-1]).requires_grad_()
    inputs = (x, tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_())
    assert gradgradcheck(spline, inputs, atol=1e-4)


@cases
def test_gradgradcheck_in_the_slopes_at_knots(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)

    def fun(value0, slopes):
        return spline(tensor(KNOTS), value0, slopes)

    assert gradgradcheck(fun, (tensor(0.3).requires_grad_(), tensor(SLOPES).requires_grad_()))


@cases
@pytest.mark.parametrize("order", [1, 2])
def test_gradcheck_of_the_closed_derivatives(kind, positive, order):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor([-0.3, 0.05, 0.2, 0.37, 0.8, 1.7])

    def fun(x, slopes):
        return spline.derivatives(x, tensor(0.0), slopes)[order]

    inputs = (x.requires_grad_(), tensor(SLOPES).requires_grad_())
    assert gradcheck(fun, inputs)
    assert gradgradcheck(fun, inputs)


@cases
@pytest.mark.parametrize("own_knots", [False, True])
@pytest.mark.parametrize("own_points", [False, True])
@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_batch_equals_loop(kind, positive, own_knots, own_points, batch):
    generator = torch.Generator().manual_seed(1)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    knots = (rand(*batch, 5) + 0.1).cumsum(-1) if own_knots else tensor(KNOTS)
    x = 4 * rand(*batch, 7) - 0.5 if own_points else 4 * rand(7) - 0.5
    value0, slopes = rand(*batch), rand(*batch, 4) + 0.1
    got = make_spline(kind, knots, positive).derivatives(x, value0, slopes)
    for i in np.ndindex(batch):
        spline = make_spline(kind, knots[i] if own_knots else knots, positive)
        single = spline.derivatives(x[i] if own_points else x, value0[i], slopes[i])
        for many, one in zip(got, single, strict=True):
            assert many.shape == (*batch, 7)
            torch.testing.assert_close(many[i], one, rtol=1e-13, atol=1e-13)


@cases
def test_points_of_any_shape_without_a_batch(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor(np.linspace(-0.5, 1.5, 12))
    flat = spline.derivatives(x, tensor(0.1), tensor(SLOPES))
    shaped = spline.derivatives(x.reshape(3, 2, 2), tensor(0.1), tensor(SLOPES))
    single = spline.derivatives(x[4], tensor(0.1), tensor(SLOPES))
    for one, other, scalar in zip(flat, shaped, single, strict=True):
        torch.testing.assert_close(one.reshape(3, 2, 2), other, rtol=1e-14, atol=1e-14)
        assert scalar.shape == ()
        torch.testing.assert_close(scalar, one[4], rtol=1e-14, atol=1e-14)
    assert spline(x[:0], tensor(0.1), tensor(SLOPES)).shape == (0,)


@cases
def test_nan_gives_nan_there_alone(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x = tensor([0.2, np.nan, 0.3])
    for result in spline.derivatives(x, tensor(0.0), tensor(SLOPES)):
        assert result.isnan().tolist() == [False, True, False]


@cases
def test_vmap_of_jvp_is_the_jacobian(kind, positive):
    spline = make_spline(kind, tensor(KNOTS), positive)
    x, slopes = tensor(points(KNOTS)), tensor(SLOPES)

    def fun(slopes):
        return spline(x, tensor(0.2), slopes)

    got = torch.func.vmap(lambda t: torch.func.jvp(fun, (slopes,), (t,))[1])(
        torch.eye(4, dtype=torch.float64)
    )
    torch.testing.assert_close(got.mT, torch.autograd.functional.jacobian(fun, slopes))


@cases
@pytest.mark.parametrize("device", DEVICES)
def test_float32_and_device(kind, positive, device):
    spline = make_spline(kind, tensor(KNOTS), positive).to(device, torch.float32)
    assert spline.knots.dtype == torch.float32
    x = points(KNOTS)
    arguments = (t.to(device, torch.float32) for t in (tensor(x), tensor(0.3), tensor(SLOPES)))
    got = spline.derivatives(*arguments)
    expected = reference(kind, KNOTS, SLOPES, 0.3, x, positive)
    for ours, theirs in zip(got[:2], expected[:2], strict=True):
        assert ours.dtype == torch.float32
        assert ours.device.type == device
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, rtol=2e-4, atol=1e-5)
    assert got[2].dtype == torch.float32


@cases
def test_last_interval_is_closed_in_any_precision(kind, positive):
    """At the last knot the curvature is that of the last piece, not that of what goes on."""
    spline = make_spline(kind, tensor(KNOTS), positive)
    arguments = tensor(KNOTS[-1:]), tensor(0.3), tensor(SLOPES)
    expected = spline.derivatives(*arguments)[2]
    spline.to(torch.float32)
    got = spline.derivatives(spline.knots[-1:], *(x.float() for x in arguments[1:]))[2]
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-5)
    back = spline.to(torch.float64).derivatives(spline.knots[-1:], *arguments[1:])[2]
    torch.testing.assert_close(back, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@cases
def test_default_dtype_does_not_matter(kind, positive, default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = make_spline(kind, tensor(KNOTS), positive).derivatives(
            tensor(points(KNOTS)), tensor(0.3), tensor(SLOPES)
        )
    finally:
        torch.set_default_dtype(before)
    expected = reference(kind, KNOTS, SLOPES, 0.3, points(KNOTS), positive)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=1e-11)


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
