"""Splines in batches, in other types and on other devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spline_cases import KNOTS, SLOPES, cases, points, reference, tensor

from torusimaging_torch.numerics.splines import make_spline

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


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
