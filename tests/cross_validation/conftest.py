"""Labels and counts of one disk, and a selection between two penalties of e."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from selections import MODEL, run

import disks


@pytest.fixture(scope="session")
def data() -> dict[str, Any]:
    data = disks.draw(MODEL, "gaussian", seed=0, n=10)
    data["label"][2, 3:6] = np.nan
    return data


@pytest.fixture(scope="session")
def counts() -> dict[str, Any]:
    return disks.draw(MODEL, "poisson", seed=0, n=10)


@pytest.fixture(scope="session")
def selection(data):
    return run(data)
