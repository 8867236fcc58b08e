"""Grids are pixels, whatever the batch; parameters of a batch and other data have to fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import disks
from torusimaging_torch.inference.pixels import is_grid
from torusimaging_torch.numerics.params import Layout

MODEL = disks.make_model()
PARAMS = MODEL.border.params(disks.truth())
LAYOUT = Layout.of(PARAMS)


def batch(size):
    x = LAYOUT.flatten(PARAMS)
    return LAYOUT.unflatten(x + 0.01 * torch.arange(size, dtype=x.dtype).unsqueeze(-1))


def one(params, i):
    return LAYOUT.unflatten(LAYOUT.flatten(params)[i])


@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
@pytest.mark.parametrize("size", [3, 5, 7])  # of 5 by 5 pixels: fewer, as many and more
@pytest.mark.parametrize("transposed", [False, True])
def test_each_problem_of_a_batch_has_all_pixels_of_a_grid(objective, size, transposed):
    data = disks.draw(MODEL, objective, seed=0, n=5)
    if transposed:
        data = {name: values.T for name, values in data.items()}
    params = batch(size)
    found = getattr(MODEL, f"objective_{objective}")(params, **data)
    assert found.shape == (size,)
    for i in range(size):
        alone = getattr(MODEL, f"objective_{objective}")(one(params, i), **data)
        torch.testing.assert_close(found[i], alone, rtol=1e-9, atol=1e-12)


def test_fits_and_bounds_of_a_batch_on_a_grid_are_those_of_each():
    data = disks.draw(MODEL, "gaussian", seed=0, n=5)
    params = batch(5)
    covariance = MODEL.get_crlb(params, data, hessian="expected")
    alone = MODEL.get_crlb(one(params, 4), data, hessian="expected")
    torch.testing.assert_close(covariance[4], alone, rtol=1e-6, atol=1e-12)
    many = MODEL.optimize(params, "gaussian", disks.BOUNDS, **data)
    assert many.state.success.all()
    single = MODEL.optimize(PARAMS, "gaussian", disks.BOUNDS, **data)
    found = many.state.fun_val
    torch.testing.assert_close(
        found, torch.full_like(found, single.state.fun_val), rtol=1e-5, atol=0
    )


def test_labels_and_angles_of_a_batch_on_a_grid_keep_its_shape():
    grid = disks.grid(5)
    params = batch(5)
    label = MODEL.get_label(grid["pos"], grid["vel"], params)
    r_e, theta = MODEL.compute_elliptical(grid["pos"], grid["vel"], params)
    assert label.shape == r_e.shape == theta.shape == (5, 5, 5)
    alone = MODEL.get_label(grid["pos"], grid["vel"], one(params, 2))
    torch.testing.assert_close(label[2], alone, rtol=1e-12, atol=1e-14)


def test_rows_of_stars_belong_to_the_problems_of_a_batch():
    rng = np.random.default_rng(0)
    pos, vel = rng.uniform(-0.3, 0.3, (3, 4)), rng.uniform(-0.02, 0.02, (3, 4))
    params = batch(3)
    found = MODEL.get_label(pos, vel, params)
    for i in range(3):
        alone = MODEL.get_label(pos[i], vel[i], one(params, i))
        torch.testing.assert_close(found[i], alone, rtol=1e-12, atol=1e-14)
    # Places at which stars do not move are none of a grid.
    places = torch.linspace(-0.3, 0.3, 4).expand(3, 4)
    assert MODEL.get_label(places, torch.zeros(3, 4), params).shape == (3, 4)


@pytest.mark.parametrize("shape", [(4, 6), (2,), (4, 2, 6)])
def test_shapes_that_do_not_fit_are_named(shape):
    rng = np.random.default_rng(0)
    pos, vel = rng.uniform(-0.3, 0.3, (2, *shape)) * np.array([1, 0.1]).reshape(
        2, *[1] * len(shape)
    )
    params = batch(3)
    if len(shape) == 1:
        assert MODEL.get_label(pos, vel, params).shape == (3, *shape)
        return
    with pytest.raises(
        ValueError, match=r"pos must have the shape \(\*B, N\) of a batch of .*\(3,\)"
    ):
        MODEL.get_label(pos, vel, params)
    with pytest.raises(ValueError, match=r"pos must have the shape \(\*B, N\)"):
        MODEL.get_acceleration(pos, params)
    data = {"pos": pos, "vel": vel, "label": pos, "label_err": 0.1 + 0 * pos}
    with pytest.raises(
        ValueError, match=r"data of a batch of parameters \(3,\) must have the shape"
    ):
        MODEL.optimize(params, "gaussian", **data)


def test_what_a_grid_is():
    vel, pos = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    assert is_grid(pos, vel)
    assert is_grid(pos.T, vel.T)
    assert is_grid(pos.expand(2, 3, 4), vel.expand(2, 3, 4))
    assert not is_grid(pos, pos)
    assert not is_grid(pos, 0 * vel)
    assert not is_grid(pos[:1], vel[:1])
    assert not is_grid(pos + torch.rand(3, 4), vel)
