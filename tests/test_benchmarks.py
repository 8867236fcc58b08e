"""Benchmarks that need what a test machine has not: here they are only seen to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_without_one(tmp_path):
    script, written = REPOSITORY / "benchmarks" / "gpu.py", tmp_path / "gpu.md"
    command = [sys.executable, script, "--device", "cpu", "--quick", "--write", written]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(f"## {part}" in written.read_text() for part in ("Hardware", "Speed", "Layer"))
