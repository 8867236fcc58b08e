"""How far a long run through a catalogue has come: one line that is kept up to date."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["StarProgress"]

_ON_TERMINAL, _IN_LOG = 0.2, 10.0  # seconds between two updates


class StarProgress:
    """Say how many stars are done, and how many a second.

    On a terminal one line is written over again; elsewhere, as in a log, there is a line every ten
    seconds. The last one always comes.

    Parameters
    ----------
    stream
        Where to write; standard error by default.
    clock
        Tells the time in seconds.
    name
        What the line begins with.
    quiet
        Seconds in which nothing is said, not even at the end.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str = "",
        quiet: float = 0.0,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._start = self._last = clock()
        self._prefix, self._quiet = f"{name}: " if name else "", quiet
        self._width = 0
        self._terminal = self._stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Note that so many stars of all are done."""
        now = self._clock()
        pause = _ON_TERMINAL if self._terminal else _IN_LOG
        if now - self._start < self._quiet or (done < total and now - self._last < pause):
            return
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        line = (
            f"{self._prefix}{done:,} of {total:,} stars ({done / total:.0%}), {rate:,.0f} a second"
        )
        if done < total:
            line += f", {(total - done) / rate:.0f} s left"
        self._write(line, done == total)

    def _write(self, line: str, last: bool) -> None:
        if self._terminal:
            blanks = " " * (self._width - len(line))
            self._width = len(line)
            print(f"\r{line}{blanks}", end="\n" if last else "", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)
