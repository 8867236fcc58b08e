"""The examples in the documentation run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torusimaging_torch.command.main import main
from torusimaging_torch.numerics.params import iter_leaves

ROOT = Path(__file__).parent.parent


PAGES = ("start", "two_models", "choosing", "batch", "extending")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_examples_run(page, tmp_path, monkeypatch):
    examples = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert examples
    monkeypatch.chdir(tmp_path)
    made = {"__name__": "example"}
    exec("\n".join(examples), made)
    assert not _not_finite(made)


def _not_finite(made):
    """Return the names of what an example made and a reader would find to be nan."""
    found = []
    for name, value in made.items():
        match value:
            case nn.Module():
                numbers = [*value.parameters()]
            case {"pos0": _, **rest}:  # parameters
                numbers = [leaf for _, leaf in iter_leaves({"pos0": value["pos0"], **rest})]
            case float() | list() | torch.Tensor() if name.startswith(("loss", "gradient")):
                numbers = [torch.as_tensor(value).detach()]
            case _:
                continue
        found += [name] * (not all(np.isfinite(np.asarray(_bare(x))).all() for x in numbers))
    return found


def _bare(x):
    return x.detach().cpu() if isinstance(x, torch.Tensor) else getattr(x, "value", x)


def test_an_example_that_makes_nan_is_found():
    layer = nn.Linear(2, 2)
    good = {"layer": layer, "params": {"pos0": 0.1, "e_params": {2: {"vals": [1.0]}}}, "loss": 0.5}
    assert not _not_finite(good)
    label = torch.tensor([1.0, torch.nan])  # as in pixels without a star
    (layer(torch.ones(2)) - label).square().nanmean().backward()
    torch.optim.Adam(layer.parameters()).step()
    assert _not_finite({"layer": layer, "losses": [0.5, torch.nan]}) == ["layer", "losses"]
    assert _not_finite({"params": {"pos0": torch.tensor(torch.nan)}}) == ["params"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the sampler has not converged")
def test_examples_of_errors_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    test_examples_run("docs/errors.md", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* have no orbit within the fit:RuntimeWarning")
@pytest.mark.parametrize(
    ("page", "n_commands", "written"),
    [("docs/orbits.md", 3, "stars_with_errors.parquet"), ("docs/sky.md", 3, "all.fits")],
)
def test_examples_and_commands_run(tmp_path, monkeypatch, page, n_commands, written):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    test_examples_run(page, tmp_path, monkeypatch)
    shown = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^torusimaging-torch (.*)$", "\n".join(shown), re.MULTILINE)
    assert len(commands) == n_commands
    for command in commands:
        assert main(shlex.split(command)) == 0
    assert Path(written).exists()


def test_messages_of_the_faq_are_those_of_the_package():
    """Each quoted message is looked for in the source, piece by piece between the dots."""
    source = "\n".join(path.read_text() for path in ROOT.glob("torusimaging_torch/**/*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # strings go on over lines
    quoted = re.findall(r'\*\*"([^"]+)"', (ROOT / "docs/faq.md").read_text().replace("\n", " "))
    assert len(quoted) > 10
    pieces = [piece.strip(" ().:") for text in quoted for piece in text.split("…")]
    missing = [p for p in pieces if p and re.sub(r"^(BAD FIT): ", "", p) not in source]
    assert not missing
