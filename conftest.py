"""What the examples in the docstrings start from."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _example(request: pytest.FixtureRequest) -> None:
    """Give methods of the model the model, parameters and data of its class's example."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    names: dict[str, Any] = request.getfixturevalue("doctest_namespace")
    if "model" not in names:
        names |= _small_model()


def _small_model() -> dict[str, Any]:
    import doctest

    from torusimaging_torch import TorusImaging1DSpline

    (test,) = doctest.DocTestFinder(recurse=False).find(TorusImaging1DSpline)
    exec("".join(example.source for example in test.examples), test.globs)
    return {name: test.globs[name] for name in ("u", "np", "torch", "model", "params", "data")}
