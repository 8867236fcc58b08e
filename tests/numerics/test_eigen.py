"""Eigenvalues of many matrices at once: the same wherever and however they are found."""

from __future__ import annotations

import pytest
import torch

from torusimaging_torch.numerics.eigen import eigh


@pytest.mark.parametrize("shape", [(5, 5), (3, 7, 7), (2, 3, 40, 40), (1, 33, 33)])
def test_they_rebuild_the_matrix_on_every_device(shape, device):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = (x @ x.mT).to(device)
    values, vectors = eigh(matrix)
    assert values.device == vectors.device == matrix.device
    torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mT, matrix)
    torch.testing.assert_close(values.cpu(), torch.linalg.eigvalsh(matrix.cpu()))


def test_they_can_be_differentiated_where_the_host_would_do_it(device):
    x = torch.eye(34, dtype=torch.float64).expand(2, -1, -1) * torch.arange(1.0, 35.0)
    matrix = x.to(device).requires_grad_()
    eigh(matrix)[0].sum().backward()
    torch.testing.assert_close(matrix.grad.cpu(), torch.eye(34).double().expand(2, -1, -1))
