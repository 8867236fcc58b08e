"""Parts of a store are tied to their place, and what was asked for comes back."""

from __future__ import annotations

import json
import shutil

import pytest
from stored import subsamples
from test_fit_many import assert_equal, run

from torusimaging_torch.batch.store import merge

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")


def swap(folder, other):
    one, two = folder / "part-000000.parquet", folder / "part-000001.parquet"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def copy(folder, other):
    (folder / "part-000002.parquet").write_bytes((folder / "part-000000.parquet").read_bytes())


def from_another(folder, other):
    run(subsamples(), store=other, shard_size=2)
    name = "part-000001.parquet"
    (folder / name).write_bytes((other / name).read_bytes())


def of_other_settings(folder, other):
    run(subsamples(), store=other, shard_size=2, label_smooth_sigma=0.7)
    content = json.loads((other / "store.json").read_text())
    content["identity"] = json.loads((folder / "store.json").read_text())["identity"]
    shutil.rmtree(other)
    other.mkdir()
    (other / "store.json").write_text(json.dumps(content))
    run(subsamples(), store=other, shard_size=2, label_smooth_sigma=0.7)
    name = "part-000001.parquet"
    (folder / name).write_bytes((other / name).read_bytes())


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (swap, "part-000000.parquet is not what was written there but the part 1 of this store"),
        (copy, "part-000002.parquet .* but the part 0 of this store"),
        (from_another, "part-000001.parquet .* but a part of another store"),
        (of_other_settings, "part-000001.parquet .* but a part made with other settings"),
    ],
)
def test_a_part_in_another_place_is_named(tmp_path, harm, message):
    folder = tmp_path / "s"
    run(subsamples(), store=folder, shard_size=2)
    harm(folder, tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        merge(folder)
    with pytest.raises(ValueError, match=message):
        run(subsamples(), store=folder)


def test_a_store_that_moves_is_the_same(tmp_path, plain):
    run(subsamples(), store=tmp_path / "s", shard_size=2)
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    assert_equal(merge(tmp_path / "t"), plain)


def test_parts_that_nobody_asked_for_are_named(tmp_path, plain):
    run(subsamples()[:4], store=tmp_path, shard_size=2)
    (tmp_path / "part-000002.parquet").write_bytes((tmp_path / "part-000000.parquet").read_bytes())
    with pytest.raises(ValueError, match="made for 2 parts and has also the parts 2: remove them"):
        merge(tmp_path)


def test_what_was_asked_for_comes_back_and_no_more(tmp_path, plain, fitted):
    run(subsamples(), store=tmp_path, shard_size=2)
    fitted.clear()
    some = run(subsamples()[:4], store=tmp_path)
    assert some.names == ("0", "1", "2", "3")
    assert fitted == []
    assert_equal(merge(tmp_path), plain)  # of all that were ever asked for
