"""Several labels, and star counts beside them, by one command."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from command_line import PIXELS, fails, names

from torusimaging_torch.command.main import main
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way, milky_way_disk

COLUMNS = ["--pos", "z", "--vel", "v_z"]
LABEL = ["--label", "MG_FE", "--label-err", "label_err"]


def seen(z):
    return np.exp(-np.abs(z) / 0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with stars that a survey has seen, and its selection function."""
    path = tmp_path_factory.mktemp("survey")
    stars = milky_way_disk(60_000, R=8.3 * u.kpc, seed=5)
    rng = np.random.default_rng(1)
    stars = stars[rng.uniform(size=len(stars)) < seen(stars["z"].to_value(u.kpc))]
    stars["FE_H"] = -2 * stars["label"] + rng.normal(0, 0.1, len(stars))
    stars["MG_FE"] = stars["label"]
    stars["z", "v_z", "MG_FE", "FE_H", "label_err"].write(path / "stars.fits")
    z = np.linspace(1.5, -1.5, 61)
    QTable({"z": z * u.kpc, "selection": 7 * seen(z)}).write(path / "seen.ecsv")
    return path


def fit(folder, out, *options):
    command = ["fit", str(folder / "stars.fits"), *COLUMNS, *PIXELS, "--quiet", "--out", str(out)]
    return main([*command, *options])


@pytest.mark.slow
def test_counts_are_for_the_potential_beside_ellipses_of_the_labels(folder, tmp_path, capsys):
    out = tmp_path / "fit"
    selection = "--selection", str(folder / "seen.ecsv")
    assert fit(folder, out, *LABEL, "--counts", *selection, "--e-knots", "2:4,4:3") == 0
    text = capsys.readouterr().out
    assert "POTENTIAL, of the same labels, and of star counts" in text
    assert "deviance of counts" in text
    assert "counts: neighbours" in text
    more = {"pixels_counts.ecsv", "data_counts.png", "splines_counts.png"}
    assert more | {"pixels.ecsv", "data.png", "splines.png"} <= names(out)
    ellipses, potential = (FitResult.read(out / f"{name}.ecsv") for name in ("fit", "potential"))
    assert ellipses.data_sets == ()
    assert potential.objective == {"MG_FE": "gaussian", "counts": "poisson"}
    # The model of the counts has the selection function in it.
    pixels = QTable.read(out / "pixels_counts.ecsv")
    assert np.nansum(np.exp(pixels["model"])) == pytest.approx(pixels["counts"].sum(), rel=0.01)
    heights = [0.3, 0.5, 0.8] * u.kpc
    found = potential.profiles(potential.quantity("pos0") + heights)
    true = milky_way(8.3 * u.kpc).acceleration(heights)
    pull = ((found["acceleration"] - true) / found["acceleration_err"]).to_value("")
    assert np.abs(pull).max() < 4
    assert (found["acceleration_err"] < 0.05 * np.abs(true)).all()


@pytest.mark.slow
def test_several_labels_and_counts_in_one_model(folder, tmp_path, capsys):
    out = tmp_path / "fit"
    two = ["--label", "MG_FE", "--label", "FE_H", "--counts", "--model", "potential"]
    fit(folder, out, *two, "--selection-error", "0.3")
    said = capsys.readouterr()
    assert "of FE_H" in said.out
    assert "of the same stars" not in said.err  # their covariance is known
    result = FitResult.read(out / "fit.ecsv")
    assert result.data_sets == ("MG_FE", "FE_H", "counts")
    assert {f"data_{name}.png" for name in result.data_sets} <= names(out)
    assert "data.png" not in names(out)
    table = result.to_table()
    assert "selection_params.counts.vals[0]" in list(table["name"])
    command = ["actions", str(out), str(folder / "stars.fits"), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "stars.fits")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what to fit: --label COL, --counts, or both"),
        (["--label", "MG_FE", "--label", "MG_FE"], "label: MG_FE is given twice"),
        ([*LABEL, "--label", "FE_H"], "--label-err must be given for each label or for none"),
        ([*LABEL, "--selection", "seen.ecsv"], "--selection-error are of star counts"),
        (["--counts", "--selection-error", "-1"], "--selection-error must not be negative"),
        (["--counts", "--selection", "no.ecsv"], "no.ecsv"),
        (
            ["--label", "MG_FE", "--label", "FE_H", "--scatter", "0.1"],
            "--scatter is the scatter of one",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused(folder, tmp_path, capsys, options, message):
    command = ["fit", folder / "stars.fits", *COLUMNS, *PIXELS, "--out", tmp_path / "fit"]
    assert message in fails(capsys, *command, *options)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"q": [0, 1] * u.kpc, "selection": [1, 1]}, "needs a column 'z'"),
        ({"z": [0, 1] * u.kpc, "S": [1, 1]}, "needs a column 'selection'"),
        ({"z": [0, 0] * u.kpc, "selection": [1, 1]}, "two or more different positions"),
        ({"z": [0, 1] * u.kpc, "selection": [1, np.nan]}, "below zero or missing"),
        ({"z": [0, 1] * u.Myr, "selection": [1, 1]}, "must have a unit of length"),
        ({"z": [5, 6] * u.kpc, "selection": [1, 1]}, "zero in all pixels"),
    ],
)
def test_selection_tables_are_checked(folder, tmp_path, capsys, columns, message):
    path = tmp_path / "table.ecsv"
    QTable(columns).write(path)
    command = ["fit", folder / "stars.fits", *COLUMNS, *PIXELS, "--out", tmp_path / "fit"]
    assert message in fails(capsys, *command, "--counts", "--selection", path)
