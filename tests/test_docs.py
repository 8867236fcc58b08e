"""The examples in the documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/batch.md"])
def test_examples_run(page, tmp_path, monkeypatch):
    examples = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert examples
    monkeypatch.chdir(tmp_path)
    exec("\n".join(examples), {"__name__": "example"})
