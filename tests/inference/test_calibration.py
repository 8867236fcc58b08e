"""Errors that can be believed, in small: the scatter of fits is what their errors say.

``benchmarks/calibration.py`` does the same at length, and for the sampler.
"""

from __future__ import annotations

import math

import torch

from disks import BOUNDS, draw, make_model, repeat, stack, truth
from torusimaging_torch.inference.fisher import bound_at
from torusimaging_torch.likelihoods.penalty import no_regularization
from torusimaging_torch.torus.acceleration import acceleration

N = 80
POS = torch.tensor([0.3, 0.6], dtype=torch.float64)


def quantities(model, layout, vector):
    p = layout.unflatten(vector)
    scalars = torch.stack([p["ln_Omega0"], p["pos0"], p["vel0"]], -1)
    return torch.cat([scalars, acceleration(model.torus, POS, p)], -1)


def sharpened(model, data):
    """Return data with a tenth of the noise, so that errors are small enough to be Gaussian."""
    label = model.get_label(data["pos"], data["vel"], truth()).numpy()
    err = 0.1 * data["label_err"]
    return data | {"label": label + 0.1 * (data["label"] - label), "label_err": err}


def pulls(model, kinds):
    """Return what fits of N draws of one disk are off by, in their errors of each kind, (N, 5)."""
    data = stack([sharpened(model, draw(model, "gaussian", seed)) for seed in range(N)])
    result = model.optimize(repeat(truth(), N), "gaussian", BOUNDS, tol=1e-4, **data)
    assert result.state.success.all()
    posterior, vector = model.posterior_at(result.params, data)
    layout = posterior.layout
    one = torch.func.jacfwd(lambda x: quantities(model, layout, x))
    jacobian = torch.func.vmap(one)(vector)
    expected = quantities(model, layout, layout.flatten(model.border.params(truth())))
    offset = quantities(model, layout, vector) - expected
    roots = [jacobian @ bound_at(posterior, vector, kind).root for kind in kinds]
    return [offset / root.square().sum(-1).sqrt() for root in roots]


# The standard deviation of N numbers is known to 1 / sqrt(2 N), 8 per cent.
TOLERANCE = 4 / math.sqrt(2 * N)


def test_fits_with_a_penalty_scatter_by_the_sandwich():
    sandwich, bound = pulls(make_model(), ("sandwich", "expected"))
    assert (sandwich.std(0) - 1).abs().max() < TOLERANCE
    # The bound allows for what the penalty holds back.
    assert (bound.std(0) < sandwich.std(0)).all()


def test_fits_without_a_penalty_scatter_by_the_bound_around_the_truth():
    (found,) = pulls(make_model(regularization_func=no_regularization), ("expected",))
    assert (found.std(0) - 1).abs().max() < TOLERANCE
    assert found.mean(0).abs().max() < 4 / math.sqrt(N)
