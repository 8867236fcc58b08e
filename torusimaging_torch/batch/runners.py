"""Who runs the shards of a batch, this process, an executor or a cluster; what is told of it."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from functools import partial
from typing import Any

from torusimaging_torch.batch.cluster import Task, check_client, run_on_cluster
from torusimaging_torch.results.batch_result import BatchResult

__all__ = ["Report", "Runner", "choose_runner"]

Runner = Callable[[Iterator[Task]], Iterator[tuple[Task, Any]]]
"""Runs tasks, and yields each with what it returned, as they end."""


class Report:
    """Progress on standard error, a line for each shard.

    Parameters
    ----------
    wanted
        Whether to print it.

    Attributes
    ----------
    total
        How many shards there will be, if that is known.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.start, self.n, self.converged = wanted, time.monotonic(), 0, 0
        self.total: int | None = None
        self._ended = 0

    def __call__(self, number: int, outcome: Any) -> None:
        """Tell how a shard ended: its fits, a word, or what stopped it."""
        if not self.wanted:
            return
        if isinstance(outcome, BatchResult):
            self.n += len(outcome)
            self.converged += int(outcome.success.sum())
            what = f"{self.converged} of {self.n} subsamples converged"
        elif isinstance(outcome, Exception):
            what = f"failed, {type(outcome).__name__}: {outcome}"
        else:
            what = str(outcome)
        self._ended += outcome != "busy"
        if self.total is not None:
            what += f", {self._ended} of {self.total} done"
        seconds = time.monotonic() - self.start
        print(f"shard {number}: {what}, {seconds:.1f} s", file=sys.stderr, flush=True)


def choose_runner(
    executor: Executor | None,
    client: Any,
    device: Any,
    store: str | os.PathLike[str] | None,
    report: Report,
) -> Runner:
    """Choose who runs the shards.

    Parameters
    ----------
    executor, client, device, store
        As for `torusimaging_torch.batch.fit_many`.
    report
        Is told how each ended.

    Raises
    ------
    ValueError
        If there are two to run them.
    ImportError, TypeError
        If the client is none, see `torusimaging_torch.batch.cluster.check_client`.
    """
    if client is None:
        run = _run_here if executor is None else partial(_run_by, executor)
        return partial(_reported, run, report)
    if executor is not None:
        raise ValueError("executor and client are two ways to run the shards: give one of them")
    check_client(client)
    if store is None:
        advice = "the others are in the attribute finished of this error"
    else:
        advice = f"the others are in {store}: run again with this store to go on"
    run = partial(run_on_cluster, client=client, device=device, advice=advice)
    return partial(_reported, run, report)


def _reported(run: Runner, report: Report, tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
    for task, outcome in run(tasks):
        report(task[0], outcome)
        yield task, outcome


def _run_here(tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
    for task in tasks:
        yield task, task[1]()


def _run_by(executor: Executor, tasks: Iterator[Task]) -> Iterator[tuple[Task, Any]]:
    """Run tasks by an executor, a few ahead."""
    ahead = 2 * (getattr(executor, "_max_workers", None) or os.cpu_count() or 1)
    running: dict[Future[Any], Task] = {}
    try:
        while True:
            for task in itertools.islice(tasks, ahead - len(running)):
                running[executor.submit(task[1])] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()
