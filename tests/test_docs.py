"""The examples in the documentation run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from torusimaging_torch.command.main import main

ROOT = Path(__file__).parent.parent


PAGES = ("start", "two_models", "choosing", "batch", "extending")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_examples_run(page, tmp_path, monkeypatch):
    examples = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert examples
    monkeypatch.chdir(tmp_path)
    exec("\n".join(examples), {"__name__": "example"})


@pytest.mark.filterwarnings("ignore:the sampler has not converged")
def test_examples_of_errors_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    test_examples_run("docs/errors.md", tmp_path, monkeypatch)


def test_examples_and_commands_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    test_examples_run("docs/orbits.md", tmp_path, monkeypatch)
    text = (ROOT / "docs/orbits.md").read_text()
    commands = re.findall(r"^torusimaging-torch (.*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)) == 0
    assert Path("stars_with_errors.parquet").exists()
