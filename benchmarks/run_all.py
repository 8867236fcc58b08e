"""Run all benchmarks, each in a process of its own; what fails is told at the end.

``--quick`` runs small versions, to see that they run: their numbers mean nothing, and nothing is
written. Otherwise each writes its file, and RESULTS.md is made of all of them; that takes hours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
# By name: what to run in earnest, and in quick.
RUNS: dict[str, tuple[list[str], list[str] | None]] = {
    "speed": (["--write"], ["--quick"]),
    "accuracy": (["--write"], ["--quick"]),
    "pulls": (["--write"], ["--mocks", "1"]),
    "outliers": (["--write"], ["--quick"]),
    "poor_data": (["--write"], ["--quick"]),
    "blur": (["--write"], ["--quick"]),
    "verdict": (["--write"], ["--n", "1", "--bad", "0"]),
    "known_disk": (["--write"], ["--quick"]),
    "three_dimensions": (["--seeds", "3", "--write"], ["--quick"]),
    "scaling": (["--write", "--figure"], ["--quick"]),
    "survey": (["--write"], ["--quick"]),
    "mocks": (["--write"], ["--n", "1"]),
    "batch": (["--write"], ["--bins", "1", "--bootstraps", "2", "--stars", "20000", "--chunks", "2",
              "--upstream", "0"]),
    "penalty": (["--write"], ["--radii", "1"]),
    "published": (["--write"], ["--radii", "2", "--bootstraps", "3", "--upstream", "0"]),
    "calibration": (["--write"], ["--mocks", "2", "--outside", "0"]),
    "binning_many": ([], ["--stars", "100000", "--large", "100000", "--bootstraps", "2",
                          "--no-write"]),
    "edge": (["--write"], None),
    "cross_validation": (["--write"], None),
    "upstream_mock": (["--write"], None),
    "nuts_upstream": (["--write"], None),
    "binning": ([], None),
    "actions": (["--write"], None),
}  # fmt: skip
# Those that run upstream in their own process; speed.py has one for it.
WITH_UPSTREAM = {"upstream_mock", "nuts_upstream", "binning", "actions", "batch", "published"}


def run(options: argparse.Namespace, name: str) -> int:
    """Run one of them, if it is one that can be, and return its exit status."""
    arguments = RUNS[name][options.quick]
    if arguments is None or (name in WITH_UPSTREAM and not (options.quick or options.upstream)):
        return 0
    python = sys.executable
    if not options.quick and name in WITH_UPSTREAM:
        python = options.upstream
    if not options.quick and name in ("speed", "survey") and options.upstream:
        arguments = [*arguments, "--upstream", options.upstream]
    start, command = time.monotonic(), [python, HERE / f"{name}.py", *arguments]
    print(f"== {name}", flush=True)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if options.quick else {}
    done = subprocess.run(command, check=False, text=True, **output)
    print(f"{done.stdout or ''}== {name}: {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode


def main() -> int:
    """Run them, and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small versions")
    parser.add_argument("--upstream", metavar="PYTHON", help="a Python that has torusimaging")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    options = parser.parse_args()
    at_once = 1  # they are timed, but for quick ones
    if options.quick:
        at_once, os.environ["OMP_NUM_THREADS"] = 2, "1"
    with ThreadPoolExecutor(at_once) as pool:
        done = list(pool.map(partial(run, options), options.only))
    failed = [name for name, code in zip(options.only, done, strict=True) if code]
    print(f"failed: {', '.join(failed)}" if failed else "all ran", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
