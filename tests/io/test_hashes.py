"""Tests of the hash that identifies a scan: it covers exactly the bytes that were read."""

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import Reading, hashes, load, load_mask, save
from c3s3_seg.io import archive as archive_module
from c3s3_seg.io.dicom import load as dicom_module
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.hashes import Watch, content_sha256, input_sha256, scan_files, scan_sha256
from c3s3_seg.system.reading import sha256


def dicom(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + content)


def test_one_file_has_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"content")
    assert scan_sha256(path) == sha256(path) == hashlib.sha256(b"content").hexdigest()
    with pytest.raises(InputError, match=r"none\.nii: cannot be read \(No such file"):
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


def small(seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).integers(0, 900, (6, 5, 4)).astype(np.int16)
    return Geometry.build(array.shape).volume(array)


def detached(folder: Path, volume: Volume, name: str) -> Path:
    """Write a header, and its voxels in a file of another name; return the path of the header."""
    folder.mkdir(exist_ok=True)
    (folder / "voxels.bin").write_bytes(volume.array.astype("<i2").tobytes(order="F"))
    size = " ".join(map(str, volume.array.shape))
    if name.endswith("mhd"):
        text = (
            f"ObjectType = Image\nDimSize = {size}\nElementType = MET_SHORT\nElementDataFile = voxels.bin\n"
        )
    else:
        text = (
            f"NRRD0004\ntype: short\nsizes: {size}\nendian: little\nencoding: raw\ndata file: voxels.bin\n\n"
        )
    (folder / name).write_text(text)
    return folder / name


def kinds(folder: Path, volume: Volume) -> list[Path]:
    """Write the same scan in each supported form and return the paths."""
    paths = [folder / f"a.{suffix}" for suffix in ("nii", "nii.gz", "nrrd", "mha")]
    for path in paths:
        save(volume, path)
    paths += [
        detached(folder / f"in-{name}", volume, name) for name in ("d.mhd", "d.nhdr", "e.nrrd", "e.mhd")
    ]
    files = save_series(volume, folder / "series", description="", seed_uid="a")
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return [*paths, folder / "series", files[1], folder / "study.zip"]


def test_the_hash_of_what_was_read_is_that_of_the_scan(tmp_path: Path) -> None:
    volume = small()
    for path in kinds(tmp_path, volume):
        found = load(path, hashed=True)
        assert np.array_equal(found.array, volume.array)
        assert found.source.sha256 == scan_sha256(path), path
        assert load(path).source.sha256 is None
    assert load_mask(tmp_path / "a.nii.gz", hashed=True).source.sha256 == sha256(tmp_path / "a.nii.gz")


def test_the_data_file_of_a_header_counts_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("d.mhd", "d.nhdr", "e.nrrd"):
        path = detached(tmp_path / name, small(), name)
        assert [p.name for p in scan_files(path)] == sorted([name, "voxels.bin"])
        before = input_sha256(path, path)
        (path.parent / "d.json").write_text("beside it, and nothing of it")
        assert input_sha256(path, path) == before
        (path.parent / "voxels.bin").write_bytes(bytes(240))
        after = input_sha256(path, path)
        assert after["scan"] != before["scan"]
        assert after["truth"] != before["truth"]


def test_a_medium_is_all_that_lies_below_its_index(tmp_path: Path) -> None:
    dicom(tmp_path / "DICOMDIR", b"1.2.840.10008.1.3.10")
    dicom(tmp_path / "A" / "B" / "1", b"slice")
    before = scan_sha256(tmp_path / "DICOMDIR")
    assert [p.name for p in scan_files(tmp_path / "DICOMDIR")] == ["1", "DICOMDIR"]
    dicom(tmp_path / "A" / "B" / "1", b"SLICE")
    assert scan_sha256(tmp_path / "DICOMDIR") != before


def rewrite(path: Path) -> None:
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # restore the times, as if nothing had happened


def replace_by_a_copy(path: Path) -> None:
    path.with_suffix(".copy").write_bytes(path.read_bytes()[:-1] + b"?")
    os.replace(path.with_suffix(".copy"), path)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        rewrite,
        replace_by_a_copy,
        lambda path: path.unlink(),
        lambda path: dicom(path.parent / "new", b"3"),
        lambda path: path.rename(path.parent / "renamed"),
    ],
)
def test_a_scan_that_changes_while_it_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], old: bool
) -> None:
    series = tmp_path / "series"
    dicom(series / "a", b"1")
    dicom(series / "sub" / "b", b"2")
    if old:  # the file system's clock has advanced since: times alone suffice
        monkeypatch.setattr(hashes, "YOUNG_NS", -1)
        time.sleep(0.05)
    watch = Watch(series)
    watch.check()
    assert watch.sha256() == scan_sha256(series)
    change(series / "a")
    with pytest.raises(InputError, match="changed while it was read"):
        watch.check()
    with pytest.raises(InputError, match="changed while it was read"):
        watch.sha256()


def test_a_series_that_is_swapped_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = save_series(small(), tmp_path / "series", description="", seed_uid="a")
    other = save_series(small(1), tmp_path / "other", description="", seed_uid="a")
    real = dicom_module.load_series

    def swapped(path: Path, reading: Reading) -> Volume:
        volume = real(path, reading)
        os.replace(other[2], files[2])
        return volume

    monkeypatch.setattr(dicom_module, "load_series", swapped)
    with pytest.raises(InputError, match=r"series: it changed while it was read"):
        load(tmp_path / "series", hashed=True)
    monkeypatch.undo()
    assert load(tmp_path / "series", hashed=True).source.sha256 == scan_sha256(tmp_path / "series")


def test_an_archive_that_is_swapped_while_it_is_unpacked_stays_what_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kinds(tmp_path, small())[-1]
    before, copy = sha256(path), archive_module._copy

    def swapped(path: Path, *rest: Any) -> None:
        copy(path, *rest)
        path.write_bytes(b"something else")

    monkeypatch.setattr(archive_module, "_copy", swapped)
    found = load(path, hashed=True)
    assert found.source.sha256 == before != sha256(path)
    assert np.array_equal(found.array, small().array)
