"""`prepare --leave-out`: which files a pattern names, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg.dataset.prepare.left_out import count_left_out, is_left_out, patterns_within
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import save


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("img/a_1.nii.gz", True),
        ("img/a_*", True),
        ("img", True),
        ("a_1.nii.gz", True),
        ("a_1*", True),
        ("*.nii.gz", True),
        ("a_1", False),
        ("seg", False),
        ("mg/a_1.nii.gz", False),
        ("img/b/*", False),
    ],
)
def test_a_pattern_is_a_path_or_a_name(pattern: str, named: bool) -> None:
    assert is_left_out("img/a_1.nii.gz", [pattern]) is named


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write four scans with masks of different patients."""
    grid, random = Geometry.build((20, 18, 16), (1.0, 1.0, 1.0)), np.random.default_rng(1)
    mask = np.zeros(grid.shape, dtype=np.uint8)
    mask[5:12, 5:12, 5:12] = 1
    for folder in ("img", "seg"):
        (tmp_path / "source" / folder).mkdir(parents=True)
    for n in range(1, 5):
        scan = grid.volume(random.integers(0, 999, grid.shape).astype(np.int16))
        save(scan, tmp_path / "source" / "img" / f"a_{n}.nii.gz")
        save(grid.volume(mask), tmp_path / "source" / "seg" / f"a_{n}.nii.gz")
    return tmp_path / "source"


def test_a_pattern_may_begin_with_the_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    given = ["./img/a_1.nii.gz", "source/img/a_2.nii.gz", os.fspath(source / "img" / "*"), "seg/"]
    expected = ("img/a_1.nii.gz", "img/a_2.nii.gz", "img/*", "seg")
    assert patterns_within(Path("source"), given) == expected
    for empty in ("", "./", "/"):
        with pytest.raises(InputError, match="names none"):
            patterns_within(source, [empty])


def test_a_pattern_that_matches_nothing_is_refused(source: Path) -> None:
    (source.parent / "far").mkdir()
    (source / "elsewhere").symlink_to(source.parent / "far")
    assert count_left_out(source, ["a_1*", "seg/a_2*", "elsewhere"]) == 3  # no file lies behind the link
    with pytest.raises(InputError, match="no file here matches the pattern 'b_\\*'"):
        count_left_out(source, ["a_1*", "b_*"])


def test_the_command_leaves_out_what_was_named(source: Path, tmp_path: Path) -> None:
    answer = run("prepare", source, "-o", tmp_path / "out", "--leave-out", f"{source}/img/a_1.nii.gz")
    assert answer.returncode in (0, 1), answer.stderr
    assert "1 files that --leave-out names" in " ".join(answer.stdout.split())
    images = {path.name for path in (tmp_path / "out").glob("images*/*")}
    assert len(images) == 3
    refused = run("prepare", source, "-o", tmp_path / "other", "--leave-out", "patient-7")
    assert refused.returncode == 2
    assert "no file here matches the pattern 'patient-7'" in refused.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_dry_run_refuses_the_masks_that_the_run_refuses(
    source: Path, tmp_path: Path, dry: list[str]
) -> None:
    grid = Geometry.build((20, 18, 16), (1.0, 1.0, 1.0))
    mask = np.full(grid.shape, 2, dtype=np.uint8)
    save(grid.volume(mask), source / "seg" / "a_2.nii.gz")
    answer = run("prepare", source, "-o", tmp_path / "out", "--labels", "organ=1", *dry)
    assert answer.returncode == 1, answer.stderr
    said = " ".join(answer.stdout.split())
    assert "it holds the value 2, which no label has" in said
    assert "1 refused" in said
