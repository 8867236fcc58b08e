"""Profiles and their errors, against the model's own methods and finite differences."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from test_fisher import make_model, problem

from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.plot import plot_acceleration_density, plot_profiles
from torusimaging_torch.results.profile_table import profiles
from torusimaging_torch.results.profile_values import PROFILES, evaluate_profiles
from torusimaging_torch.torus.piecewise import PiecewiseTorus

# The last knots are at 1.2 kpc: beyond them the splines go on.
POS = np.array([-1.5, -0.4, 0.0, 0.02, 0.3, 0.31, 0.8, 1.25]) * u.kpc


@pytest.fixture(scope="module", params=["cubic", "quadratic"])
def model(request):
    return make_model(spline=request.param)


@pytest.fixture(scope="module")
def params(model):
    return model.border.params(problem.make_params())


@pytest.fixture(scope="module")
def samples(params):
    layout = Layout.of(params)
    x = layout.flatten(params)
    noise = torch.randn(7, len(x), generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return layout.unflatten(x + 0.02 * noise)


def one_by_one(model, samples, name):
    layout = Layout.of(samples)
    rows = [layout.unflatten(row) for row in layout.flatten(samples)]
    return u.Quantity([getattr(model, f"get_{name}")(POS, row) for row in rows])


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_percentiles_of_the_models_methods(model, samples, name):
    table = profiles(model, samples, POS)
    values = one_by_one(model, samples, name)
    for percentile in (2.5, 16, 50, 84, 97.5):
        found = table[f"{name}_p{percentile:g}"]
        expected = np.percentile(values.value, percentile, axis=0) * values.unit
        tolerance = 1e-6 if name == "potential" else 1e-12
        scale = np.abs(values).max()
        assert np.abs(found - expected).max() < tolerance * scale
    assert (table["pos"] == POS).all()


def test_a_list_of_samples_is_as_good(model, samples):
    layout = Layout.of(samples)
    rows = [layout.unflatten(row) for row in layout.flatten(samples)]
    one, other = profiles(model, samples, POS), profiles(model, rows, POS)
    assert all((one[name] == other[name]).all() for name in one.colnames)


def test_looked_up_splines_equal_dense_ones(model, samples):
    pos = torch.linspace(-1.6, 1.6, 301, dtype=torch.float64)
    dense = evaluate_profiles(model.torus, pos, samples, 1.0)
    assert PiecewiseTorus.fits(model.torus)
    with torch.no_grad():
        looked_up = evaluate_profiles(model.torus, pos, samples, 1.0)
        in_pieces = evaluate_profiles(model.torus, pos, samples, 1.0, chunk=700)
    for name in PROFILES:
        scale = dense[name].abs().max()
        assert (looked_up[name] - dense[name]).abs().max() < 1e-12 * scale
        assert (in_pieces[name] - looked_up[name]).abs().max() < 1e-13 * scale


@pytest.mark.parametrize("grid", [[0.5], [0.4, 1.1], [-0.9, -0.3], np.linspace(0, 1.2, 300)])
def test_potential_is_exact_on_any_grid(model, params, grid):
    pos = np.array(grid) * u.kpc
    table = profiles(model, params, pos, np.zeros((13, 13)))
    expected = model.get_potential(pos, params)
    # The model's own quadrature does not know where a quadratic spline bends.
    assert np.abs(table["potential"] - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_propagate_the_covariance(model, params, name):
    layout = Layout.of(params)
    x = layout.flatten(params)
    root = 1e-3 * torch.randn(13, 13, generator=torch.Generator().manual_seed(2)).double()
    covariance = root @ root.mT
    table = profiles(model, params, POS, covariance)

    def values(x):
        return getattr(model, f"get_{name}")(POS, layout.unflatten(x))

    # Along each column of the root of the covariance: central differences.
    steps = [(values(x + 0.01 * d) - values(x - 0.01 * d)) / 0.02 for d in root.mT]
    expected = np.sqrt(sum(step**2 for step in steps))
    assert np.abs(table[f"{name}_err"] - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(table[name] - values(x)).max() < 1e-6 * np.abs(values(x)).max()


def test_errors_are_nan_where_a_parameter_without_a_bound_has_a_say(model, params):
    covariance = torch.diag(torch.full((13,), 1e-4).double())
    names = Layout.of(params).names
    whole = profiles(model, params, POS, covariance)

    def without(name):
        some, at = covariance.clone(), names.index(name)
        some[at, :] = some[:, at] = torch.nan
        return profiles(model, params, POS, some)

    assert np.isnan(without("e_params[2].vals[0]")["density_err"]).all()
    # An outer slope is felt further out alone: central differences say where.
    outer, at = without("e_params[4].vals[1]"), names.index("e_params[4].vals[1]")
    layout = Layout.of(params)
    step = 1e-4 * torch.eye(13, dtype=torch.float64)[at]
    ends = [
        model.get_density(POS, layout.unflatten(layout.flatten(params) + sign * step)).value
        for sign in (1, -1)
    ]
    felt = np.abs(ends[0] - ends[1]) > 1e-9 * np.abs(ends[0])
    lost = np.isnan(outer["density_err"].value)
    assert (lost[felt]).all()
    assert (outer["density_err"][~lost] == whole["density_err"][~lost]).all()
    # No force knows of labels, nor of vel0.
    for name in ("label_params.label_vals[1]", "vel0"):
        assert u.allclose(without(name)["density_err"], whole["density_err"], rtol=1e-12)


def test_wrong_input_says_so(model, params, samples):
    with pytest.raises(ValueError, match="at least one parameter dictionary"):
        profiles(model, [], POS)
    with pytest.raises(ValueError, match="without a covariance samples with one dimension"):
        profiles(model, samples, POS, np.eye(13))
    with pytest.raises(ValueError, match=r"positions with shape \(N,\)"):
        profiles(model, samples, 0.3 * u.kpc)
    with pytest.raises(u.UnitConversionError, match="pos_grid"):
        profiles(model, samples, [0.3] * u.s)
    with pytest.raises(ValueError, match=r"covariance must have shape \(13, 13\)"):
        profiles(model, params, POS, np.eye(3))


class Truth:
    """Harmonic oscillator."""

    def acceleration(self, pos):
        return -((0.08 / u.Myr) ** 2) * pos

    def density(self, pos):
        return np.full(pos.shape, 0.1) * u.Msun / u.pc**3

    def surface_density(self, pos):
        return 2 * self.density(pos) * np.abs(pos)


def test_bands_are_drawn_around_the_median(model, params, samples):
    table = profiles(model, samples, POS)
    fig, axes = plot_profiles(table, Truth(), pyplot=False)
    assert isinstance(fig, Figure)
    assert axes.shape == (3,)
    median, truth = axes[1].lines
    assert median.get_ydata() == pytest.approx(
        table["density_p50"].to_value(u.Msun / u.pc**3), rel=1e-12
    )
    assert truth.get_ydata() == pytest.approx(0.1)
    outer, inner = (band.get_paths()[0].vertices[:, 1] for band in axes[1].collections)
    edges = [table[f"density_p{p}"].to_value(u.Msun / u.pc**3) for p in ("2.5", "97.5")]
    assert outer.min() == pytest.approx(edges[0].min())
    assert outer.max() == pytest.approx(edges[1].max())
    assert inner.max() < outer.max()
    assert "km" in axes[0].get_ylabel()


def test_errors_make_bands_too(model, params):
    table = profiles(model, params, POS, 1e-5 * np.eye(13))
    _, axes = plot_profiles(table, pyplot=False)
    assert len(axes[0].collections) == 2
    with pytest.raises(ValueError, match="it lacks acceleration_p2"):
        plot_profiles(table[["pos", "acceleration", "density", "surface_density"]], pyplot=False)
    with pytest.raises(TypeError, match="truth must have methods"):
        plot_profiles(table, object(), pyplot=False)


def test_samples_of_a_narrow_gaussian_have_the_linear_errors(model, params):
    layout = Layout.of(params)
    sigma = 1e-3
    noise = torch.randn(4000, 13, generator=torch.Generator().manual_seed(3)).double()
    draws = layout.unflatten(layout.flatten(params) + sigma * noise)
    table = profiles(model, draws, POS)
    linear = profiles(model, params, POS, sigma**2 * np.eye(13))
    for name in ("acceleration", "density"):
        half = (table[f"{name}_p84"] - table[f"{name}_p16"]) / 2
        assert half.value == pytest.approx(0.9945 * linear[f"{name}_err"].value, rel=0.06)


def test_the_figure_of_a_fit_has_bands_where_the_covariance_is_known(model, params):
    covariance = 1e-5 * np.eye(13)
    _, axes = plot_acceleration_density(
        model, params, POS, Truth(), covariance=covariance, pyplot=False
    )
    bands = axes[0, 1].collections[:2]
    table = profiles(model, params, POS, covariance)
    for band, n in zip(bands, (1.96, 1), strict=True):  # 95 % and 68 %, as in plot_profiles
        upper = (table["density"] + n * table["density_err"]).to_value(u.Msun / u.pc**3)
        assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(upper.max())


def test_figure_of_samples_shows_their_percentiles(model, params, samples):
    pos = np.linspace(0.05, 1, 7) * u.kpc
    figure, axes = plot_acceleration_density(model, params, pos, samples=samples, pyplot=False)
    assert isinstance(figure, Figure)
    table = profiles(model, samples, pos)
    unit = u.km / u.s / u.Myr
    np.testing.assert_allclose(
        axes[0].lines[0].get_ydata(), table["acceleration_p50"].to_value(unit)
    )
    outer = axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert outer.min() == pytest.approx(table["acceleration_p2.5"].to_value(unit).min())
    assert outer.max() == pytest.approx(table["acceleration_p97.5"].to_value(unit).max())
    with pytest.raises(ValueError, match="covariance or samples, not both"):
        plot_acceleration_density(
            model, params, pos, covariance=np.eye(13), samples=samples, pyplot=False
        )
