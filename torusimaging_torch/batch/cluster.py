"""What a Dask cluster, which the user starts, needs beyond being an executor.

Dask itself runs a shard again when its worker dies. Added here: how many shards to have on their
way, one GPU for each, a store that every worker must see, and names for shards that kill workers.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, ParamSpec, TypeGuard, TypeVar

import torch

from torusimaging_torch.batch.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, KilledWorker

__all__ = ["connect", "is_killed", "killed_by", "n_workers", "submit", "where_seen"]

P = ParamSpec("P")
R = TypeVar("R")

# Seconds within which a file system shows a new folder on other machines.
_SEEN_WITHIN = 5.0


def connect(address: str | None) -> AbstractContextManager[Executor | None]:
    """Return the executor of the cluster at an address, as a context; None without an address.

    Raises
    ------
    ValueError
        If Dask is not installed, or no scheduler answers there.

    Examples
    --------
    >>> with connect(None) as executor:
    ...     print(executor)
    None
    """
    if address is None:
        return nullcontext()
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask needs Dask: pip install torusimaging-torch[dask]") from None
    try:
        return _closing(Client(address, timeout="30s"))
    except OSError as error:
        raise ValueError(f"--dask: no scheduler answers at {address}: {error}") from None


@contextmanager
def _closing(client: Client) -> Iterator[Executor]:
    with client:
        yield client.get_executor()


def _client_of(executor: Executor) -> Client | None:
    return getattr(executor, "_client", None)


def n_workers(executor: Executor) -> int:
    """Return how many shards an executor can run at a time, as it is now.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> n_workers(ThreadPoolExecutor(3))
    3
    """
    client = _client_of(executor)
    if client is not None:
        return max(1, len(client.nthreads()))
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1


def submit(
    executor: Executor, call: Callable[[], R], device: torch.device | str | None
) -> Future[R]:
    """Hand a call to an executor.

    Parameters
    ----------
    executor
        Of any kind.
    call
        What to do.
    device
        Where it computes. On a GPU it takes one of a cluster's resource "GPU", if workers declare
        any.
    """
    client = _client_of(executor)
    if client is None:
        return executor.submit(call)
    import dask

    options: dict[str, object] = {"pure": False}
    if device is not None and torch.device(device).type != "cpu":
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker.get("resources", {}).get("GPU") for worker in workers):
            options["resources"] = {"GPU": 1}
    # Data travel with their task on purpose: scattered to a worker, they would die with it.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
        return executor.submit(call, **options)


def is_killed(error: object) -> TypeGuard[KilledWorker]:
    """Return whether an outcome is that of a task whose workers died, again and again."""
    return type(error).__name__ == "KilledWorker"


def killed_by(shards: Sequence[int], error: KilledWorker) -> KilledWorker:
    """Return such an error that names the shards."""
    listed = ", ".join(str(number) for number in shards)
    return type(error)(f"shard {listed}", error.last_worker, error.allowed_failures)


def where_seen(
    folder: str | os.PathLike[str],
    identity: str | None,
    call: Callable[P, R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
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
