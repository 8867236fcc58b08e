"""Shards on a Dask cluster: the same numbers, whatever happens to the workers."""

from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import astropy.units as u
import pytest
import torch
from stored import subsamples, wait_for
from test_fit_many import assert_equal, run

from torusimaging_torch.batch import cluster as batch_dask
from torusimaging_torch.batch.cluster import connect, n_workers, where_seen
from torusimaging_torch.batch.runners import Report, choose_runner
from torusimaging_torch.batch.store import Store, merge
from torusimaging_torch.results.batch_result import BatchResult

distributed = pytest.importorskip("distributed")
pytest.importorskip("pyarrow")
pytest.importorskip("pandas")
from watched_workers import KILLER, Watch, count  # noqa: E402

# Few steps, since no number here depends on where the fits end.
fit = partial(run, max_iter=3)


def data():
    return subsamples()[:3]


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
    ) as cluster:
        yield cluster


def forgotten(client, cluster) -> bool:
    gc.collect()  # an exception holds the future that it came of
    return not client.futures and not cluster.scheduler.tasks


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client
        # Whatever happened, nothing is left on the scheduler.
        wait_for(lambda: forgotten(client, cluster))
        if "watch" in cluster.scheduler.worker_plugins:
            client.unregister_worker_plugin("watch")


@pytest.fixture(scope="module")
def plain() -> BatchResult:
    """Return what is to come out, computed as workers do, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = fit(data(), shard_size=1)
    torch.set_num_threads(threads)
    return result


@pytest.mark.slow
def test_same_bits_as_without(client, plain):
    names = [str(i) for i in range(3)]
    assert_equal(
        fit(iter(data()), names=names, shard_size=1, executor=client.get_executor()), plain
    )


@pytest.mark.slow
def test_workers_fill_a_store_and_a_second_run_computes_nothing(client, plain, tmp_path, capfd):
    client.register_plugin(Watch(tmp_path))
    store = tmp_path / "store"
    assert_equal(
        fit(data(), store=store, shard_size=1, executor=client.get_executor(), progress=True), plain
    )
    assert_equal(fit(data(), store=store, executor=client.get_executor()), plain)
    assert_equal(merge(store), plain)
    assert count(tmp_path / "fitted") == dict.fromkeys(range(3), 1)
    assert sorted(capfd.readouterr().err.splitlines())[2].startswith("shard 2: fitted, ")


def test_what_another_process_is_at_is_waited_for(client, plain, tmp_path):
    with ThreadPoolExecutor(1) as thread:
        fit(data(), store=tmp_path, shard_size=1, shard=(1, 3))
        place = Store(tmp_path)
        with place.lock(0):
            end = thread.submit(fit, data(), store=tmp_path, executor=client.get_executor())
            wait_for(lambda: place.shards() == [1, 2])
        assert_equal(end.result(timeout=60), plain)


def test_a_killed_worker_loses_nothing(client, plain, tmp_path):
    client.register_plugin(Watch(tmp_path, kills=1))
    assert_equal(
        fit(data(), store=tmp_path / "store", shard_size=1, executor=client.get_executor()), plain
    )
    assert count(tmp_path / "started")[KILLER] == 2
    assert count(tmp_path / "fitted") == dict.fromkeys(range(3), 1)


@pytest.mark.slow
def test_a_shard_that_always_kills_is_named_and_does_not_stop_others(
    client, cluster, plain, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 1)
    client.register_plugin(Watch(tmp_path, kills=99))
    store = tmp_path / "store"
    with pytest.raises(distributed.KilledWorker, match=r"'shard (\d, )*1.* workers died"):
        fit(data(), store=store, shard_size=1, executor=client.get_executor())
    # Dask may suspect shards that waited beside the one that kills.
    assert KILLER not in Store(store).shards()
    client.unregister_worker_plugin("watch")
    client.register_plugin(Watch(tmp_path))
    assert_equal(fit(data(), store=store, executor=client.get_executor()), plain)
    assert count(tmp_path / "fitted") == dict.fromkeys(range(3), 1)


def test_what_stops_a_shard_is_raised_as_it_is(client):
    bad = [one | {"pos": 1 * u.s} for one in data()[:2]]
    with pytest.raises(u.UnitConversionError, match="subsample '.': pos"):
        fit(bad, shard_size=1, executor=client.get_executor())
    with pytest.raises(ValueError, match="at least one"):
        fit([], executor=client.get_executor())


def fail_to_see(dask_worker=None, seconds=0.0, sees=None) -> None:
    batch_dask._SEEN_WITHIN = seconds
    batch_dask._sees = sees or (lambda folder, identity: False)


@pytest.mark.slow
def test_a_store_that_a_worker_does_not_see_is_told(client, tmp_path):
    see = partial(fail_to_see, seconds=batch_dask._SEEN_WITHIN, sees=batch_dask._sees)
    client.run(fail_to_see)
    try:
        with pytest.raises(FileNotFoundError, match="not seen by the worker on .*that all workers"):
            fit(data(), store=tmp_path / "s", shard_size=1, executor=client.get_executor())
    finally:
        client.run(see)
    assert Store(tmp_path / "s").shards() == []


def test_a_store_elsewhere_of_the_same_name_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_dask, "_SEEN_WITHIN", 0.0)
    here, there = Store(tmp_path / "a", "x"), Store(tmp_path / "b", "x")
    assert where_seen(here.folder, here.identity, int, "7") == 7
    with pytest.raises(FileNotFoundError, match="is not seen"):
        where_seen(there.folder, here.identity, int, "7")


# --- the flight of tasks, with tasks that cost nothing --------------------------------------------


def fly(tasks, client):
    return choose_runner(client.get_executor(), None, Report(False))(iter(tasks))


def test_data_are_read_a_few_ahead(client):
    read: list[int] = []

    def tasks():
        for i in range(20):
            read.append(i)
            yield i, partial(pow, i, 2)

    done = {}
    for (number, _), outcome in fly(tasks(), client):
        done[number] = outcome
        assert len(read) - len(done) < 2 * n_workers(client.get_executor())
    assert done == {i: i**2 for i in range(20)}


def block(path: str) -> None:
    end = time.monotonic() + 30
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.02)


def test_what_is_left_is_cancelled(client, cluster, tmp_path):
    gate = str(tmp_path / "gate")
    flight = fly([(0, int), *((i, partial(block, gate)) for i in range(1, 9))], client)
    assert next(flight)[1] == 0
    flight.close()
    wait_for(lambda: not cluster.scheduler.tasks)
    Path(gate).touch()


def test_data_that_fail_to_come_are_told_and_the_rest_cancelled(client):
    def tasks():
        yield 0, int
        raise RuntimeError("the catalogue ends here")

    with pytest.raises(RuntimeError, match="ends here"):
        list(fly(tasks(), client))


def test_a_shard_that_others_cancel_is_told(client, tmp_path):
    gate = str(tmp_path / "gate")

    def cancel():
        wait_for(lambda: client.futures)
        client.cancel([distributed.Future(key, client) for key in list(client.futures)])

    with ThreadPoolExecutor(1) as thread:
        thread.submit(cancel)
        with pytest.raises(RuntimeError, match="a shard was given up"):
            list(fly([(0, partial(block, gate))], client))
    Path(gate).touch()


@pytest.mark.parametrize(
    ("device", "declared", "expected"),
    [("cuda", {"GPU": 1}, {"GPU": 1}), ("cuda", {}, None), (None, {"GPU": 1}, None)],
)
def test_a_declared_gpu_is_taken(device, declared, expected):
    class Told:
        _client = property(lambda self: self)

        def scheduler_info(self, n_workers):
            return {"workers": {"a": {"resources": declared}, "b": {}}}

        def submit(self, call, **options):
            return options.get("resources")

    assert batch_dask.submit(Told(), int, device) == expected


def test_a_scheduler_is_connected_by_its_address(cluster):
    with connect(cluster.scheduler_address) as executor:
        assert n_workers(executor) == 2
        assert executor.submit(int, "7").result() == 7


def test_what_is_no_executor_is_refused(client):
    with pytest.raises(TypeError, match=r"got Client; that of a Dask client is client.get_exec"):
        fit(data(), executor=client)
