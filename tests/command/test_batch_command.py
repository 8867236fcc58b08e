"""The commands batch, merge and plot, as a user types them."""

from __future__ import annotations

import json
import re
import shutil

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable, Table
from grouped import COARSE, COLUMNS, GROUP, RADII, N, batch, draw_groups

from torusimaging_torch.analysis import batch as batch_command
from torusimaging_torch.command.main import main
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.summary import summarize

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def stars() -> Table:
    return draw_groups()


@pytest.fixture(scope="module")
def star_file(stars, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("stars") / "stars.parquet"
    stars.write(path)
    return str(path)


@pytest.fixture(scope="module")
def filled(star_file, tmp_path_factory):
    """Return the store of three groups with two bootstraps of each, made in one go."""
    store = tmp_path_factory.mktemp("run") / "store"
    assert batch(star_file, store, "--bootstrap", "2", "--quiet") == 0
    return store


@pytest.fixture(scope="module")
def merged(filled) -> BatchResult:
    return batch_command.load_batch(filled)


def refusal(capsys, star_file, store, *options) -> str:
    assert batch(star_file, store, "--quiet", *options) == 2
    return capsys.readouterr().err.splitlines()[-1]


def assert_equal(a: BatchResult, b: BatchResult) -> None:
    """Compare to the last bit."""
    assert (a.names, a.message, a.settings) == (b.names, b.message, b.settings)
    for name, values in b.values.items():
        assert torch.equal(a.values[name].nan_to_num(-1), values.nan_to_num(-1)), name
    assert list(a.columns) == list(b.columns)
    for name, values in b.columns.items():
        assert np.array_equal(a.columns[name], values), name
        assert a.columns[name].dtype.kind == values.dtype.kind
        assert getattr(a.columns[name], "unit", None) == getattr(values, "unit", None)


def fails(capsys, *arguments) -> str:
    """Run a command that must fail with one line on standard error; return that line."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_names_and_columns_say_what_each_fit_is(merged):
    assert merged.success.all()
    assert merged.names[:4] == (
        "R_g = 6.5 to 7.5 kpc",
        "R_g = 6.5 to 7.5 kpc, bootstrap 0",
        "R_g = 6.5 to 7.5 kpc, bootstrap 1",
        "R_g = 7.5 to 8.5 kpc",
    )
    columns = merged.columns
    assert np.array_equal(columns["R_g"], np.repeat(RADII, 3) * u.kpc)
    assert np.array_equal(columns["R_g_upper"] - columns["R_g_lower"], np.ones(9) * u.kpc)
    assert columns["resampling"].tolist() == [-1, 0, 1] * 3
    assert columns["resampling_kind"].tolist() == ["none", "bootstrap", "bootstrap"] * 3
    assert np.all(columns["n_stars"] > 0.8 * N)
    assert np.all(np.diff(summarize(merged)["surface_density"]) < 0)


def test_a_batch_is_told_on_one_page(filled, star_file):
    page = (filled / "report.html").read_text()
    shown = re.sub(r"<[^>]+>", " ", page)
    for group in ("R_g = 6.5 to 7.5 kpc", "R_g = 7.5 to 8.5 kpc", "R_g = 8.5 to 9.5 kpc"):
        assert group in shown
    assert "9 fits: 9 converged, 0 did not" in shown
    assert f"batch {star_file} --pos z" in shown
    assert "bootstrap = 2" in shown
    assert "3 groups of" in shown
    assert page.count("<svg") == 1


@pytest.mark.parametrize("ending", ["ecsv", "parquet", "hdf5", "fits"])
def test_merged_table_has_everything_to_the_last_bit(filled, merged, tmp_path, capsys, ending):
    if ending == "hdf5":
        pytest.importorskip("h5py")
    out = tmp_path / f"table.{ending}"
    assert main(["merge", str(filled), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "9 fits: 9 converged, 0 did not" in text
    assert f"written to {out}" in text
    assert_equal(BatchResult.read(out), merged)
    assert "exists: choose another name, or say --overwrite" in fails(
        capsys, "merge", filled, "--out", out
    )


def test_table_is_one_to_work_with(filled, tmp_path):
    main(["merge", str(filled), "--out", str(tmp_path / "t.ecsv")])
    table = QTable.read(tmp_path / "t.ecsv")
    assert table.colnames[:5] == ["name", "label", "group", "resampling", "resampling_kind"]
    assert table["R_g"].unit == u.kpc
    again = table[table["resampling"] >= 0]
    spread = [np.std(again["Omega0"][again["R_g"] == R * u.kpc]) for R in RADII]
    assert all(s > 0 for s in spread)


def test_shards_are_those_of_one_go_bit_by_bit(star_file, tmp_path, merged, capsys):
    store = tmp_path / "store"
    assert batch(star_file, store, "--bootstrap", "2", "--shard", "1/2") == 0
    assert "this job's part" in capsys.readouterr().out
    assert "missing are the parts 0, 2: run the 'batch' command again, or say --partial" in fails(
        capsys, "merge", store, "--out", tmp_path / "t.ecsv"
    )
    assert main(["merge", str(store), "--out", str(tmp_path / "some.ecsv"), "--partial"]) == 0
    assert len(BatchResult.read(tmp_path / "some.ecsv")) == 3
    assert batch(star_file, store, "--bootstrap", "2", "--shard", "0/2", "--quiet") == 0
    assert_equal(batch_command.load_batch(store), merged)
    assert batch(star_file, store, "--bootstrap", "2", "--shard", "3/4") == 0
    assert "nothing to do for this one" in capsys.readouterr().err


def test_same_command_goes_on_where_parts_are_missing(
    star_file, filled, tmp_path, merged, monkeypatch
):
    store = tmp_path / "store"
    shutil.copytree(filled, store)
    (store / "part-000001.parquet").unlink()
    before = {path.name: path.read_bytes() for path in store.glob("part-*")}
    # What was chosen from the data is read, not chosen again.
    monkeypatch.setattr("torusimaging_torch.analysis.grouped_stars.choose_penalty", None)
    assert batch(star_file, store, "--bootstrap", "2", "--quiet") == 0
    assert {name: (store / name).read_bytes() for name in before} == before
    assert_equal(batch_command.load_batch(store), merged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--label-knots", "4"], "was begun with --label-knots 3, not 4"),
        (["--group", "n in 1"], "--group 'R_g: 7..9 step 1 kpc', not 'R_g: 7..9 step 1 kpc' and"),
        (["--seed", "1"], "--seed 0, not 1"),
        (["--where", "z > 0"], "--where left out, not 'z > 0'"),
        (["--spacing-power", "1"], "--spacing-power 0.5, not 1.0"),
        (["--bootstrap", "3"], "--bootstrap 2, not 3"),
    ],
)
def test_store_of_another_request_is_refused(star_file, filled, capsys, change, message):
    before = sorted(path.name for path in filled.iterdir())
    more = [] if change[0] == "--bootstrap" else ["--bootstrap", "2"]
    assert batch(star_file, filled, *more, *change) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert "take another folder" in line
    assert sorted(path.name for path in filled.iterdir()) == before


def test_run_tells_what_was_chosen_and_found(star_file, tmp_path, capsys):
    assert batch(star_file, tmp_path / "s", "--jackknife", "2") == 0
    captured = capsys.readouterr()
    for text in (
        "binning 4,500 stars of",
        "3 groups of 1,500 stars",
        "12 x 12 pixels, |pos| < 1.2 kpc, |vel| < ",
        "penalty of all fits: label-l2 ",
        "9 fits in 3 parts: 3 groups, each also in 2 jackknife resamplings",
        "done in",
    ):
        assert text in captured.err
    assert "arning" not in captured.err
    for text in ("9 fits: 9 converged, 0 did not", "R_g = 6.5 to 7.5 kpc", "3/3", "torusimaging"):
        assert text in captured.out
    assert "errors from 2 jackknife blocks" in captured.out


def test_combinations_conditions_counts_and_csv(stars, tmp_path):
    table = Table({name: getattr(stars[name], "value", stars[name]) for name in stars.colnames})
    table.write(tmp_path / "stars.csv")
    units = ["--units", "z=kpc,v_z=km/s,R_g=kpc"]
    columns = ["--pos", "z", "--vel", "v_z", "--counts", *units]
    more = ["--group", "field in north, south", "--where", "R_g < 8.6 kpc", "--quiet"]
    code = batch(
        str(tmp_path / "stars.csv"),
        tmp_path / "s",
        *more,
        columns=columns,
        group=["--group", "R_g: 7..8 step 1"],
    )
    result = batch_command.load_batch(tmp_path / "s")
    assert code == (0 if result.success.all() else 1)
    assert result.settings["objective"] == "poisson"
    assert result.names[1] == "R_g = 6.5 to 7.5 kpc, field = south"
    assert result.columns["field"].tolist() == ["north", "south"] * 2
    assert result.columns["R_g"].unit == u.kpc
    inside = (abs(stars["z"]) < 1.2 * u.kpc) & (stars["R_g"] < 7.5 * u.kpc)
    assert 0.9 * inside.sum() < result.columns["n_stars"][:2].sum() <= inside.sum()


def test_failed_fits_are_counted_and_exit_code_is_1(star_file, tmp_path, capsys):
    group = ["--group", "R_g: 7..12 step 5 kpc"]  # no star at 12 kpc
    assert batch(star_file, tmp_path / "s", group=group) == 1
    captured = capsys.readouterr()
    assert "2 fits: 1 converged, 1 did not" in captured.out
    assert "1 not started: " in captured.out
    assert "0/1" in captured.out
    assert "fits did not converge" not in captured.err
    out = tmp_path / "figure.png"
    assert main(["plot", str(tmp_path / "s"), "--out", str(out)]) == 0
    assert "2 fits; 1 left out that did not converge" in capsys.readouterr().out
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--group", "R_g: 7..x"], "--group: cannot read the group 'R_g: 7..x': expected 'COLUMN"),
        (["--group", "R_x: 7..9 step 1"], "--group: no column 'R_x' for groups"),
        (["--group", "R_g: 7..9 step 1 km/s"], "--group: in the group 'R_g: 7..9 step 1 km/s'"),
        (["--where", "R_g > 100"], "no star is in any group and R_g > 100: R_g is"),
        (["--group", "R_g: 6..10 step 1 pc"], "no star is in any group: R_g is 6.75 kpc to 9.25 k"),
        (["--group", "label: 6..8", "--group", "field"], "no star is in any group: label is"),
        (["--where", "R_g >"], "--where: cannot read the condition 'R_g >'"),
        (["--where", "R_g > 1 km/s"], "--where: in the condition"),
        (["--where", "FE_H > 1"], "--where: no column 'FE_H'"),
        (["--pos-max", "70 km/s"], "--pos-max: '70.0 km / s' does not convert to 'kpc'"),
        (["--vel-max", "fast"], "--vel-max: expected a number with or without a unit, got 'fast'"),
        (
            ["--label", "MG_FE", "--label-err", "label_err"],
            "--label: no column 'MG_FE'; the table has z, v_z",
        ),
        (["--pos", "label"], "pos: column 'label' has no unit"),
        (["--units", "q=kpc"], "units: no column 'q'"),
        (["--label-knots", "-1453"], "--label-knots must be at least 2 knots"),
        (["--bootstrap", "0"], "--bootstrap: n must be a whole number of at least 1"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_errors_are_one_line_and_leave_no_parts(star_file, tmp_path, capsys, change, message):
    options = ["--quiet", *COLUMNS, *COARSE, "--store", tmp_path / "s", *change]
    assert message in fails(capsys, "batch", star_file, *options)
    assert not list(tmp_path.glob("s/part-*"))


def test_folders_and_files_of_others_are_left_alone(star_file, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    options = [*COLUMNS, *GROUP, "--quiet", "--store"]
    line = fails(capsys, "batch", star_file, *options, tmp_path)
    assert "not empty and no store of this command" in line
    line = fails(capsys, "batch", star_file, *options, tmp_path / "notes.txt")
    assert "is a file: choose a folder" in line
    assert "no store in" in fails(capsys, "merge", tmp_path, "--out", tmp_path / "t.ecsv")
    line = fails(capsys, "plot", tmp_path / "nothing", "--out", tmp_path / "f.png")
    assert "no store or table" in line
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("there", [True, False])
def test_a_request_that_cannot_be_done_leaves_no_store(star_file, tmp_path, capsys, there):
    if there:
        (tmp_path / "s").mkdir()
    line = refusal(capsys, star_file, tmp_path / "s", "--spacing-power", "1e21")
    assert "--spacing-power must leave knots apart" in line
    assert (tmp_path / "s").exists() is there
    assert not list(tmp_path.glob("s/[!.]*"))
    assert batch(star_file, tmp_path / "s", "--quiet") == 0  # nothing is in its way


def test_what_is_done_is_not_thrown_away_by_a_wrong_word(filled, star_file, tmp_path, capsys):
    store = shutil.copytree(filled, tmp_path / "s")
    before = sorted(store.rglob("*"))
    refusal(capsys, star_file, store, "--bootstrap", "2", "--spacing-power", "1e21")
    assert sorted(store.rglob("*")) == before


def test_memory_that_is_not_there_is_told(star_file, tmp_path, monkeypatch, capsys):
    def too_much(*args, **kwargs):
        raise MemoryError("Unable to allocate 2 TiB")

    monkeypatch.setattr(batch_command, "fit_many", too_much)
    line = refusal(capsys, star_file, tmp_path / "s")
    assert "error: there is not enough memory: Unable to allocate 2 TiB" in line


def test_stars_are_binned_once(star_file, tmp_path, monkeypatch):
    real, calls = batch_command.GroupedStars.prepare, []

    def prepare(self, *args):
        calls.append(1)
        return real(self, *args)

    monkeypatch.setattr(batch_command.GroupedStars, "prepare", prepare)
    assert batch(star_file, tmp_path / "s", "--quiet") == 0
    assert len(calls) == 1


def test_heights_are_lengths(filled, tmp_path, capsys):
    for text in ("5 s", "[1, 2] kpc"):
        line = fails(capsys, "plot", filled, "--out", tmp_path / "f.png", "--height", text)
        assert "--height: " in line
    command = ["plot", str(filled), "--out", str(tmp_path / "f.png"), "--height"]
    assert main([*command, "0.5"]) == 0  # in the unit of the fits
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_shards_that_make_no_sense_are_refused(star_file, tmp_path, capsys, text):
    assert batch(star_file, tmp_path / "s", f"--shard={text}") == 2
    assert "expected I/N with I from 0 to N - 1" in capsys.readouterr().err


def test_interruption_says_what_is_there_and_that_it_goes_on(
    star_file, tmp_path, monkeypatch, capsys, merged
):
    real, calls = batch_command.fit_many, []

    def interrupted(*args, **kwargs):
        real(*args, **(kwargs | {"shard": (0, 2)}))
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_command, "fit_many", interrupted)
    store = tmp_path / "s"
    assert batch(star_file, store, "--bootstrap", "2", "--quiet") == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"interrupted; {store} holds 2 of 3 parts; the same command goes on" in line
    monkeypatch.undo()
    assert batch(star_file, store, "--bootstrap", "2", "--quiet") == 0
    assert_equal(batch_command.load_batch(store), merged)


def test_damaged_note_of_the_request_is_named(star_file, filled, tmp_path, capsys):
    shutil.copytree(filled, tmp_path / "s")
    (tmp_path / "s" / "store-request.json").write_text(json.dumps("x")[:-1])
    assert batch(star_file, tmp_path / "s", "--bootstrap", "2") == 2
    assert "store-request.json is damaged" in capsys.readouterr().err


def test_dask_that_is_not_there_is_one_line(star_file, tmp_path, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed")

    def refuse(*args, **kwargs):
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    assert batch(star_file, tmp_path / "s", "--dask", "tcp://nowhere:1", "--quiet") == 2
    assert "--dask: no scheduler answers at tcp://nowhere:1: timed out" in capsys.readouterr().err


def test_dask_workers_fill_the_store(star_file, tmp_path, merged, capsys):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        options = ["--bootstrap", "2", "--dask", cluster.scheduler_address]
        assert batch(star_file, tmp_path / "s", *options) == 0
    assert "3 of 3 done" in capsys.readouterr().err
    assert_equal(batch_command.load_batch(tmp_path / "s"), merged)


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ("batch", ["R_g: 6..12 step 0.25 width 2 kpc", "COLUMN in A, B", "--shard I/N", "--dask"]),
        ("merge", ["--partial", ".ecsv, .parquet, .hdf5 or .fits", "to the last bit"]),
        ("fit", ["earlier results in it are replaced, other files stay"]),
        ("demo", ["where earlier results are replaced"]),
        ("plot", ["--height", "DIR_OR_TABLE", "68 and 95 per cent"]),
    ],
)
def test_help_shows_how(capsys, command, texts):
    assert main([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(text in out for text in texts)
