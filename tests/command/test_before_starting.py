"""What would be found out at the end is found out before work begins; streams and paths."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from astropy.table import Table

from torusimaging_torch.analysis import batch, single
from torusimaging_torch.catalogue.outputs import check_output, check_writable
from torusimaging_torch.command.main import main
from torusimaging_torch.plot.canvas import own_style
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way_disk

ROOT = Path(__file__).parents[2]
COLUMNS = ["--pos", "z", "--vel", "v_z", "--label", "label"]
COARSE = ["--n-bins", "16", "--e-knots", "2:4", "--model", "torus", "--figure-format", "none"]


@pytest.fixture(scope="module")
def star_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stars") / "stars.fits"
    Table(milky_way_disk(4000, seed=1)).write(path)
    return str(path)


@pytest.fixture
def nothing_begins(monkeypatch):
    """Fail if stars are binned or a batch is begun."""

    def begun(*args, **kwargs):
        raise AssertionError("work began")

    monkeypatch.setattr(single, "bin_stars", begun)
    monkeypatch.setattr(batch.GroupedStars, "open", begun)


def refused(capsys, *arguments):
    assert main([str(x) for x in arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("nothing_begins")
def test_results_that_cannot_be_written_are_told_first(star_file, tmp_path, capsys):
    (tmp_path / "file").touch()
    command = ["fit", star_file, *COLUMNS, *COARSE, "--out"]
    assert "file is a file" in refused(capsys, *command, tmp_path / "file" / "fit")
    assert "choose a folder" in refused(capsys, *command, tmp_path / "file")


@pytest.mark.usefixtures("nothing_begins")
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there_are_told_first(star_file, tmp_path, capsys, device):
    command = ["batch", star_file, *COLUMNS, "--store", tmp_path / "s", "--device", device]
    assert "device" in refused(capsys, *command)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["plot", "no store", "--out", "figure.nonsense"], "figures are files that end in one of"),
        (["plot", "no store", "--out", "figure"], "figures are files that end in one of"),
        (["merge", "no store", "--out", "table.nonsense"], "is not the ending of a format"),
        (["merge", "no store", "--out", "table.csv"], "is not the ending of a format"),
        (["actions", "no fit", "no stars", "--out", "t.nonsense"], "is not the ending of a format"),
        (["prepare", "no stars", "--out", "t.nonsense"], "is not the ending of a format"),
    ],
)
def test_formats_that_nobody_knows_are_told_before_anything_is_read(capsys, command, message):
    assert message in refused(capsys, *command)


def test_where_something_can_be_written(tmp_path, monkeypatch):
    check_writable(tmp_path / "new" / "folder" / "file.fits")
    check_output(tmp_path / "stars.csv", overwrite=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "stars.csv").touch()
    with pytest.raises(ValueError, match="exists: choose another name"):
        check_output(tmp_path / "stars.csv", overwrite=False)
    check_output(tmp_path / "stars.csv", overwrite=True)

    def refused(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(ValueError, match="cannot write .*stars.fits: Read-only file system in"):
        check_writable(tmp_path / "stars.fits")


def test_figures_are_drawn_without_what_a_matplotlibrc_says():
    with mpl.rc_context({"text.usetex": True, "lines.linewidth": 40.0}):
        with own_style():
            assert not mpl.rcParams["text.usetex"]
            assert mpl.rcParams["lines.linewidth"] == mpl.rcParamsDefault["lines.linewidth"]
        assert mpl.rcParams["text.usetex"]


def test_latex_that_is_missing_spoils_no_fit(star_file, tmp_path, capsys):
    with mpl.rc_context({"text.usetex": True}):
        command = ["fit", star_file, *COLUMNS, *COARSE, "--figure-format", "png"]
        assert main([*command, "--out", str(tmp_path / "fit")]) == 0
    assert "warning" not in capsys.readouterr().err
    assert (tmp_path / "fit" / "profiles.png").exists()


def test_labels_that_are_all_equal_are_named(star_file, tmp_path, capsys):
    table = Table.read(star_file)
    table["label"] = 1.0
    table["label_err"] = 0.1
    table.write(tmp_path / "equal.fits")
    command = ["fit", tmp_path / "equal.fits", *COLUMNS, *COARSE, "--label-err", "label_err"]
    line = refused(capsys, *command, "--out", tmp_path / "fit")
    assert "usable pixels have the same label: it has no gradient" in line


# -- streams and paths -----------------------------------------------------------------------------


def run(command, **changes):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    return subprocess.run(command, env=environment, capture_output=True, text=True, shell=False)


def test_an_output_that_knows_no_plus_minus_is_no_error(star_file, tmp_path, monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    assert main(["fit", star_file, *COLUMNS, *COARSE, "--out", str(tmp_path / "fit")]) == 0
    narrow.flush()
    assert b"Omega0" in narrow.buffer.getvalue()


def test_a_reader_that_stops_reading_is_no_error(star_file, tmp_path):
    code = (
        "import os, sys; from torusimaging_torch.command.main import main;"
        "r, w = os.pipe(); os.close(r); os.dup2(w, 1); sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["fit", star_file, *COLUMNS, *COARSE, "--out", str(tmp_path / "fit")]
    found = run([sys.executable, "-c", code, *arguments])
    assert found.returncode == 0, found.stderr
    assert "Error" not in found.stderr
    assert (tmp_path / "fit" / "fit.ecsv").exists()


def test_paths_are_written_as_people_write_them(star_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "stars.fits").write_bytes(Path(star_file).read_bytes())
    command = ["fit", "~/stars.fits", *COLUMNS, *COARSE, "--out", "~/fits/one", "--quiet"]
    assert main(command) == 0
    fit = FitResult.read("~/fits/one/fit.ecsv")
    fit.write("~/again.fits")
    assert FitResult.read(tmp_path / "again.fits").state == fit.state
    assert (
        main(
            [
                "actions",
                "~/fits/one",
                "~/stars.fits",
                "--out",
                "~/actions.fits",
                "--quiet",
                "--prefix",
                "x_",
            ]
        )
        == 0
    )
    command = ["batch", "~/stars.fits", *COLUMNS, "--store", "~/store", "--n-bins", "16", "--quiet"]
    assert main(command) == 0
    assert main(["merge", "~/store", "--out", "~/all.fits"]) == 0
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"stars.fits", "fits", "again.fits", "actions.fits", "store", "all.fits"}
    assert not Path("~").exists()
    assert np.isfinite(Table.read(tmp_path / "actions.fits")["x_J"]).any()


@pytest.mark.parametrize("argument", ["--dacc-strength=--", "--label=--"])
def test_two_dashes_are_no_value(star_file, tmp_path, capsys, argument):
    command = ["fit", star_file, *COLUMNS, *COARSE, "--out", tmp_path / "fit", argument]
    assert argument.removesuffix("=--") in refused(capsys, *command)


@pytest.mark.parametrize("place", [1, -1])
def test_a_path_that_is_empty_is_not_the_working_directory(star_file, capsys, place):
    command = ["fit", star_file, *COLUMNS, *COARSE, "--out", "fit"]
    command[place] = ""
    assert "expected a value, got nothing" in refused(capsys, *command)


def test_an_interruption_while_modules_are_imported_is_one_line():
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'torusimaging_torch.command.config': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder)\n"
        "from torusimaging_torch.__main__ import main\n"
        "sys.exit(main())"
    )
    found = run([sys.executable, "-c", code, "--help"])
    assert found.returncode == 130
    assert found.stderr == "torusimaging-torch: interrupted; nothing was written\n"


def test_numbers_that_are_too_large_make_no_noise(tmp_path, capsys):
    table = Table(milky_way_disk(300, seed=1))
    table["v_z"][::9] = 1e307
    table.write(tmp_path / "huge.fits")
    command = ["fit", tmp_path / "huge.fits", *COLUMNS, *COARSE, "--uncertainty", "none"]
    main([str(x) for x in [*command, "--vel-max", "1e-3 km/s", "--out", tmp_path / "fit"]])
    assert "encountered" not in capsys.readouterr().err
