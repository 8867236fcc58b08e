"""The model with a potential inside: forces, errors, files and many fits at once."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from potential_models import HEIGHTS, MODELS, make, truth
from scipy.integrate import quad

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.batch import fit_many
from torusimaging_torch.cross_validation import select
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.model_potential import LABEL_SPLINE, N_SHEETS
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.plot import plot_acceleration_density, plot_spline_functions
from torusimaging_torch.results import BatchResult, FitResult, profiles
from torusimaging_torch.simulate import milky_way, milky_way_disk

POS = np.linspace(0.05, 1.0, 9) * u.kpc
TORUS = {"model": "torus", "e_knots": {2: 4}, "label_knots": 4, "regularization_func": False}


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
    assert state.evaluation == "numba"
    assert set(bounds) == set(params) == {"pos0", "vel0", "ln_rho", "label_params"}
    assert model.heights.shape == (N_SHEETS,)
    assert params["ln_rho"].shape == (N_SHEETS + 1,)
    assert model.label_spline == LABEL_SPLINE == "cubic"
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
    assert samples.params["ln_rho"].shape == (20, N_SHEETS + 1)
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
    assert f"PotentialEllipse({N_SHEETS} heights from" in repr(model)


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


def test_one_height_is_a_height_for_many_too(disks):
    result = fit_many(disks[:1], model="potential", heights=0.4 * u.kpc, progress=False)
    own = result[0]
    assert own.params["ln_rho"].shape == (2,)
    assert own.model.heights.tolist() == [0.4]
    found = select(
        disks[0], {"heights": [0.4 * u.kpc]}, model="potential", n_folds=2, progress=False
    )
    assert [one.n_params for one in found.candidates] == [3 + 1 + 6]


def test_arguments_of_many_are_checked(disks):
    with pytest.raises(TypeError, match=r"\['label_l2_sigma'\]: .* potential takes \[.*\]\. T"):
        fit_many(disks, model="potential", label_l2_sigma=1.0, progress=False)
    with pytest.raises(TypeError, match=r"unknown .*mean label_knots\? The docstring of fit_many"):
        fit_many(disks, model="potential", labl_knots=3, progress=False)
    with pytest.raises(TypeError, match=r"\['max_itre'\] have no meaning; did you mean max_iter\?"):
        fit_many(disks, **TORUS, max_itre=3, progress=False)
    with pytest.raises(ValueError, match="label_knots and e_knots must be given for a torus"):
        fit_many(disks, progress=False)
    with pytest.raises(ValueError, match="model must be one of"):
        fit_many(disks, model="ellipse", progress=False)


def test_both_models_can_be_compared_on_data_held_out(disks):
    grid = [TORUS, {"model": "potential", "n_components": 3}, {"model": "potential"}]
    found = select(disks[2], grid, n_folds=3, progress=False)
    assert [c.n_params for c in found.candidates] == [3 + 3 + 4, 3 + 3 + 6, 3 + N_SHEETS + 6]
    assert np.isfinite(np.asarray(found.score)).all()
    assert found.fits_converged.min() >= 0.5
