"""The documentation says what is true: its examples run, its lists are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from test_layers import MODULES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_examples_run(page, tmp_path, monkeypatch):
    examples = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert examples
    monkeypatch.chdir(tmp_path)
    exec("\n".join(examples), {"__name__": "example"})


def test_reference_lists_every_module():
    listed = re.findall(
        r"^   torusimaging_torch\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
    )
    assert listed == [name for name in listed if name in MODULES]
    assert set(listed) == set(MODULES) - {"__main__"}
