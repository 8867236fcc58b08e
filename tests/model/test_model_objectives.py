"""The objectives of a fit: units, gradients, the penalty, and e functions that are valid."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch

from disks import draw, make_model, truth, truth_of
from torusimaging_torch.numerics.params import iter_leaves

objectives = pytest.mark.parametrize("objective", ["gaussian", "poisson"])


@objectives
def test_objective_is_minus_the_posterior_over_the_number_of_pixels(objective):
    model = make_model()
    data = draw(model, objective)
    data["label" if objective == "gaussian" else "counts"][2, :5] = np.nan
    p = truth_of(objective)
    ln_L = getattr(model, f"ln_{objective}_likelihood")(p, **data)
    R = model.regularization_func(model, model.border.params(p))
    got = getattr(model, f"objective_{objective}")(p, **data)
    assert got.item() == pytest.approx(-(ln_L - R).item() / 251, rel=1e-13)


@objectives
def test_units_of_data_do_not_matter(objective):
    model = make_model()
    data = draw(model, objective)
    fun = getattr(model, f"objective_{objective}")
    expected = fun(truth_of(objective), **data)
    others = [
        data | {"vel": data["vel"].to(u.kpc / u.Myr), "pos": data["pos"].to(u.pc)},
        data | {"vel": data["vel"].to_value(u.kpc / u.Myr), "pos": data["pos"].to_value(u.kpc)},
    ]
    for other in others:
        assert fun(truth_of(objective), **other).item() == pytest.approx(expected.item(), rel=1e-12)


def test_labels_with_a_unit():
    model = make_model()
    data = draw(model, "gaussian")
    with_unit = data | {"label": data["label"] * u.dex, "label_err": data["label_err"] * u.dex}
    expected = model.objective_gaussian(truth(), **data)
    assert model.objective_gaussian(truth(), **with_unit) == expected


@objectives
def test_objectives_can_be_differentiated(objective):
    model = make_model()
    p = model.border.params(truth_of(objective))
    leaves = [leaf.requires_grad_() for _, leaf in iter_leaves(p)]
    value = getattr(model, f"objective_{objective}")(p, **draw(model, objective))
    for gradient in torch.autograd.grad(value, leaves):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_changing_the_penalty_takes_effect_at_once():
    model = make_model()
    data = draw(model, "gaussian")
    first = model.objective_gaussian(truth(), **data)
    model.regularization_func = lambda model, params: 256.0 * params["pos0"] ** 2
    second = model.objective_gaussian(truth(), **data)
    ln_L = model.ln_gaussian_likelihood(truth(), **data)
    assert second.item() == pytest.approx((-ln_L / 256 + 0.02**2).item(), rel=1e-12)
    assert first != second


def test_check_e_funcs():
    model = make_model()
    valid, checks = model.check_e_funcs(truth()["e_params"], 0.35)
    assert valid is True
    assert isinstance(checks, np.ndarray)
    crossing = {2: {"vals": np.full(4, 2.0)}, 4: {"vals": np.full(2, 2.0)}}
    assert model.check_e_funcs(crossing, 0.35 * u.kpc * (u.rad / u.Myr) ** 0.5)[0] is False
    both = {
        m: {"vals": np.stack([truth()["e_params"][m]["vals"], crossing[m]["vals"]])} for m in (2, 4)
    }
    assert model.check_e_funcs(both, [0.35, 0.35])[0].tolist() == [True, False]
