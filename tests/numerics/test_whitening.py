"""Whitened coordinates: the information is the identity there, flat directions are floored."""

from __future__ import annotations

import pytest
import torch

from torusimaging_torch.numerics.whitening import Whitening


def symmetric(values, batch=(), seed=0):
    """Return matrices with the given eigenvalues in a random frame, and the frame."""
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    frame, _ = torch.linalg.qr(
        torch.randn((*batch, n, n), generator=generator, dtype=torch.float64)
    )
    matrix = frame @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ frame.mT
    return matrix, frame


CENTER = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_information_in_the_new_coordinates_is_the_identity(batch):
    information, _ = symmetric([1.0, 1e2, 1e5, 3.0], batch)
    whitening = Whitening.from_information(CENTER.expand(*batch, 4), information)
    got = whitening.scale.mT @ information @ whitening.scale
    torch.testing.assert_close(got, torch.eye(4).double().expand(*batch, 4, 4), rtol=0, atol=1e-9)


def test_scale_is_a_root_of_the_inverse():
    information, _ = symmetric([1.0, 1e2, 1e5, 3.0])
    scale = Whitening.from_information(CENTER, information).scale
    torch.testing.assert_close(scale @ scale.mT, information.inverse(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("floor", [1.0, 0.1])
def test_flat_and_negative_directions_are_floored(floor):
    values = [1e4, 0.0, -50.0, 1e-9]
    information, frame = symmetric(values)
    scale = Whitening.from_information(CENTER, information, floor=floor).scale
    floored = torch.tensor([1e4, floor, floor, floor], dtype=torch.float64)
    expected = frame @ torch.diag(1 / floored) @ frame.mT
    torch.testing.assert_close(scale @ scale.mT, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_matrix_gets_the_floor_and_harms_no_neighbour(bad):
    information, _ = symmetric([1.0, 1e2, 1e5, 3.0], (3,))
    whole = Whitening.from_information(CENTER.expand(3, 4), information, floor=4.0)
    information = information.clone()
    information[1, 2, 2] = bad
    broken = Whitening.from_information(CENTER.expand(3, 4), information, floor=4.0)
    torch.testing.assert_close(broken.scale[1] @ broken.scale[1].mT, 0.25 * torch.eye(4).double())
    assert torch.equal(broken.scale[[0, 2]], whole.scale[[0, 2]])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_there_and_back(batch):
    information, _ = symmetric([1.0, 1e2, 1e5, 0.0], batch)
    whitening = Whitening.from_information(CENTER.expand(*batch, 4), information)
    w = torch.randn((*batch, 4), generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(whitening.inverse(whitening(w)), w, rtol=1e-10, atol=1e-10)
    assert torch.equal(whitening(torch.zeros_like(w)), whitening.center)


def test_batch_equals_loop():
    information, _ = symmetric([2.0, 1e2, 1e5, 3.0], (3,))
    whitening = Whitening.from_information(CENTER.expand(3, 4), information)
    w = torch.ones(3, 4, dtype=torch.float64)
    for i in range(3):
        single = Whitening.from_information(CENTER, information[i])
        torch.testing.assert_close(whitening(w)[i], single(w[i]), rtol=1e-12, atol=1e-13)


def test_only_the_symmetric_part_counts():
    information, _ = symmetric([2.0, 1e2, 1e5, 3.0])
    noise = torch.triu(torch.full((4, 4), 1e-3, dtype=torch.float64), 1)
    got = Whitening.from_information(CENTER, information + noise - noise.mT).scale
    expected = Whitening.from_information(CENTER, information).scale
    torch.testing.assert_close(got @ got.mT, expected @ expected.mT, rtol=1e-9, atol=1e-12)


def test_half_the_squared_gradient_is_the_gain_of_a_quadratic():
    information, _ = symmetric([2.0, 1e2, 1e5, 3.0])
    whitening = Whitening.from_information(CENTER, information)
    optimum = CENTER + 0.1

    def energy(w):
        offset = whitening(w) - optimum
        return 0.5 * offset @ information @ offset

    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(energy(w), w)
    assert 0.5 * gradient.square().sum().item() == pytest.approx(energy(w).item(), rel=1e-9)


def test_gradients_are_pulled_back():
    information, _ = symmetric([2.0, 1e2, 1e5, 3.0], (3,))
    whitening = Whitening.from_information(CENTER.expand(3, 4), information)
    w = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    times = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    (expected,) = torch.autograd.grad((whitening(w) * times).sum(), w)
    torch.testing.assert_close(whitening.pull(times), expected, rtol=1e-14, atol=0)
