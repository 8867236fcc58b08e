"""The model's front: quantities in and out, shapes, types, pickling, and the fit."""

from __future__ import annotations

import copy
import pickle
import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.constants import G
from astropy.table import Table
from gala.units import UnitSystem

from disks import (
    OMEGA0,
    bounds_of,
    draw,
    make_model,
    penalty,
    repeat,
    stack,
    start_of,
    truth,
    truth_of,
)
from torusimaging_torch import model_helpers as label_functions
from torusimaging_torch.model import TorusImaging1D
from torusimaging_torch.numerics.lbfgs import Status
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.torus import acceleration as dynamics
from torusimaging_torch.units import gravitational_constant

PC = UnitSystem(u.pc, u.Gyr, u.Msun, u.radian)
POS = np.array([-0.6, 0.0, 0.4, 0.9]) * u.kpc
VEL = np.array([10.0, -20.0, 0.0, 30.0]) * u.km / u.s
objectives = pytest.mark.parametrize("objective", ["gaussian", "poisson"])
QUANTITIES = {
    "get_acceleration": u.kpc / u.Myr**2,
    "get_acceleration_deriv": u.Myr**-2,
    "get_density": u.Msun / u.kpc**3,
    "get_surface_density": u.Msun / u.kpc**2,
    "get_potential": u.kpc**2 / u.Myr**2,
}
quantities = pytest.mark.parametrize("name", list(QUANTITIES))


def tensor(x):
    return torch.tensor(np.array(x), dtype=torch.float64)


def freeze(value):
    """Return a deep copy that can be compared, to see whether someone touched the original."""
    if isinstance(value, dict):
        return {k: freeze(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(freeze(v) for v in value)
    return copy.deepcopy(value)


def assert_untouched(now, before):
    if isinstance(before, dict):
        assert now.keys() == before.keys()
        for k, v in before.items():
            assert_untouched(now[k], v)
    elif isinstance(before, tuple):
        for one, other in zip(now, before, strict=True):
            assert_untouched(one, other)
    else:
        assert type(now) is type(before)
        np.testing.assert_array_equal(now, before)


# -- labels and coordinates ------------------------------------------------------------------


def test_label_is_the_torus_in_model_units():
    model = make_model()
    p = model.border.params(truth())
    got = model.get_label(POS, VEL, truth())
    bare = tensor(POS.value), tensor(VEL.to_value(u.kpc / u.Myr))
    assert torch.equal(got, model.torus(*bare, p))
    assert torch.equal(got, model(POS, VEL, truth()))
    assert torch.equal(got, model._get_label(POS, VEL, truth()))


@pytest.mark.parametrize("pos", [POS, POS.to(u.pc), POS.value, tensor(POS.value)])
@pytest.mark.parametrize("vel", [VEL, VEL.to(u.kpc / u.Myr), VEL.to_value(u.kpc / u.Myr)])
def test_units_are_honoured_in_every_form(pos, vel):
    model = make_model()
    expected = model.get_label(POS, VEL, truth())
    torch.testing.assert_close(model.get_label(pos, vel, truth()), expected)


def test_columns_of_a_table_carry_their_units():
    model = make_model()
    table = Table({"z": POS.value, "v": VEL.value})
    table["z"].unit, table["v"].unit = u.kpc, u.km / u.s
    expected = model.get_label(POS, VEL, truth())
    torch.testing.assert_close(model.get_label(table["z"], table["v"], truth()), expected)
    data = draw(model, "gaussian")
    flat = Table({k: v.reshape(-1) for k, v in data.items()})
    got = model.objective_gaussian(truth(), **{k: flat[k] for k in data})
    assert got.item() == pytest.approx(model.objective_gaussian(truth(), **data).item(), rel=1e-12)


@pytest.mark.parametrize(
    "form",
    [float, np.float64, tensor, lambda x: np.array(x), lambda x: x * u.one],
    ids=["float", "numpy", "tensor", "array", "quantity"],
)
def test_params_come_in_every_form(form):
    p = truth()
    p = {k: form(v) if np.isscalar(v) else v for k, v in p.items()}
    if form(1.0) is not None and hasattr(form(1.0), "unit"):
        p["pos0"], p["vel0"] = 20 * u.pc, (-0.001 * u.kpc / u.Myr).to(u.km / u.s)
    p["label_params"] = {"label_vals": np.array(truth()["label_params"]["label_vals"])}
    model = make_model()
    torch.testing.assert_close(
        model.get_label(POS, VEL, p), model.get_label(POS, VEL, truth()), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pos", lambda m: m.get_label(VEL, VEL, truth())),
        ("vel", lambda m: m.get_label(POS, POS, truth())),
        ("pos", lambda m: m.compute_elliptical(VEL, VEL, truth())),
        ("pos", lambda m: m.get_acceleration(VEL, truth())),
        ("pos", lambda m: m.get_acceleration_deriv(VEL, truth())),
        ("pos", lambda m: m.get_density(VEL, truth())),
        ("pos", lambda m: m.get_surface_density(VEL, truth())),
        ("pos", lambda m: m.get_potential(VEL, truth())),
        ("vel0", lambda m: m.get_label(POS, VEL, truth() | {"vel0": 1 * u.kpc})),
        ("pos0", lambda m: m.get_acceleration(POS, truth() | {"pos0": 1 * u.Myr})),
        ("ln_Omega0", lambda m: m.get_label(POS, VEL, truth() | {"ln_Omega0": 1 / u.Myr})),
        ("vel", lambda m: m.ln_poisson_likelihood(truth(), POS, POS, [1.0] * 4)),
        ("counts", lambda m: m.objective_poisson(truth(), POS, VEL, [1.0] * 4 * u.kpc)),
        ("pos", lambda m: m.objective_gaussian(truth(), VEL, VEL, [1.0] * 4, [1.0] * 4)),
        ("label_err", lambda m: m.objective_gaussian(truth(), POS, VEL, [1] * 4, [1] * 4 * u.m)),
        ("r_e_max", lambda m: m.check_e_funcs(truth()["e_params"], 1 * u.kpc)),
        ("vel0", lambda m: m.optimize(truth(), "gaussian", {"vel0": (0, 1) * u.kpc},
                                      **draw(m, "gaussian", n=4))),
    ],
)  # fmt: skip
def test_wrong_dimensions_name_the_argument(name, arguments):
    with pytest.raises(u.UnitConversionError, match=rf"^{name} "):
        arguments(make_model())


@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_elliptical_coordinates(convention):
    r_e, theta_e = make_model(convention=convention).compute_elliptical(POS, VEL, truth())
    x = (VEL.to_value(u.kpc / u.Myr) + 0.001) / np.sqrt(OMEGA0)
    y = (POS.value - 0.02) * np.sqrt(OMEGA0)
    angle = np.arctan2(y, x) if convention == "pv" else np.arctan2(x, y)
    expected = np.hypot(x, y) * u.kpc * (u.rad / u.Myr) ** 0.5
    assert r_e.unit.is_equivalent(expected.unit)
    np.testing.assert_allclose(r_e.to_value(expected.unit), expected.value, rtol=1e-12)
    np.testing.assert_allclose(theta_e.to_value(u.rad), angle, rtol=1e-12)


@quantities
def test_dynamics_are_those_of_the_core_with_units(name):
    model = make_model()
    core = {
        "get_acceleration": dynamics.acceleration,
        "get_acceleration_deriv": dynamics.acceleration_gradient,
        "get_density": lambda *a: dynamics.density(*a, gravitational_constant(model.units)),
        "get_surface_density": lambda *a: dynamics.surface_density(
            *a, gravitational_constant(model.units)
        ),
        "get_potential": dynamics.potential,
    }[name]
    got = getattr(model, name)(POS.to(u.pc), truth())
    with u.add_enabled_equivalencies(u.dimensionless_angles()):
        value = got.to_value(QUANTITIES[name])
    expected = core(model.torus, tensor(POS.value), model.border.params(truth()))
    np.testing.assert_allclose(value, expected.numpy(), rtol=1e-12)
    # Units of an astronomer: no radian sticks to them.
    assert u.rad not in got.unit.bases


def test_poisson_equation():
    model = make_model()
    got = model.get_density(POS, truth())
    expected = -model.get_acceleration_deriv(POS, truth()) / (4 * np.pi * G)
    np.testing.assert_allclose(got.value, expected.to_value(got.unit), rtol=1e-5)
    surface = model.get_surface_density(POS, truth())
    expected = np.abs(model.get_acceleration(POS, truth())) / (2 * np.pi * G)
    np.testing.assert_allclose(surface.value, expected.to_value(surface.unit), rtol=1e-5)


@quantities
def test_other_unit_systems_give_the_same_physics(name):
    """The same model told in pc and yr: knots and frequency change their numbers, nothing else."""
    scale = (1.0 * (u.kpc**2 / u.Myr) ** 0.5).to_value((u.pc**2 / u.Gyr) ** 0.5)
    one = make_model()
    vals = np.log(scale)
    p = truth()
    p |= {"pos0": 0.02 * u.kpc, "vel0": -0.001 * u.kpc / u.Myr}
    q = p | {"ln_Omega0": p["ln_Omega0"] + np.log(1e3)}
    q["e_params"] = {
        m: {"vals": np.array(e["vals"]) - vals} for m, e in truth()["e_params"].items()
    }
    label_vals = np.array(truth()["label_params"]["label_vals"])
    q["label_params"] = {"label_vals": np.append(label_vals[0], label_vals[1:] / scale)}
    other = type(one)(
        one.label_knots * scale,
        {m: k * scale for m, k in one.e_knots.items()},
        one.e_signs,
        units=PC,
    )
    torch.testing.assert_close(other.get_label(POS, VEL, q), one.get_label(POS, VEL, p))
    left, right = getattr(one, name)(POS, p), getattr(other, name)(POS, q)
    np.testing.assert_allclose(left.value, right.to_value(left.unit), rtol=1e-6)


# -- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 2), (0,)])
def test_points_of_any_shape(shape):
    model = make_model()
    n = int(np.prod(shape))
    pos, vel = POS[:n].reshape(shape), VEL[:n].reshape(shape)
    assert model.get_label(pos, vel, truth()).shape == shape
    for quantity in model.compute_elliptical(pos, vel, truth()):
        assert quantity.shape == shape
    for name in QUANTITIES:
        assert getattr(model, name)(pos, truth()).shape == shape


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
@pytest.mark.parametrize("own_points", [True, False])
def test_batches_of_parameters(batch, own_points):
    model = make_model()
    p = repeat(truth(), *batch)
    rng = np.random.default_rng(0)
    p["ln_Omega0"] = p["ln_Omega0"] + rng.normal(0, 0.1, batch)
    pos, vel = (
        np.broadcast_to(x, (*batch, 4), subok=True) if own_points else x for x in (POS, VEL)
    )
    label = model.get_label(pos, vel, p)
    assert label.shape == (*batch, 4)
    for i in np.ndindex(batch):
        one = truth() | {"ln_Omega0": p["ln_Omega0"][i]}
        torch.testing.assert_close(label[i], model.get_label(POS, VEL, one))
        for name in QUANTITIES:
            many = getattr(model, name)(pos, p)
            np.testing.assert_allclose(
                many[i].value, getattr(model, name)(POS, one).value, rtol=1e-10, atol=1e-18
            )


# -- likelihoods -----------------------------------------------------------------------------


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


# -- names that upstream's users rely on -----------------------------------------------------


def test_private_names():
    model = make_model()
    p = truth()
    bare = POS.value, VEL.to_value(u.kpc / u.Myr)
    r_e, theta_e = model._get_elliptical_coords(*bare, p["pos0"], p["vel0"], p["ln_Omega0"])
    quantity, angle = model.compute_elliptical(POS, VEL, p)
    np.testing.assert_allclose(r_e.numpy(), quantity.value)
    np.testing.assert_allclose(theta_e.numpy(), angle.value)
    es = model._get_es(r_e, p["e_params"])
    assert list(es) == [2, 4]
    r = model._get_r(r_e, theta_e, p["e_params"])
    expected = r_e * (1 + es[2] * (2 * theta_e).cos() + es[4] * (4 * theta_e).cos())
    torch.testing.assert_close(r, expected)
    np.testing.assert_allclose(model._get_pos(r, theta_e, p).numpy(), bare[0], atol=1e-12)
    np.testing.assert_allclose(model._get_vel(r, theta_e, p).numpy(), bare[1], atol=1e-12)
    np.testing.assert_allclose(
        model._get_dacc_dpos_vmap(bare[0], p).numpy(), model.get_acceleration_deriv(POS, p).value
    )
    assert model.label_knots.shape == (4,)
    assert {m: len(k) for m, k in model.e_knots.items()} == {2: 5, 4: 3}


# -- models of one's own ---------------------------------------------------------------------


def straight(r, start, slope):
    return start + slope * r


def bent(r_e, a):
    return a * r_e**2


OWN = {
    "pos0": 0.02,
    "vel0": -0.001,
    "ln_Omega0": -2.5,
    "e_params": {2: {"a": 1.2}},
    "label_params": {"start": 0.1, "slope": 2.0},
}


def own_model(**kwargs):
    return TorusImaging1D(straight, {2: bent}, **kwargs)


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


# -- copies, types, devices ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "saved"])
@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_copies_keep_everything(how, convention, tmp_path):
    model = make_model(e_spline="quadratic", convention=convention, units=PC)
    if how == "pickle":
        copied = pickle.loads(pickle.dumps(model))
    elif how == "deepcopy":
        copied = copy.deepcopy(model)
    else:
        torch.save(model, tmp_path / "model.pt")
        copied = torch.load(tmp_path / "model.pt", weights_only=False)
    assert copied.elliptical_angle_convention == convention
    assert copied.units["length"] == u.pc
    assert copied.e_signs == model.e_signs
    assert (copied.e_spline, copied.label_spline) == ("quadratic", "quadratic")
    data = draw(make_model(convention=convention), "gaussian")
    expected = model.objective_gaussian(truth(), **data)
    assert copied.objective_gaussian(truth(), **data) == expected


def test_models_of_plain_functions_pickle():
    copied = pickle.loads(pickle.dumps(own_model(elliptical_angle_convention="vp")))
    expected = own_model(elliptical_angle_convention="vp").get_label(POS, VEL, OWN)
    assert torch.equal(copied.get_label(POS, VEL, OWN), expected)


def test_state_dict_round_trip():
    model, other = make_model(), make_model()
    other.torus.label_func.spline.knots.mul_(2)
    state = model.state_dict()
    assert any("knots" in key for key in state)
    other.load_state_dict(state)
    torch.testing.assert_close(other.label_knots, model.label_knots)


def test_float32():
    model = make_model()
    expected = model.get_label(POS, VEL, truth())
    density = model.get_density(POS, truth())
    model.to(torch.float32)
    got = model.get_label(POS, VEL, truth())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    assert model.get_density(POS, truth()).value.dtype == np.float32
    np.testing.assert_allclose(model.get_density(POS, truth()).value, density.value, rtol=1e-2)
    data = draw(model, "gaussian")
    assert model.objective_gaussian(truth(), **data).dtype == torch.float32
    assert model.check_e_funcs(truth()["e_params"], 0.35)[0]


def test_fits_in_float32():
    model = make_model().to(torch.float32)
    start = start_of("gaussian") | {"e_params": truth()["e_params"]}
    bounds = bounds_of("gaussian")
    data = draw(make_model(), "gaussian")
    result = model.optimize(start, "gaussian", bounds, tol=1e-2, **data)
    assert result.params["ln_Omega0"].dtype == torch.float32
    best = make_model().optimize(start, "gaussian", bounds, **data)
    assert result.state.fun_val == pytest.approx(best.state.fun_val, abs=1e-3)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_torchs_default_type_does_not_matter(default):
    before = torch.get_default_dtype()
    data = draw(make_model(), "gaussian", n=8)
    expected = make_model().objective_gaussian(truth(), **data)
    torch.set_default_dtype(default)
    try:
        model = make_model()
        assert model.objective_gaussian(truth(), **data) == expected
        result = model.optimize(truth(), "gaussian", bounds_of("gaussian"), max_iter=500, **data)
        own = own_model().get_acceleration(POS, OWN)
        dynamics_ = [getattr(model, name)(POS, truth()) for name in QUANTITIES]
        module = model.as_module(truth(), bounds_of("gaussian"))
        label = module(tensor(POS.value), tensor(VEL.to_value(u.kpc / u.Myr)))
    finally:
        torch.set_default_dtype(before)
    assert result.state.success
    assert all(leaf.dtype == torch.float64 for _, leaf in iter_leaves(result.params))
    assert all(x.dtype == np.float64 for x in [own, *dynamics_])
    assert label.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    model = make_model()
    expected = model.get_label(POS, VEL, truth())
    density = model.get_density(POS, truth())
    data = draw(model, "gaussian")
    best = model.optimize(start_of("gaussian"), "gaussian", bounds_of("gaussian"), **data)
    model.to("cuda")
    assert model.get_label(POS, VEL, truth()).device.type == "cuda"
    torch.testing.assert_close(model.get_label(POS, VEL, truth()).cpu(), expected)
    np.testing.assert_allclose(model.get_density(POS, truth()).value, density.value, rtol=1e-10)
    result = model.optimize(start_of("gaussian"), "gaussian", bounds_of("gaussian"), **data)
    assert result.state.fun_val == pytest.approx(best.state.fun_val, abs=1e-8)


# -- the fit ---------------------------------------------------------------------------------


def fitted(bounds="usual", start=None, data=None, **kwargs):
    model = make_model()
    chosen = bounds_of("gaussian") if isinstance(bounds, str) else bounds
    data = draw(model, "gaussian", n=10) if data is None else data
    p = start or start_of("gaussian") | {"e_params": {2: {"vals": np.full(4, -2.0)},
                                                      4: {"vals": np.full(2, -2.0)}}}  # fmt: skip
    return model.optimize(p, "gaussian", chosen, **kwargs, **data)


@pytest.fixture(scope="module")
def best():
    return fitted()


def test_state_of_a_single_fit(best):
    state = best.state
    assert state.success is True
    assert state.status is Status.CONVERGED
    assert state.message == Status.CONVERGED.message
    assert isinstance(state.iter_num, int)
    assert isinstance(state.num_fun_eval, int)
    assert 0 <= state.expected_gain <= 1e-9
    assert state.at_bound == ()
    assert state.num_masked == 0
    data = draw(make_model(), "gaussian", n=10)
    value = make_model().objective_gaussian(best.params, **data)
    assert state.fun_val == pytest.approx(value.item(), rel=1e-12)
    assert best.params["pos0"].shape == ()
    assert best.params["e_params"][2]["vals"].shape == (4,)
    assert not best.params["pos0"].requires_grad


def test_the_result_is_a_start_and_has_params_for_every_method(best):
    again = fitted(start=best.params)
    assert again.state.success
    assert again.state.fun_val <= best.state.fun_val + 1e-10
    assert make_model().get_acceleration(POS, best.params).shape == (4,)


def units_of(bounds):
    low, high = bounds["vel0"]
    return bounds | {"vel0": ((low, high) * u.kpc / u.Myr).to(u.km / u.s),
                     "pos0": (-300 * u.pc, 300 * u.pc)}  # fmt: skip


@pytest.mark.parametrize("form", ["units", "pair", "tensors", "partial", "none"])
def test_bounds_in_every_form(form, best):
    bounds = bounds_of("gaussian")
    chosen = {
        "units": units_of(bounds),
        "pair": make_model().unpack_bounds(bounds),
        "tensors": bounds | {"pos0": torch.tensor([-0.3, 0.3])},
        "partial": {"e_params": bounds["e_params"]},
        "none": None,
    }[form]
    assert fitted(bounds=chosen).state.fun_val == pytest.approx(best.state.fun_val, abs=1e-8)


def test_a_bound_that_holds_is_told():
    bounds = bounds_of("gaussian") | {"pos0": (0.1, 0.2)}
    start = start_of("gaussian") | {"pos0": 0.1}
    result = fitted(bounds=bounds, start=start | {"e_params": truth()["e_params"]})
    assert result.state.success
    assert "pos0" in result.state.at_bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos0": (-1.0, -0.5)}, r"^pos0 \[0\.0\] lies outside its bounds"),
        ({"pos0": (1.0, -1.0)}, "^pos0 .*lower bound above"),
        ({"Omega": (0.0, 1.0)}, "no parameter is called Omega"),
        ({"e_params": {6: {"vals": (0, 1)}}}, r"no parameter is called e_params\[6\]\.vals"),
        (
            {"e_params": {2: {"vals": (np.zeros(3), np.ones(3))}}},
            r"e_params\[2\]\.vals must have 4",
        ),
        ({"pos0": 1.0}, "a bound must be a pair"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fitted(bounds=bounds_of("gaussian") | change)


def test_the_callers_dictionaries_are_not_touched():
    start, bounds = start_of("gaussian"), bounds_of("gaussian")
    data = draw(make_model(), "gaussian", n=8)
    data["label"][0, 0] = np.nan
    before = [freeze(x) for x in (start, bounds, data)]
    fitted(bounds=bounds, start=start, data=data, max_iter=500)
    make_model().as_module(start, bounds)
    make_model().objective_gaussian(start, **data)
    for now, then in zip((start, bounds, data), before, strict=True):
        assert_untouched(now, then)


def test_masked_pixels_are_counted():
    data = draw(make_model(), "gaussian", n=10)
    data["label"][0, :3] = np.nan
    data["label_err"][5, 5] = 0
    result = fitted(data=data)
    assert result.state.success
    assert result.state.num_masked == 4
    assert "4 pixels" in result.state.message


def test_binned_data_are_passed_as_they_are(best):
    data = draw(make_model(), "gaussian", n=10) | {"counts": np.ones((10, 10))}
    assert fitted(data=data).state.fun_val == best.state.fun_val


def test_weights():
    data = draw(make_model(), "gaussian", n=10)
    weight = np.ones((10, 10))
    weight[:, 4] = 0
    some = {k: np.delete(v, 4, axis=1) for k, v in data.items()}
    one = fitted(data=data | {"weight": weight}).state
    assert one.fun_val == pytest.approx(fitted(data=some).state.fun_val, rel=1e-9)


def test_poisson_fits():
    model = make_model(regularization_func=penalty(label_l2_sigma=10, label_smooth_sigma=20))
    data = draw(model, "poisson")
    result = model.optimize(start_of("poisson"), "poisson", bounds_of("poisson"), **data)
    assert result.state.success
    assert result.params["pos0"].item() == pytest.approx(0.02, abs=0.05)
    assert result.params["ln_Omega0"].item() == pytest.approx(np.log(OMEGA0), abs=0.2)


def test_failures_warn_once_with_a_count():
    with pytest.warns(RuntimeWarning, match="1 of 1 fits did not converge") as caught:
        result = fitted(max_iter=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert result.state.success is False
    assert result.state.status is Status.MAX_ITER
    assert result.state.iter_num == 2


def test_a_batch_warns_once_and_has_a_state_for_each():
    model = make_model()
    datas = [draw(model, "gaussian", seed, n=8) for seed in range(3)]
    datas[1]["label"][:] = np.nan
    start = repeat(start_of("gaussian") | {"e_params": truth()["e_params"]}, 3)
    with pytest.warns(RuntimeWarning, match="1 of 3 fits did not converge") as caught:
        result = model.optimize(start, "gaussian", bounds_of("gaussian"), **stack(datas))
    assert len(caught) == 1
    assert result.state.success.tolist() == [True, False, True]
    assert len(result.state.message) == len(result.state.at_bound) == 3
    assert result.state.fun_val.shape == (3,)
    assert result.params["pos0"].shape == (3,)
    assert result.params["e_params"][4]["vals"].shape == (3, 2)
    one = model.objective_gaussian(
        {k: v[0] if torch.is_tensor(v) else None for k, v in result.params.items()}
        | {
            "e_params": {m: {"vals": e["vals"][0]} for m, e in result.params["e_params"].items()},
            "label_params": {"label_vals": result.params["label_params"]["label_vals"][0]},
        },
        **datas[0],
    )
    assert result.state.fun_val[0].item() == pytest.approx(one.item(), rel=1e-11)


def test_upstreams_options_are_taken_over_with_a_warning():
    with pytest.warns(DeprecationWarning, match="max_iter and tol") as caught:
        result = fitted(jaxopt_kwargs={"maxiter": 300, "tol": 1e-3})
    assert caught[0].filename == __file__
    assert result.state.success
    with pytest.warns() as caught:
        result = fitted(jaxopt_kwargs={"maxiter": 1})
    assert {w.category for w in caught} == {DeprecationWarning, RuntimeWarning}
    assert result.state.iter_num == 1


def test_other_options_of_upstream_name_the_replacement():
    with pytest.raises(ValueError, match=r"\['linesearch'\] have no counterpart.*max_iter, tol"):
        fitted(jaxopt_kwargs={"linesearch": "zoom"})


def test_unknown_data_and_objectives_are_refused():
    with pytest.raises(TypeError, match=r"unknown \['labels'\]"):
        fitted(data=draw(make_model(), "gaussian", n=4) | {"labels": 1.0})
    with pytest.raises(TypeError, match=r"missing \['label_err'\]"):
        fitted(data={k: v for k, v in draw(make_model(), "gaussian", n=4).items()
                     if k != "label_err"})  # fmt: skip
    with pytest.raises(ValueError, match="objective must be one of"):
        make_model().optimize(truth(), "cauchy", **draw(make_model(), "gaussian", n=4))


def test_progress_is_reported_on_standard_error(capsys):
    fitted(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "running" in captured.err
    fitted()
    assert capsys.readouterr().err == ""


def test_a_fit_is_silent_about_what_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted()


def test_unpack_bounds():
    lower, upper = TorusImaging1D.unpack_bounds(bounds_of("gaussian"))
    assert lower["pos0"] == -0.3
    assert upper["e_params"][2]["vals"] == 10
    assert lower["label_params"]["label_vals"].tolist() == [-2, 0, 0, 0]


def test_unit_system_from_a_list():
    model = TorusImaging1D(straight, {2: bent}, units=[u.pc, u.Gyr, u.Msun, u.radian])
    assert model.units["length"] == u.pc
    assert own_model().regularization_func(None, {"pos0": torch.ones(3)}).tolist() == [0] * 3
