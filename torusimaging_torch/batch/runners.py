"""Who runs the shards of a batch, this process, an executor or a cluster; what is told of it."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from functools import partial
from traceback import clear_frames
from typing import TYPE_CHECKING, TypeAlias

import torch

from torusimaging_torch.batch.cluster import is_killed, killed_by, n_workers, submit
from torusimaging_torch.results.batch_result import BatchResult

if TYPE_CHECKING:
    from distributed import KilledWorker

__all__ = ["Outcome", "Report", "Runner", "Task", "choose_runner"]

_log = logging.getLogger(__name__)

Outcome: TypeAlias = BatchResult | str | Exception
"""How a shard ended: its fits, a word, or what stopped it."""

Task = tuple[int, Callable[[], BatchResult | str]]
"""The number of a shard, and what is to be done with it."""

Runner = Callable[[Iterator[Task]], Iterator[tuple[Task, Outcome]]]
"""Runs tasks, and yields each with what it returned, as they end."""

# Shards on their way per worker: one at work, one that waits for it.
_AHEAD = 2
# Seconds after which to look whether workers have come or gone, if no shard ends before.
_LOOK_AGAIN = 1.0


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

    def __call__(self, number: int, outcome: Outcome) -> None:
        """Tell how a shard ended: its fits, a word, or what stopped it."""
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
        line = f"shard {number}: {what}, {seconds:.1f} s"
        _log.info(line)
        if self.wanted:
            print(line, file=sys.stderr, flush=True)


def choose_runner(
    executor: Executor | None, device: torch.device | str | None, report: Report
) -> Runner:
    """Choose who runs the shards.

    Parameters
    ----------
    executor, device
        As for `torusimaging_torch.batch.fit_many`.
    report
        Is told how each ended.

    Raises
    ------
    TypeError
        If the executor is none.
    """
    if executor is None:
        return partial(_reported, _run_here, report)
    if not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}; that "
            "of a Dask client is client.get_executor()"
        )
    return partial(_reported, partial(_run_by, executor, device), report)


def _reported(run: Runner, report: Report, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome]]:
    for task, outcome in run(tasks):
        report(task[0], outcome)
        yield task, outcome


def _run_here(tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome]]:
    for task in tasks:
        yield task, task[1]()


def _run_by(
    executor: Executor, device: torch.device | str | None, tasks: Iterator[Task]
) -> Iterator[tuple[Task, Outcome]]:
    """Run tasks by an executor, a few ahead; one that kills its workers does not stop others."""
    running: dict[Future[BatchResult | str], Task] = {}
    killed: dict[int, KilledWorker] = {}
    future: Future[BatchResult | str] | None = None
    try:
        while True:
            free = _AHEAD * n_workers(executor) - len(running)
            for task in itertools.islice(tasks, max(0, free)):
                running[submit(executor, task[1], device)] = task
            if not running:
                break
            for future in wait(running, _LOOK_AGAIN, return_when=FIRST_COMPLETED).done:
                task, outcome = running.pop(future), _outcome(future)
                killed |= {task[0]: outcome} if is_killed(outcome) else {}
                yield task, outcome
    finally:
        for future in running:
            if not future.cancel() and future.done():
                _forget(future.exception())
        # An error's frames would hold futures, and these a failed shard's data on a cluster.
        running.clear()
        future = None
    if killed:
        raise killed_by(sorted(killed), killed[min(killed)])


def _outcome(future: Future[BatchResult | str]) -> Outcome:
    """Return what a task returned, or that it killed its workers."""
    try:
        return future.result()
    except CancelledError:
        raise RuntimeError(
            "a shard was given up: its executor was shut down, its cluster was closed or lost, or "
            "somebody cancelled it; a store has what was finished"
        ) from None
    except Exception as error:
        _forget(error)
        if is_killed(error):
            return error
        raise
    finally:
        del future


def _forget(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold; of Dask's, the future itself."""
    if error is not None:
        clear_frames(error.__traceback__)
