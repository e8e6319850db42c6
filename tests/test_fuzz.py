"""A few mutants of each kind of file in each test run; `benchmarks/fuzz.py` makes thousands."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_no_mutant_crashes_hangs_or_gives_a_wrong_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from fuzz import fuzz

    outcomes, slowest, bad = fuzz(40, seed=7)
    assert bad == []
    assert slowest < 10
    assert sum(counter["refused"] for counter in outcomes.values()) > 12


def test_the_judge_says_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    from fuzz import judge, original

    from c3s3_seg.geometry.volume import Geometry
    from c3s3_seg.io import save

    scan = original()
    save(scan, tmp_path / "a.nii.gz")
    assert judge(tmp_path / "a.nii.gz", scan, ".nii.gz") == "read right"
    moved = scan.geometry.affine.copy()
    moved[0, 3] += 1
    save(Geometry(scan.geometry.shape, moved).volume(scan.array), tmp_path / "b.nii.gz")
    assert judge(tmp_path / "b.nii.gz", scan, ".nii.gz") == "WRONG place"
    save(scan.geometry.volume(scan.array + 1), tmp_path / "c.nii.gz")
    assert judge(tmp_path / "c.nii.gz", scan, ".nii.gz") == "WRONG voxels"
