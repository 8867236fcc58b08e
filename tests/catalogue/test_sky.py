"""From the sky to the Galaxy, against astropy."""

from __future__ import annotations

import astropy.coordinates as coord
import astropy.units as u
import numpy as np
import pytest
from astropy.table import Column, MaskedColumn, QTable, Table
from scipy.integrate import quad
from scipy.optimize import brentq

from torusimaging_torch.catalogue import (
    CircularSpeed,
    ExponentialPrior,
    Sun,
    open_stars,
    prepare,
)
from torusimaging_torch.catalogue.sky_columns import PRESETS, find_columns
from torusimaging_torch.catalogue.sky_source import on_the_way
from torusimaging_torch.catalogue.tables import read_stars

KMS = u.km / u.s


def places(n, seed=0):
    """Return places and velocities of stars in the Galaxy as astropy's frame has them."""
    rng = np.random.default_rng(seed)
    xyz = rng.normal([[-8.2], [0.3], [0.0]], [[1.5], [2.0], [0.6]], (3, n)) * u.kpc
    v_xyz = rng.normal([[10], [200.0], [0]], [[40.0], [90], [30]], (3, n)) * KMS
    return xyz, v_xyz


def on_the_sky(xyz, v_xyz, sun=None):
    """Return them as seen from the Sun, by astropy alone."""
    sun = Sun() if sun is None else sun
    frame = coord.Galactocentric(galcen_distance=sun.R_sun, z_sun=sun.z_sun, galcen_v_sun=sun.v_sun)
    velocity = coord.CartesianDifferential(v_xyz)
    stars = coord.SkyCoord(coord.CartesianRepresentation(xyz, differentials=velocity), frame=frame)
    seen = stars.transform_to(coord.ICRS())
    return QTable(
        {
            "ra": seen.ra,
            "dec": seen.dec,
            "distance": seen.distance,
            "pmra": seen.pm_ra_cosdec,
            "pmdec": seen.pm_dec,
            "radial_velocity": seen.radial_velocity,
        }
    )


def cylindrical(xyz, v_xyz):
    (x, y, _), (v_x, v_y, _) = xyz, v_xyz
    R = np.hypot(x, y)
    return R, (x * v_x + y * v_y) / R, (y * v_x - x * v_y) / R


@pytest.mark.parametrize(
    "sun", [Sun(), Sun(8.0 * u.kpc, 0 * u.pc, [11.1, 244.0, 7.25] * KMS), Sun(z_sun=-0.1 * u.kpc)]
)
def test_there_and_back_by_astropy(sun):
    xyz, v_xyz = places(500)
    found = prepare(on_the_sky(xyz, v_xyz, sun), sun=sun)
    R, v_R, v_phi = cylindrical(xyz, v_xyz)
    expected = {"x": xyz[0], "y": xyz[1], "z": xyz[2], "R": R, "v_R": v_R, "v_phi": v_phi}
    expected |= {"v_z": v_xyz[2], "L_z": R * v_phi}
    for name, values in expected.items():
        scale = 1 if values.unit == u.kpc else 100
        difference = (found[name] - values).value / scale
        assert np.abs(difference).max() < 1e-10 * max(1.0, np.abs(values.value).max() / scale), name
    assert np.abs(found["phi"].value - np.arctan2(xyz[1], -xyz[0]).value).max() < 1e-10


def test_the_sun_itself_and_the_directions():
    # A star ahead of the Sun that goes round with it.
    still = prepare(on_the_sky([[-8.2], [0.5], [0]] * u.kpc, [[0], [229.0], [0]] * KMS))
    assert all(still[name][0] > 0 for name in ("phi", "v_phi", "L_z"))
    assert still.meta == {
        "R_sun": "8.275 kpc",
        "z_sun": "20.8 pc",
        "v_sun": "(8.4, 251.8, 8.4) km / s",
        "v_c": "229 km / s",
        "distfrom": "column distance",
    }


@pytest.mark.parametrize("ending", ["parquet", "ecsv", "fits"])
def test_what_was_assumed_stays_with_the_stars(tmp_path, ending):
    path = tmp_path / f"stars.{ending}"
    Table(prepare(on_the_sky(*places(3)))).write(path)
    stars = read_stars(path, "z", "v_z")
    assert stars.provenance["sky"] == f"{Sun()}, v_c 229 km / s, distfrom column distance"
    assert "sky" not in read_stars(QTable({"z": [1] * u.kpc, "v": [1] * KMS}), "z", "v").provenance


def test_guiding_radius():
    xyz, v_xyz = places(300)
    table = on_the_sky(xyz, v_xyz)
    R, _, v_phi = cylindrical(xyz, v_xyz)
    found = prepare(table, speed=CircularSpeed(220 * KMS))
    ahead = v_phi > 0
    assert 0 < ahead.sum() < 300
    assert np.allclose(found["R_g"][ahead], (R * v_phi / (220 * KMS))[ahead], rtol=1e-9)
    assert np.isnan(found["R_g"][~ahead]).all()


def test_guiding_radius_on_a_curve_solves_its_equation():
    R, v_c = np.array([2.0, 6, 8, 14]), np.array([180.0, 235, 229, 205])
    speed = CircularSpeed.read(Table({"R": R * 1000 * u.pc, "v_c": v_c}))
    L_z = np.array([300.0, 361, 1200, 1832, 2500, 2869, 2871, -500])
    found = speed.guiding_radius(L_z)
    inside = (L_z > 360) & (L_z < 2870)
    assert np.isnan(found[~inside]).all()
    for value, L in zip(found[inside], L_z[inside], strict=True):
        root = brentq(lambda x, L=L: x * np.interp(x, R, v_c) - L, 2, 14, xtol=1e-13)
        assert value == pytest.approx(root, rel=1e-11)
    with pytest.raises(ValueError, match="R v_c must increase"):
        CircularSpeed([200, 10] * KMS, [8, 9] * u.kpc)
    with pytest.raises(KeyError, match="columns R and v_c"):
        CircularSpeed.read(Table({"R": [1.0]}))


def test_parallaxes_are_inverted_only_where_they_are_good():
    table = on_the_sky(*places(4))
    table["parallax"] = table["distance"].to(u.mas, u.parallax())
    known = table["distance"].copy()
    table.remove_column("distance")
    with pytest.raises(KeyError, match="parallax_error=COLUMN"):
        prepare(table)
    table["parallax_error"] = table["parallax"] / [10, 5.01, 4.99, 1]
    found = prepare(table)
    assert np.allclose(found["distance"][:2], known[:2], rtol=1e-12)
    assert np.isnan(found["distance"][2:]).all()
    assert np.isnan(found["v_z"][2:]).all()
    shifted = prepare(table, zero_point=-0.02)
    assert np.allclose(shifted["distance"][:1], 1 * u.kpc / (table["parallax"][:1].value + 0.02))
    prior = ExponentialPrior(1.35)
    found = prepare(table, prior=prior)
    assert np.isfinite(found["distance"]).all()
    assert found.meta["distfrom"].endswith("exponentially decreasing density, L = 1.35 kpc")


@pytest.mark.parametrize(
    ("parallax", "error"), [(1.0, 0.01), (0.5, 0.1), (0.2, 0.2), (-0.1, 0.1), (0.01, 3.0)]
)
def test_prior_against_quadrature(parallax, error):
    prior = ExponentialPrior(1.35)

    def density(d):
        return d**2 * np.exp(-d / 1.35 - 0.5 * ((1 / d - parallax) / error) ** 2)

    # The density's own median by adaptive quadrature.
    grid = np.geomspace(0.01, 60, 200_000)
    peak = grid[np.argmax(density(grid))]
    points = [peak, peak * 0.9, peak * 1.1]
    whole = quad(density, 0.01, 60, points=points, limit=500)[0]
    for normal, share in ((-1.0, 0.15865525), (0.0, 0.5), (1.0, 0.84134475)):
        d = prior.quantiles(np.array([parallax]), np.array([error]), np.array([normal]))[0, 0]
        inside = [p for p in points if p < d]
        part = quad(density, 0.01, d, points=inside or None, limit=500)[0]
        assert part / whole == pytest.approx(share, abs=2e-3)


def test_columns_that_are_missing_or_wrong():
    table = on_the_sky(*places(3))
    names = table.colnames
    with pytest.raises(KeyError, match="there is none for radial_velocity: say which"):
        find_columns(names[:-1])
    with pytest.raises(KeyError, match="there is no 'rv' on the sky"):
        find_columns(names, {"rv": "ra"})
    with pytest.raises(KeyError, match="pmra: no column 'nix'"):
        find_columns(names, {"pmra": "nix"})
    with pytest.raises(KeyError, match="gaia-rvs or apogee-gaia"):
        find_columns(names, preset="sdss")
    with pytest.raises(ValueError, match="there is a column 'z' already"):
        prepare(QTable({**table, "z": [1, 2, 3]}))
    assert "sky_z" in prepare(QTable({**table, "z": [1, 2, 3]}), prefix="sky_").colnames
    table["pmra"] = [1, 2, 3] * u.kpc
    with pytest.raises(u.UnitConversionError, match="pmra: column 'pmra' has the unit 'kpc'"):
        prepare(table)


@pytest.mark.filterwarnings("error:.*encountered in:RuntimeWarning")
def test_what_is_nowhere_on_the_sky_has_no_place():
    seen = on_the_sky(*places(5))
    table = Table({n: Column(seen[n].value, unit=seen[n].unit) for n in seen.colnames})
    plain = prepare(table)
    table["dec"][1], table["pmra"][2], table["ra"][3] = 91, np.inf, 1e300
    found = prepare(table)
    assert np.isnan(found["z"][1])
    assert np.isnan(found["v_z"][2])
    for i in (0, 4):
        assert found["z"][i] == plain["z"][i]
    table["pmra"] = ["a", "b", "c", "d", "e"]
    with pytest.raises(ValueError, match="pmra: column 'pmra' must hold one number per star"):
        prepare(table)


def test_a_rotation_curve_holds_numbers():
    with pytest.raises(ValueError, match="column 'v_c' of a rotation curve must hold numbers"):
        CircularSpeed.read(Table({"R": [1.0, 2.0], "v_c": ["fast", "slow"]}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"R_sun": 8 * u.km / u.s}, "R_sun must be a length"),
        ({"v_sun": [1, 2] * KMS}, "three finite speeds"),
        ({"z_sun": 9 * u.kpc}, "larger than z_sun"),
    ],
)
def test_a_sun_that_cannot_be(given, message):
    with pytest.raises((ValueError, u.UnitTypeError), match=message):
        Sun(**given)


def gaia_like(n):
    table = on_the_sky(*places(n))
    table["parallax"] = table["distance"].to(u.mas, u.parallax())
    table.remove_column("distance")
    table["parallax_error"] = 0.01 * u.mas
    return table


def test_preset_of_gaia():
    table = Table(gaia_like(5))
    table["ruwe"] = MaskedColumn([1.0, 1.5, 1.0, 1.0, 1.0], mask=[0, 0, 1, 0, 0])
    table["non_single_star"] = [0, 0, 0, 1, 0]
    table["rv_expected_sig_to_noise"] = [10.0, 10, 10, 10, 5]
    found = prepare(table, preset="gaia-rvs", where=PRESETS["gaia-rvs"].where)
    assert list(found["ra"]) == list(table["ra"][[0, 4]])
    # Distances that are joined go before parallaxes; those of Bailer-Jones are in pc.
    table["r_med_photogeo"] = 1000.0 / table["parallax"].value
    joined = prepare(table, preset="gaia-rvs")
    assert joined.meta["distfrom"] == "column r_med_photogeo"
    assert np.allclose(joined["z"], prepare(table, columns={"parallax": "parallax"})["z"])


def test_preset_of_apogee():
    seen = on_the_sky(*places(6))
    good = np.zeros(6, dtype=np.int64)
    table = Table(
        {
            "RA": seen["ra"].value,
            "DEC": seen["dec"].value,
            "GAIAEDR3_PMRA": seen["pmra"].value,
            "GAIAEDR3_PMDEC": seen["pmdec"].value,
            "GAIAEDR3_R_MED_PHOTOGEO": seen["distance"].to_value(u.pc),
            "VHELIO_AVG": seen["radial_velocity"].value,
            "ASPCAPFLAG": good | [0, 1 << 23, 1 << 22, 0, 0, 1 << 40],
            "STARFLAG": good | [0, 0, 0, 1 << 3, 1 << 9, 0],
            "EXTRATARG": good | [0, 0, 0, 0, 1 << 4, 0],
        }
    )
    table["GAIAEDR3_R_MED_PHOTOGEO"][5] = -999.0
    found = prepare(table, preset="apogee-gaia", where=PRESETS["apogee-gaia"].where)
    assert list(found["RA"]) == list(table["RA"][[0, 2, 5]])
    expected = prepare(seen)["z"][[0, 2]].value
    assert np.allclose(np.asarray(found["z"])[:2], expected, rtol=1e-12)
    assert np.isnan(found["z"][2])
    # The same on the way, where cuts are not made.
    part = next(iter(on_the_way(open_stars(table), lambda line: None).chunks(["z"])))[1]
    assert len(part) == 6
    assert np.array_equal(part["z"][[0, 2, 5]], found["z"], equal_nan=True)
    # Of two kinds of distances the errors are those of the one that is used.
    for end in ("LO_GEO", "HI_GEO", "MED_GEO", "LO_PHOTOGEO", "HI_PHOTOGEO"):
        table[f"GAIAEDR3_R_{end}"] = 1.0
    columns = find_columns(table.colnames, preset="apogee-gaia").names
    assert columns["distance_high"] == "GAIAEDR3_R_HI_PHOTOGEO"
    table.remove_column("GAIAEDR3_R_MED_PHOTOGEO")
    columns = find_columns(table.colnames, preset="apogee-gaia").names
    assert columns["distance_low"] == "GAIAEDR3_R_LO_GEO"


def test_a_source_on_the_way_computes_what_is_missing():
    table = gaia_like(20)
    said = []
    source = on_the_way(open_stars(table, chunk_rows=7), said.append)
    list(source.chunks(["ra"]))
    assert not said
    parts = [part for _, part in source.chunks(["z", "ra", "R_g"])]
    assert [len(part) for part in parts] == [7, 7, 6]
    whole = prepare(table)
    for name in ("z", "ra", "R_g"):
        assert np.array_equal(
            np.concatenate([p[name].value for p in parts]), whole[name].value, True
        )
    assert len(said) == 1
    assert "R_sun 8.275 kpc" in said[0]
    assert source.read().colnames == whole.colnames
    # What is there is used as it is.
    table["z"] = np.zeros(20) * u.kpc
    source = on_the_way(open_stars(table), said.append)
    assert not next(iter(source.chunks(["z", "v_z"])))[1]["z"].value.any()
    plain = open_stars({"z": [1.0]})
    assert on_the_way(plain, said.append) is plain
