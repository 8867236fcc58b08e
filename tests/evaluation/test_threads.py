"""Many threads at once get the answers that one gets alone; so does inference mode."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from doors import Doors

N_THREADS = 4
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def doors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = Doors().every()
        return every, {name: door() for name, door in every.items()}


def assert_same(name, found, expected):
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9 * np.nanmax(np.abs(y)), err_msg=name)


@pytest.mark.slow
def test_threads_get_the_answers_of_one(doors):
    every, expected = doors
    names = list(every)
    # Each thread begins elsewhere, so that all kinds of calls meet.
    orders = [names[i * 3 :] + names[: i * 3] for i in range(N_THREADS)]

    def run(order):
        return [(name, every[name]()) for name in order]

    with ThreadPoolExecutor(N_THREADS) as pool:
        results = list(pool.map(run, orders))
    for name, found in (pair for result in results for pair in result):
        assert_same(name, found, expected[name])


def test_inference_mode_changes_nothing(doors):
    every, expected = doors
    for name, door in every.items():
        with torch.inference_mode():
            found = door()
        assert_same(name, found, expected[name])


def test_all_of_it_in_inference_mode():
    with torch.inference_mode():
        doors = Doors()
        assert np.isfinite(doors.optimize(None)[-1]).all()
        assert np.isfinite(doors.bound("full", "autograd")[0]).all()


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float32)  # torch's own
    try:
        yield
    finally:
        torch.set_default_dtype(BEFORE)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "anomalies are looked for": lambda: torch.autograd.set_detect_anomaly(True),
    "another default type": default_dtype,
    "deterministic algorithms": deterministic,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no gradients": torch.no_grad,
}
BEFORE = torch.get_default_dtype()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_change_nothing(doors, mode):
    every, expected = doors
    for name, door in every.items():
        with MODES[mode]():
            found = door()
        assert_same(name, found, expected[name])
