"""Catalogues with actions added: what is kept of files, and how much memory it takes."""

from __future__ import annotations

import gc
import math
import tracemalloc
import warnings

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time
from pyarrow import parquet

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.analysis import actions as actions_command
from torusimaging_torch.analysis.actions import add_actions, run_actions
from torusimaging_torch.command.main import main
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.results import FitResult

pytestmark = pytest.mark.filterwarnings("ignore:.* have no orbit within the fit:RuntimeWarning")

NEW = ["J", "theta", "Omega", "T", "valid"]
ERRORS = ["J_err", "theta_err", "Omega_err", "T_err", "valid_fraction"]
N = 2800
CHUNK = 512


def make_result(covariance=None):
    model = TorusImaging1DSpline(np.linspace(0, 0.4, 4), {2: np.linspace(0, 0.4, 5)}, {2: 1.0})
    params = {
        "pos0": 0.01,
        "vel0": 0.0,
        "ln_Omega0": math.log(0.08),
        "e_params": {2: {"vals": np.full(4, -1.0)}},
        "label_params": {"label_vals": np.ones(4)},
    }
    state = OptState(True, 0.5, 10, 12, Status.CONVERGED, "converged", 0.0, (), 0)
    provenance = {"columns": {"pos": "z", "vel": "v_z"}}
    return FitResult(model, params, None, state, "gaussian", provenance, covariance)


@pytest.fixture
def fit(tmp_path):
    # Errors of e_params, the label, ln_Omega0, pos0 and vel0; one of them is not known.
    variance = np.array([0.01] * 4 + [0.1] * 4 + [0.02, 0.002, 1e-4]) ** 2
    covariance = np.diag(variance)
    covariance[7, :] = covariance[:, 7] = np.nan
    make_result(covariance).write(tmp_path / "fit.ecsv")
    return tmp_path


@pytest.fixture(autouse=True)
def chunks(monkeypatch):
    monkeypatch.setattr(actions_command, "CHUNK_ROWS", CHUNK)


def draw(n=N, **more):
    rng = np.random.default_rng(0)
    z, v = rng.normal(size=n) * 0.4, rng.normal(size=n) * 25
    z[5], v[7] = np.nan, np.inf
    table = Table({"id": np.arange(n), "z": z, "v_z": v, **more})
    table["z"].unit, table["v_z"].unit = "kpc", "km / s"
    return table


def rich_table():
    rng = np.random.default_rng(1)
    table = draw(
        mag=rng.normal(size=N).astype(np.float32),
        flag=rng.random(N) < 0.5,
        short=np.arange(N, dtype=np.int16),
        name=np.array(["", "HD 1", "a longer name"])[np.arange(N) % 3],
    )
    table["mag"].unit = "mag"
    table.meta["SURVEY"] = "mock"
    return table


def quietly(read, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(*args)


def same(a, b):
    """Compare columns: values where not masked, masks, kinds and units."""
    values, others = (np.ma.asarray(getattr(x, "value", x)) for x in (a, b))
    if values.dtype.kind == "S" or others.dtype.kind == "S":
        values, others = np.ma.asarray(values.astype(str)), np.ma.asarray(others.astype(str))
    hidden = np.ma.getmaskarray(values) | np.ma.getmaskarray(others)
    np.testing.assert_array_equal(values.data[~hidden], others.data[~hidden])
    # astropy masks nan and empty texts of FITS itself.
    for x in (values, others):
        blank = x.data[hidden] == "" if x.dtype.kind == "U" else np.isnan(x.data[hidden])
        assert (np.ma.getmaskarray(x)[hidden] | blank).all()
    assert a.unit == b.unit


def expected(fit, stars, **options):
    stars = stars.copy()
    names = ("z", "v_z")
    add_actions(FitResult.read(fit / "fit.ecsv"), stars, *names, chunk=10**6, **options)
    return stars


@pytest.mark.parametrize("method", ["exact", "table"])
@pytest.mark.parametrize("end", ["fits", "parquet"])
@pytest.mark.parametrize("start", ["fits", "parquet"])
def test_chunks_give_what_the_whole_table_gives(fit, start, end, method):
    stars = rich_table()
    stars.write(fit / f"stars.{start}")
    run_actions(fit, fit / f"stars.{start}", fit / f"out.{end}", method=method)
    whole = expected(fit, stars, method=method)
    written = Table.read(fit / f"out.{end}")
    assert written.colnames == whole.colnames
    for name in whole.colnames:
        same(written[name], whole[name])
    assert written["valid"].dtype == bool
    assert not written["valid"][[5, 7]].any()
    assert written.meta["SURVEY"] == "mock"
    assert written["mag"].dtype == ">f4" if end == "fits" else np.float32
    assert written["J"].description == "action"


def test_method_is_chosen_by_the_whole_catalogue(fit):
    stars = draw()
    stars.write(fit / "stars.fits")
    run_actions(fit, fit / "stars.fits", fit / "out.fits")
    whole = expected(fit, stars, method="table")
    same(Table.read(fit / "out.fits")["J"], whole["J"])


@pytest.mark.parametrize("end", ["fits", "parquet"])
def test_missing_numbers_stay_missing(fit, end):
    """In FITS by TNULL, in parquet by nulls; missing positions are not valid."""
    stars = draw(number=MaskedColumn(np.arange(N), mask=np.arange(N) % 7 == 0, fill_value=-9))
    stars["z"] = MaskedColumn(np.arange(N) % 300, mask=np.arange(N) % 5 == 0, fill_value=-1)
    stars["z"].unit = "pc"
    stars.write(fit / "stars.fits")
    run_actions(fit, fit / "stars.fits", fit / f"out.{end}", method="exact")
    whole = expected(fit, stars, method="exact")
    if end == "fits":
        written = Table.read(fit / "out.fits")
        same(written["number"], stars["number"])
    else:
        written = Table.read(fit / "out.parquet")
        assert np.ma.count_masked(written["number"]) == 400
        run_actions(fit, fit / "out.parquet", fit / "back.fits", prefix="again_", method="exact")
        back = Table.read(fit / "back.fits")
        same(back["number"], stars["number"])
        same(back["again_J"], whole["J"])
    assert not written["valid"][::5].any()
    for name in NEW:
        same(written[name], whole[name])


@pytest.mark.parametrize("kind", [Table, QTable])
def test_masks_that_astropy_keeps_in_parquet(fit, kind):
    stars = draw()
    stars["z"] = MaskedColumn(stars["z"], mask=np.arange(N) % 5 == 0)
    stars["when"] = Time(2000 + np.arange(N) / N, format="jyear")
    kind(stars).write(fit / "stars.parquet")
    run_actions(fit, fit / "stars.parquet", fit / "out.parquet", method="exact")
    written = kind.read(fit / "out.parquet")
    assert type(written["z"]) is type(kind.read(fit / "stars.parquet")["z"])
    assert (written["when"] == stars["when"]).all()
    assert not written["valid"][::5].any()
    same(
        written["J"],
        expected(fit, draw(), method="exact")["J"].copy() * written["valid"].choose([np.nan, 1]),
    )


@pytest.mark.parametrize("end", ["fits", "parquet"])
@pytest.mark.parametrize("start", ["fits", "parquet"])
def test_columns_of_arrays_are_kept(fit, start, end):
    stars = draw(vector=np.arange(2.0 * N).reshape(N, 2))
    stars.write(fit / f"stars.{start}")
    run_actions(fit, fit / f"stars.{start}", fit / f"out.{end}")
    np.testing.assert_array_equal(Table.read(fit / f"out.{end}")["vector"], stars["vector"])


def test_parquet_of_other_programs(fit):
    """Any type of column, row groups of any size, and metadata that are not astropy's."""
    stars = draw()
    arrow = pa.table(
        {
            "z": np.array(stars["z"]),
            "v_z": np.array(stars["v_z"]),
            "nested": [{"a": k, "b": [str(k)] * (k % 3)} for k in range(N)],
            "kind": pa.array(["x", None, "y", "x"] * (N // 4)).dictionary_encode(),
            "big": pa.array([2**53 + 1, None] * (N // 2)),
        }
    ).replace_schema_metadata({"maker": "somebody"})
    with parquet.ParquetWriter(fit / "stars.parquet", arrow.schema) as writer:
        for start, stop in ((0, 1), (1, 700), (700, 1900), (1900, N)):
            writer.write_table(arrow.slice(start, stop - start))
    run_actions(
        fit,
        fit / "stars.parquet",
        fit / "out.parquet",
        units={"z": "kpc", "v_z": "km/s"},
        method="exact",
    )
    written = parquet.read_table(fit / "out.parquet")
    old = parquet.read_table(fit / "stars.parquet")
    np.testing.assert_array_equal(written["z"], old["z"])  # with nan, which Arrow finds unequal
    np.testing.assert_array_equal(written["v_z"], old["v_z"])
    others = ["nested", "kind", "big"]
    assert written.select(others).equals(old.select(others))
    assert written.schema.metadata[b"maker"] == b"somebody"
    whole = expected(fit, stars, method="exact")
    for name in NEW:
        np.testing.assert_array_equal(written[name].to_numpy(), whole[name])
    again = quietly(lambda: Table.read(fit / "out.parquet", include_names=["z", "J"]))
    assert again["z"].unit == u.kpc
    assert again["J"].unit == u.kpc**2 / u.Myr


@pytest.mark.parametrize("end", ["fits", "parquet"])
@pytest.mark.parametrize("start", ["fits", "parquet"])
@pytest.mark.parametrize("kind", [Table, QTable])
def test_units_that_are_given_replace_those_of_the_file(fit, start, end, kind):
    stars = draw()
    stars["z"].unit = "pc"
    kind(stars).write(fit / f"stars.{start}")
    run_actions(fit, fit / f"stars.{start}", fit / f"out.{end}", units={"z": "kpc"})
    written = QTable.read(fit / f"out.{end}")
    assert written["z"].unit == u.kpc
    same(written["J"], expected(fit, draw())["J"])


def test_reading_and_writing_the_same_file(fit):
    draw().write(fit / "stars.fits")
    run_actions(fit, fit / "stars.fits", fit / "stars.fits", overwrite=True)
    assert Table.read(fit / "stars.fits").colnames == ["id", "z", "v_z", *NEW]


@pytest.mark.parametrize("end", ["fits", "parquet"])
def test_a_failure_leaves_nothing_behind(fit, end, capsys, monkeypatch):
    draw().write(fit / f"stars.{end}")
    before = sorted(p.name for p in fit.iterdir())

    def fail(self, part, call=actions_command.ActionColumns.__call__):
        if part["z"][0] == third:
            raise OSError("no space left")
        return call(self, part)

    third = draw()["z"][2 * CHUNK]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr(actions_command.ActionColumns, "__call__", fail)
        run_actions(fit, fit / f"stars.{end}", fit / f"out.{end}")
    assert sorted(p.name for p in fit.iterdir()) == before
    command = ["actions", str(fit), str(fit / f"stars.{end}"), "--out", str(fit / f"out.{end}")]
    for more, message in (
        (["--vel", "w"], "vel: no column 'w'"),
        (["--units", "w=kpc"], "units: no column 'w'"),
        (["--units", "z=furlongz"], "is not a unit"),
        (["--pos", "id"], "has no unit"),
    ):
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(command) == 0
    capsys.readouterr()
    command[2] = str(fit / f"out.{end}")
    assert main([*command[:-1], str(fit / f"two.{end}")]) == 2
    assert "choose a prefix" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalogue(fit, monkeypatch):
    monkeypatch.setattr(actions_command, "CHUNK_ROWS", 8192)
    pool, held = pa.default_memory_pool(), []
    stars, out = fit / "stars.parquet", fit / "out.parquet"

    def call(self, part, call=actions_command.ActionColumns.__call__):
        gc.collect()  # what waits for the collector is not held
        held.append(pool.bytes_allocated())
        return call(self, part)

    monkeypatch.setattr(actions_command.ActionColumns, "__call__", call)

    def peaks(n):
        draw(n).write(stars, overwrite=True)
        # of which pyarrow has a row group in memory
        parquet.write_table(parquet.read_table(stars), stars, row_group_size=8192)
        gc.collect()
        before = pool.bytes_allocated()
        held.clear()
        tracemalloc.start()
        run_actions(fit, stars, out, method="table", overwrite=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, max(held) - before

    run = {n: peaks(n) for n in (1_000, 100_000, 250_000)}  # what is imported counts in the first
    # The larger catalogue has 3.6 MB more, and 5 MB more of new columns.
    assert run[250_000][0] < run[100_000][0] + 1_000_000
    # pyarrow reads up to 16 parts ahead, 3.1 MB: how many depends on who is busy. All is 14 MB.
    assert run[250_000][1] < 7_000_000


# -- errors ---------------------------------------------------------------------------------------


def test_errors_from_draws_of_the_fit(fit):
    stars = draw()
    stars.write(fit / "stars.parquet")
    args = ["actions", str(fit), str(fit / "stars.parquet"), "--quiet", "--errors", "20"]
    assert main([*args, "--out", str(fit / "out.fits")]) == 0
    written = Table.read(fit / "out.fits")
    assert written.colnames == ["id", "z", "v_z", *NEW, *ERRORS]
    plain = expected(fit, stars)
    for name in NEW:
        same(written[name], plain[name])
    result = FitResult.read(fit / "fit.ecsv")
    sampled = result.model.compute_action_angle(
        np.array(stars["z"]) * u.kpc, np.array(stars["v_z"]) * u.km / u.s, result.draw(20)
    )
    for name in NEW[:4]:
        half = (sampled[f"{name}_p84"] - sampled[f"{name}_p16"]) / 2
        assert written[f"{name}_err"].unit == half.unit
        np.testing.assert_array_equal(written[f"{name}_err"], half.value)
    ok = sampled["valid"]
    assert ok.sum() > N / 3
    assert (written["valid_fraction"][ok] == 1).all()
    # Of small oscillations the frequency is Omega0, whose logarithm has an error of 2 per cent.
    inner = ok & (np.hypot(stars["z"] - 0.01, stars["v_z"] / 80) < 0.05)
    fractional = np.median(np.array(written["Omega_err"] / written["Omega"])[inner])
    assert 0.012 < fractional < 0.03


def test_draws_have_the_covariance(fit):
    result = FitResult.read(fit / "fit.ecsv")
    rng = np.random.default_rng(2)
    size = 10.0 ** rng.integers(-3, 1, 11)
    size[[i for i, n in enumerate(result.to_table()["name"]) if "e_params" in n]] = 0.01
    root = rng.normal(size=(11, 11)) * size[:, None]
    correlated = FitResult(
        result.model, result.params, None, result.state, "gaussian", {}, root @ root.T
    )
    draws = correlated.draw(20_000, seed=3)
    columns = [
        *draws["e_params"][2]["vals"].T,
        *draws["label_params"]["label_vals"].T,
        *(draws[name] for name in ("ln_Omega0", "pos0", "vel0")),
    ]
    scale = np.sqrt(np.diag(root @ root.T))
    off = (np.cov(np.stack(columns)) - root @ root.T) / np.outer(scale, scale)
    assert np.abs(off).max() < 0.04
    again = result.draw(5)
    assert again["label_params"]["label_vals"][:, 3].isnan().all()  # whose error is not known
    assert again["ln_Omega0"].std() > 0


def test_errors_need_a_covariance(tmp_path, capsys):
    make_result().write(tmp_path / "fit.ecsv")
    draw().write(tmp_path / "stars.fits")
    args = ["actions", str(tmp_path), str(tmp_path / "stars.fits"), "--out"]
    assert main([*args, str(tmp_path / "out.fits"), "--errors", "20"]) == 2
    assert "--uncertainty crlb" in capsys.readouterr().err
    assert main([*args, str(tmp_path / "out.fits"), "--errors", "1"]) == 2
    assert "from 2 up" in capsys.readouterr().err
    assert not (tmp_path / "out.fits").exists()
