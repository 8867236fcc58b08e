"""The elliptical transform: both conventions, the way back, gradients at the origin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torusimaging_torch.torus.elliptical import CONVENTIONS, EllipticalTransform, check_convention

POS0, VEL0, LN_OMEGA0 = 0.02, -0.005, -2.4
conventions = pytest.mark.parametrize("convention", CONVENTIONS)


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def centre():
    return tensor(POS0), tensor(VEL0), tensor(LN_OMEGA0)


def points(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return tensor(rng.normal(0, 0.5, n)), tensor(rng.normal(0, 0.05, n))


@conventions
def test_transform_equals_its_formula(convention):
    pos, vel = points()
    Omega0 = np.exp(LN_OMEGA0)
    x = (vel.numpy() - VEL0) / np.sqrt(Omega0)
    y = (pos.numpy() - POS0) * np.sqrt(Omega0)
    angle = np.arctan2(y, x) if convention == "pv" else np.arctan2(x, y)
    r_e, theta_e = EllipticalTransform(convention)(pos, vel, *centre())
    np.testing.assert_allclose(r_e.numpy(), np.hypot(x, y), rtol=1e-13)
    np.testing.assert_allclose(theta_e.numpy(), angle, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("convention", "pos", "vel", "theta"),
    [
        ("pv", 0.0, 1.0, 0.0),
        ("pv", 1.0, 0.0, np.pi / 2),
        ("pv", -1.0, 0.0, -np.pi / 2),
        ("vp", 1.0, 0.0, 0.0),
        ("vp", -1.0, 0.0, np.pi),
        ("vp", 0.0, 1.0, np.pi / 2),
    ],
)
def test_angles_on_the_axes(convention, pos, vel, theta):
    zero = tensor(0.0)
    _, got = EllipticalTransform(convention)(tensor(pos), tensor(vel), zero, zero, zero)
    assert got.item() == pytest.approx(theta, abs=1e-15)


@conventions
def test_polar_is_radius_and_cosine(convention):
    transform = EllipticalTransform(convention)
    r_e, theta_e = transform(*points(), *centre())
    radius, cos = transform.polar(*points(), *centre())
    torch.testing.assert_close(radius, r_e, rtol=1e-15, atol=0)
    torch.testing.assert_close(cos, theta_e.cos(), rtol=0, atol=1e-14)
    assert (cos.abs() <= 1 + 1e-15).all()


@conventions
def test_there_and_back(convention):
    transform = EllipticalTransform(convention)
    pos, vel = points()
    back = transform.inverse(*transform(pos, vel, *centre()), *centre())
    torch.testing.assert_close(back[0], pos, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(back[1], vel, rtol=1e-13, atol=1e-15)


@conventions
def test_areas_are_kept(convention):
    """One unit of area in (x, y) is one in (q, v), so that actions need no conversion."""
    transform = EllipticalTransform(convention)

    def to_plane(point):
        return torch.stack(transform.cartesian(point[0], point[1], *centre()))

    jacobian = torch.autograd.functional.jacobian(to_plane, tensor([0.3, 0.02]))
    assert abs(torch.linalg.det(jacobian).item()) == pytest.approx(1, rel=1e-13)


@conventions
def test_gradcheck(convention):
    transform = EllipticalTransform(convention)
    inputs = [t.requires_grad_() for t in (*points(6), *centre())]
    for fun in (transform, transform.polar, transform.inverse):
        assert gradcheck(fun, inputs, atol=1e-4, rtol=1e-4)
        assert gradgradcheck(fun, inputs, atol=1e-2, rtol=1e-3)


@conventions
@pytest.mark.parametrize("which", ["forward", "polar"])
def test_gradients_at_the_origin_are_finite_to_second_order(convention, which):
    transform = EllipticalTransform(convention)
    inputs = [t.requires_grad_() for t in (tensor([POS0, 0.1]), tensor([VEL0, 0.0]), *centre())]
    first_out, second_out = getattr(transform, which)(*inputs)
    assert first_out[0] == 0
    assert second_out[0] == (0 if which == "forward" else 1)
    total = (first_out.sin() + second_out**2 + first_out * second_out).sum()
    first = torch.autograd.grad(total, inputs, create_graph=True)
    assert all(g.isfinite().all() for g in first)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    assert all(g.isfinite().all() for g in second)


def test_gradients_of_the_radius_at_the_origin_are_zero():
    inputs = [t.requires_grad_() for t in (tensor([POS0]), tensor([VEL0]), *centre())]
    r_e, _ = EllipticalTransform().polar(*inputs)
    for gradient in torch.autograd.grad(r_e.sum(), inputs):
        assert (gradient == 0).all()


@conventions
@pytest.mark.parametrize("batch", [(3,), (2, 3)])
@pytest.mark.parametrize("own_points", [True, False])
def test_batch_equals_loop(convention, batch, own_points):
    transform = EllipticalTransform(convention)
    rng = np.random.default_rng(3)
    shape = (*batch, 5) if own_points else (5,)
    pos, vel = tensor(rng.normal(size=shape)), tensor(rng.normal(size=shape))
    p = [tensor(rng.normal(size=batch)) for _ in range(3)]
    for fun in (transform, transform.polar, transform.inverse):
        many = fun(pos, vel, *p)
        for i in np.ndindex(batch):
            own = (pos[i], vel[i]) if own_points else (pos, vel)
            for got, expected in zip(many, fun(*own, *(q[i] for q in p)), strict=True):
                assert got.shape == (*batch, 5)
                torch.testing.assert_close(got[i], expected, rtol=1e-14, atol=1e-15)


def test_points_of_any_shape_without_a_batch():
    transform = EllipticalTransform()
    pos, vel = points(12)
    r_e, theta_e = transform(pos.reshape(3, 4), vel.reshape(3, 4), *centre())
    flat, _ = transform(pos, vel, *centre())
    torch.testing.assert_close(r_e.reshape(-1), flat, rtol=1e-15, atol=0)
    assert transform(pos[0], vel[0], *centre())[1].shape == ()
    assert theta_e.shape == (3, 4)


def test_nan_stays_nan():
    r_e, cos = EllipticalTransform().polar(tensor([np.nan, 0.1]), tensor([0.0, 0.0]), *centre())
    assert r_e.isnan().tolist() == [True, False]
    assert cos.isnan().tolist() == [True, False]


def test_float32_stays():
    r_e, theta_e = EllipticalTransform()(*(t.float() for t in (*points(), *centre())))
    assert r_e.dtype == theta_e.dtype == torch.float32


def test_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="must be 'pv' or 'vp', got 'qp'"):
        EllipticalTransform("qp")
    assert check_convention("vp") == "vp"
    assert "vp" in repr(EllipticalTransform("vp"))
