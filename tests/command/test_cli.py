"""The command, as a user types it: what it prints, writes and refuses."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable, Table

from torusimaging_torch import __version__
from torusimaging_torch.analysis import demo, folder
from torusimaging_torch.analysis.binning import bin_stars
from torusimaging_torch.analysis.report import heights_to_print, interval, number
from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.catalogue.tables import SelectedStars, read_stars
from torusimaging_torch.command.main import main
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.results import FitResult
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way_disk

FILES = {
    "report.html",
    "fit.ecsv",
    "profiles.ecsv",
    "pixels.ecsv",
    "data.png",
    "splines.png",
    "profiles.png",
}
PIXELS = ["--n-bins", "16", "--pos-max", "1kpc", "--vel-max", "60 km/s"]
COARSE = [*PIXELS, "--e-knots", "2:4,4:3", "--model", "torus"]
OF_BOTH = {"potential.ecsv", "profiles_potential.ecsv", "splines_potential.png"}
COLUMNS = ["--pos", "z", "--vel", "v_z", "--label", "label"]


@pytest.fixture(scope="module")
def stars():
    table = milky_way_disk(8000, seed=5)
    table["R"] = np.linspace(7, 9, len(table)) * u.kpc
    return table["z", "v_z", "label", "label_err", "R"]


@pytest.fixture(scope="module")
def star_file(stars, tmp_path_factory):
    path = tmp_path_factory.mktemp("stars") / "stars.fits"
    stars.write(path)
    return str(path)


@pytest.fixture(scope="module")
def fitted(star_file, tmp_path_factory):
    """Return the folder of a fit with all that the command writes."""
    out = tmp_path_factory.mktemp("run") / "fit"
    where = ["--where", "R > 7.1", "--where", "abs(z) < 1.5 kpc"]
    assert main(["fit", star_file, *COLUMNS, *COARSE, *where, "--out", str(out)]) == 0
    return out


def names(folder):
    return {file.name for file in folder.iterdir()}


def fails(capsys, *arguments):
    """Run a command that must fail with one line on standard error; return that line."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("torusimaging-torch: error: ")
    assert "Traceback" not in captured.err
    return lines[-1]


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
    assert main(["fit", star_file, *COLUMNS, *COARSE, "--out", out]) == 0
    captured = capsys.readouterr()
    for text in ("converged after", "chi^2 = ", "Omega0", "midplane pos0", "Sigma", "fit.ecsv"):
        assert text in captured.out
    assert "\N{PLUS-MINUS SIGN}" in captured.out
    for text in ("reading", "8,000 of 8,000 stars selected", "in 16 x", "iteration", "done in"):
        assert text.replace("in 16 x", "of 16 x 16 pixels") in captured.err
    assert "arning" not in captured.err
    bound = FitResult.read(tmp_path / "fit" / "fit.ecsv").provenance["bound"]
    assert f"errors: Cramer-Rao bound; {bound['reading']}" in captured.out
    assert ("use --uncertainty nuts" in captured.out) == (bound["khat"] >= 0.7)
    assert 0 < bound["ess"] <= 500


def test_quiet_is_quiet(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    arguments = ["fit", star_file, *COLUMNS, *COARSE, "--quiet", "--uncertainty", "none"]
    assert main([*arguments, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\N{PLUS-MINUS SIGN}" not in captured.out
    assert FitResult.read(out / "fit.ecsv").covariance is None
    assert "density_err" not in QTable.read(out / "profiles.ecsv").colnames


def test_earlier_results_are_replaced_and_other_files_stay(fitted, star_file):
    (fitted / "notes.txt").write_text("mine")
    (fitted / "comparison.ecsv").write_text("of an earlier demo")
    before = (fitted / "fit.ecsv").read_text()
    arguments = ["fit", star_file, *COLUMNS, *COARSE, "--label-err", "label_err", "--quiet"]
    assert main([*arguments, "--out", str(fitted)]) == 0
    assert names(fitted) == {*FILES, "notes.txt"}
    assert (fitted / "fit.ecsv").read_text() != before
    (fitted / "notes.txt").unlink()


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("latex was not found")])
def test_failure_while_drawing_leaves_the_tables(star_file, tmp_path, monkeypatch, capsys, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(folder.plot, "plot_spline_functions", fail)
    out = tmp_path / "results" / "fit"
    assert main(["fit", star_file, *COLUMNS, *COARSE, "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert (
        f"figures or the report are missing ({type(error).__name__}: {error}); all tables" in told
    )
    assert {"fit.ecsv", "profiles.ecsv", "pixels.ecsv"} <= names(out)
    assert "splines.png" not in names(out)
    assert FitResult.read(out / "fit.ecsv").state.success


def test_failure_while_writing_leaves_nothing_behind(star_file, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(folder, "pixel_table", fail)
    out = tmp_path / "results" / "fit"
    assert fails(capsys, "fit", star_file, *COLUMNS, *COARSE, "--out", out).endswith("disk full")
    assert list((tmp_path / "results").iterdir()) == []


def test_failure_while_drawing_leaves_earlier_results(fitted, star_file, monkeypatch, capsys):
    before = {file.name: file.read_bytes() for file in fitted.iterdir()}
    monkeypatch.setattr(folder, "pixel_table", lambda analysis: 1 / 0)
    line = fails(capsys, "fit", star_file, *COLUMNS, *COARSE, "--out", fitted)
    assert "ZeroDivisionError" in line
    assert "--debug" in line
    assert {file.name: file.read_bytes() for file in fitted.iterdir()} == before


def test_files_of_others_are_not_overwritten(star_file, tmp_path, capsys):
    (tmp_path / "profiles.ecsv").write_text("mine")
    line = fails(capsys, "fit", star_file, *COLUMNS, "--out", tmp_path)
    assert "profiles.ecsv and no fit from here" in line
    assert names(tmp_path) == {"profiles.ecsv"}
    assert "is a file" in fails(capsys, "demo", "--out", tmp_path / "profiles.ecsv")


def test_csv_with_units_on_the_command_line(stars, tmp_path):
    table = Table({"height": stars["z"].to_value(u.pc), "w": stars["v_z"].value})
    table["x"] = stars["label"]
    table.write(tmp_path / "stars.csv")
    arguments = ["--pos", "height", "--vel", "w", "--label", "x", *COARSE, "--quiet"]
    units = ["--units", "height=pc,w=km/s"]
    out = tmp_path / "fit"
    run = ["fit", str(tmp_path / "stars.csv"), *arguments, *units, "--out", str(out)]
    assert main(run) == 0
    assert FitResult.read(out / "fit.ecsv").provenance["grid"]["pos_max"] == "1000.0 pc"


def test_star_counts(star_file, tmp_path, capsys):
    out = tmp_path / "fit"
    arguments = ["fit", star_file, "--pos", "z", "--vel", "v_z", "--counts", *COARSE]
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
        (["--pos-max", "far"], "--pos-max: expected a number with a unit, got 'far'"),
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
    arguments = ["fit", star_file, *COLUMNS, *COARSE, "--max-iter", "1"]
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


def test_interruption_leaves_nothing(star_file, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "pixel_table", interrupt)
    assert main(["fit", star_file, *COLUMNS, *COARSE, "--out", str(tmp_path / "fit")]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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


@pytest.fixture(scope="module")
def sampled_fit(star_file, tmp_path_factory):
    """Return the folder and the text of a fit with a few samples of the posterior."""
    out = tmp_path_factory.mktemp("run") / "fit"
    arguments = ["fit", star_file, *COLUMNS, *COARSE, "--uncertainty", "nuts", "--draws", "30"]
    text, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(told):
        assert main([*arguments, "--out", str(out)]) == 0
    return out, text.getvalue(), told.getvalue()


def test_fit_keeps_samples_and_their_percentiles(sampled_fit):
    out, _, _ = sampled_fit
    assert names(out) == {*FILES, "samples.ecsv"}
    samples = QTable.read(out / "samples.ecsv")
    result = FitResult.read(out / "fit.ecsv")
    assert len(samples) == 30
    assert set(result.to_table()["name"]) <= set(samples.colnames)
    assert result.provenance["sampling"]["n_samples"] == 30
    assert result.covariance[-1, -1] == pytest.approx(np.var(samples["vel0"].value, ddof=1))
    # The acceleration of each sample, by the model itself.
    profiles = QTable.read(out / "profiles.ecsv")
    layout = Layout.of(result.params)
    vectors = torch.tensor(
        np.stack(
            [samples[name].value if samples[name].unit else samples[name] for name in layout.names],
            -1,
        )
    )
    rows = [layout.unflatten(row) for row in vectors]
    every = u.Quantity([result.model.get_acceleration(profiles["pos"], row) for row in rows])
    low, middle, high = np.percentile(every, [16, 50, 84], axis=0)
    tolerance = 1e-9 * np.abs(every).max()
    assert u.allclose(profiles["acceleration_p50"], middle, atol=tolerance)
    assert u.allclose(profiles["acceleration_err"], (high - low) / 2, atol=tolerance)
    assert u.allclose(
        profiles["acceleration"],
        result.model.get_acceleration(profiles["pos"], result.params),
        atol=tolerance,
    )


def test_output_tells_how_samples_turned_out(sampled_fit):
    out, text, told = sampled_fit
    assert "errors: median and 68 % of 30 samples of the posterior; R-hat up to" in text
    assert "samples.ecsv" in text
    samples = QTable.read(out / "samples.ecsv")
    low, middle, high = np.percentile(samples["pos0"].to_value(u.pc), [16, 50, 84])
    assert interval((low, middle, high)) in text
    assert "sampling the posterior: 30 draws after 30 steps of warm-up" in told
    warnings = [line for line in told.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "the sampler has not converged" in warnings[0]
    assert "it/s" not in told  # no bars where nobody sees them


@pytest.mark.parametrize("draws", ["0", "3", "many"])
def test_too_few_draws_are_refused(draws, capsys):
    assert main(["demo", "--uncertainty", "nuts", "--draws", draws]) == 2
    assert "--draws" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((57.1, 61.3, 66.0), "61.3 +4.7 \N{MINUS SIGN}4.2"),
        ((-8.002, -7.851, -7.70), "-7.85 ± 0.15"),
        ((0.001, 0.0123, 0.05), "0.012 +0.038 \N{MINUS SIGN}0.011"),
        ((np.nan, 5.0, np.nan), "5.000"),
    ],
)
def test_errors_that_differ_are_given_one_by_one(ends, text):
    assert interval(ends) == text


def test_truth_of_the_demo_is_that_of_the_potential():
    _, potential = demo.simulate(10, seed=0)
    z = np.linspace(-1, 1, 5) * u.kpc
    shifted = demo.Shifted(potential, 0.1 * u.kpc)
    for name in ("acceleration", "density", "surface_density"):
        assert u.allclose(getattr(shifted, name)(z + 0.1 * u.kpc), getattr(potential, name)(z))


def test_default_grid_holds_the_stars_and_suits_their_number():
    rng = np.random.default_rng(0)
    for n, n_bins in ((1000, 20), (12_800, 40), (200_000, 80)):
        pos, vel = rng.normal(0, 0.3, n) * u.kpc, rng.normal(0, 20, n) * u.km / u.s
        pos[0] = np.nan * u.kpc
        with pytest.warns(UserWarning, match="1 with pos or vel not finite"):
            data, grid = bin_stars(SelectedStars(pos, vel), Settings())
        assert grid["n_bins"] == pytest.approx(n_bins, abs=1)
        assert 0.96 * n < grid["n_stars"] < n
        assert data["counts"]["counts"].shape == (grid["n_bins"],) * 2


def test_labels_with_units_and_any_size_give_the_same_orbits(stars):
    """The default penalty scales with the label, so its unit does not matter."""
    settings = Settings(pos_max=1 * u.kpc, vel_max=60 * u.km / u.s, n_bins=12, e_knots={2: 3, 4: 2})
    first = analyse(read_stars(stars, "z", "v_z", "label"), settings).result
    scaled = stars.copy()
    scaled["label"] = 1000 * scaled["label"] * u.dex
    second = analyse(read_stars(scaled, "z", "v_z", "label"), settings).result
    # Knots are placed by a quick fit that stops early, so the two differ by little, but differ.
    for name in ("Omega0", "pos0", "vel0"):
        value, error = first.measured(name)
        assert abs(second.quantity(name) - value) < 0.1 * error


def test_unknown_uncertainty_is_refused(stars):
    with pytest.raises(ValueError, match="uncertainty must be one of"):
        analyse(read_stars(stars, "z", "v_z", "label"), Settings(uncertainty="guess"))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.08358, 0.0034, "0.0836 ± 0.0034"),
        (-18.34, 1.3, "-18.3 ± 1.3"),
        (1234.5, 56.0, "1234 ± 56"),
        (5.0, np.nan, "5.000"),
        (67.4, 0.0, "67.40"),
    ],
)
def test_numbers_have_the_digits_of_their_errors(value, error, text):
    assert number(value, error) == text


@pytest.mark.parametrize(
    ("limit", "first", "count"),
    [(1.185, 0.2, 5), (1.46, 0.25, 5), (0.18, 0.05, 3), (300, 50, 6), (0.0987, 0.02, 4)],
)
def test_heights_are_round(limit, first, count):
    heights = heights_to_print(limit * u.kpc)
    assert heights[0].value == pytest.approx(first)
    assert len(heights) == count
    assert heights[-1].value <= limit


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
