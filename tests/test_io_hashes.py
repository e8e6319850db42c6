import hashlib
import os
from pathlib import Path

import pytest

from c3s3_seg.errors import InputError
from c3s3_seg.io.hashes import content_sha256, scan_files, scan_sha256, sha256


def dicom(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + content)


def test_one_file_has_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"content")
    assert scan_sha256(path) == sha256(path) == hashlib.sha256(b"content").hexdigest()
    with pytest.raises(InputError, match=r"none\.nii: the file cannot be read: No such file"):
        scan_sha256(tmp_path / "none.nii")


def test_what_never_ends_has_no_hash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="wanted a regular file"):
            sha256(path)


def test_a_series_is_all_its_files(tmp_path: Path) -> None:
    series = tmp_path / "series"
    dicom(series / "a", b"1")
    dicom(series / "sub" / "b", b"2")
    first = scan_sha256(series)
    (series / "notes.txt").write_text("beside it")
    (series / ".hidden").write_bytes(bytes(128) + b"DICM")
    assert scan_sha256(series) == first
    series.rename(tmp_path / "moved")
    assert scan_sha256(tmp_path / "moved") == first
    dicom(tmp_path / "moved" / "a", b"3")
    changed = scan_sha256(tmp_path / "moved")
    dicom(tmp_path / "moved" / "c", b"4")
    assert len({first, changed, scan_sha256(tmp_path / "moved")}) == 3


def test_one_file_of_a_series_and_a_detached_header(tmp_path: Path) -> None:
    for name in "ab":
        dicom(tmp_path / "series" / name, name.encode())
    assert [p.name for p in scan_files(tmp_path / "series" / "a")] == ["a", "b"]
    for name in ("x.mhd", "x.raw", "y.raw"):
        (tmp_path / name).write_bytes(name.encode())
    assert [p.name for p in scan_files(tmp_path / "x.mhd")] == ["x.mhd", "x.raw"]
    before = scan_sha256(tmp_path / "x.mhd")
    (tmp_path / "x.raw").write_bytes(b"other voxels")
    assert scan_sha256(tmp_path / "x.mhd") != before


def test_content_is_the_same_under_other_names(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    a, b = tmp_path / "a", tmp_path / "b"
    whole = content_sha256([a, b])
    assert content_sha256([a]) == sha256(a)
    assert content_sha256([a], "echo 1") != sha256(a)
    a, b = a.rename(tmp_path / "z"), b.rename(tmp_path / "y")
    assert content_sha256([b, a]) == whole != content_sha256([b, a], "echo 1")
    a.write_text("other")
    assert content_sha256([b, a]) != whole
