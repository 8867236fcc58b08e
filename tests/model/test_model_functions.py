"""Models of one's own functions: fits, batches, lambdas and families."""

from __future__ import annotations

import copy

import astropy.units as u
import numpy as np
import pytest
import torch
from model_inputs import OWN, POS, VEL, bent, own_model, straight, tensor

from disks import draw, repeat, stack
from torusimaging_torch import model_helpers as label_functions
from torusimaging_torch.model import TorusImaging1D


@pytest.mark.parametrize("bounds", [None, {"e_params": {2: {"a": (0.0, 5.0)}}}])
@pytest.mark.parametrize("a", [0.1, 0.5, 4.0])
def test_a_model_of_plain_functions_is_fitted(a, bounds):
    """From 0.1 the first steps lead to the upper edge, where the box is flat."""
    model = own_model()
    data = draw(model, "gaussian", params=OWN)
    start = copy.deepcopy(OWN)
    start["e_params"][2]["a"], start["label_params"]["slope"] = a, 1.0
    result = model.optimize(start, "gaussian", bounds, **data)
    assert result.state.success
    # The optimum beats the truth, by no more than the noise of six parameters allows.
    values = [model.objective_gaussian(p, **data).item() for p in (OWN, result.params)]
    assert 0 < (values[0] - values[1]) * 256 < 15
    assert result.params["e_params"][2]["a"].item() == pytest.approx(1.2, abs=0.5)
    assert model.get_density(POS, result.params).shape == (4,)


def test_a_batch_of_models_of_plain_functions():
    model = own_model()
    p = repeat(OWN, 3)
    p["label_params"]["slope"] = np.array([1.0, 2.0, 3.0])
    label = model.get_label(POS, VEL, p)
    torch.testing.assert_close(label[1], model.get_label(POS, VEL, OWN))
    valid, _ = model.check_e_funcs(p["e_params"], [0.35] * 3)
    assert valid.tolist() == [True] * 3
    datas = [draw(model, "gaussian", seed, n=10, params=OWN) for seed in range(3)]
    result = model.optimize(p, "gaussian", **stack(datas))
    assert result.state.success.all()


def test_lambdas_and_families_of_functions():
    model = TorusImaging1D(
        lambda r, A, r0: A * torch.tanh(r / r0),
        {2: lambda r_e, a: a * r_e},
        elliptical_angle_convention="vp",
    )
    p = OWN | {"label_params": {"A": 0.5, "r0": 0.2}, "e_params": {2: {"a": -0.3}}}
    r = model.torus.radius(
        tensor(POS.value), tensor(VEL.to_value(u.kpc / u.Myr)), model.border.params(p)
    )
    torch.testing.assert_close(model.get_label(POS, VEL, p), 0.5 * torch.tanh(r / 0.2))
    family = TorusImaging1D(label_functions.monotonic_poly_func, {})
    q = OWN | {"label_params": {"A": 0.5, "alpha": 0.6, "x0": 2.0}, "e_params": {}}
    label = family.get_label(POS, VEL, q)
    assert label.isfinite().all()
    r_e = family.torus.polar(
        tensor(POS.value), tensor(VEL.to_value(u.kpc / u.Myr)), family.border.params(q)
    )[0]
    expected = label_functions.monotonic_poly_func(r_e, A=0.5, alpha=0.6, x0=2.0)
    torch.testing.assert_close(label, expected)
    np.testing.assert_allclose(
        family.get_acceleration(POS, q).value, -np.exp(-5.0) * (POS.value - 0.02), rtol=1e-12
    )


def test_unit_system_from_a_list():
    model = TorusImaging1D(straight, {2: bent}, units=[u.pc, u.Gyr, u.Msun, u.radian])
    assert model.units["length"] == u.pc
    assert own_model().regularization_func(None, {"pos0": torch.ones(3)}).tolist() == [0] * 3
