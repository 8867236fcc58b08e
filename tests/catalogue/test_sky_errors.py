"""Errors of stars in the Galaxy, against many draws that astropy alone transforms."""

from __future__ import annotations

import astropy.coordinates as coord
import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table

from torusimaging_torch.catalogue import ExponentialPrior, Sun, prepare
from torusimaging_torch.catalogue.sky_errors import standard_draws

KMS = u.km / u.s
ORDER = ["ra", "dec", "parallax", "pmra", "pmdec"]
NAMES = ["R", "z", "v_R", "v_phi", "v_z", "L_z"]


def star(parallax=0.9, parallax_error=0.06):
    """Return one star with all of Gaia's errors and correlations."""
    rng = np.random.default_rng(3)
    root = rng.normal(size=(5, 5))
    covariance = root @ root.T + np.eye(5)
    sigma = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sigma, sigma)
    values = {"ra": 75.0, "dec": 32.0, "parallax": parallax, "pmra": 4.0, "pmdec": -9.0}
    errors = [0.02, 0.02, parallax_error, 0.3, 0.4]
    table = {name: [x] for name, x in values.items()} | {"radial_velocity": [35.0]}
    table |= {f"{name}_error": [x] for name, x in zip(ORDER, errors, strict=True)}
    table["radial_velocity_error"] = [1.5]
    for i, a in enumerate(ORDER):
        for j, b in enumerate(ORDER[i + 1 :], i + 1):
            table[f"{a}_{b}_corr"] = [correlation[i, j]]
    return Table(table), np.array(list(values.values())), correlation * np.outer(errors, errors)


def transformed(ra, dec, distance, pmra, pmdec, rv):
    sun = Sun()
    frame = coord.Galactocentric(galcen_distance=sun.R_sun, z_sun=sun.z_sun, galcen_v_sun=sun.v_sun)
    motion = u.mas / u.yr
    stars = coord.SkyCoord(
        ra * u.deg,
        dec * u.deg,
        distance * u.kpc,
        pm_ra_cosdec=pmra * motion,
        pm_dec=pmdec * motion,
        radial_velocity=rv * KMS,
    ).transform_to(frame)
    (x, y, z), v = stars.cartesian.xyz.to_value(u.kpc), stars.velocity.d_xyz.to_value(KMS)
    R = np.hypot(x, y)
    v_phi = (y * v[0] - x * v[1]) / R
    values = R, z, (x * v[0] + y * v[1]) / R, v_phi, v[2], R * v_phi
    return dict(zip(NAMES, values, strict=True))


def gaussian_draws(mean, covariance, n):
    rng = np.random.default_rng(11)
    draws = rng.multivariate_normal(np.zeros(5), covariance, n)
    mas = 1 / 3.6e6
    ra = mean[0] + draws[:, 0] * mas / np.cos(np.deg2rad(mean[1]))
    dec = mean[1] + draws[:, 1] * mas
    others = mean[2:, None] + draws[:, 2:].T
    return (ra, dec, *others, 35.0 + 1.5 * rng.standard_normal(n))


def test_errors_against_draws_by_astropy():
    table, mean, covariance = star()
    found = prepare(table, draws=4096)
    ra, dec, parallax, *rest = gaussian_draws(mean, covariance, 200_000)
    truth = transformed(ra, dec, 1 / parallax, *rest)
    for name, values in truth.items():
        assert found[f"{name}_err"][0] == pytest.approx(np.std(values), rel=0.03), name
    expected = np.corrcoef(truth["z"], truth["v_z"])[0, 1]
    assert abs(expected) > 0.1
    assert found["z_v_z_corr"][0] == pytest.approx(expected, abs=0.03)


def test_few_draws_are_exact_to_first_order():
    table, mean, covariance = star(parallax_error=1e-4)
    table["pmra_error"], table["pmdec_error"] = 3e-3, 4e-3
    scale = np.array([1, 1, 1, 3e-3 / 0.3, 4e-3 / 0.4])
    covariance = covariance * np.outer(scale, scale)
    found = prepare(table, draws=16)

    def place(x):
        d = x.copy()
        d[:2] /= 3.6e6
        d[0] /= np.cos(np.deg2rad(mean[1]))
        ra, dec, parallax, pmra, pmdec = mean + d[:5]
        return np.array(list(transformed(ra, dec, 1 / parallax, pmra, pmdec, 35 + d[5]).values()))

    step = 1e-4
    jacobian = np.stack([(place(e) - place(-e)) / (2 * step) for e in step * np.eye(6)], axis=1)
    whole = np.zeros((6, 6))
    whole[:5, :5], whole[5, 5] = covariance, 1.5**2
    expected = np.sqrt(np.diag(jacobian @ whole @ jacobian.T))
    errors = [found[f"{name}_err"][0] for name in NAMES]
    assert np.allclose(errors, expected, rtol=2e-3)


def test_errors_with_a_prior_against_importance_weights():
    table, mean, covariance = star(parallax=0.5, parallax_error=0.2)
    prior = ExponentialPrior(1.35)
    found = prepare(table, prior=prior, draws=4096)
    ra, dec, parallax, *rest = gaussian_draws(mean, covariance, 400_000)
    good = parallax > 0.02
    # Draws are from a posterior that is flat in parallax: dp = dd / d^2 makes up for it.
    d = 1 / parallax[good]
    weight = d**4 * np.exp(-d / 1.35)
    truth = transformed(ra[good], dec[good], d, *(x[good] for x in rest))
    for name, values in truth.items():
        centre = np.average(values, weights=weight)
        spread = np.sqrt(np.average((values - centre) ** 2, weights=weight))
        assert found[f"{name}_err"][0] == pytest.approx(spread, rel=0.08), name


def test_errors_from_distances():
    table, _, _ = star()
    table["distance"], table["distance_error"] = 1.1, 0.02
    found = prepare(table, draws=256)
    table.remove_columns(["distance_error"])
    with pytest.raises(KeyError, match="errors: they need distance_error"):
        prepare(table, draws=256)
    table["lo"], table["hi"] = 1.08, 1.12
    ends = {"distance_low": "lo", "distance_high": "hi"}
    again = prepare(table, columns={"distance": "distance", **ends}, draws=256)
    assert again["z_err"][0] == pytest.approx(found["z_err"][0], rel=1e-9)
    # Along the line of sight to the anticentre all of it is in R.
    assert 0.015 < found["R_err"][0] < 0.02


def test_an_error_that_is_not_known_is_nan_and_its_star_alone():
    table, _, _ = star()
    table = Table(np.repeat(table.as_array(), 3))
    table["pmra_error"][1] = np.nan
    table["ra_dec_corr"][2] = np.nan
    found = prepare(table, draws=16)
    assert np.isfinite(found["v_z"]).all()
    assert np.isnan(found["v_z_err"]).tolist() == [False, True, False]
    assert np.isnan(found["z_v_z_corr"]).tolist() == [False, True, False]
    assert prepare(table[:1], draws=16)["v_z_err"][0] == pytest.approx(found["v_z_err"][0])
    table["ra_dec_corr"] = 1.5
    with pytest.raises(ValueError, match="not those of any covariance"):
        prepare(table, draws=16)
    with pytest.raises(ValueError, match="16 draws at least"):
        prepare(table, draws=3)


def test_azimuths_have_no_seam():
    table, _, _ = star()
    # Behind the centre, on either side of phi = pi.
    table["ra"], table["dec"] = 266.405, -28.936
    table["distance"], table["distance_error"] = 12.0, 0.1
    table["ra_error"], table["dec_error"] = 3.6e6, 3.6e6
    assert prepare(table, draws=256)["phi_err"][0] < 0.2


def test_draws_are_standard():
    draws = standard_draws(40, 6)
    assert np.allclose(draws.mean(axis=0), 0, atol=1e-14)
    assert np.allclose(draws.T @ draws / 40, np.eye(6), atol=1e-13)
