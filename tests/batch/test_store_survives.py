"""A store survives what happens to processes and disks: nothing finished is lost."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stored import subsamples, wait_for
from test_fit_many import assert_equal, run

from torusimaging_torch.batch import shard as batch_shard
from torusimaging_torch.batch import store
from torusimaging_torch.batch.store import Store, merge

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

TESTS = [str(folder) for folder in Path(__file__).parents[:2]]

# A process of its own that fits six subsamples, two a shard; what it sleeps and patches is given.
SCRIPT = """
import sys, time, torch
sys.path[:0] = {tests!r}
torch.set_num_threads(1)
from stored import subsamples
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


def start(folder: Path, pause: float = 0.0, patch: str = "") -> subprocess.Popen:
    script = SCRIPT.format(tests=TESTS, folder=str(folder), pause=pause, patch=patch)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_killed_during_a_write(tmp_path, plain, fitted):
    process = start(tmp_path, patch=DIE_WHILE_WRITING)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert Store(tmp_path).shards() == [0]
    assert list(tmp_path.glob(".part-000001*"))
    assert_equal(run(subsamples(), store=tmp_path), plain)
    assert fitted == [1, 2]


@pytest.mark.slow
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


@pytest.mark.slow
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
