"""Files and folders appear complete or not at all."""

from __future__ import annotations

import pytest

from torusimaging_torch.results.atomic import replaced_file, replaced_folder


def test_folder_appears_complete_or_not_at_all(tmp_path):
    def fail_halfway():
        with replaced_folder(tmp_path / "out" / "run", "z") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list((tmp_path / "out").iterdir()) == []
    for text in ("1", "2"):
        with replaced_folder(tmp_path / "out" / "run", "a") as folder:
            (folder / "a").write_text(text)
        assert (tmp_path / "out" / "run" / "a").read_text() == text
        (tmp_path / "out" / "run" / "mine").write_text("stays")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a", "mine", "out", "run"]


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    with replaced_file(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
