"""Splines at fixed points against their evaluation anywhere."""

from __future__ import annotations

import pytest
import torch

from disks import EXTENT
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.numerics.params import map_leaves
from torusimaging_torch.numerics.splines import make_spline
from torusimaging_torch.torus.spline_functions import PointMaps

KNOTS = torch.tensor([0.0, 0.1, 0.35, 0.4, 1.0]).double()
POINTS = torch.tensor([-0.5, 0.0, 0.1, 0.2, 0.4, 1.0, 1.5]).double()

kinds = pytest.mark.parametrize(
    ("kind", "positive"), [("quadratic", False), ("cubic", False), ("cubic", True)]
)


def slopes_of(*batch):
    generator = torch.Generator().manual_seed(1)
    return 0.1 + torch.rand(*batch, len(KNOTS) - 1, generator=generator, dtype=torch.float64)


@kinds
@pytest.mark.parametrize(
    ("batch", "own_knots", "own_points"),
    [((), False, False), ((3,), False, False), ((3,), False, True), ((3,), True, True)],
)
def test_equals_evaluation_anywhere(kind, positive, batch, own_knots, own_points):
    scale = torch.tensor([1.0, 1.5, 0.7]).double().unsqueeze(-1)
    knots = KNOTS * scale if own_knots else KNOTS
    x = POINTS * (scale if own_points else 1.0) + torch.zeros(*batch, 1).double()
    slopes = slopes_of(*batch)
    spline = make_spline(kind, knots, positive)
    points = PointMaps(spline, x if own_points else POINTS)
    assert points.n_batch == own_points
    expected = spline.derivatives(x, slopes.new_zeros(batch), slopes)
    for got, wanted in zip(points(spline.extended(slopes)), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@kinds
def test_gradients(kind, positive):
    spline = make_spline(kind, KNOTS, positive)
    points = PointMaps(spline, POINTS)
    slopes = slopes_of().requires_grad_(True)

    def values(slopes):
        return torch.cat(points(spline.extended(slopes)))

    assert torch.autograd.gradcheck(values, (slopes,))
    assert torch.autograd.gradgradcheck(values, (slopes,))


def make(orders, batch=()):
    scale = torch.linspace(0.8, 1.2, *batch).double().unsqueeze(-1) if batch else 1.0
    e_knots = {m: torch.linspace(0, EXTENT, 7 - m // 2).double() * scale for m in orders}
    knots = torch.linspace(0, EXTENT, 4).double() * scale
    return TorusImaging1DSpline(knots, e_knots, {m: 1.0 - 2.0 * (m == 4) for m in orders})


def params_of(model, batch=()):
    def vals(n):
        generator = torch.Generator().manual_seed(n)
        return torch.rand(*batch, n, generator=generator, dtype=torch.float64)

    e_params = {m: {"vals": vals(knots.shape[-1] - 1)} for m, knots in model.e_knots.items()}
    label_params = {"label_vals": vals(model.label_knots.shape[-1])}
    frame = {name: vals(1)[..., 0] for name in ("pos0", "vel0", "ln_Omega0")}
    return {**frame, "e_params": e_params, "label_params": label_params}


@pytest.mark.parametrize("orders", [(2, 4), (4, 2), (1, 2, 4)])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_model_at_its_knots(orders, batch):
    model = make(orders, batch)
    p = params_of(model, batch)
    label = model.label_func(model.label_knots, **p["label_params"])
    at = model.at_knots(p)
    torch.testing.assert_close(at.label, label, rtol=1e-12, atol=1e-13)
    expected = model.torus.distortion.derivatives(at.radii, p["e_params"])
    got = at.harmonics
    assert list(got) == list(expected) == sorted(orders)
    for m, terms in expected.items():
        for ours, wanted in zip(got[m], terms, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_points_convert_with_the_model():
    model = make((2, 4))
    p = map_leaves(torch.Tensor.float, params_of(model))
    terms = model.to(torch.float32).at_knots(p).harmonics
    assert {x.dtype for three in terms.values() for x in three} == {torch.float32}
