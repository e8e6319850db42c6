"""Tests of zip files and DICOMDIR: they are read like folders; harmful or damaged ones are refused."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values
from pydicom import Dataset
from pydicom.fileset import FileSet

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import archive as archive_module
from c3s3_seg.io import find_cases, load
from c3s3_seg.io.archive import HELD, sweep_unpacked, unpacked
from c3s3_seg.io.dicom.dicomdir import _in_use
from c3s3_seg.io.dicom.write_series import save_series


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    return save_series(oblique, tmp_path / "series", description="phantom", seed_uid="a")


def zipped(files: list[Path], target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, path in enumerate(files):
            archive.write(path, f"stu dy/ü {n % 2}/{path.name}")
        archive.writestr("readme.txt", "junk")
    return target


def test_a_zip_is_read_like_its_folder(oblique: Volume, files: list[Path], tmp_path: Path) -> None:
    path = zipped(files, tmp_path / "study.zip")
    back = load(path)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.path == path
    assert [case.name for case in find_cases([path])] == ["study"]
    shutil.rmtree(tmp_path / "series")
    assert [case.path for case in find_cases([tmp_path])] == [path]


def test_a_refusal_names_the_zip_and_not_the_temporary_folder(files: list[Path], tmp_path: Path) -> None:
    files[3].write_bytes(files[3].read_bytes()[:500])
    path = zipped(files, tmp_path / "study.zip")
    with pytest.raises(InputError, match="IM_0004") as error:
        load(path)
    assert error.value.where == path
    assert "c3s3-seg-" not in str(error.value)


@pytest.mark.parametrize("name", ["../evil.dcm", "a/../../evil.dcm", "/evil.dcm", "C:\\evil.dcm", "..\\evil"])
def test_names_that_lead_out_are_refused(files: list[Path], tmp_path: Path, name: str) -> None:
    path = zipped(files, tmp_path / "study.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InputError, match="leads out of its folder"):
        load(path)
    assert not (tmp_path / "evil.dcm").exists()


def test_a_zip_with_the_separators_of_windows_is_read(
    oblique: Volume, files: list[Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("STUDY\\"), b"")
        for path in files:
            archive.writestr(zipfile.ZipInfo(f"STUDY\\SERIES\\{path.name}"), path.read_bytes())
    assert np.array_equal(load(tmp_path / "study.zip").array, oblique.array)


def test_links_are_refused(files: list[Path], tmp_path: Path) -> None:
    path = zipped(files, tmp_path / "study.zip")
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="holds a link"):
        load(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(30_000_000))
    monkeypatch.setattr(archive_module, "FLOOR", 1 << 20)
    monkeypatch.setattr(archive_module, "_extract", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(InputError, match="unpacks to 30000000 bytes, far more"):
        load(path)


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lie.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(100_000))
    raw = path.read_bytes()
    path.write_bytes(raw.replace((100_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"damaged|more than the archive says"):
        load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_packing_without_a_limit_is_refused(tmp_path: Path, method: int) -> None:
    """A zip of 574 bytes took 1.2 GB of memory, whatever size it stated."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("zeros.dcm", bytes(10_000_000))
    with pytest.raises(InputError, match=r"packed by a method .* other than deflate\. Unpack it yourself"):
        load(path)


def test_a_damaged_a_twofold_and_an_encrypted_archive_are_refused(files: list[Path], tmp_path: Path) -> None:
    path = zipped(files, tmp_path / "study.zip")
    whole = path.read_bytes()
    for content in (whole[:-60], whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:], b"PK"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"study\.zip"):
            load(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("readme.txt", "again")
    with pytest.raises(InputError, match="twice"):
        load(path)
    path.write_bytes(whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"))
    with pytest.raises(InputError, match="encrypted"):
        load(path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_in_any_kind_of_packing_is_refused(oblique: Volume, tmp_path: Path, method: int) -> None:
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in save_series(oblique, tmp_path / "series", description="", seed_uid="a"):
            archive.write(file, file.name)
    assert np.array_equal(load(path).array, oblique.array)
    whole = path.read_bytes()
    refused = 0
    for at in (*range(30, 70), *range(100, len(whole), 997), *range(len(whole) - 90, len(whole), 3)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            back = load(path)
        except InputError as error:
            refused += error.where == path
        else:  # the changed byte was only part of a time or a permission
            assert np.array_equal(back.array, oblique.array)
    assert refused > 15


def test_an_archive_for_which_there_is_no_room_is_not_copied(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(files, tmp_path / "study.zip")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda _: usage._replace(free=2000))
    with pytest.raises(InputError, match="for which there is no room"):
        load(path)


def test_what_was_unpacked_is_removed(files: list[Path], tmp_path: Path) -> None:
    with unpacked(zipped(files, tmp_path / "study.zip")) as folder:
        assert folder.is_dir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def medium(files: list[Path], folder: Path) -> Path:
    for path in files:
        edit(path, values(StudyDate="20200101", StudyTime="1", StudyID="1", AccessionNumber="1"))
    index = FileSet()
    for path in files:
        index.add(path)
    index.write(folder)
    return folder / "DICOMDIR"


def test_a_medium_is_read_by_its_index_and_by_its_folder(
    oblique: Volume, files: list[Path], tmp_path: Path
) -> None:
    index = medium(files, tmp_path / "cd")
    assert np.array_equal(load(index).array, oblique.array)
    assert np.array_equal(load(index.parent).array, oblique.array)
    assert [case.path for case in find_cases([index.parent])] == [index.parent]
    gone = next(p for p in index.parent.rglob("*") if p.is_file() and p.name != "DICOMDIR")
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone.name}', and it is not there"):
        load(index)


@pytest.mark.parametrize("level", ["IMAGE", "SERIES"])
def test_a_deleted_record_of_an_index_is_not_read(
    oblique: Volume, files: list[Path], tmp_path: Path, level: str
) -> None:
    """A record that is not in use may name files that are gone, and so may those below it."""
    index = medium(files, tmp_path / "cd")

    def delete(data: Dataset) -> None:
        record = [r for r in data.DirectoryRecordSequence if level == r.DirectoryRecordType][-1]
        record.RecordInUseFlag = 0
        if level == "IMAGE":
            index.parent.joinpath(*record.ReferencedFileID).unlink()

    edit(index, delete)
    if level == "IMAGE":
        assert np.array_equal(load(index).array, oblique.array[:, :, :-1])
    else:
        with pytest.raises(InputError, match="the index names no files"):
            load(index)


class Offset(int):
    """An offset of a record that counts how often it is compared with another one."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Offset.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_a_long_chain_below_a_deleted_record_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record was looked for among all that were waiting: 60,000 images took minutes."""
    records = []
    for number in range(400):
        record = Dataset()
        record.RecordInUseFlag = 0xFFFF if number else 0
        record.OffsetOfTheNextDirectoryRecord = Offset(64 * (number + 1)) if 0 < number < 399 else Offset(0)
        record.seq_item_tell = Offset(64 * number + 8)
        records.append(record)
    for record in records[1:-1]:
        record.OffsetOfTheNextDirectoryRecord = Offset(record.OffsetOfTheNextDirectoryRecord + 8)
    records[0].OffsetOfReferencedLowerLevelDirectoryEntity = Offset(64 + 8)
    records[-1].OffsetOfTheNextDirectoryRecord = Offset(64 + 8)  # a loop
    monkeypatch.setattr(Offset, "compared", 0)
    assert _in_use(records) == []
    assert Offset.compared < 20 * len(records)


def test_an_index_that_leads_out_is_refused(files: list[Path], tmp_path: Path) -> None:
    index = medium(files, tmp_path / "cd")

    def lead_out(data: object) -> None:
        for record in data.DirectoryRecordSequence:  # type: ignore[attr-defined]
            if "ReferencedFileID" in record:
                record.ReferencedFileID = ["..", "series", "IM_0001.dcm"]

    edit(index, lead_out)
    with pytest.raises(InputError, match="outside of its folder"):
        load(index)
    index.write_bytes(index.read_bytes()[:700])
    with pytest.raises(InputError, match=r"damaged|names no files"):
        load(index)


@pytest.mark.parametrize(
    ("name", "message"), [("A" * 300, "and it is not there"), ("A\0B", "outside of its folder")]
)
def test_an_index_with_a_name_that_no_file_has_is_refused(
    files: list[Path], tmp_path: Path, name: str, message: str
) -> None:
    """The error of the operating system was raised in place of one that names the index."""
    index = medium(files, tmp_path / "cd")

    def rename(data: pydicom.Dataset) -> None:
        for record in data.DirectoryRecordSequence:
            if "ReferencedFileID" in record:  # as bytes, since pydicom writes no such name
                record.add_new("ReferencedFileID", "UN", name.encode())

    edit(index, rename)
    with pytest.raises(InputError, match=rf"DICOMDIR: the index .*{message}"):
        load(index)


def test_a_name_in_lower_case_is_no_way_out_either(files: list[Path], tmp_path: Path) -> None:
    index = medium(files, tmp_path / "cd")
    first = next(p for p in sorted(index.parent.rglob("*")) if p.is_file() and p.name != "DICOMDIR")
    lower = index.parent / str(first.relative_to(index.parent)).lower()
    lower.parent.mkdir(parents=True, exist_ok=True)
    first.rename(lower)
    load(index)
    shutil.move(lower, tmp_path / "elsewhere.dcm")
    lower.symlink_to(tmp_path / "elsewhere.dcm")
    with pytest.raises(InputError, match="outside of its folder"):
        load(index)


HOLDER = """
import sys, time
from pathlib import Path
from c3s3_seg.io.archive import HELD, sweep_unpacked, unpacked
with unpacked(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def held(archive: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, archive], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert Path(process.stdout.readline().strip()).is_dir()
    return process


def test_what_a_killed_run_has_unpacked_is_swept(files: list[Path], tmp_path: Path, temporary: Path) -> None:
    archive = zipped(files, tmp_path / "study.zip")
    dead, alive = held(archive), held(archive)
    try:
        dead.kill()
        dead.wait()
        assert len(list(temporary.iterdir())) == 2
        with unpacked(archive):
            assert len(list(temporary.iterdir())) == 2  # the folder of this process and that of the live one
        assert len(list(temporary.iterdir())) == 1
        assert alive.poll() is None
    finally:
        alive.kill()
        alive.wait()
    sweep_unpacked()
    assert not list(temporary.iterdir())


def test_without_a_temporary_folder_the_archive_is_named(
    files: list[Path], tmp_path: Path, temporary: Path
) -> None:
    """The error of the operating system was raised, which a batch calls a defect of the program."""
    archive = zipped(files, tmp_path / "study.zip")
    assert tempfile.gettempdir() == str(temporary)  # `tempfile` now knows the folder
    temporary.rmdir()
    with pytest.raises(InputError, match=r"study\.zip: .*no temporary folder was made.* Set TMPDIR"):
        load(archive)


def test_a_folder_that_is_being_made_is_not_swept(
    files: list[Path], tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run swept the folder between the creation of its lock file and the lock."""
    flock = fcntl.flock

    def late(handle: int, how: int) -> None:
        if how == fcntl.LOCK_EX:
            sweep_unpacked()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with unpacked(zipped(files, tmp_path / "study.zip")) as folder:
        assert folder.parent.parent == temporary
        assert (folder.parent / HELD).is_file()


def test_nothing_else_is_swept(files: list[Path], tmp_path: Path, temporary: Path) -> None:
    """Folders with other names, without the marker file, writable by others or reached by links stay."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / HELD).touch()
    victim.chmod(0o700)
    (temporary / "c3s3-seg-linkdir0").symlink_to(victim)
    private = ("c3s3-seg-results", "c3s3-seg-abcdefgh", "c3s3-seg-open0000", "other-abcdefgh")
    for name in (*private, "c3s3-seg-fifo0000"):
        (temporary / name).mkdir(mode=0o700)
        (temporary / name / "mine").write_text("precious")
    for name in ("c3s3-seg-results1", "c3s3-seg-open0000", "other-abcdefgh"):
        (temporary / name).mkdir(exist_ok=True)
        (temporary / name / HELD).touch()
    (temporary / "c3s3-seg-open0000").chmod(0o777)
    os.mkfifo(temporary / "c3s3-seg-fifo0000" / HELD)
    (temporary / "c3s3-seg-linkfile").mkdir(mode=0o700)
    (temporary / "c3s3-seg-linkfile" / HELD).symlink_to(victim / HELD)
    before = sorted(temporary.rglob("*"))
    sweep_unpacked()
    assert sorted(temporary.rglob("*")) == before
    assert (victim / HELD).exists()


def test_a_link_in_what_is_swept_is_not_followed(tmp_path: Path, temporary: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    left = temporary / "c3s3-seg-abc_1234"
    left.mkdir(mode=0o700)
    (left / HELD).touch()
    (left / "link").symlink_to(victim)
    sweep_unpacked()
    assert not left.exists()
    assert (victim / "file").read_text() == "precious"


def test_predict_sweeps_at_its_start(tmp_path: Path, temporary: Path) -> None:
    left = temporary / "c3s3-seg-abc_1234"
    left.mkdir(mode=0o700)
    (left / HELD).touch()
    command = [sys.executable, "-m", "c3s3_seg", "predict", tmp_path / "none.nii", "-o", tmp_path / "out"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
    assert not left.exists()
