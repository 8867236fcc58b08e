"""Both models by one command: what is written and printed, and when one of them stands alone."""

from __future__ import annotations

import re

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from command_line import COLUMNS, FILES, NO_FIGURES, OF_BOTH, PIXELS, TABLES, fails, names

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.command.main import main
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way_disk


@pytest.fixture(scope="module")
def star_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stars") / "stars.fits"
    milky_way_disk(8000, seed=5)["z", "v_z", "label", "label_err"].write(path)
    return str(path)


def fit(star_file, out, *options):
    return main(["fit", star_file, *COLUMNS, *PIXELS, *options, "--quiet", "--out", str(out)])


def test_both_are_fitted_to_the_same_pixels_by_default(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    assert fit(star_file, out, "--e-knots", "2:4,4:3") == 0
    text = capsys.readouterr().out
    assert text.index("ELLIPSES AND HARMONICS") < text.index("POTENTIAL, of the same pixels")
    assert names(out) == FILES | OF_BOTH
    torus, potential = (FitResult.read(out / f"{name}.ecsv") for name in ("fit", "potential"))
    assert isinstance(torus.model, TorusImaging1DSpline)
    assert isinstance(potential.model, TorusImaging1DPotential)
    assert torus.provenance["goodness"]["n_pixels"] == potential.provenance["goodness"]["n_pixels"]
    first, second = (QTable.read(out / f"profiles{end}.ecsv") for end in ("", "_potential"))
    assert (first["pos"] == second["pos"]).all()
    assert (second["density"] > 0).all()
    # The difference that is printed is that of the tables.
    line = next(x for x in text.split("DIFFERENCE")[1].splitlines() if x.startswith("0.6 "))
    a = [
        fitted.profiles(fitted.quantity("pos0") + [0.6] * u.kpc)["acceleration"][0]
        for fitted in (torus, potential)
    ]
    assert float(line.split()[1]) == pytest.approx(100 * (a[1] / a[0] - 1).value, abs=0.06)


def test_the_potential_alone(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    assert fit(star_file, out, "--model", "potential", *NO_FIGURES) == 0
    assert "ELLIPSES" not in capsys.readouterr().out
    assert names(out) == TABLES
    assert "<svg" not in (out / "report.html").read_text()
    result = FitResult.read(out / "fit.ecsv")
    assert isinstance(result.model, TorusImaging1DPotential)
    stars = ["actions", str(out), star_file, "--out", str(tmp_path / "stars.fits"), "--quiet"]
    assert main(stars) == 0
    orbits = QTable.read(tmp_path / "stars.fits")
    assert np.isfinite(orbits["J"]).mean() > 0.5


def test_radial_data_have_ellipses_alone(star_file, tmp_path, capsys):
    # Vertical data, taken for radial ones: how well that goes is not the question.
    radial = ["--convention", "vp", "--e-knots", "2:3", *NO_FIGURES]
    assert fit(star_file, tmp_path / "fit", *radial) in (0, 1)
    assert names(tmp_path / "fit") == TABLES
    capsys.readouterr()
    command = ["fit", star_file, *COLUMNS, *PIXELS, "--out", str(tmp_path / "other")]
    error = fails(capsys, *command, "--convention", "vp", "--model", "potential")
    assert "needs elliptical_angle_convention" in error


def test_many_potentials(star_file, tmp_path, capsys):
    store = tmp_path / "run"
    command = ["batch", star_file, *COLUMNS, *PIXELS, "--model", "potential", "--bootstrap", "2"]
    assert main([*command, "--store", str(store), "--quiet"]) == 0
    assert "3 fits: 3 converged" in capsys.readouterr().out


def test_outliers_are_sought_and_told(tmp_path, capsys):
    stars, rng = milky_way_disk(40_000, seed=3), np.random.default_rng(3)
    stars["label"] = stars["label"] + rng.normal(0, 0.5, 40_000) * (rng.uniform(size=40_000) < 0.05)
    stars["z", "v_z", "label", "label_err"].write(tmp_path / "stars.fits")
    out = tmp_path / "fit"
    options = ["--outliers", "--label-err", "label_err", *NO_FIGURES]
    assert fit(str(tmp_path / "stars.fits"), out, *options) == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"outliers of label: [56]\S* % of 3\d,\d{3} stars", text)) == 2
    assert "outliers of label: " in (out / "report.html").read_text()
    for name in ("fit", "potential"):
        told = FitResult.read(out / f"{name}.ecsv").provenance["outliers"]["label"]
        assert told["eps"] == pytest.approx(0.05, rel=0.1)
        assert told["s_out"] == pytest.approx(0.5, rel=0.1)
        assert told["s"] == pytest.approx(0.04, rel=0.1)
    command = ["fit", str(tmp_path / "stars.fits"), "--pos", "z", "--vel", "v_z", "--outliers"]
    more = ["--out", str(tmp_path / "other"), "--quiet"]
    assert main([*command, "--counts", *more]) == 2
    assert "star counts have none" in capsys.readouterr().err
    assert main([*command, "--label", "label", "--scatter", "0.1", *more]) == 2
    assert "leave it out" in capsys.readouterr().err
