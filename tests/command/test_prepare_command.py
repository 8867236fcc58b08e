"""The command prepare: what it reads, prints and writes, and that the other commands take it."""

from __future__ import annotations

import astropy.coordinates as coord
import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table

from torusimaging_torch.analysis import preparation
from torusimaging_torch.catalogue import CircularSpeed, ExponentialPrior, Sun, prepare
from torusimaging_torch.command.main import main
from torusimaging_torch.results import BatchResult, FitResult
from torusimaging_torch.simulate import milky_way, milky_way_disk

KMS = u.km / u.s
N = 30_000
COLUMNS = ["--pos", "z", "--vel", "v_z", "--label", "label", "--label-err", "label_err"]
COARSE = ["--n-bins", "32", "--e-knots", "2:5,4:3", "--pos-max", "1.2kpc", "--vel-max", "70 km/s"]
COARSE += ["--figure-format", "none"]


@pytest.fixture(scope="module")
def sky():
    """Return simulated stars as Gaia would list them, turned to the sky by astropy alone."""
    stars, rng = milky_way_disk(N, seed=8), np.random.default_rng(9)
    phi, R = rng.uniform(-0.1, 0.1, N), 8.3 * u.kpc
    v_R, v_phi = rng.normal(0, 35, N) * KMS, rng.normal(215, 20, N) * KMS
    xyz = u.Quantity([-R * np.cos(phi), R * np.sin(phi), stars["z"]])
    sin, cos = np.sin(phi), np.cos(phi)
    v_xyz = u.Quantity([-v_R * cos + v_phi * sin, v_R * sin + v_phi * cos, stars["v_z"]])
    sun = Sun()
    frame = coord.Galactocentric(galcen_distance=sun.R_sun, z_sun=sun.z_sun, galcen_v_sun=sun.v_sun)
    there = coord.CartesianRepresentation(
        xyz, differentials=coord.CartesianDifferential(v_xyz.to(KMS))
    )
    seen = coord.SkyCoord(there, frame=frame).transform_to(coord.ICRS())
    table = QTable(
        {
            "source_id": np.arange(N),
            "ra": seen.ra.to(u.deg),
            "dec": seen.dec.to(u.deg),
            "parallax": seen.distance.to(u.mas, u.parallax()),
            "pmra": seen.pm_ra_cosdec.to(u.mas / u.yr),
            "pmdec": seen.pm_dec.to(u.mas / u.yr),
            "radial_velocity": seen.radial_velocity.to(KMS),
            "label": stars["label"],
            "label_err": stars["label_err"],
            "true_z": stars["z"],
        }
    )
    # Small errors, some of them too large for the parallax.
    table["parallax_error"] = 0.01 * u.mas
    table["parallax_error"][:7] = table["parallax"][:7] / 3
    table["pmra_error"] = table["pmdec_error"] = 0.01 * u.mas / u.yr
    table["radial_velocity_error"] = 0.5 * KMS
    table["flags"] = np.where(np.arange(N) % 100 == 99, 1 << 23, 1)
    return table


@pytest.fixture(scope="module")
def sky_file(sky, tmp_path_factory):
    path = tmp_path_factory.mktemp("sky") / "gaia.parquet"
    Table(sky).write(path)
    return path


def test_from_the_sky_to_the_truth(sky_file, tmp_path, capsys):
    stars = tmp_path / "stars.fits"
    assert main(["prepare", str(sky_file), "--out", str(stars)]) == 0
    said = capsys.readouterr().out
    assert ["R_sun", "8.275", "kpc"] in [line.split() for line in said.splitlines()]
    assert "29,993 with a place in the Galaxy; 7 without (parallax below 5 errors" in said
    table = Table.read(stars)
    assert np.allclose(table["z"][7:], table["true_z"][7:], rtol=0, atol=1e-10)
    assert table.meta["R_SUN"] == "8.275 kpc"
    fit = tmp_path / "fit"
    assert main(["fit", str(stars), *COLUMNS, *COARSE, "--out", str(fit)]) == 0
    result, truth = FitResult.read(fit / "fit.ecsv"), milky_way(8.3 * u.kpc)
    heights = [0.3, 0.6, 0.9] * u.kpc
    found = result.profiles(heights + result.quantity("pos0"))
    pull = (found["acceleration"] - truth.acceleration(heights)) / found["acceleration_err"]
    assert np.abs(pull.to_value(u.one)).max() < 3
    omega, error = result.measured("Omega0")
    expected = np.sqrt(-truth.acceleration_gradient(0 * u.kpc)) * u.rad
    assert abs((omega - expected) / error) < 3
    # The catalogue itself gives the same fit, and says what was assumed.
    capsys.readouterr()
    direct = tmp_path / "direct"
    assert main(["fit", str(sky_file), *COLUMNS, *COARSE, "--out", str(direct)]) == 0
    assert "computing z, v_z from ra, dec, parallax" in capsys.readouterr().err
    again = FitResult.read(direct / "fit.ecsv")
    assert again.quantity("Omega0").value == pytest.approx(omega.value, rel=1e-6)
    assert again.provenance["sky"].startswith("R_sun 8.275 kpc, z_sun 20.8 pc, v_sun (8.4, 251.8")
    assert result.provenance["sky"] == again.provenance["sky"]
    out = tmp_path / "actions.fits"
    assert main(["actions", str(fit), str(sky_file), "--out", str(out)]) == 0
    added = Table.read(out)
    assert {"J", "z", "source_id"} <= set(added.colnames)
    assert added["valid"].sum() > 0.9 * N


def test_groups_of_derived_columns(sky_file, tmp_path):
    store, table = tmp_path / "run", tmp_path / "run.ecsv"
    groups = ["--group", "R_g: 6.9..8.5 kpc", "--group", "abs(v_R) / (1 km/s): 0..60 step 40"]
    where = ["--where", "not flag(flags, 23)"]
    shape = ["--n-bins", "16", "--e-knots", "2:4", "--pos-max", "1kpc", "--vel-max", "60km/s"]
    arguments = [str(sky_file), *COLUMNS, *shape, *groups, *where, "--store", str(store)]
    assert main(["batch", *arguments]) in (0, 1)
    assert main(["merge", str(store), "--out", str(table)]) == 0
    result = BatchResult.read(table)
    assert len(result) == 2
    found = prepare(sky_file)
    inside = (found["R_g"] >= 6.9) & (found["R_g"] < 8.5) & (found["flags"] == 1)
    inside &= (np.abs(found["z"]) < 1) & (np.abs(found["v_z"]) < 60)
    v_R = np.abs(np.asarray(found["v_R"]))
    expected = [int(np.sum(inside & (v_R < 20))), int(np.sum(inside & (v_R >= 20) & (v_R < 60)))]
    assert sum(expected) > 10_000
    assert np.asarray(QTable.read(table)["n_stars"]).tolist() == expected


def test_chunks_of_parquet_are_the_table_in_memory(sky, sky_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparation, "CHUNK_ROWS", 4096)
    out = tmp_path / "stars.parquet"
    cuts = ["--where", "not flag(flags, 23)", "--where", "R_g < 8.5 kpc and z > -1"]
    arguments = ["prepare", str(sky_file), "--out", str(out), "--errors", "16", *cuts]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "29,700 left after not flag(flags, 23)" in said
    found = Table.read(out)
    expected = prepare(
        Table(sky), draws=16, where=["not flag(flags, 23)", "R_g < 8.5 kpc", "z > -1"]
    )
    assert found.colnames == expected.colnames
    for name in expected.colnames:
        assert np.array_equal(found[name], expected[name], equal_nan=True), name
        assert found[name].unit == expected[name].unit
    assert found.meta["v_sun"] == "(8.4, 251.8, 8.4) km / s"
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite"]) == 0


def test_options_reach_the_numbers(sky, sky_file, tmp_path):
    curve, out = tmp_path / "curve.ecsv", tmp_path / "stars.ecsv"
    Table({"R": [1.0, 8, 30] * u.kpc, "v_c": [180, 225, 210] * KMS}).write(curve)
    options = ["--r-sun", "8178pc", "--z-sun", "0pc", "--v-sun", "11.1,248.5,7.25"]
    options += ["--v-c", str(curve), "--zero-point=-20uas", "--prefix", "gc_"]
    options += ["--distance-prior", "exponential:1.5kpc", "--where", "source_id < 40"]
    assert main(["prepare", str(sky_file), "--out", str(out), *options]) == 0
    expected = prepare(
        Table(sky[:40]),
        sun=Sun(8.178 * u.kpc, 0 * u.pc, [11.1, 248.5, 7.25] * KMS),
        speed=CircularSpeed.read(Table.read(curve)),
        zero_point=-0.02,
        prior=ExponentialPrior(1.5),
        prefix="gc_",
    )
    found = Table.read(out)
    for name in ("gc_R", "gc_R_g", "gc_v_phi", "gc_distance"):
        assert np.allclose(found[name], expected[name], rtol=1e-9, equal_nan=True), name
    assert found.meta == expected.meta
    assert found.meta["v_c"] == "a curve of 3 points from 1 to 30 kpc"
    assert np.isfinite(found["gc_z"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--v-sun", "1,2"], "--v-sun: expected U,V,W"),
        (["--r-sun", "8 km/s"], "--r-sun: expected a number in kpc"),
        (["--v-c", "nothing.ecsv"], "--v-c: expected a speed or a file"),
        (["--distance-prior", "flat:1kpc"], "expected exponential:LENGTH"),
        (["--preset", "sdss"], "--preset: there is no 'sdss'"),
        (["--columns", "ra=RA"], "ra: no column 'RA'"),
        (["--where", "nix > 3"], "no column 'nix'"),
        (["--where", "label > 1e9"], "no star is left after the condition 'label > 1e9'"),
        (["--errors", "3"], "16 draws at least"),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "fits"])
def test_errors_in_one_line(sky_file, tmp_path, capsys, options, message, ending):
    out = tmp_path / f"stars.{ending}"
    assert main(["prepare", str(sky_file), "--out", str(out), "--quiet", *options]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert not out.exists()
