"""The energy that the sampler moves in: by formulas, and in other processes."""

from __future__ import annotations

import pickle

import pytest
import torch
from test_fisher import BOUNDS, make_data, make_model, problem
from torch.distributions import Normal

from torusimaging_torch.inference.coordinates import straightened
from torusimaging_torch.inference.nuts import WhitenedPotential
from torusimaging_torch.numerics.whitening import Whitening


def test_potential_travels_to_other_processes():
    model = make_model()
    priors = {"ln_Omega0": Normal(-2.5, 0.1)}
    posterior, x = model.posterior_at(problem.make_params(), make_data(), priors=priors)
    size = len(x)
    box = model.border.box(BOUNDS, posterior.layout)
    u = box.inv(x)
    potential = WhitenedPotential(posterior, box, Whitening(u, torch.eye(size).double()))
    z = {"w": torch.full((size,), 0.1).double()}
    assert torch.equal(pickle.loads(pickle.dumps(potential))(z), potential(z))
    at_center = potential({"w": torch.zeros(size).double()})
    torch.testing.assert_close(-at_center, posterior(x) + box.log_slope(u).sum())


@pytest.mark.parametrize("held", [(), ("vel0",)])
def test_potential_by_formulas_is_that_by_autograd(held):
    model, data, params = make_model(spline="cubic"), make_data(), problem.make_params()
    bounds = {**BOUNDS, **{name: (params[name], params[name]) for name in held}}
    posterior, x = model.posterior_at(params, data)
    box = model.border.box(bounds, posterior.layout)
    u = box.inv(x)
    straight, whitening = straightened(posterior, box, u, 3.0)
    potential = WhitenedPotential(posterior, straight, whitening)
    w = torch.linspace(-1, 1, len(x), dtype=torch.float64).requires_grad_()
    t = whitening(w)
    idle = torch.where(box.lower == box.upper, t, 0.0)
    expected = idle.square().sum() / 2 - posterior(straight(t)) - straight.log_slope(t).sum()
    energy = potential({"w": w})
    torch.testing.assert_close(energy, expected, rtol=1e-12, atol=0)
    (found,), (wanted,) = (torch.autograd.grad(e, w) for e in (2 * energy, 2 * expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
