"""Where compiled loops are kept: anew for other sources, and nowhere is no error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from problems import by, make_problem

from torusimaging_torch.evaluation import cache_folder

pytest.importorskip("numba")


@pytest.fixture
def found_anew(monkeypatch):
    cache_folder.cache_folder.cache_clear()
    yield cache_folder.cache_folder
    monkeypatch.undo()
    cache_folder.cache_folder.cache_clear()


def test_other_sources_have_another_folder(tmp_path):
    (tmp_path / "loops.py").write_text("a = 1")
    before = cache_folder.key_of(tmp_path)
    (tmp_path / "compiled_more.py").write_text("b = 1")
    with_another = cache_folder.key_of(tmp_path)
    (tmp_path / "loops.py").write_text("a = 2")
    (tmp_path / "torch_form.py").write_text("c = 1")  # none of them
    assert len({before, with_another, cache_folder.key_of(tmp_path)}) == 3
    (tmp_path / "loops.py").write_text("a = 1")
    assert cache_folder.key_of(tmp_path) == with_another


def test_loops_are_all_seen():
    folder = Path(cache_folder.__file__).parent
    using = {p.name for p in folder.glob("*.py") if "@compiled(" in p.read_text()}
    using |= {p.name for p in folder.glob("*.py") if "@inlined(" in p.read_text()}
    seen = {p.name for pattern in ("*loops.py", "compiled*.py") for p in folder.glob(pattern)}
    assert using
    assert using <= seen


def test_it_is_where_one_asks_for_it(found_anew, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "there"))
    assert found_anew().parent == tmp_path / "there"
    found_anew.cache_clear()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")
    assert found_anew().parent == Path(cache_folder.__file__).parent / "__pycache__"


def test_without_a_folder_torch_is_taken_and_that_is_said(found_anew, monkeypatch):
    monkeypatch.setattr(cache_folder, "_places", lambda: iter([Path("/proc/nowhere")]))
    posterior, x = make_problem()
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR to a folder"):
        value = posterior(x)
    assert posterior.evaluated_by == "torch"
    torch.testing.assert_close(by(posterior, "numba")(x), value)
