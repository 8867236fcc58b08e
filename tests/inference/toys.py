"""Posteriors that are known, for samplers."""

from __future__ import annotations

import torch

from torusimaging_torch.evaluation.curvature import Curvature
from torusimaging_torch.inference.convergence import ess_bulk, ess_tail
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout


class Toy:
    """A log-density by autograd, with all that fits and samplers ask of a posterior."""

    batch = torch.Size([])
    amounts = torch.zeros(0, dtype=torch.int64)
    remark = "a toy"

    @property
    def evaluation(self):
        return self

    def value(self, x, rows=None):
        return self(x)

    def value_and_gradient(self, x, rows=None):
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            value = self(leaf)
            return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    def curvature(self, x, rows=None):
        gradient = self.value_and_gradient(x)
        return Curvature(*gradient, self.data_information(x), self.penalty_hessian(x))


class Gaussian(Toy):
    """A Gaussian log-density with a mean and a precision matrix."""

    def __init__(self, mean, precision):
        self.mean, self.precision = mean, precision
        self.logarithmic = torch.zeros(len(mean), dtype=torch.bool)
        self.layout = Layout((("x",),), (len(mean),))

    def __call__(self, x):
        offset = x - self.mean
        return -0.5 * torch.einsum("...i,ij,...j->...", offset, self.precision, offset)

    def data_information(self, x):
        return self.precision.expand(*x.shape, x.shape[-1])

    def penalty_hessian(self, x):
        return torch.zeros_like(self.data_information(x))


def unbounded(size):
    edge = torch.full((size,), torch.inf, dtype=torch.float64)
    return Box(-edge, edge)


def worst_error(chains):
    """Return the Monte Carlo error of means and quantiles of each parameter."""
    return torch.minimum(ess_bulk(chains.x), ess_tail(chains.x)).rsqrt().numpy()


def assert_quantiles(x, truth, error):
    for q in (0.05, 0.16, 0.5, 0.84, 0.95):
        assert (abs((x < truth.ppf(q)).mean(0) - q) < 4 * error * (q * (1 - q)) ** 0.5).all()
