"""What tests of a cluster put on its workers; imports little, since new workers import it anew."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

from distributed import WorkerPlugin

from torusimaging_torch.batch import shard as batch_shard

KILLER = 1
REAL = batch_shard.fit_shard


class Watch(WorkerPlugin):
    """Notes on every worker, also a new one, what is fitted; one shard may kill its worker."""

    name = "watch"

    def __init__(self, folder: Path, kills: int = 0) -> None:
        self.folder, self.kills = folder, kills

    def setup(self, worker) -> None:
        batch_shard.fit_shard = partial(watched, self.folder, self.kills)

    def teardown(self, worker) -> None:
        batch_shard.fit_shard = REAL


def watched(folder: Path, kills: int, settings, shard, *place):
    note(folder / "started", shard.number)
    if shard.number == KILLER and count(folder / "started")[KILLER] <= kills:
        os.kill(os.getpid(), signal.SIGKILL)
    result = REAL(settings, shard, *place)
    note(folder / "fitted", shard.number)
    return result


def note(path: Path, number: int) -> None:
    with open(path, "a") as file:
        file.write(f"{number}\n")


def count(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()
