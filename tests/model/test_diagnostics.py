"""Two formulas of one force, and densities below zero, against SciPy and plain grids."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.table import vstack
from numpy.testing import assert_allclose
from scipy.integrate import quad

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.analysis.report import describe
from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.analysis.verdict import judge
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.results import FitResult
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way_disk

DENSITY = u.Msun / u.pc**3
HEIGHTS = [0.1, 0.3, 1.0] * u.kpc
BINS = {"pos": np.linspace(-1.2, 1.2, 25) * u.kpc, "vel": np.linspace(-70, 70, 25) * u.km / u.s}


def hybrid(slopes=(0.0, 2.0, -2.0)):
    """A potential with a correction whose density is negative at 0.75 kpc."""
    knots = {2: [0, 0.1, 0.2, 0.4]}
    model = TorusImaging1DPotential([0, 0.2, 0.4], HEIGHTS, 0.07 * u.rad / u.Myr, e_knots=knots)
    params = {
        "pos0": 10 * u.pc,
        "vel0": 0 * u.km / u.s,
        "ln_rho": [15, 16.5, 17.5, 16.5],
        "e_params": {2: {"vals": list(slopes)}},
        "label_params": {"label_vals": [0.0, 1.0, 1.0]},
    }
    return model, params


def ellipses(convention="pv", **changes):
    knots = {2: np.linspace(0, 0.4, 4)}
    model = TorusImaging1DSpline(
        [0, 0.2, 0.4], knots, {2: 1.0}, elliptical_angle_convention=convention
    )
    params = {
        "pos0": -5 * u.pc,
        "vel0": 0 * u.km / u.s,
        "ln_Omega0": -2.6,
        "e_params": {2: {"vals": [-1.0, -1.5, -2.0]}},
        "label_params": {"label_vals": [0.0, 1.0, 1.0]},
    }
    return model, params | changes


def test_the_lowest_density_of_a_hybrid_is_that_of_a_fine_grid():
    model, params = hybrid()
    z = np.linspace(0, 3, 6001) * u.kpc
    density = model.get_density(z + params["pos0"], params).to(DENSITY)
    found = model.get_lowest_density(params)
    assert_allclose(found.density.to_value(DENSITY), density.min().value, rtol=1e-3)
    assert found.density.to_value(DENSITY) == pytest.approx(-0.0077, abs=1e-4)
    assert_allclose(
        found.pos.to_value(u.kpc), (z[density.argmin()] + params["pos0"]).value, rtol=0.01
    )


def test_batches_and_the_potential_alone():
    model, params = hybrid()
    batch = {**params, "pos0": [0.0, 10.0] * u.pc}
    batch["ln_rho"] = np.broadcast_to(params["ln_rho"], (2, 4))
    batch["vel0"] = [0.0, 0.0]
    batch["e_params"] = {2: {"vals": np.stack([[0.0, 2.0, -2.0], [0.0, 0.1, -0.1]])}}
    batch["label_params"] = {"label_vals": np.zeros((2, 3))}
    found, gaps = model.get_lowest_density(batch), model.compare_formulas(batch)
    assert found.density.shape == found.pos.shape == (2,)
    assert found.density[0] < 0 < found.density[1]
    assert gaps.gap.shape == gaps.pos.shape == (2, 10)
    assert np.abs(gaps.gap[1]).max() < 0.3
    alone = TorusImaging1DPotential([0, 0.2, 0.4], HEIGHTS, 0.07 * u.rad / u.Myr)
    own = {name: x for name, x in params.items() if name != "e_params"}
    assert np.abs(alone.compare_formulas(own).gap).max() == 0
    assert alone.get_lowest_density(own).density > 0


def test_the_gap_is_what_energies_of_contours_say():
    """The work from the midplane to where a contour turns is half its squared crossing speed."""
    model, params = ellipses()
    pos, gap = model.compare_formulas(params)
    p, omega = model.border.params(params), np.exp(params["ln_Omega0"])
    z = pos.value - p["pos0"].item()
    e = model.e_funcs[2]

    def e2(r):
        return float(e(p["pos0"].new_tensor([r]), **p["e_params"][2])[0])

    def crossing_speed(height):
        r_y = height * np.sqrt(omega)
        r = r_y * (1 - e2(r_y))  # on the position axis the cosine of 2 theta is -1
        low, high = 0.0, 2 * r_y
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if middle * (1 + e2(middle)) < r else (low, middle)
        return low * np.sqrt(omega)

    turning = model.get_acceleration(pos, params).to_value(u.kpc / u.Myr**2)
    for i in (1, 5, 8):
        step = 1e-5
        slope = (crossing_speed(z[i] + step) ** 2 - crossing_speed(z[i] - step) ** 2) / (4 * step)
        assert gap[i] == pytest.approx(-slope / turning[i] - 1, abs=1e-6)
    work = quad(
        lambda q: model.get_acceleration(q, params, method="energy").value,
        pos.value[0],
        pos.value[5],
    )
    expected = (crossing_speed(z[5]) ** 2 - crossing_speed(z[0]) ** 2) / 2
    assert -work[0] == pytest.approx(expected, rel=1e-6)


def test_both_sides_count_where_they_differ():
    model, params = ellipses("vp")
    pos, gap = model.compare_formulas(params)
    assert gap.shape == (20,)
    assert_allclose(pos.value[:10] + 0.005, -(pos.value[10:] + 0.005)[::-1], rtol=1e-12)


def test_without_knots_nothing_says_where_data_end():
    from torusimaging_torch import TorusImaging1D

    model = TorusImaging1D(lambda r, a: a * r, {2: lambda r_e, b: b * r_e})
    with pytest.raises(ValueError, match="needs knots"):
        model.compare_formulas({"pos0": 0.0, "vel0": 0.0, "ln_Omega0": -2.5})


@pytest.fixture(scope="module")
def binned():
    stars = milky_way_disk(20_000, seed=3)
    return get_binned_label(stars["z"], stars["v_z"], stars["label"], BINS, label_err=0.06)


def test_a_fit_with_a_negative_density_says_so(binned):
    model, params = hybrid()
    held = {"ln_rho": params["ln_rho"], "e_params": params["e_params"]}
    with pytest.warns(RuntimeWarning, match=r"density is negative, down to -0.0077 solMass / pc3"):
        found, state = model.optimize(params, "gaussian", hold=held, **binned)
    result = FitResult(model, found, {}, state, "gaussian", {})
    reasons = judge(result, binned).reasons
    assert any("density is negative, down to -0.0077" in reason for reason in reasons)


def test_a_good_fit_has_no_such_reason(binned):
    model, bounds, start = TorusImaging1DPotential.auto_init(binned, e_knots={2: 4})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, state = model.optimize(start, "gaussian", bounds, **binned)
    covariance = model.get_crlb(found, binned, bounds=bounds)
    result = FitResult(model, found, bounds, state, "gaussian", {}, covariance)
    gap, sigma = result.formula_gap()
    assert 0 < gap < 0.2
    assert sigma < 4
    assert judge(result, binned).good


def test_stars_of_two_radii_have_no_potential_in_common():
    parts = [milky_way_disk(50_000, R=R * u.kpc, seed=R) for R in (6, 10)]
    stars = read_stars(vstack(parts, metadata_conflicts="silent"), "z", "v_z", "label", "label_err")
    mixed = analyse(stars, Settings(model="torus"))
    assert "formulas of the acceleration differ" in mixed.result.provenance["verdict"]["reading"]
    gap, sigma = mixed.result.formula_gap()
    line = next(x for x in describe(mixed) if x.startswith("acceleration by energies"))
    assert f"{100 * gap:.1f} %, {sigma:.1f} times" in line
    one = read_stars(parts[0], "z", "v_z", "label", "label_err")
    assert analyse(one, Settings(model="torus")).result.formula_gap()[1] < 4
