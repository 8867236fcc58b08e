"""What all tests share: data outside the repository, a thread per worker, no display."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

import pretended

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported

REPOSITORY = Path(__file__).parent.parent

# CI judges a change, so it draws the same examples every time; elsewhere new ones are looked for.
settings.register_profile("ci", derandomize=True, deadline=None)
if "CI" in os.environ:
    settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Leave each xdist worker one core; two workers with two threads each wait for one another."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Load the pretended device before anything is differentiated: PyTorch counts devices once."""
    wanted = any("device" in item.nodeid for item in session.items)
    if wanted and not session.config.option.collectonly and not pretended.missing():
        pretended.device()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of surveys and mocks that lie outside the repository; skip without it."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("TORUSIMAGING_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no validation data at {folder} (set TORUSIMAGING_SHARED_DATA)")
    return folder


@pytest.fixture(params=["cpu", pretended.NAME, "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return each device in turn: the CPU, a pretended one, and a GPU where there is one."""
    if request.param == pretended.NAME:
        if missing := pretended.missing():
            pytest.skip(f"no pretended device: {missing}")
        return pretended.device()
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device(request.param)
