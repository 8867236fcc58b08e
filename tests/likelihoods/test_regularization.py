"""The default penalty against its formula, written once more in NumPy on SciPy's splines."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.interpolate import BPoly, PPoly
from torch.autograd import gradcheck, gradgradcheck

from disks import EXTENT, make_model, penalty, truth
from torusimaging_torch.likelihoods.penalty import regularization_func_default
from torusimaging_torch.model_spline import TorusImaging1DSpline

KEYWORDS = {
    "label_l2_sigma": 0.7,
    "label_smooth_sigma": 0.4,
    "e_l2_sigmas": {2: 0.9, 4: 0.6},
    "e_smooth_sigmas": {2: 0.5, 4: 0.3},
    "dacc_dpos_scale": 2e-3,
    "dacc_strength": 3.0,
}


def slope_of(kind, knots, b, positive):
    """Return the slope of a spline as a piecewise polynomial that goes on far beyond the knots."""
    h = np.diff(knots)
    if kind == "quadratic":
        left = np.concatenate([b[:1], b[:-1]])
        return PPoly(np.array([(b - left) / h, left]), knots)
    inner = (h[1:] * b[:-1] + h[:-1] * b[1:]) / (h[:-1] + h[1:])
    s = np.concatenate([b[:1], inner])
    s = np.append(s, b[-1] ** 2 / s[-1] if positive else 2 * b[-1] - s[-1])
    piece = PPoly.from_bernstein_basis(BPoly(np.array([s[:-1], b, s[1:]]), knots))
    c = np.hstack([piece.c, [[0.0], [0.0], [s[-1]]]])
    return PPoly(c, np.append(knots, knots[-1] + 100))


def by_hand(model, p, kind, label_kind, label_l2_sigma, label_smooth_sigma, e_l2_sigmas,
            e_smooth_sigmas, dacc_dpos_scale, dacc_strength):  # fmt: skip
    knots = {m: k.numpy() for m, k in model.e_knots.items()}
    slopes = {
        m: slope_of(kind, knots[m], model.e_signs[m] * np.exp(p["e_params"][m]["vals"]), True)
        for m in knots
    }
    Omega0 = np.exp(p["ln_Omega0"])

    def a(q):
        r_e = abs(q - p["pos0"]) * np.sqrt(Omega0)
        top, bottom = 1.0, 1.0
        for m, slope in slopes.items():
            e, first = slope.antiderivative()(r_e), slope(r_e)
            c = np.cos(m * np.pi / 2)
            top += c * (e + r_e * first)
            bottom += c * (e * (1 - m**2) + r_e * first)
        return -(Omega0**2) * (q - p["pos0"]) * top / bottom

    total = 0.0
    for m in knots:
        for q in knots[m][1:] / np.sqrt(Omega0):
            h = 1e-4
            if kind == "quadratic":  # upstream's position, beside the knot
                gradient = (8 * (a(q + h) - a(q - h)) - (a(q + 2 * h) - a(q - 2 * h))) / (12 * h)
            else:  # at the knot, from the inside
                inner = a(q + p["pos0"] - h * np.arange(6))
                weights = np.array([137 / 60, -5, 5, -10 / 3, 5 / 4, -1 / 5])
                gradient = weights @ inner / h
            total += dacc_strength * np.log1p(np.exp(gradient / dacc_dpos_scale))
        e = slopes[m].antiderivative()(knots[m])
        total += np.sum((e / e_l2_sigmas[m]) ** 2)
        total += np.sum((np.diff(p["e_params"][m]["vals"]) / e_smooth_sigmas[m]) ** 2)
    vals = np.asarray(p["label_params"]["label_vals"])
    label_knots = model.label_knots.numpy()
    label = vals[0] + slope_of(label_kind, label_knots, vals[1:], False).antiderivative()(
        label_knots
    )
    total += np.sum((label / label_l2_sigma) ** 2)
    return total + np.sum((np.diff(vals[1:]) / label_smooth_sigma) ** 2)


@pytest.mark.parametrize("e_spline", ["quadratic", "cubic"])
@pytest.mark.parametrize("label_spline", ["quadratic", "cubic"])
@pytest.mark.parametrize("changes", [{}, {"dacc_strength": 0.0}, {"dacc_dpos_scale": 1.0}])
def test_penalty_equals_its_formula(e_spline, label_spline, changes):
    model = make_model(e_spline, label_spline)
    keywords = KEYWORDS | changes
    got = regularization_func_default(model, model.border.params(truth()), **keywords)
    expected = by_hand(model, truth(), e_spline, label_spline, **keywords)
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    "change",
    [
        {"label_l2_sigma": 0.1},
        {"label_smooth_sigma": 0.1},
        {"e_l2_sigmas": {2: 0.9, 4: 0.1}},
        {"e_smooth_sigmas": {2: 0.1, 4: 0.3}},
        {"dacc_dpos_scale": 2e-2},
        {"dacc_strength": 6.0},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_argument_matters(change):
    model = make_model()
    p = model.border.params(truth())
    changed = regularization_func_default(model, p, **(KEYWORDS | change))
    assert changed > regularization_func_default(model, p, **KEYWORDS)


def batch(n=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "pos0": rng.normal(0, 0.02, n),
        "vel0": rng.normal(0, 0.002, n),
        "ln_Omega0": rng.normal(-2.5, 0.1, n),
        "e_params": {
            2: {"vals": rng.normal(-1, 0.2, (n, 4))},
            4: {"vals": rng.normal(-3, 0.2, (n, 2))},
        },
        "label_params": {"label_vals": rng.normal(0.7, 0.1, (n, 4))},
    }


def pick(p, i):
    return {k: pick(v, i) if isinstance(v, dict) else v[i] for k, v in p.items()}


@pytest.mark.parametrize("own_knots", [False, True])
def test_batch_equals_loop(own_knots):
    p = batch()
    scale = np.array([1.0, 1.1, 0.9])[:, None]

    def model_of(scale):
        e_knots = {2: scale * np.linspace(0, EXTENT, 5), 4: scale * np.linspace(0, EXTENT, 3)}
        label_knots = scale * np.linspace(0, EXTENT, 4)
        return TorusImaging1DSpline(label_knots, e_knots, {2: 1.0, 4: -1.0})

    model = model_of(scale if own_knots else 1.0)
    got = regularization_func_default(model, model.border.params(p), **KEYWORDS)
    assert got.shape == (3,)
    for i in range(3):
        single = model_of(scale[i] if own_knots else 1.0)
        expected = regularization_func_default(single, single.border.params(pick(p, i)), **KEYWORDS)
        assert got[i].item() == pytest.approx(expected.item(), rel=1e-12)


def test_an_order_with_knots_of_its_own_for_each_problem_beside_a_shared_one():
    p = batch()
    e_knots = {2: np.array([[1.0], [1.1], [0.9]]) * np.linspace(0, EXTENT, 5)}
    e_knots[4] = np.linspace(0, EXTENT, 3)
    model = TorusImaging1DSpline(np.linspace(0, EXTENT, 4), e_knots, {2: 1.0, 4: -1.0})
    got = regularization_func_default(model, model.border.params(p), **KEYWORDS)
    single = TorusImaging1DSpline(
        np.linspace(0, EXTENT, 4), {2: e_knots[2][1], 4: e_knots[4]}, {2: 1.0, 4: -1.0}
    )
    expected = regularization_func_default(single, single.border.params(pick(p, 1)), **KEYWORDS)
    assert got[1].item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_model_without_distortion_has_only_the_labels_terms():
    model = TorusImaging1DSpline(np.linspace(0, EXTENT, 4), {}, {})
    p = model.border.params(truth() | {"e_params": {}})
    keywords = KEYWORDS | {"e_l2_sigmas": {}, "e_smooth_sigmas": {}}
    label = model.label_func(model.label_knots, **p["label_params"])
    smooth = p["label_params"]["label_vals"][1:].diff()
    expected = (label / 0.7).square().sum() + (smooth / 0.4).square().sum()
    got = regularization_func_default(model, p, **keywords)
    assert got.item() == pytest.approx(expected.item(), rel=1e-13)


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e-300])
@pytest.mark.parametrize("sign", [1, -1])
def test_second_derivatives_are_finite_far_from_the_wall(scale, sign):
    """Where softplus is cut off its derivatives must not be: both densities far from zero."""
    model = make_model()
    model.torus.distortion.e_funcs[2].sign.fill_(sign)
    p = truth()
    p["e_params"][2]["vals"] = [0.5, 1.0, 1.5, 2.0]
    p = model.border.params(p)

    def fun(vals):
        q = {**p, "e_params": {**p["e_params"], 2: {"vals": vals}}}
        keywords = KEYWORDS | {"dacc_dpos_scale": scale}
        return regularization_func_default(model, q, **keywords)

    vals = p["e_params"][2]["vals"]
    assert fun(vals).isfinite()
    if scale > 1e-10:
        assert torch.autograd.functional.hessian(fun, vals).isfinite().all()


def test_second_derivatives_beyond_the_cut_off_of_softplus():
    """At 25 scales the wall's curvature is e^-25, not zero and not nan."""
    model = make_model()
    p = model.border.params(truth())
    wall = {"label_l2_sigma": 1e9, "label_smooth_sigma": 1e9}
    wall |= {"e_l2_sigmas": {2: 1e9, 4: 1e9}, "e_smooth_sigmas": {2: 1e9, 4: 1e9}}

    def fun(ln_Omega0):
        q = {**p, "ln_Omega0": ln_Omega0}
        return regularization_func_default(model, q, **wall, dacc_dpos_scale=2e-4)

    assert gradgradcheck(fun, p["ln_Omega0"].clone().requires_grad_(), atol=1e-9, rtol=1e-2)


@pytest.mark.parametrize("e_spline", ["quadratic", "cubic"])
def test_gradcheck(e_spline):
    model = make_model(e_spline)
    p = model.border.params(truth())
    inputs = [p["pos0"], p["ln_Omega0"], p["e_params"][2]["vals"], p["e_params"][4]["vals"],
              p["label_params"]["label_vals"]]  # fmt: skip

    def fun(pos0, ln_Omega0, two, four, label_vals):
        q = {
            "pos0": pos0,
            "vel0": p["vel0"],
            "ln_Omega0": ln_Omega0,
            "e_params": {2: {"vals": two}, 4: {"vals": four}},
            "label_params": {"label_vals": label_vals},
        }
        return regularization_func_default(model, q, **KEYWORDS)

    inputs = [t.requires_grad_() for t in inputs]
    assert gradcheck(fun, inputs, rtol=1e-4, atol=1e-5)
    assert gradgradcheck(fun, inputs, rtol=1e-3, atol=1e-4)


def test_the_velocity_offset_does_not_matter():
    model = make_model()
    one, other = (model.border.params(truth() | {"vel0": v}) for v in (0.0, 0.03))
    assert penalty()(model, one) == penalty()(model, other)


def test_it_is_importable_where_partials_are_pickled():
    assert isinstance(penalty(), functools.partial)
    assert penalty().func.__module__ == "torusimaging_torch.likelihoods.penalty"


def test_cubic_penalty_is_smooth_where_the_midplane_changes_sign():
    """Upstream's positions jump across the knots there, and a fit would get stuck."""

    def jump(e_spline):
        model, p = make_model(e_spline, "quadratic"), truth()
        values = [
            regularization_func_default(
                model,
                model.border.params({**p, "pos0": pos0}),
                **{**KEYWORDS, "dacc_dpos_scale": 1e-3},
            ).item()
            for pos0 in (-1e-9, 1e-9)
        ]
        return abs(values[1] - values[0])

    assert jump("cubic") < 1e-6
    assert jump("quadratic") > 1e-3
