"""A store goes on where it stopped, and refuses what does not belong to it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from stored import subsamples
from test_fit_many import SETTINGS, assert_equal, broken, run

from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch.store import DamagedPartError, Store, merge
from torusimaging_torch.results import BatchResult

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")


def test_a_second_run_computes_nothing(tmp_path, plain, fitted):
    first = run(subsamples(), store=tmp_path / "s", shard_size=2)
    assert fitted == [0, 1, 2]
    assert_equal(first, plain)
    assert_equal(run(subsamples(), store=tmp_path / "s"), plain)
    assert fitted == [0, 1, 2]
    assert_equal(merge(tmp_path / "s"), plain)
    names = sorted(p.name for p in (tmp_path / "s").iterdir() if p.is_file())
    parts = [f"part-{i:06d}.parquet" for i in range(3)]
    assert names == ["count.json", *parts, "store.json"]


def test_jobs_of_an_array_share_a_store(tmp_path, plain, fitted):
    half = run(subsamples(), store=tmp_path, shard_size=2, shard=(0, 2))
    assert half.names == ("0", "1", "4", "5")
    with pytest.raises(ValueError, match=r"not complete, missing are the parts 1: run fit_many"):
        merge(tmp_path)
    assert len(merge(tmp_path, partial=True)) == 4
    run(subsamples(), store=tmp_path, shard=(1, 2))
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert fitted == [0, 2, 1]


def test_failed_subsamples_are_stored_too(tmp_path):
    data = [subsamples()[0], broken("one pixel")]
    run(data, store=tmp_path)
    again = merge(tmp_path)
    assert again.success.tolist() == [True, False]
    assert "same position" in again.message[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smooth_sigma": 0.7}, "made with other settings"),
        ({"objective": "poisson"}, "made with other settings"),
        ({"multistart": 2}, "made with other settings"),
        ({"shard_size": 3}, "2 subsamples per shard, got shard_size=3"),
        ({"names": list("abcdef")}, "made from other data"),
        ({"subsamples": subsamples()[::-1]}, "made from other data"),
        ({"subsamples": subsamples()[:3] + subsamples()[:3]}, "made from other data"),
    ],
)
def test_other_settings_or_data_are_refused(tmp_path_factory, changes, message):
    folder = made_once(tmp_path_factory)
    before = {p: p.read_bytes() for p in folder.glob("*.parquet")}
    changes = {"subsamples": subsamples()} | changes
    with pytest.raises(ValueError, match=message):
        run(changes.pop("subsamples"), store=folder, **changes)
    assert {p: p.read_bytes() for p in folder.glob("*.parquet")} == before


def made_once(factory, made={}) -> Path:  # noqa: B006
    if "folder" not in made:
        made["folder"] = factory.mktemp("store")
        run(subsamples(), store=made["folder"], shard_size=2)
    return made["folder"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="no store and not empty"):
        run(subsamples(), store=tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no store"):
        merge(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        merge(tmp_path)


def test_a_store_is_no_table(tmp_path_factory):
    with pytest.raises(ValueError, match=r"is the store of a batch, .*batch\.merge"):
        BatchResult.read(made_once(tmp_path_factory))


def test_a_penalty_nobody_can_recognize_is_refused(tmp_path):
    settings = {k: v for k, v in SETTINGS.items() if "sigma" not in k}
    changes = {"store": tmp_path, "regularization_func": lambda model, params: 0.0}
    with pytest.raises(ValueError, match="at the top of a module"):
        fit_many(subsamples(), **settings, **changes, progress=False)


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "text"])
def test_a_damaged_part_is_named_and_made_again(harm, tmp_path, plain, fitted):
    run(subsamples(), store=tmp_path, shard_size=2)
    part = tmp_path / "part-000001.parquet"
    content = bytearray(part.read_bytes())
    if harm == "cut":
        content = content[: len(content) // 2]
    elif harm == "flipped":
        # A bit of an objective, which parquet itself does not guard.
        number = plain.fun_val[2].numpy().tobytes()
        at = bytes(content).find(number)
        assert at > 0
        content[at + 2] ^= 1
    else:
        content = bytearray(b"" if harm == "empty" else b"no parquet")
    part.write_bytes(content)
    with pytest.raises(DamagedPartError, match=r"part-000001.parquet is damaged"):
        merge(tmp_path)
    fitted.clear()
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert fitted == [1]


def test_a_lock_is_one_process_own(tmp_path):
    place = Store(tmp_path, "x")
    with place.lock(3) as mine, place.lock(3) as too:
        assert mine
        assert not too
    with place.lock(3) as mine:
        assert mine


def test_newer_folders_are_told(tmp_path):
    (tmp_path / "store.json").write_text(json.dumps({"format": "other"}))
    with warnings.catch_warnings(), pytest.raises(ValueError, match="not that of a store"):
        merge(tmp_path)
