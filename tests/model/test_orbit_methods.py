"""Orbits as the model's methods give them: units, shapes, samples, flags and warnings."""

from __future__ import annotations

import copy
import math

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable

from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline

pytestmark = pytest.mark.filterwarnings("ignore:.* have no orbit within the fit:RuntimeWarning")

LAST_KNOT = 0.4
ACTION = u.kpc**2 / u.Myr


def make_model(convention="pv", orders=(2, 4), **kwargs):
    signs = {1: 1.0, 2: 1.0 if convention == "pv" else -1.0, 4: -1.0}
    knots = {m: np.linspace(0, LAST_KNOT, 6 if m < 3 else 4) for m in orders}
    return TorusImaging1DSpline(
        np.linspace(0, LAST_KNOT, 4),
        knots,
        {m: signs[m] for m in orders},
        elliptical_angle_convention=convention,
        **kwargs,
    )


def make_params(orders=(2, 4), shift=0.0):
    return {
        "pos0": 0.02 * u.kpc,
        "vel0": -3 * u.km / u.s,
        "ln_Omega0": math.log(0.08) + shift,
        "e_params": {
            m: {"vals": -1.0 - abs(m - 2) + 0.1 * np.arange(5 if m < 3 else 3)} for m in orders
        },
        "label_params": {"label_vals": np.ones(4)},
    }


def draw_stars(n, seed=0, reach=1.0):
    rng = np.random.default_rng(seed)
    return reach * rng.uniform(-1, 1, n) * u.kpc, reach * rng.uniform(-60, 60, n) * u.km / u.s


def test_columns_and_units():
    table = make_model().compute_action_angle(*draw_stars(10, reach=0.5), make_params())
    assert isinstance(table, QTable)
    assert table.colnames == ["T", "Omega", "J", "theta", "valid"]
    units = [u.Myr, u.rad / u.Myr, ACTION, u.rad]
    assert [table[name].unit for name in table.colnames[:4]] == units
    assert table["valid"].dtype == bool
    assert table["valid"].all()
    np.testing.assert_allclose((table["Omega"] * table["T"]).to_value(u.rad), 2 * np.pi)
    assert (table["theta"] >= 0).all()
    assert (table["theta"] < 2 * np.pi * u.rad).all()


@pytest.mark.parametrize("method", ["exact", "table"])
def test_harmonic_oscillator_in_other_units(method):
    """A model in pc, Gyr gives what the closed form says, to rounding error."""
    units = [u.pc, u.Gyr, u.Msun, u.rad]
    reach = 20 * math.sqrt(1000)  # kpc sqrt(rad/Myr) are 1000 sqrt(1000) pc sqrt(rad/Gyr)
    model = TorusImaging1DSpline(
        [0.0, 2000 * reach], {2: [0.0, 2000 * reach]}, {2: 1.0}, units=units
    )
    Omega = 80 * u.rad / u.Gyr
    params = {
        "pos0": 20 * u.pc,
        "vel0": -3 * u.km / u.s,
        "ln_Omega0": np.log(80),
        "e_params": {2: {"vals": [-700.0]}},
        "label_params": {"label_vals": [0.0, 1.0]},
    }
    z, v = draw_stars(200)
    table = model.compute_action_angle(z, v, params, method=method)
    x, w, rate = z - 20 * u.pc, v + 3 * u.km / u.s, Omega / u.rad
    J = (w**2 / rate + rate * x**2) / 2
    np.testing.assert_allclose((table["J"] / J).to_value(u.one), 1, rtol=1e-10)
    np.testing.assert_allclose((table["T"] * rate).to_value(u.one), 2 * np.pi, rtol=1e-10)
    theta = np.arctan2((rate * x).to_value(u.km / u.s), w.to_value(u.km / u.s)) % (2 * np.pi)
    np.testing.assert_allclose(table["theta"].to_value(u.rad), theta, atol=1e-10)
    assert table["T"].unit == u.Gyr


def test_any_unit_and_shape_gives_the_same_numbers():
    model, params = make_model(), make_params()
    z, v = draw_stars(12, reach=0.5)
    table = model.compute_action_angle(z, v, params)
    bare = model.compute_action_angle(z.value, v.to_value(u.kpc / u.Myr), params)
    grid = model.compute_action_angle(z.to(u.pc).reshape(3, 4), v.reshape(3, 4), params)
    for name in ("T", "J", "theta"):
        np.testing.assert_allclose(bare[name], table[name], rtol=1e-12)
        np.testing.assert_allclose(grid[name].ravel(), table[name], rtol=1e-12)
    one = model.compute_action_angle(z[0], v[0], params)
    assert len(one) == 1
    np.testing.assert_allclose(one["J"], table["J"][:1])
    assert len(model.compute_action_angle(z[:0], v[:0], params)) == 0
    with pytest.raises(u.UnitConversionError, match="vel"):
        model.compute_action_angle(z, z, params)
    with pytest.raises(ValueError, match="broadcast"):
        model.compute_action_angle(z, v[:5], params)


def test_methods_agree_and_are_chosen():
    model, params = make_model(), make_params()
    z, v = draw_stars(3000)
    exact = model.compute_action_angle(z, v, params, method="exact")
    table = model.compute_action_angle(z, v, params, method="table")
    auto = model.compute_action_angle(z, v, params)
    few = model.compute_action_angle(z[:100], v[:100], params)
    assert (exact["valid"] == table["valid"]).all()
    assert 0.5 < exact["valid"].mean() < 1
    np.testing.assert_allclose(table["J"], exact["J"], rtol=1e-6)
    np.testing.assert_allclose(table["T"], exact["T"], rtol=1e-6)
    turn = (table["theta"] - exact["theta"]).to_value(u.rad)
    assert np.nanmax(np.abs((turn + np.pi) % (2 * np.pi) - np.pi)) < 1e-6
    np.testing.assert_array_equal(auto["J"], table["J"])
    np.testing.assert_allclose(few["J"], exact["J"][:100], rtol=1e-12)
    with pytest.raises(ValueError, match="method"):
        model.compute_action_angle(z, v, params, method="fast")


def test_a_million_rows_with_unusable_ones_between():
    model, params = make_model(), make_params()
    n = 1_000_000
    z, v = (x.copy() for x in draw_stars(n, reach=0.4))
    bad = np.zeros(n, dtype=bool)
    for step, (position, velocity) in enumerate(
        [(np.nan, 0), (np.inf, 0), (0, -np.inf), (0, np.nan), (1e6, 0), (0, 1e9), (-50, 500)]
    ):
        rows = slice(step, None, 1009)
        z[rows], v[rows] = position * u.kpc, velocity * u.km / u.s
        bad[rows] = True
    centre = slice(500, None, 1009)
    z[centre], v[centre] = params["pos0"], params["vel0"]
    table = model.compute_action_angle(z, v, params)
    np.testing.assert_array_equal(table["valid"], ~bad)
    for name in ("T", "Omega", "J", "theta"):
        np.testing.assert_array_equal(np.isnan(table[name]), bad)
    assert np.abs(table["J"][centre]).max() < 1e-25 * ACTION
    np.testing.assert_allclose(table["T"][centre].to_value(u.Myr), 2 * np.pi / 0.08)
    some = np.arange(0, n, 5003)
    exact = model.compute_action_angle(z[some], v[some], params)
    np.testing.assert_allclose(table["J"][some], exact["J"], rtol=1e-6)


def test_masked_values_are_not_valid():
    z, v = draw_stars(4, reach=0.5)
    masked = np.ma.array(z.value, mask=[False, True, False, False])
    with pytest.warns(RuntimeWarning, match="^1 of 4 stars have no orbit within the fit"):
        table = make_model().compute_action_angle(masked, v, make_params())
    assert table["valid"].tolist() == [True, False, True, True]


# -- the way back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["pv", "vp"])
def test_round_trip(convention):
    model, params = make_model(convention), make_params()
    z, v = draw_stars(700)
    table = model.compute_action_angle(z, v, params, method="exact")
    pos, vel = model.compute_phase_space(table["J"], table["theta"], params)
    ok = table["valid"]
    assert pos.unit == u.kpc
    assert vel.unit == u.kpc / u.Myr
    np.testing.assert_array_equal(np.isfinite(pos), ok)
    assert np.abs(pos - z)[ok].max() < 1e-8 * u.kpc
    assert np.abs(vel - v)[ok].max() < 1e-8 * u.kpc / u.Myr
    turned, _ = model.compute_phase_space(table["J"], table["theta"] - 4 * np.pi * u.rad, params)
    assert np.abs(turned - z)[ok].max() < 1e-8 * u.kpc
    with pytest.raises(u.UnitConversionError, match="J"):
        model.compute_phase_space(z, table["theta"], params)


def test_orbit_starts_where_the_star_is_and_returns():
    model, params = make_model(), make_params()
    z, v = draw_stars(6, reach=0.5)
    T = model.compute_action_angle(z, v, params)["T"]
    pos, vel = model.orbit(z.reshape(2, 3), v.reshape(2, 3), params, [0, 10, 1000] * u.Myr)
    assert pos.shape == vel.shape == (2, 3, 3)
    assert np.abs(pos[..., 0] - z.reshape(2, 3)).max() < 1e-9 * u.kpc
    assert np.abs(vel[..., 0] - v.reshape(2, 3)).max() < 1e-9 * u.kpc / u.Myr
    back, _ = model.orbit(z[0], v[0], params, T[0])
    assert abs(back - z[0]) < 1e-9 * u.kpc
    label = model.get_label(pos, vel, params)
    np.testing.assert_allclose(label[..., 2], label[..., 0], rtol=1e-10)


def test_orbit_of_small_oscillations_is_that_of_the_models_acceleration():
    """Near the midplane the acceleration at v = 0 holds at every velocity: see the acceleration."""
    model, params = make_model(orders=(2,)), make_params(orders=(2,))
    size = 1e-5 * u.kpc
    t = np.linspace(0, 100, 7) * u.Myr
    pos, _ = model.orbit(params["pos0"] + size, params["vel0"], params, t)
    gradient = model.get_acceleration_deriv(params["pos0"], params)
    frequency = np.sqrt(-gradient).to_value(1 / u.Myr)
    expected = size * np.cos(frequency * t.value)
    np.testing.assert_allclose(
        (pos - params["pos0"]).to_value(u.kpc), expected.to_value(u.kpc), atol=1e-9
    )


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["list", "stacked"])
@pytest.mark.parametrize("method", ["exact", "table"])
def test_samples_give_medians_and_percentiles(form, method):
    model = make_model()
    rng = np.random.default_rng(3)
    samples = [make_params(shift=s) for s in 0.05 * rng.normal(size=9)]
    z, v = draw_stars(60, reach=1.0)
    z[0], v[0] = 0.0201 * u.kpc, 20 * u.km / u.s  # theta about 0, to either side
    tables = [model.compute_action_angle(z, v, p, method=method) for p in samples]
    if form == "stacked":
        stacked = copy.deepcopy(samples[0])
        stacked["ln_Omega0"] = torch.tensor([p["ln_Omega0"] for p in samples])
        stacked["pos0"] = np.full(9, 0.02) * u.kpc
        stacked["vel0"] = np.full(9, -3.0) * u.km / u.s
        for m in (2, 4):
            vals = [p["e_params"][m]["vals"] for p in samples]
            stacked["e_params"][m]["vals"] = np.stack(vals)
        stacked["label_params"]["label_vals"] = np.ones((9, 4))
        samples = stacked
    result = model.compute_action_angle(z, v, samples, method=method, percentiles=(5, 95))
    fraction = np.mean([t["valid"] for t in tables], axis=0)
    np.testing.assert_allclose(result["valid_fraction"], fraction)
    np.testing.assert_array_equal(result["valid"], fraction == 1)
    ok = result["valid"]
    assert 0 < ok.sum() < len(z)
    for name in ("T", "Omega", "J"):
        values = np.stack([t[name].value for t in tables])
        for column, q in ((name, 50), (f"{name}_p5", 5), (f"{name}_p95", 95)):
            assert result[column].unit == tables[0][name].unit
            np.testing.assert_allclose(
                result[column].value[ok], np.percentile(values, q, axis=0)[ok], rtol=1e-10
            )
            assert np.isnan(result[column][~ok]).all()
    width = (result["theta_p95"] - result["theta_p5"]).to_value(u.rad)[ok]
    assert (width >= 0).all()
    assert width.max() < 0.5
    theta = np.stack([t["theta"].value for t in tables])[:, ok]
    off = (theta - result["theta"].value[ok] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.median(off, axis=0)).max() < 1e-12


def test_batch_of_problems_has_stars_of_its_own():
    model = make_model()
    params = [make_params(), make_params(shift=0.1)]
    batch = copy.deepcopy(params[0])
    for key, unit in (("pos0", u.kpc), ("vel0", u.km / u.s)):
        batch[key] = [p[key].value for p in params] * unit
    batch["ln_Omega0"] = [p["ln_Omega0"] for p in params]
    for m in (2, 4):
        batch["e_params"][m]["vals"] = np.stack([p["e_params"][m]["vals"] for p in params])
    batch["label_params"]["label_vals"] = np.ones((2, 4))
    z, v = (x.reshape(2, 40) for x in draw_stars(80, reach=0.4))
    for method in ("exact", "table"):
        table = model.compute_action_angle(z, v, batch, method=method)
        alone = [
            model.compute_action_angle(a, b, p, method=method)
            for a, b, p in zip(z, v, params, strict=True)
        ]
        np.testing.assert_allclose(
            table["J"].value, [t["J"].value for t in alone], rtol=4e-7, equal_nan=True
        )
    pos, _ = model.compute_phase_space(table["J"], table["theta"], batch)
    assert np.abs(pos - z).max() < 1e-5 * u.kpc
    path, _ = model.orbit(z, v, batch, [0, 3] * u.Myr)
    assert path.shape == (2, 40, 2)
    assert np.abs(path[..., 0] - z).max() < 1e-9 * u.kpc


def test_frequency_curve():
    model, params = make_model(), make_params()
    curve = model.compute_frequency_curve(params)
    assert curve.colnames == ["J", "T", "Omega"]
    assert len(curve) == 100
    assert np.isfinite(curve["T"]).all()
    np.testing.assert_allclose(curve["Omega"][0].to_value(u.rad / u.Myr), 0.08)
    assert (np.diff(curve["Omega"]) < 0).all()
    stars = model.compute_action_angle(*draw_stars(50, reach=0.5), params)
    again = model.compute_frequency_curve(params, stars["J"])
    np.testing.assert_allclose(again["T"], stars["T"], rtol=1e-10)
    table = model.compute_frequency_curve(params, stars["J"], method="table")
    np.testing.assert_allclose(table["T"], stars["T"], rtol=1e-6)
    beyond = model.compute_frequency_curve(params, 2 * curve["J"][-1:])
    assert np.isnan(beyond["T"]).all()


def test_frequency_curve_with_bands():
    model = make_model()
    samples = [make_params(shift=s) for s in (-0.1, 0.0, 0.1)]
    J = [0.001, 0.01] * ACTION
    curve = model.compute_frequency_curve(samples, J, percentiles=(0, 100))
    alone = [model.compute_frequency_curve(p, J)["Omega"].value for p in samples]
    np.testing.assert_allclose(curve["Omega"].value, alone[1], rtol=1e-12)
    np.testing.assert_allclose(curve["Omega_p0"].value, alone[0], rtol=1e-12)
    np.testing.assert_allclose(curve["Omega_p100"].value, alone[2], rtol=1e-12)
    assert np.isfinite(model.compute_frequency_curve(samples)["T"]).all()


# -- what it says ---------------------------------------------------------------------------------


def test_odd_orders_in_pv_warn_once_and_give_the_area():
    orders = (1, 2)
    model, params = make_model(orders=orders), make_params(orders)
    z, v = draw_stars(20, reach=0.3)
    with pytest.warns(RuntimeWarning, match="vp") as caught:
        table = model.compute_action_angle(z, v, params)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert table["valid"].all()
    assert np.isfinite(table["J"]).all()
    for name in ("T", "Omega", "theta"):
        assert np.isnan(table[name]).all()
    with pytest.warns(RuntimeWarning, match="vp"):
        tabulated = model.compute_action_angle(z, v, params, method="table")
    np.testing.assert_allclose(tabulated["J"], table["J"], rtol=1e-6)


def test_upstreams_bisection_options_are_accepted():
    model, params = make_model(), make_params()
    z, v = draw_stars(5, reach=0.3)
    with pytest.warns(DeprecationWarning, match="N_grid and method"):
        table = model.compute_action_angle(z, v, params, 32, {"maxiter": 100})
    np.testing.assert_array_equal(table["J"], model.compute_action_angle(z, v, params)["J"])


def test_model_without_knots():
    def e(r_e, a):
        return a * torch.tanh(r_e**2)

    model = TorusImaging1D(lambda r, a: a * r, {2: e})
    params = {
        "pos0": 0.0,
        "vel0": 0.0,
        "ln_Omega0": math.log(0.08),
        "e_params": {2: {"a": 0.1}},
        "label_params": {"a": 1.0},
    }
    z, v = draw_stars(2500)
    table = model.compute_action_angle(z, v, params)
    assert table["valid"].all()
    far = model.compute_action_angle([1e8, 1e-8], [0, 0], params)
    assert far["valid"].all()
    with pytest.raises(ValueError, match="knots"):
        model.compute_action_angle(z, v, params, method="table")
    with pytest.raises(ValueError, match="J must be given"):
        model.compute_frequency_curve(params)
    pos, _ = model.compute_phase_space(table["J"][:50], table["theta"][:50], params)
    assert np.abs(pos - z[:50]).max() < 1e-8 * u.kpc


def test_no_samples():
    with pytest.raises(ValueError, match="at least one"):
        make_model().compute_action_angle(*draw_stars(3), [])
