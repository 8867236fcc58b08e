"""The contract of radial functions: what a class promises holds, and what it does not is safe."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.numerics.splines import SPLINES, Pieces, Spline
from torusimaging_torch.orbits.actions import orbit_shape, radius_of_action
from torusimaging_torch.orbits.contours import Contours
from torusimaging_torch.torus.at_knots import KnotMaps
from torusimaging_torch.torus.piecewise import PiecewiseDistortion
from torusimaging_torch.torus.radial_function import RadialFunction
from torusimaging_torch.torus.sensitivity import label_jacobian
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

KNOTS = torch.tensor([0.0, 0.15, 0.3, 0.5], dtype=torch.float64)
X = torch.linspace(-0.05, 0.7, 16, dtype=torch.float64)
VALS = torch.tensor([-1.0, -0.5, -1.5], dtype=torch.float64)


class QuarticSpline(Spline):
    """The slope goes from knot to knot by 3 u^2 - 2 u^3: the curvature is zero at all knots."""

    degree = 4

    def pieces(self, slopes, last, widths):
        left = torch.cat([slopes[..., :1], slopes[..., :-1]], dim=-1)
        change, none = slopes - left, torch.zeros_like(slopes)
        return Pieces([left, none, change, -change / 2], [slopes[..., -1:], none[..., -1:]])

    def last_slope(self, slopes):
        return slopes[..., -1:]


class WithQuarticTerm(SplineEFunction):
    """What the spline of a subclass does not know of."""

    def forward(self, r_e, vals):
        return super().forward(r_e, vals) + 0.5 * r_e**4

    def derivatives(self, r_e, vals):
        value, slope, curvature = super().derivatives(r_e, vals)
        return value + 0.5 * r_e**4, slope + 2 * r_e**3, curvature + 6 * r_e**2


class WithQuarticTermAlone(SplineEFunction):
    """The same, without its derivatives."""

    def forward(self, r_e, vals):
        return super().forward(r_e, vals) + 0.5 * r_e**4


class Saturating(RadialFunction):
    """A family without knots, by its value alone."""

    def forward(self, x, a, width):
        return a * torch.tanh((x / width) ** 2)


@pytest.fixture
def quartic(monkeypatch):
    monkeypatch.setitem(SPLINES, "quartic", QuarticSpline)


def spline_model(kind="cubic"):
    return TorusImaging1DSpline(KNOTS, {2: KNOTS, 4: KNOTS}, {2: 1.0, 4: -1.0}, e_spline=kind)


def params(model):
    rows = {m: {"vals": VALS - 0.2 * m} for m in model.e_funcs}
    label = {"label_vals": torch.tensor([0.1, 1.0, 0.8, 0.5]).double()}
    frame = {"pos0": 0.01, "vel0": 0.0, "ln_Omega0": -2.5}
    return model.border.params({**frame, "e_params": rows, "label_params": label})


def action(model, p, r):
    """Return the area within the contour of r over 2 pi, by equally spaced angles."""
    theta = torch.arange(256, dtype=torch.float64) * 2 * math.pi / 256
    r_e = model.torus.distortion.invert(r.expand(256), theta.cos(), p["e_params"])
    return r_e.square().mean() / 2


def check_actions(model):
    """J is right where it is looked up without gradients, and where it is differentiated."""
    p = params(model)
    r = torch.tensor([0.05, 0.2, 0.3], dtype=torch.float64)
    expected = torch.stack([action(model, p, x) for x in r])
    with torch.no_grad():
        plain = orbit_shape(Contours.of(model.torus, p, 64), r).J
    layout = Layout.of(p)
    vector = layout.flatten(p).requires_grad_()
    moving = orbit_shape(Contours.of(model.torus, layout.unflatten(vector), 64), r).J
    torch.testing.assert_close(plain.squeeze(), expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(moving.squeeze(), expected, rtol=1e-8, atol=0)
    assert torch.autograd.grad(moving.sum(), vector)[0].isfinite().all()
    back = radius_of_action(Contours.of(model.torus, p, 64), expected)
    torch.testing.assert_close(back.squeeze(), r, rtol=1e-7, atol=0)


def test_a_quartic_spline_gives_right_actions(quartic):
    model = spline_model("quartic")
    assert model.e_funcs[2].degree == 4
    assert not PiecewiseDistortion.fits(model.torus.distortion)
    check_actions(model)


@pytest.mark.parametrize("cls", [WithQuarticTerm, WithQuarticTermAlone])
def test_a_subclass_with_a_quartic_term_gives_right_actions(cls):
    label = SplineLabelFunction(KNOTS)
    model = TorusImaging1D(label, {2: cls(KNOTS, 1.0), 4: SplineEFunction(KNOTS, -1.0)})
    assert not PiecewiseDistortion.fits(model.torus.distortion)
    check_actions(model)


def test_a_quartic_spline_against_its_own_derivatives(quartic):
    e_func = SplineEFunction(KNOTS, -1.0, "quartic")
    x = (X[1:-1] + 0.013).requires_grad_()
    value, slope, curvature = e_func.derivatives(x, VALS)
    torch.testing.assert_close(value, e_func(x, VALS))
    by_autograd = torch.autograd.grad(e_func(x, VALS).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(slope, by_autograd)
    torch.testing.assert_close(curvature, torch.autograd.grad(by_autograd.sum(), x)[0])
    vals = VALS.clone().requires_grad_()
    assert gradcheck(e_func, (x, vals))
    assert gradgradcheck(e_func, (x, vals))
    for ours, expected in zip(
        e_func.at(e_func.fix(X), vals=VALS), e_func.derivatives(X, VALS), strict=True
    ):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("cls", [WithQuarticTerm, WithQuarticTermAlone])
def test_promises_are_not_inherited_by_another_way_to_compute(cls):
    e_func = cls(KNOTS, 1.0)
    assert (e_func.degree, e_func.linear, e_func.logarithmic) == (None, False, ())
    assert (e_func.knots == KNOTS).all()
    terms = e_func.at(e_func.fix(X), vals=VALS)
    for ours, expected in zip(terms, WithQuarticTerm(KNOTS, 1.0).derivatives(X, VALS), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_subclass_that_computes_the_same_way_keeps_its_promises():
    class Named(SplineEFunction):
        def title(self):
            return "e"

    e_func = Named(KNOTS, 1.0)
    assert (e_func.degree, e_func.linear, e_func.logarithmic) == (3, True, ("vals",))
    assert e_func.can_be_tabulated
    assert not SplineEFunction(KNOTS.expand(2, -1), 1.0).can_be_tabulated


def test_derivatives_of_a_family_by_its_value_alone():
    x = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)
    a, width = torch.tensor([[0.5], [2.0]]).double(), torch.tensor(0.4).double()
    value, slope, curvature = Saturating().derivatives(x, a=a, width=width)
    t = torch.tanh((x / width) ** 2)
    grows = 2 * x / width**2
    torch.testing.assert_close(value, a * t)
    torch.testing.assert_close(slope, a * (1 - t**2) * grows)
    expected = a * (1 - t**2) * (2 / width**2 - 2 * t * grows**2)
    torch.testing.assert_close(curvature, expected)
    assert Saturating().knots is None
    assert not Saturating().can_be_tabulated
    with pytest.raises(NotImplementedError):
        RadialFunction()(x)


def test_a_function_of_ones_own_has_a_jacobian_and_knots_of_splines_stay():
    class Steps(Saturating):
        @property
        def knots(self):
            return KNOTS

    model = TorusImaging1D(SplineLabelFunction(KNOTS), {2: Steps()})
    p = params(spline_model()) | {
        "e_params": {2: {"a": torch.tensor(0.3).double(), "width": torch.tensor(0.4).double()}}
    }
    layout = Layout.of(p)
    vector, pos = layout.flatten(p), X * 2
    label, jacobian = label_jacobian(model.torus, pos, X / 10, vector, layout)
    expected = torch.func.jacrev(lambda x: model.torus(pos, X / 10, layout.unflatten(x)))(vector)
    torch.testing.assert_close(jacobian, expected.mT)
    assert KnotMaps.fits(model.torus)
    at = model.at_knots(p)
    torch.testing.assert_close(at.e(2), model.e_funcs[2](KNOTS[1:], **p["e_params"][2]))
    assert label.shape == X.shape
