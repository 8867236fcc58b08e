"""Shards on the workers of a Dask cluster, which the user starts: a few on their way at a time.

Dask itself runs a shard again when its worker dies. What is added here: data that need not fit into
memory, a shard that fails alone, a store that every worker must see, and nothing left behind.
"""

from __future__ import annotations

import itertools
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import nullcontext
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch

from torusimaging_torch.batch.store import Store
from torusimaging_torch.results.batch_result import BatchResult

__all__ = [
    "ClusterLostError",
    "ShardsFailedError",
    "Task",
    "check_client",
    "connect",
    "run_on_cluster",
    "where_seen",
]

Task = tuple[int, Callable[..., Any]]
"""The number of a shard, and what is to be done with it."""

# Shards on their way per worker: one at work, one that waits for it.
_AHEAD = 2
# Seconds after which to look whether workers have come or gone, if no shard ends before.
_LOOK_AGAIN = 1.0
# Seconds within which a file system shows a new folder on other machines.
_SEEN_WITHIN = 5.0


class ShardsFailedError(RuntimeError):
    """Some shards could not be fitted on a cluster; all others are finished.

    Attributes
    ----------
    errors
        What stopped each, by the shard's number.
    finished
        The fits of the other shards in order, if there is no store that has them.
    """

    def __init__(self, errors: dict[int, Exception], n_finished: int, advice: str) -> None:
        shown = [f"shard {n}: {_reason(error)}" for n, error in sorted(errors.items())[:5]]
        more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
        super().__init__(
            f"{len(errors)} of {len(errors) + n_finished} shards could not be fitted "
            f"({'; '.join(shown)}{more}); {advice}"
        )
        self.errors = errors
        self.finished: BatchResult | None = None


class ClusterLostError(ConnectionError):
    """The cluster went away, or forgot a shard, while shards were on their way.

    Attributes
    ----------
    finished
        The fits of the shards that had ended, in order, if there is no store that has them.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; a store has what was finished, or else this error's 'finished'")
        self.finished: BatchResult | None = None


def _reason(error: Exception) -> str:
    if _is_killed(error):
        return (
            "the workers that ran it died, again and again, also with nothing else beside it; for "
            "want of memory, if their logs say nothing else: take a smaller shard_size or larger "
            "workers"
        )
    return f"{type(error).__name__}: {error}"


def _is_killed(error: object) -> bool:
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)


def check_client(client: Any) -> None:
    """Check that this is the client of a Dask cluster.

    Raises
    ------
    ImportError
        If Dask is not installed.
    TypeError
        If it is something else, or asynchronous.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ImportError(
            "client needs Dask distributed: install torusimaging-torch[dask]"
        ) from None
    if not isinstance(client, Client):
        raise TypeError(
            f"client must be a dask.distributed.Client, got {client!r}: make one with "
            "Client(cluster) or Client(address)"
        )
    if client.asynchronous:
        raise TypeError("client must not be asynchronous: make one outside of coroutines")


def connect(address: str | None) -> Any:
    """Return a client of the cluster at an address, as a context; without one, an empty context.

    Raises
    ------
    ValueError
        If Dask is not installed, or no scheduler answers there.
    """
    if address is None:
        return nullcontext()
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask needs Dask: pip install torusimaging-torch[dask]") from None
    try:
        return Client(address, timeout="30s")
    except OSError as error:
        raise ValueError(f"--dask: no scheduler answers at {address}: {error}") from None


def where_seen(
    folder: str | os.PathLike[str],
    identity: str | None,
    call: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Do something on a worker, if it sees a store.

    Parameters
    ----------
    folder
        The store's.
    identity
        What the store has there where the run was started, see `Store.identity`.
    call, args, kwargs
        What to do, and with what.

    Raises
    ------
    FileNotFoundError
        If the worker sees no such store, or another one under the same name.
    """
    end = time.monotonic() + _SEEN_WITHIN
    while not _sees(folder, identity):
        if time.monotonic() > end:
            raise FileNotFoundError(
                f"the store {folder} is not seen by the worker on {platform.node()}: choose a "
                "folder that all workers share, with the same name on all machines"
            )
        time.sleep(0.2)
    return call(*args, **kwargs)


def _sees(folder: str | os.PathLike[str], identity: str | None) -> bool:
    try:
        return Store(folder).identity == identity
    except FileNotFoundError:
        return False


def run_on_cluster(
    tasks: Iterable[Task], client: Any, device: torch.device | str | None, advice: str
) -> Iterator[tuple[Task, Any]]:
    """Run tasks on the workers of a cluster.

    Parameters
    ----------
    tasks
        Taken as workers become free.
    client
        Of the cluster.
    device
        Where the tasks compute. On a GPU each task takes one of the resource "GPU", if workers
        declare any.
    advice
        What to tell if some fail.

    Yields
    ------
    task, outcome
        As they end, with what each returned. Of one that failed: its exception; the others go on.

    Raises
    ------
    ShardsFailedError
        In the end, if some failed. If all did, what stopped the first: it is no matter of one.
    ClusterLostError
        If the scheduler cannot be reached any more, or was told to forget a shard.
    OSError
        At once, if a store cannot be seen or written.
    """
    errors: dict[int, Exception] = {}
    suspects: list[Task] = []
    n_finished = 0
    for task, outcome in _as_they_end(iter(tasks), client, device):
        if _is_killed(outcome):
            suspects.append(task)
            continue
        n_finished += not isinstance(outcome, Exception)
        errors |= {task[0]: outcome} if isinstance(outcome, Exception) else {}
        yield task, outcome
    # Dask suspects all shards that a dying worker holds, also those that wait. Alone, one at a
    # time, it is seen which of them did it.
    for task, outcome in _as_they_end(iter(suspects), client, device, at_once=1):
        n_finished += not isinstance(outcome, Exception)
        errors |= {task[0]: outcome} if isinstance(outcome, Exception) else {}
        yield task, outcome
    if errors:
        first = errors[min(errors)]
        if n_finished == 0 and not _is_killed(first):
            raise first
        raise ShardsFailedError(errors, n_finished, advice) from first


def _as_they_end(
    tasks: Iterator[Task], client: Any, device: Any, at_once: int | None = None
) -> Iterator[tuple[Task, Any]]:
    """Yield tasks with what they returned or raised."""
    ended: SimpleQueue[Any] = SimpleQueue()
    running: dict[str, tuple[Task, Any]] = {}
    run = secrets.token_hex(4)
    try:
        while True:
            limit = at_once or _AHEAD * max(1, _n_workers(client))
            for task in itertools.islice(tasks, max(0, limit - len(running))):
                future = _submit(client, task, f"fit-shard-{run}-{task[0]}", device)
                running[future.key] = task, future
                future.add_done_callback(ended.put)
            if not running:
                return
            try:
                key = ended.get(timeout=_LOOK_AGAIN).key
            except Empty:
                continue
            task, future = running.pop(key)
            yield task, _outcome(future)
    finally:
        if running and client.status == "running":
            client.cancel([future for _, future in running.values()])


def _n_workers(client: Any) -> int:
    try:
        return len(client.nthreads())
    except OSError as error:
        raise ClusterLostError(f"the cluster's scheduler does not answer: {error}") from error


def _submit(client: Any, task: Task, key: str, device: Any) -> Any:
    import dask

    options: dict[str, Any] = {"key": key, "pure": False}
    if device is not None and torch.device(device).type != "cpu":
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker.get("resources", {}).get("GPU") for worker in workers):
            options["resources"] = {"GPU": 1}
    # Data travel with their task on purpose: scattered to a worker, they would die with it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
        return client.submit(partial(task[1]), **options)


def _outcome(future: Any) -> Any:
    """Return what a task returned, or its exception, and forget it."""
    try:
        return future.result()
    except CancelledError:
        raise ClusterLostError(
            "the cluster has forgotten a shard: its scheduler was closed or restarted, or somebody "
            "cancelled it"
        ) from None
    except OSError:
        raise
    except Exception as error:
        return error
    finally:
        future.release()
