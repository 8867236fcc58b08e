"""The Jacobian of the labels, part by part, against that of the whole."""

from __future__ import annotations

import astropy.units as u
import pytest
import torch

from disks import grid, make_model, truth
from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.torus.sensitivity import label_jacobian


def whole(torus, pos, vel, vector, layout):
    """Return labels and Jacobian of one problem by automatic differentiation of everything."""

    def label(vector):
        return torus(pos, vel, layout.unflatten(vector))

    return label(vector), torch.func.jacfwd(label)(vector).mT


def check(model, params):
    """Compare one problem, and a batch; among the pixels is the centre, which has no angle."""
    p = model.border.params(params)
    layout = Layout.of(p)
    units = {"pos": u.kpc, "vel": u.kpc / u.Myr}
    bare = {key: torch.as_tensor(x.to_value(units[key])).flatten() for key, x in grid().items()}
    pos, vel = (torch.cat([x[::7], p[f"{key}0"].reshape(1)]) for key, x in bare.items())
    vector = layout.flatten(p)
    got = label_jacobian(model.torus, pos, vel, vector, layout)
    for ours, wanted in zip(got, whole(model.torus, pos, vel, vector, layout), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)
    stacked = vector + 0.01 * torch.arange(3.0).unsqueeze(-1)
    many = label_jacobian(model.torus, *(x.expand(3, -1) for x in (pos, vel)), stacked, layout)
    for i, one in enumerate(stacked):
        for ours, wanted in zip(many, whole(model.torus, pos, vel, one, layout), strict=True):
            torch.testing.assert_close(ours[i], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("e_spline", ["quadratic", "cubic"])
@pytest.mark.parametrize("label_spline", ["quadratic", "cubic"])
@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_splines(e_spline, label_spline, convention):
    check(make_model(e_spline, label_spline, convention), truth())


def test_functions_of_ones_own():
    model = TorusImaging1D(
        lambda r, a, b: a * r + (b * r * r).tanh(),
        {1: lambda r_e, f: 0.1 * f * r_e, 2: lambda r_e, f, g: f * (g * r_e).sin()},
        units=make_model().units,
    )
    e_params = {1: {"f": 0.3}, 2: {"f": 0.2, "g": 1.1}}
    check(model, {**truth(), "e_params": e_params, "label_params": {"a": 1.0, "b": 0.5}})


@pytest.mark.parametrize("orders", [(), (0,), (1, 3)])
def test_other_orders(orders):
    knots = {m: [0.0, 0.2, 0.35] for m in orders}
    model = TorusImaging1DSpline([0.0, 0.15, 0.35], knots, dict.fromkeys(orders, 1.0))
    e_params = {m: {"vals": [-1.0, -0.5]} for m in orders}
    labels = {"label_vals": [0.0, 0.7, 0.9]}
    check(model, {**truth(), "e_params": e_params, "label_params": labels})
