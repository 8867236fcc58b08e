"""The folder of a fit: what is replaced, what stays, and what failures leave in it."""

from __future__ import annotations

import pytest
from command_line import COARSE, COLUMNS, NO_FIGURES, TABLES, fails, names

from torusimaging_torch.analysis import folder
from torusimaging_torch.command.main import main
from torusimaging_torch.results import FitResult


def test_earlier_results_are_replaced_and_other_files_stay(fitted, star_file):
    (fitted / "notes.txt").write_text("mine")
    (fitted / "comparison.ecsv").write_text("of an earlier demo")
    before = (fitted / "fit.ecsv").read_text()
    arguments = [
        "fit",
        star_file,
        *COLUMNS,
        *COARSE,
        "--label-err",
        "label_err",
        "--quiet",
        *NO_FIGURES,
    ]
    assert main([*arguments, "--out", str(fitted)]) == 0
    assert names(fitted) == {*TABLES, "notes.txt"}
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


def test_interruption_leaves_nothing(star_file, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "pixel_table", interrupt)
    assert main(["fit", star_file, *COLUMNS, *COARSE, "--out", str(tmp_path / "fit")]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
