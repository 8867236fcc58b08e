"""The command, as a user types it: what it prints, writes and refuses."""

from __future__ import annotations

import subprocess
import sys

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table
from command_line import COARSE, COLUMNS, FILES, NO_FIGURES, OF_BOTH, fails, names

from torusimaging_torch import __version__
from torusimaging_torch.command.main import main
from torusimaging_torch.results import FitResult


def test_fit_writes_tables_and_figures(fitted, star_file):
    assert names(fitted) == FILES
    assert all(file.stat().st_size > 500 for file in fitted.iterdir())
    result = FitResult.read(fitted / "fit.ecsv")
    assert result.state.success
    assert result.provenance["file"] == star_file
    assert result.provenance["where"] == ["R > 7.1", "abs(z) < 1.5 kpc"]
    assert result.provenance["columns"] == {"pos": "z", "vel": "v_z", "label": "label"}
    assert result.provenance["grid"]["n_bins"] == 16
    pixels = QTable.read(fitted / "pixels.ecsv")
    assert len(pixels) == 16 * 16
    expected = result.model.get_label(pixels["pos"], pixels["vel"], result.params)
    np.testing.assert_allclose(pixels["model"], expected.numpy(), rtol=1e-12)
    pull = (pixels["label"] - pixels["model"]) / pixels["label_err"]
    assert np.nansum(pull**2) == pytest.approx(result.provenance["goodness"]["chi2"])


def test_profiles_carry_units_and_errors(fitted):
    profiles = QTable.read(fitted / "profiles.ecsv")
    assert profiles["surface_density"].unit == u.Msun / u.pc**2
    assert np.all(profiles["acceleration_err"][1:] > 0)
    assert profiles["height"][0] == 0
    pos0 = FitResult.read(fitted / "fit.ecsv").quantity("pos0")
    assert u.isclose(profiles["pos"][0], pos0)


def test_output_tells_what_was_found(star_file, tmp_path, capsys):
    out = str(tmp_path / "fit")
    assert main(["fit", star_file, *COLUMNS, *COARSE, *NO_FIGURES, "--out", out]) == 0
    captured = capsys.readouterr()
    for text in ("converged after", "chi^2 = ", "Omega0", "midplane pos0", "Sigma", "fit.ecsv"):
        assert text in captured.out
    assert "\N{PLUS-MINUS SIGN}" in captured.out
    for text in ("reading", "8,000 of 8,000 stars selected", "in 16 x", "iteration", "done in"):
        assert text.replace("in 16 x", "of 16 x 16 pixels") in captured.err
    assert "arning" not in captured.err
    bound = FitResult.read(tmp_path / "fit" / "fit.ecsv").provenance["bound"]
    assert f"errors: Cramer-Rao bound; {bound['reading']}" in captured.out
    assert ("use --uncertainty nuts" in captured.out) == (not bound["good"])
    assert 0 < bound["ess"] <= 1000


def test_quiet_is_quiet(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    arguments = [
        "fit",
        star_file,
        *COLUMNS,
        *COARSE,
        *NO_FIGURES,
        "--quiet",
        "--uncertainty",
        "none",
    ]
    assert main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\N{PLUS-MINUS SIGN}" not in captured.out
    assert FitResult.read(out / "fit.ecsv").covariance is None
    assert "density_err" not in QTable.read(out / "profiles.ecsv").colnames


def test_csv_with_units_on_the_command_line(stars, tmp_path):
    table = Table({"height": stars["z"].to_value(u.pc), "w": stars["v_z"].value})
    table["x"] = stars["label"]
    table.write(tmp_path / "stars.csv")
    arguments = ["--pos", "height", "--vel", "w", "--label", "x", *COARSE, *NO_FIGURES, "--quiet"]
    units = ["--units", "height=pc,w=km/s"]
    out = tmp_path / "fit"
    run = ["fit", str(tmp_path / "stars.csv"), *arguments, *units, "--out", str(out)]
    assert main(run) == 0
    assert FitResult.read(out / "fit.ecsv").provenance["grid"]["pos_max"] == "1000.0 pc"


def test_star_counts(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    arguments = ["fit", star_file, "--pos", "z", "--vel", "v_z", "--counts", *COARSE, *NO_FIGURES]
    assert main([*arguments, "--label-knots", "5", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "deviance = " in captured.out
    result = FitResult.read(out / "fit.ecsv")
    assert result.objective == "poisson"
    pixels = QTable.read(out / "pixels.ecsv")
    # The model's expected counts add up to the stars: the free central label sees to that.
    assert np.exp(pixels["model"]).sum() == pytest.approx(pixels["counts"].sum(), rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--label", "MG_FE"],
            "--label: no column 'MG_FE'; the table has z, v_z, label, label_err",
        ),
        (["--pos", "label"], "--pos: column 'label' has no unit; give one, as label=kpc"),
        (["--where", "R >"], "cannot read the condition 'R >'"),
        (["--where", "R > 100"], "no star is left after the condition 'R > 100'"),
        (["--where", "R > 1 km/s"], "in the condition 'R > 1 km/s': cannot compare"),
        (["--pos-max", "70 km/s"], "--pos-max: '70.0 km / s' does not convert to 'kpc'"),
        (["--pos-max", "far"], "--pos-max: expected a number with or without a unit, got 'far'"),
        (["--pos-max=-1kpc"], "--pos-max must be positive"),
        (["--pos-max", "1e-9kpc"], "no star has |pos| <= 1e-09 kpc"),
        (["--units", "q=kpc"], "--units: no column 'q'"),
        (["--label-knots", "1"], "--label-knots must be at least 2"),
        (["--n-bins", "-3"], "--n-bins must be at least 4, got -3"),
    ],
)
def test_errors_are_one_line(star_file, tmp_path, capsys, change, message):
    arguments = ["fit", star_file, *COLUMNS, "--quiet", *change, "--out", tmp_path / "fit"]
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_missing_file_is_an_error(tmp_path, capsys):
    line = fails(capsys, "fit", tmp_path / "none.fits", *COLUMNS, "--out", tmp_path / "fit")
    assert "no file" in line
    assert "none.fits" in line


def test_debug_shows_where(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(["fit", "none.fits", *COLUMNS, "--debug", "--out", str(tmp_path / "fit")])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["batch", "x.fits", "--pos", "z", "--vel", "v"],
        ["fit", "x.fits", *COLUMNS, "--out", "o", "--e-knots", "2-8"],
        ["fit", "x.fits", *COLUMNS, "--out", "o", "--e-knots", "2:many"],
        ["fit", "x.fits", *COLUMNS, "--out", "o", "--convention", "xy"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: torusimaging-torch" in capsys.readouterr().err


def test_label_errors_need_a_label(star_file, tmp_path, capsys):
    arguments = ["--pos", "z", "--vel", "v_z", "--counts", "--label-err", "label_err"]
    line = fails(capsys, "fit", star_file, *arguments, "--out", tmp_path / "fit")
    assert "no meaning with --counts" in line


def test_fit_that_does_not_converge_is_exit_code_1(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    arguments = ["fit", star_file, *COLUMNS, *COARSE, *NO_FIGURES, "--max-iter", "1"]
    assert main([*arguments, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "NOT CONVERGED" in captured.out
    # What is no optimum has no errors, and no word on whether a Gaussian stands for it.
    assert "no errors, since the fit did not converge" in captured.out
    assert "Gaussian" not in captured.out
    numbers = captured.out.partition("at the centre")[2].partition("with a flat")[0]
    assert "\N{PLUS-MINUS SIGN}" not in numbers
    assert "nan" not in numbers
    assert "torusimaging-torch: warning: 1 of 1 fits did not converge" in captured.err
    assert not FitResult.read(out / "fit.ecsv").state.success


@pytest.mark.slow
def test_demo_compares_with_the_truth(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--n-stars", "20000", "--out", str(out), "--seed", "3"]) == 0
    captured = capsys.readouterr()
    assert names(out) == {*FILES, *OF_BOTH, "comparison.ecsv"}
    assert "recovered" in captured.out
    assert "sigma" in captured.out
    assert "warning" not in captured.err.lower()
    table = QTable.read(out / "comparison.ecsv")
    assert {"Omega0", "pos0", "vel0", "acceleration", "surface_density"} <= set(table["quantity"])
    np.testing.assert_allclose(table["pull"], (table["recovered"] - table["true"]) / table["error"])
    # 18 numbers, not independent, with errors that are a bound: none may be far off.
    assert np.all(np.abs(table["pull"]) < 4)
    acceleration = table[table["quantity"] == "acceleration"]
    assert np.all(np.abs(acceleration["fraction"]) < 0.25)


def test_version_and_help_are_quick():
    script = "import sys; from torusimaging_torch.command import main; code = main(sys.argv[1:]);"
    script += "assert not {'torch', 'astropy', 'matplotlib', 'gala', 'numpy'} & set(sys.modules);"
    script += "sys.exit(code)"
    for arguments, text in ((["--version"], __version__), (["fit", "--help"], "--where")):
        run = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
        )
        assert text in run.stdout


def test_module_runs_as_a_command():
    command = [sys.executable, "-m", "torusimaging_torch", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"torusimaging-torch {__version__}\n"
