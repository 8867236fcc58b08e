"""What the examples in the docstrings start from."""

from __future__ import annotations

import doctest
import tempfile
from typing import Any

import pytest

# They have no examples, and pytest takes two of one name, each in a folder of its own, for one.
collect_ignore_glob = ["*/conftest.py"]

_NAMES = ("u", "np", "torch", "model", "params", "data", "result", "covariance", "batch", "sums")


@pytest.fixture(autouse=True)
def _example(request: pytest.FixtureRequest) -> None:
    """Give methods what the example of their class makes: a model, data, a fit, a batch, sums."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    names: dict[str, Any] = request.getfixturevalue("doctest_namespace")
    if "model" not in names:
        names |= _small_model()


def _small_model() -> dict[str, Any]:
    """Return what the examples of classes make, and a folder for files."""
    from torusimaging_torch import TorusImaging1DSpline
    from torusimaging_torch.data import BinnedSums
    from torusimaging_torch.results import BatchResult, FitResult

    names: dict[str, Any] = {"folder": tempfile.mkdtemp()}
    for cls in (TorusImaging1DSpline, FitResult, BatchResult, BinnedSums):
        (test,) = doctest.DocTestFinder(recurse=False).find(cls)
        test.globs.update(names)
        exec("".join(example.source for example in test.examples), test.globs)
        names |= {name: test.globs[name] for name in _NAMES if name in test.globs}
    return names
