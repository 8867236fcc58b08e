"""The model with a potential inside: all that the other model does, on a disk of its own family."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from functools import partial

import astropy.units as u
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.batch import fit_many
from torusimaging_torch.cross_validation import select
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.model_potential import regularization_func_potential
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.plot import plot_acceleration_density, plot_spline_functions
from torusimaging_torch.results import BatchResult, FitResult, profiles
from torusimaging_torch.simulate import milky_way, milky_way_disk

HEIGHTS = [0.15, 0.4, 1.2] * u.kpc
OMEGA = 0.08 * u.rad / u.Myr
POS = np.linspace(0.05, 1.0, 9) * u.kpc


def make(**kwargs):
    return TorusImaging1DPotential(np.linspace(0, 0.4, 5), HEIGHTS, OMEGA, **kwargs)


def truth(**changes):
    params = {
        "pos0": 20 * u.pc,
        "vel0": -1 * u.km / u.s,
        "ln_rho": [15.0, 18.3, 17.5, 16.5],
        "label_params": {"label_vals": [0.1, 0.9, 0.8, 0.7, 0.6]},
    }
    return params | changes


CORRECTION = {"e_params": {2: {"vals": [0.2, -0.15, 0.1]}}}
KNOTS = {2: [0, 0.15, 0.3, 0.45]}
MODELS = pytest.mark.parametrize(
    ("model", "params"),
    [(make(), truth()), (make(e_knots=KNOTS), truth(**CORRECTION))],
    ids=["potential", "hybrid"],
)


@pytest.fixture(scope="module")
def disk():
    stars = milky_way_disk(100_000, R=8.3 * u.kpc, seed=3)
    bins = {
        "pos": np.linspace(-1.5, 1.5, 51) * u.kpc,
        "vel": np.linspace(-90, 90, 51) * u.km / u.s,
    }
    binned = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins, label_err=stars["label_err"]
    )
    model, bounds, start = TorusImaging1DPotential.auto_init(binned)
    return model, bounds, binned, model.optimize(start, "gaussian", bounds, **binned)


# -- forces ----------------------------------------------------------------------------------------


def test_auto_init_needs_data_alone_and_the_fit_finds_the_force(disk):
    model, bounds, _, (params, state) = disk
    assert state.success
    assert state.at_bound == ()
    assert state.evaluation.startswith("torch")
    assert set(bounds) == set(params) == {"pos0", "vel0", "ln_rho", "label_params"}
    assert model.heights.shape == (10,)
    assert params["ln_rho"].shape == (11,)
    z = np.linspace(0.1, 1.1, 40) * u.kpc
    force, true = model.get_acceleration(z, params), milky_way(8.3 * u.kpc).acceleration(z)
    assert np.sqrt(np.mean((force / true - 1) ** 2)) < 0.05
    assert (model.get_density(np.linspace(-4, 4, 81) * u.kpc, params).value > 0).all()


def test_density_surface_density_and_potential_are_exact():
    model, params = make(), truth()
    w, h = np.exp(params["ln_rho"]), HEIGHTS.value

    def rho(z):
        return w[0] + (w[1:] / np.cosh(z / h) ** 2).sum()

    G = model.border.G
    for z in (0.1, 0.7, 2.0):
        pos = z * u.kpc + params["pos0"]
        density = model.get_density(pos, params).to_value(u.Msun / u.kpc**3)
        assert density == pytest.approx(rho(z), rel=1e-12)
        surface = model.get_surface_density(pos, params).to_value(u.Msun / u.kpc**2)
        assert surface == pytest.approx(2 * quad(rho, 0, z, epsrel=1e-12)[0], rel=1e-11)
        phi = model.get_potential(pos, params).to_value(u.kpc**2 / u.Myr**2)
        work = quad(lambda x, z=z: 4 * math.pi * G * rho(x) * (z - x), 0, z, epsrel=1e-12)[0]
        assert phi == pytest.approx(work, rel=1e-10)


def test_vp_is_refused_with_the_reason(disk):
    with pytest.raises(ValueError, match="symmetric in velocity.*use TorusImaging1DSpline"):
        TorusImaging1DPotential.auto_init(disk[2], elliptical_angle_convention="vp")
    with pytest.raises(ValueError, match="odd order says nothing about the force, got \\[3\\]"):
        make(e_knots={3: [0, 0.2, 0.4]})


# -- evaluation ------------------------------------------------------------------------------------


def problem(model, params, objective="gaussian", batch=(), seed=0):
    rng = np.random.default_rng(seed)
    shape = (*batch, 60)
    data = {"pos": rng.uniform(-1, 1, shape), "vel": rng.uniform(-0.06, 0.06, shape)}
    data["pos"][..., 0] = 0.02  # in the midplane
    if objective == "gaussian":
        data |= {"label": rng.normal(size=shape), "label_err": rng.uniform(0.1, 0.3, shape)}
    else:
        data |= {"counts": rng.poisson(3.0, shape).astype(float)}
    data["weight"] = rng.uniform(0.5, 1.5, shape)
    if batch:
        params = model.border.samples([params] * batch[0])
        params["ln_rho"] = params["ln_rho"] + torch.tensor(rng.normal(0, 0.2, (batch[0], 4)))
    return model.posterior_at(params, data, objective), params, data


def penalty(orders=()):
    return partial(
        regularization_func_potential,
        label_smooth_sigma=0.4,
        ln_rho_mean=17.0,
        ln_rho_sigma=1.5,
        e_sigmas=dict.fromkeys(orders, 0.3),
    )


@pytest.mark.parametrize("objective", ["gaussian", "poisson"])
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_formulas_equal_autograd(objective, hybrid, batch):
    model = make(
        e_knots=KNOTS if hybrid else None, regularization_func=penalty(KNOTS if hybrid else ())
    )
    params = truth(**(CORRECTION if hybrid else {}))
    (posterior, x), p, data = problem(model, params, objective, batch)
    assert posterior.evaluated_by == "torch"
    auto, _ = model.posterior_at(p, data, objective, "autograd")
    value, gradient = posterior.value_and_gradient(x)
    expected = auto.value_and_gradient(x)
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=1e-12)
    size = float(expected[1].abs().max())
    torch.testing.assert_close(gradient, expected[1], rtol=1e-11, atol=1e-12 * size)
    information = auto.data_information(x)
    size = float(information.abs().max())
    torch.testing.assert_close(
        posterior.data_information(x), information, rtol=1e-9, atol=1e-12 * size
    )
    hessian = auto.hessian(x)
    size = float(hessian.abs().max())
    torch.testing.assert_close(posterior.hessian(x), hessian, rtol=1e-9, atol=1e-11 * size)
    penalty_hessian = auto.penalty_hessian(x)
    torch.testing.assert_close(
        posterior.penalty_hessian(x), penalty_hessian, rtol=1e-12, atol=1e-12
    )


def test_rows_are_problems_of_the_batch():
    model = make(regularization_func=penalty())
    (posterior, x), _, _ = problem(model, truth(), batch=(3,))
    rows = torch.tensor([2, 0])
    some = posterior.value_and_gradient(x[rows], rows)
    every = posterior.value_and_gradient(x)
    for a, b in zip(some, every, strict=True):
        torch.testing.assert_close(a, b[rows], rtol=1e-12, atol=1e-9)


def test_the_hessian_goes_through_the_seam():
    model = make(regularization_func=penalty())
    (posterior, x), p, data = problem(model, truth())
    auto, _ = model.posterior_at(p, data, "gaussian", "autograd")
    found = torch.autograd.functional.hessian(posterior, x)
    size = float(found.abs().max())
    torch.testing.assert_close(found, batched_hessian(auto, x), rtol=1e-9, atol=1e-11 * size)


def test_log_densities_are_logarithms_to_the_fit():
    (posterior, _), _, _ = problem(make(e_knots=KNOTS), truth(**CORRECTION))
    assert isinstance(posterior, Posterior)
    names = [n for n, log in zip(posterior.layout.names, posterior.logarithmic, strict=True) if log]
    assert names == [f"ln_rho[{i}]" for i in range(4)]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "expected", "sandwich"])
def test_bounds_of_all_kinds(disk, kind):
    model, bounds, binned, (params, _) = disk
    covariance = model.get_crlb(params, binned, hessian=kind, bounds=bounds)
    assert covariance.isfinite().all()
    table = profiles(model, params, POS, covariance)
    relative = np.abs(table["acceleration_err"] / table["acceleration"])
    assert (relative > 1e-4).all()
    assert (relative < 0.2).all()


def test_samples_and_laplace_check(disk):
    model, bounds, binned, (params, _) = disk
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # too few draws
        samples = model.sample(binned, params, bounds, num_samples=20, num_warmup=20, seed=1)
    assert samples.params["ln_rho"].shape == (20, 11)
    assert profiles(model, samples, POS)["density_p50"].value.min() > 0
    check = model.check_laplace(params, binned, bounds=bounds, size=60)
    assert math.isfinite(check.khat)


def test_errors_of_the_frequency_by_linear_propagation(disk):
    model, bounds, binned, (params, state) = disk
    covariance = model.get_crlb(params, binned, bounds=bounds)
    result = FitResult(model, params, bounds, state, "gaussian", covariance=covariance)
    value, error = result.measured("Omega0")
    rho = model.get_density(params["pos0"].item() * u.kpc, params).to_value(u.Msun / u.kpc**3)
    assert value.value == pytest.approx(math.sqrt(4 * math.pi * model.border.G * rho))
    table = profiles(model, params, [params["pos0"].item()] * u.kpc, covariance)
    relative = float((table["density_err"] / table["density"])[0])
    assert error.value == pytest.approx(0.5 * value.value * relative, rel=1e-6)
    with pytest.raises(ValueError, match="name must be one of"):
        result.quantity("ln_Omega0")


# -- orbits ----------------------------------------------------------------------------------------


def quadrature(model, params, z_max):
    """Return action and period of an orbit that turns at z_max above pos0, by SciPy."""
    zero = {**params, "pos0": 0.0, "vel0": 0.0}

    def speed(z):
        phi = [
            model.get_potential(x * u.kpc, zero).to_value(u.kpc**2 / u.Myr**2) for x in (z_max, z)
        ]
        return math.sqrt(max(2 * (phi[0] - phi[1]), 0.0))

    # z = z_max sin t takes the root at the turning point away.
    def at(t, f):
        z = z_max * math.sin(t)
        return f(speed(z)) * z_max * math.cos(t)

    J = 4 / (2 * math.pi) * quad(lambda t: at(t, lambda v: v), 0, math.pi / 2, epsrel=1e-10)[0]
    T = 4 * quad(lambda t: at(t, lambda v: 1 / v), 0, math.pi / 2 - 1e-7, epsrel=1e-9)[0]
    return J, T


@pytest.mark.parametrize("method", ["exact", "table"])
@pytest.mark.parametrize("z_max", [0.05, 0.3, 1.0])
def test_actions_and_periods_are_those_of_the_potential(method, z_max):
    model, params = make(), truth()
    J, T = quadrature(model, params, z_max)
    found = model.compute_action_angle(
        z_max * u.kpc + params["pos0"], params["vel0"], params, method=method
    )
    rel = 1e-7 if method == "exact" else 1e-5
    assert found["J"].to_value(u.kpc**2 / u.Myr) == pytest.approx(J, rel=rel)
    assert found["T"].to_value(u.Myr) == pytest.approx(T, rel=max(rel, 1e-5))
    assert found["theta"].to_value(u.rad) == pytest.approx(math.pi / 2, abs=1e-6)


@MODELS
def test_orbits_come_back_and_keep_their_action(model, params):
    pos, vel = [0.1, 0.5, -0.3] * u.kpc, [20, -10, 5] * u.km / u.s
    there = model.compute_action_angle(pos, vel, params, method="exact")
    assert there["valid"].all()
    back = model.compute_phase_space(there["J"], there["theta"], params)
    np.testing.assert_allclose(back[0].to_value(u.kpc), pos.value, rtol=1e-7)
    np.testing.assert_allclose(back[1].to_value(u.km / u.s), vel.value, rtol=1e-6)


class HybridContour:
    """The contour of a hybrid that turns at a position above pos0, point by point, by SciPy."""

    def __init__(self, model, params, top):
        self.torus, self.p = model.torus, model.border.params(params)
        self.r = self.radius(top, 0.0)
        low = brentq(lambda z: self.radius(z, 0.0) - self.r, -1.0, 0.0)
        self.middle, self.half = (top + low) / 2, (top - low) / 2

    def radius(self, z, v):
        z = torch.tensor(z, dtype=torch.float64)
        return float(self.torus.radius(z, self.p["vel0"] + v, self.p))

    def speed(self, z):
        return brentq(lambda v: self.radius(z, v) - self.r, 0, 0.2, xtol=1e-16)

    def integral(self, f, end=math.pi / 2):
        """Integrate f(v) by the position upwards, which is middle + half sin(t), to t = end."""

        def at(t):
            return f(self.speed(self.middle + self.half * math.sin(t) * (1 - 1e-13)))

        low, high = -math.pi / 2 + 1e-6, min(end, math.pi / 2 - 1e-6)
        return quad(lambda t: at(t) * self.half * math.cos(t), low, high, epsrel=1e-8)[0]

    def time_to(self, z):
        return self.integral(lambda v: 1 / v, math.asin((z - self.middle) / self.half))


def test_the_hybrids_action_period_and_angle_are_those_of_its_contour():
    model, params = make(e_knots=KNOTS), truth(**CORRECTION)
    contour = HybridContour(model, params, 0.4)
    z = 0.25
    v = contour.speed(z) + float(contour.p["vel0"])
    found = model.compute_action_angle(z, v, params, method="exact")
    area, T = 2 * contour.integral(lambda v: v), 2 * contour.integral(lambda v: 1 / v)
    since = contour.time_to(z) - contour.time_to(float(contour.p["pos0"]))
    assert found["J"].to_value(u.kpc**2 / u.Myr) == pytest.approx(area / (2 * math.pi), rel=1e-5)
    assert found["T"].to_value(u.Myr) == pytest.approx(T, rel=1e-5)
    assert found["theta"].to_value(u.rad) == pytest.approx(2 * math.pi * since / T, abs=1e-5)


# -- manners ---------------------------------------------------------------------------------------


@MODELS
def test_it_can_be_trained(model, params):
    layer = model.as_module(params)
    pos, vel = torch.tensor([0.1, 0.5]).double(), torch.tensor([0.01, 0.0]).double()
    torch.testing.assert_close(layer(pos, vel), model.torus(pos, vel, model.border.params(params)))
    layer(pos, vel).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("ending", ["ecsv", "fits", "hdf5", "parquet"])
def test_results_on_disk_are_the_same_to_the_last_bit(disk, tmp_path, ending):
    model, bounds, binned, (params, state) = disk
    covariance = model.get_crlb(params, binned, bounds=bounds)
    result = FitResult(model, params, bounds, state, "gaussian", {"n": 1}, covariance)
    result.write(tmp_path / f"fit.{ending}")
    again = FitResult.read(tmp_path / f"fit.{ending}")
    assert isinstance(again.model, TorusImaging1DPotential)
    layout = Layout.of(model.border.params(params))
    assert torch.equal(layout.flatten(again.params), layout.flatten(params))
    assert torch.equal(again.model.heights, model.heights)
    objective = float(
        again.model.objective_gaussian(
            again.params, **{k: binned[k] for k in ("pos", "vel", "label", "label_err")}
        )
    )
    assert objective == pytest.approx(state.fun_val, rel=1e-12)
    found, expected = again.profiles(POS), result.profiles(POS)
    np.testing.assert_array_equal(found["density_err"], expected["density_err"])
    assert not found["extrapolated"].any()
    assert result.profiles([5] * u.kpc)["extrapolated"].all()


def test_copies_and_repr(disk):
    model, _, _, (params, _) = disk
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(
            other.get_label(POS, 0 * u.km / u.s, params),
            model.get_label(POS, 0 * u.km / u.s, params),
        )
    assert "PotentialEllipse(10 heights from" in repr(model)


@MODELS
def test_it_can_be_drawn(model, params):
    _, axs = plot_spline_functions(model, params, pyplot=False)
    assert len(axs) == 2
    plot_acceleration_density(model, params, POS, pyplot=False)


# -- many ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disks():
    binned = []
    for seed in range(3):
        stars = milky_way_disk(20_000 + 5_000 * seed, R=(7 + seed) * u.kpc, seed=seed)
        half = (1.2 + 0.1 * seed) * u.kpc
        bins = {
            "pos": np.linspace(-1, 1, 31) * half,
            "vel": np.linspace(-90, 90, 31) * u.km / u.s,
        }
        binned.append(
            get_binned_label(
                stars["z"], stars["v_z"], stars["label"], bins, label_err=stars["label_err"]
            )
        )
    return binned


@pytest.mark.parametrize("e_knots", [None, {2: 4}])
def test_many_are_fitted_as_one_is(disks, tmp_path, e_knots):
    result = fit_many(disks, model="potential", e_knots=e_knots, progress=False, hessian="expected")
    assert result.success.all()
    for i, binned in enumerate(disks):
        model, bounds, start = TorusImaging1DPotential.auto_init(binned, e_knots=e_knots)
        params, state = model.optimize(start, "gaussian", bounds, tol=1e-13, **binned)
        own = result[i]
        assert isinstance(own.model, TorusImaging1DPotential)
        torch.testing.assert_close(own.model.heights, model.heights)
        assert own.state.fun_val == pytest.approx(state.fun_val, rel=1e-9)
        sigma = np.sqrt(np.diagonal(own.covariance))
        layout = Layout.of(params)
        miss = (layout.flatten(own.params) - layout.flatten(params)).numpy()
        assert (np.abs(miss) < 1e-3 * sigma).all()
        posterior, x = own.model.posterior_at(own.params, binned)
        _, gradient = posterior.value_and_gradient(x)
        assert float(posterior.objective(x)) == pytest.approx(state.fun_val, rel=1e-9)
        assert (gradient.abs().numpy() * sigma < 1e-3).all()
    result.write(tmp_path / "fits.parquet")
    again = BatchResult.read(tmp_path / "fits.parquet")
    z = [0.3, 0.8] * u.kpc
    for name, values in result.profiles(z).items():
        np.testing.assert_array_equal(again.profiles(z)[name], values)
    relative = result.profiles(z)["acceleration_err"] / result.profiles(z)["acceleration"]
    assert (np.abs(relative) < 0.3).all()


def test_arguments_of_many_are_checked(disks):
    with pytest.raises(TypeError, match="unknown arguments \\['label_l2_sigma'\\]: a potential"):
        fit_many(disks, model="potential", label_l2_sigma=1.0, progress=False)
    with pytest.raises(ValueError, match="label_knots and e_knots must be given for a torus"):
        fit_many(disks, progress=False)
    with pytest.raises(ValueError, match="model must be one of"):
        fit_many(disks, model="ellipse", progress=False)


def test_both_models_can_be_compared_on_data_held_out(disks):
    torus = {"model": "torus", "e_knots": {2: 4}, "label_knots": 4, "regularization_func": False}
    grid = [torus, {"model": "potential", "n_components": 3}, {"model": "potential"}]
    found = select(disks[2], grid, n_folds=3, progress=False)
    assert [c.n_params for c in found.candidates] == [3 + 3 + 4, 3 + 3 + 6, 3 + 10 + 6]
    assert np.isfinite(np.asarray(found.score)).all()
    assert found.fits_converged.min() >= 0.5
