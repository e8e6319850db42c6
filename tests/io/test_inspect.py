"""Tests of the table of series: which are volumes, which are refused, and why."""

import json
import re
import zipfile
from pathlib import Path

import pytest
from helpers.command import run
from helpers.dicom_files import edit, values

from c3s3_seg.errors import InputError, named, public
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import save
from c3s3_seg.io.dicom.inspect import inspect
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.reading import Reading


@pytest.fixture
def study(oblique: Volume, tmp_path: Path) -> Path:
    """Write a good series, one with a gap, one with a damaged slice and a single image; return the folder."""
    made = {n: save_series(oblique, tmp_path / "study" / n, description=n, seed_uid=n) for n in "abcd"}
    for number, files in enumerate(made.values(), 1):
        for path in files:
            edit(path, values(SeriesNumber=str(number)))
    made["b"][4].unlink()
    made["c"][4].write_bytes(made["c"][4].read_bytes()[:-50])
    for path in made["d"][1:]:
        path.unlink()
    return tmp_path / "study"


def test_each_series_has_its_verdict(study: Path) -> None:
    rows = inspect(study)
    assert [(row.number, row.description, row.slices, row.readable) for row in rows] == [
        (1, "a", 12, True), (2, "b", 11, False), (3, "c", 12, False), (4, "d", 1, False),
    ]  # fmt: skip
    assert (rows[0].modality, rows[0].size, rows[0].verdict) == ("MR", "20 x 16", "volume")
    assert [row.path for row in rows] == ["a", "b", "c", "d"]
    assert public(rows[1].path) == "folder 2"
    assert (rows[0].spacing_mm, rows[0].orientation) == ("0.7 x 0.9 x 2.5", "LPS oblique")
    assert rows[1].verdict == "refused"
    assert rows[1].remarks[0].startswith("slices are missing (1)")
    assert rows[1].remarks[0].endswith("let the gaps be interpolated with --repair gaps")
    assert "IM_0005.dcm' is damaged" in named(rows[2].remarks[0])
    assert (rows[3].verdict, rows[3].remarks) == ("no volume", ("a single image",))
    assert [row.readable for row in inspect(study, pixels=False)] == [True, False, True, False]
    mended = inspect(study, Reading(repair=frozenset({"gaps"})))
    assert mended[1].readable
    assert any("repaired on request (gaps)" in remark for remark in mended[1].remarks)


def test_an_image_file_is_one_row(oblique: Volume, tmp_path: Path) -> None:
    save(oblique, tmp_path / "a.nii.gz")
    (row,) = inspect(tmp_path / "a.nii.gz")
    assert (row.slices, row.size, row.readable, row.verdict) == (12, "20 x 16", True, "volume")
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-20])
    (row,) = inspect(tmp_path / "a.nii.gz")
    assert not row.readable
    assert "damaged" in row.remarks[0]
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "nothing.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no DICOM"):
        inspect(tmp_path / "empty")


def test_a_series_of_a_single_file_cannot_be_chosen(oblique: Volume, tmp_path: Path) -> None:
    """`inspect` called readable what `predict` refuses."""
    save(oblique, tmp_path / "a.nii.gz")
    (row,) = inspect(tmp_path / "a.nii.gz", Reading(3))
    assert (row.readable, row.verdict) == (False, "refused")
    assert row.remarks[0].startswith("an image file has no series to choose from")
    files = save_series(oblique, tmp_path / "s", description="", seed_uid="a")
    with pytest.raises(InputError, match="a DICOM file is of one series"):
        inspect(files[0], Reading(1))
    assert inspect(tmp_path / "s", Reading(1))[0].readable


def test_the_verb_shows_the_table(study: Path) -> None:
    answer = run("inspect", study)
    assert answer.returncode == 0, answer.stderr
    for word in (
        "Modality",
        "LPS oblique",
        "no volume",
        "folder 2",
        "\n4: a single image\n",
        "\n2: slices are missing",
    ):
        assert word in answer.stdout
    answer = run("inspect", study, "--json")
    assert answer.returncode == 0, answer.stderr
    assert [row["readable"] for row in json.loads(answer.stdout)] == [True, False, False, False]
    assert run("inspect", study / "b").returncode == 1


def test_a_remark_that_series_share_is_printed_once(oblique: Volume, tmp_path: Path) -> None:
    for name in "abc":
        for path in save_series(oblique, tmp_path / name, description=name, seed_uid=name)[1:]:
            path.unlink()
    answer = run("inspect", tmp_path)
    assert answer.returncode == 1
    assert answer.stdout.count("a single image") == 1
    assert answer.stdout.endswith("\n1, 2, 3: a single image\n")


def test_an_archive_is_called_by_its_name(oblique: Volume, tmp_path: Path) -> None:
    """Messages do not name the folder that the archive was unpacked to, which no longer exists."""
    files = save_series(oblique, tmp_path / "series", description="", seed_uid="a")
    for name, held in (("scan.zip", files[0]), ("none.zip", tmp_path / "text")):
        (tmp_path / "text").write_text("no DICOM")
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(held, held.name)
    with pytest.raises(InputError) as none:
        inspect(tmp_path / "none.zip")
    with pytest.raises(InputError, match="there is no series '9'") as unknown:
        inspect(tmp_path / "scan.zip", Reading(9))
    assert (none.value.where, unknown.value.where) == (tmp_path / "none.zip", tmp_path / "scan.zip")


def test_headers_alone_say_the_grid_that_a_repair_gives(oblique: Volume, tmp_path: Path) -> None:
    for path in save_series(oblique, tmp_path, description="", seed_uid="a")[4:6]:
        path.unlink()
    wanted = Reading(None, frozenset({"gaps"}))
    (whole,), (header,) = inspect(tmp_path, wanted), inspect(tmp_path, wanted, pixels=False)
    assert header.spacing_mm == whole.spacing_mm == "0.7 x 0.9 x 2.5"
    assert header.remarks == ("10 slices would be resampled to 12 (gaps)",)


def test_a_damaged_lookup_table_is_the_fault_of_its_series_alone(oblique: Volume, tmp_path: Path) -> None:
    """The parser's own error was raised, and no other series was listed."""
    for number, name in enumerate("ab", 1):
        for path in save_series(oblique, tmp_path / name, description="", seed_uid=name):
            edit(path, values(SeriesNumber=str(number)))
    path = tmp_path / "a" / "IM_0003.dcm"
    raw = path.read_bytes()
    at = raw.index(b"\xe0\x7f\x10\x00")
    path.write_bytes(raw[:at] + b"\x28\x00\x00\x30SQ\0\0\x04\0\0\0abcd" + raw[at:])
    damaged, whole = inspect(tmp_path)
    assert (damaged.verdict, whole.verdict) == ("refused", "volume")
    assert re.search(r"IM_0003\.dcm' is damaged: its ModalityLUTSequence cannot be read", damaged.remarks[0])


def test_headers_alone_say_what_is_odd_about_the_slices(oblique: Volume, tmp_path: Path) -> None:
    for n, path in enumerate(save_series(oblique, tmp_path, description="", seed_uid="a")):
        edit(path, values(EchoTime=str(10 + 5 * (n % 2))))
    (whole,), (header,) = inspect(tmp_path), inspect(tmp_path, pixels=False)
    assert header.remarks == whole.remarks
    assert "the slices differ in EchoTime" in header.remarks[0]
