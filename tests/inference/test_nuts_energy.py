"""The energy that the sampler moves in: by formulas, and in other processes."""

from __future__ import annotations

import pickle

import astropy.units as u
import numpy as np
import pytest
import torch
from test_fisher import BOUNDS, make_data, make_model, problem
from torch.distributions import Normal

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.inference.coordinates import Coordinates, Problems
from torusimaging_torch.inference.nuts import WhitenedPotential
from torusimaging_torch.simulate import milky_way_disk


def disk(kind):
    """Return a model with its parameters, bounds, and binned data."""
    if kind == "ellipses":
        return make_model(spline="cubic"), problem.make_params(), BOUNDS, make_data()
    stars, half = milky_way_disk(20_000, R=8.3 * u.kpc, seed=1), np.linspace(-1, 1, 25)
    where = {"pos": 1.5 * half * u.kpc, "vel": 80 * half * u.km / u.s}
    columns = (stars[name] for name in ("z", "v_z", "label"))
    label = get_binned_label(*columns, where, label_err=stars["label_err"])
    model, bounds, start = TorusImaging1DPotential.auto_init(label)
    return model, start, bounds, label


@pytest.fixture(params=["ellipses", "potential"], scope="module")
def energy_of(request):
    """Return a function of what is held: the energy, and the posterior."""
    model, params, bounds, data = disk(request.param)

    def build(held=(), priors=None):
        fixed = {name: (params[name], params[name]) for name in held}
        posterior, x = model.posterior_at(params, data, priors=priors)
        box = model.border.box({**bounds, **fixed}, posterior.layout)
        around = Coordinates.around(Problems(posterior, None), box, box.inv(x), 3.0, halved=True)
        return WhitenedPotential(posterior, around), posterior

    return build


def test_it_travels_to_other_processes(energy_of):
    energy, posterior = energy_of(priors={"pos0": Normal(0.0, 0.1)})
    z = {"w": torch.full((posterior.layout.size,), 0.1).double()}
    assert torch.equal(pickle.loads(pickle.dumps(energy))(z), energy(z))


@pytest.mark.parametrize("held", [(), ("vel0",)])
def test_by_formulas_it_is_that_by_autograd(energy_of, held):
    energy, posterior = energy_of(held)
    coordinates, box = energy.coordinates, energy.coordinates.box
    size = posterior.layout.size
    w = torch.linspace(-1, 1, size, dtype=torch.float64).requires_grad_()
    at = coordinates.in_box(w)
    idle = torch.where(box.lower == box.upper, at, 0.0)
    expected = idle.square().sum() / 2 - posterior(box(at)) - box.log_slope(at).sum()
    found = energy({"w": w})
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (slope,), (wanted,) = (torch.autograd.grad(e, w) for e in (2 * found, 2 * expected))
    torch.testing.assert_close(slope, wanted, rtol=1e-8, atol=1e-8)


def test_amounts_are_the_sheets_and_the_constant_comes_last(energy_of):
    _, posterior = energy_of()
    K = sum(name.startswith("ln_rho") for name in posterior.layout.names) - 1
    expected = [f"ln_rho[{k}]" for k in (*range(1, K + 1), 0)] if K > 0 else []
    assert [posterior.layout.names[i] for i in posterior.amounts] == expected


def test_amounts_of_several_data_sets_are_those_of_their_torus():
    label = disk("potential")[-1]
    both = {"label": label, "counts": {k: label[k] for k in ("pos", "vel", "counts")}}
    model, _, start = TorusImaging1DPotential.auto_init(both)
    posterior, _ = model.posterior_at(start, both, {"label": "gaussian", "counts": "poisson"})
    K = len(start["ln_rho"]) - 1
    names = [posterior.layout.names[i] for i in posterior.amounts]
    assert names == [f"ln_rho[{k}]" for k in (*range(1, K + 1), 0)]


def test_coordinates_are_round_at_the_optimum(energy_of):
    """There, where the posterior is curved as the penalty and the expected information say."""
    energy, posterior = energy_of()
    w = torch.zeros(posterior.layout.size).double()

    def parameters(w):
        return energy.coordinates.box(energy.coordinates.in_box(w))

    jacobian = torch.autograd.functional.jacobian(parameters, w)
    information = jacobian.mT @ posterior.information(parameters(w)) @ jacobian
    values = torch.linalg.eigvalsh(information)
    assert values.max() < 1 + 1e-6
    assert (values > 1e-3).all()
