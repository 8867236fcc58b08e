"""A store survives what happens to processes and disks: nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from test_fit_many import MODEL, SETTINGS, assert_equal, broken, run

import disks
from torusimaging_torch.batch import fit_many, store
from torusimaging_torch.batch import shard as batch_shard
from torusimaging_torch.batch.store import DamagedPartError, Store, merge
from torusimaging_torch.results.batch_result import BatchResult

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

TESTS = [str(folder) for folder in Path(__file__).parents[:2]]

# A process of its own that fits six subsamples, two a shard; what it sleeps and patches is given.
SCRIPT = """
import sys, time, torch
sys.path[:0] = {tests!r}
torch.set_num_threads(1)
from test_store import subsamples
from test_fit_many import run
from torusimaging_torch.batch import shard as batch_shard
from torusimaging_torch.batch import store
real = batch_shard.fit_shard
def slow(*args):
    time.sleep({pause})
    print("fitted", args[1].number, flush=True)
    return real(*args)
batch_shard.fit_shard = slow
{patch}
run(subsamples(), store={folder!r}, shard_size=2)
print("done", flush=True)
"""
DIE_WHILE_WRITING = """
import os, signal
real_sync = store._sync
def half(path):
    if "part-000001" in path.name:
        os.truncate(path, 100)
        os.kill(os.getpid(), signal.SIGKILL)
    real_sync(path)
store._sync = half
"""


def subsamples():
    return [disks.draw(MODEL, "gaussian", seed=i, n=9) for i in range(6)]


@pytest.fixture(scope="module")
def plain() -> BatchResult:
    return run(subsamples(), shard_size=2)


@pytest.fixture
def fitted(monkeypatch) -> list[int]:
    """Return the numbers of the shards that are fitted from now on."""
    numbers, real = [], batch_shard.fit_shard

    def counted(settings, shard, *place):
        numbers.append(shard.number)
        return real(settings, shard, *place)

    monkeypatch.setattr(batch_shard, "fit_shard", counted)
    return numbers


def start(folder: Path, pause: float = 0.0, patch: str = "") -> subprocess.Popen:
    script = SCRIPT.format(tests=TESTS, folder=str(folder), pause=pause, patch=patch)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, seconds=60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


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


def test_a_full_disk_stops_with_a_message_and_loses_nothing(tmp_path, plain, fitted, monkeypatch):
    real = store._sync

    def full(path):
        if "part-000001" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    monkeypatch.setattr(store, "_sync", full)
    with pytest.raises(OSError, match=r"part-000001.*No space left.*the 1 shards.*make room"):
        run(subsamples(), store=tmp_path, shard_size=2)
    assert not list(tmp_path.glob(".part*"))
    monkeypatch.setattr(store, "_sync", real)
    fitted.clear()
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert fitted == [1, 2]


def test_a_disk_that_is_really_full(tmp_path):
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(tmp_path)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("no right to mount a small disk")
    try:
        with pytest.raises(OSError, match="make room and run again"):
            run(subsamples(), store=tmp_path / "s", shard_size=1)
        there = Store(tmp_path / "s").shards()
        assert there
        assert all(Store(tmp_path / "s").read(i).success.all() for i in there)
        assert not list((tmp_path / "s").glob(".part*"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_killed_between_writes(tmp_path, plain, fitted):
    process = start(tmp_path, pause=0.3)
    wait_for((tmp_path / "part-000000.parquet").exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = Store(tmp_path).shards()
    assert 0 in there
    assert 2 not in there
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert fitted == [i for i in range(3) if i not in there]


def test_killed_during_a_write(tmp_path, plain, fitted):
    process = start(tmp_path, patch=DIE_WHILE_WRITING)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert Store(tmp_path).shards() == [0]
    assert list(tmp_path.glob(".part-000001*"))
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert fitted == [1, 2]


def test_two_processes_share_the_work(tmp_path, plain):
    processes = [start(tmp_path, pause=0.3) for _ in "ab"]
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    numbers = sorted(
        int(line.split()[1])
        for output in outputs
        for line in output.splitlines()
        if line.startswith("fitted")
    )
    assert numbers == [0, 1, 2]
    assert_equal(merge(tmp_path), plain)


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


# -- parts are tied to their place -----------------------------------------------------------------


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


def stopping(n):
    """Yield subsamples, and stop in the middle of them."""
    yield from subsamples()[:n]
    raise KeyboardInterrupt


@pytest.mark.parametrize("as_list", [True, False])
def test_a_larger_run_that_was_interrupted_is_not_complete(tmp_path, plain, as_list, monkeypatch):
    run(subsamples()[:4], store=tmp_path, shard_size=2)
    assert len(merge(tmp_path)) == 4
    if as_list:
        with monkeypatch.context() as patch:

            def interrupted(*args):
                raise KeyboardInterrupt

            patch.setattr(batch_shard, "fit_shard", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(subsamples(), store=tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(stopping(4), store=tmp_path)
    with pytest.raises(ValueError, match="not complete"):
        merge(tmp_path)
    assert len(merge(tmp_path, partial=True)) >= 4
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert_equal(merge(tmp_path), plain)


def test_killed_at_any_moment(tmp_path, plain):
    """As SQLite is tested: whenever a process dies, what is there is whole, the rest follows."""
    rng = random.Random(1)
    for _ in range(4):
        process = start(tmp_path, pause=0.1)
        wait_for((tmp_path / "store.json").exists)
        time.sleep(rng.uniform(0, 1.0))
        process.kill()
        process.communicate()
        for number in Store(tmp_path).shards():
            found, expected = Store(tmp_path).read(number), plain.take(slice(2 * number, None))
            assert found.names == expected.names[:2]
            assert (found.fun_val == expected.fun_val[:2]).all()
    assert_equal(run(subsamples(), store=tmp_path, shard_size=2), plain)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_may_not_be_written(tmp_path):
    folder = tmp_path / "s"
    run(subsamples()[:4], store=folder, shard_size=2)
    folder.chmod(0o500)
    try:
        with pytest.raises(OSError, match="cannot write"):
            run(subsamples(), store=folder)
        assert len(merge(folder, partial=True)) == 4
    finally:
        folder.chmod(0o700)


def test_a_disk_that_may_only_be_read(tmp_path, monkeypatch):
    run(subsamples()[:4], store=tmp_path, shard_size=2)

    def refused(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store, "_sync", refused)
    with pytest.raises(OSError, match="Read-only file system"):
        run(subsamples(), store=tmp_path)
    monkeypatch.undo()
    assert len(merge(tmp_path)) == 4
