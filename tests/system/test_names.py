"""The absolute form of a path."""

import os
from pathlib import Path

import pytest

from c3s3_seg.system.names import absolute


def test_a_folder_above_a_link_is_that_of_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    for folder in ("far", "here"):
        (tmp_path / folder / "scan").write_text(folder)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path / "here")
    for path in ("link/../scan", Path("link/../scan"), "./link/.././scan"):
        found = Path(absolute(path))
        assert found.is_absolute()
        assert found.read_text() == "far"  # as the system reads it
    assert absolute("scan") == os.path.abspath("scan")
    assert absolute("link/") == os.path.abspath("link")  # links are kept
    assert os.path.samefile(absolute("link/.."), tmp_path / "far")
    assert absolute("no/../such") == os.path.realpath("such")
