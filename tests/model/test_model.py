"""The model's front: quantities in and out, shapes, and names of upstream."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.constants import G
from astropy.table import Table
from model_inputs import PC, POS, QUANTITIES, VEL, tensor

from disks import OMEGA0, draw, make_model, repeat, truth
from torusimaging_torch.torus import acceleration as dynamics
from torusimaging_torch.units import gravitational_constant

quantities = pytest.mark.parametrize("name", list(QUANTITIES))


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
