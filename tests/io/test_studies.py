"""Tests of which series of which studies are cases, under which names, and which are passed over and why."""

import errno
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values
from helpers.studies import report, series, small, uid, whole_study

from c3s3_seg.batch.records import Refusal
from c3s3_seg.errors import InputError
from c3s3_seg.io import load, match_truth, read_case, save
from c3s3_seg.io.cases import Case, walk_files
from c3s3_seg.io.hashes import scan_sha256
from c3s3_seg.io.reading import Reading, SeriesRule, parse_series
from c3s3_seg.io.studies import Scans, find_scans, series_files
from c3s3_seg.service.entries import entries_of


def found(*paths: Path, wanted: str | None = None, rule: str | None = None) -> Scans:
    return find_scans(paths, Reading(parse_series(wanted), rule=None if rule is None else SeriesRule(rule)))


def names(scans: Scans) -> list[str]:
    return [case.name for case in scans.cases]


def reasons(scans: Scans, root: Path) -> list[str]:
    return [str(item).removeprefix(f"{root}/") for item in scans.skipped]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Write p1, flat, and p2, nested, each of two volumes, a localizer and a report, and p3 of one volume."""
    for name in ("p1", "p2"):
        whole_study(tmp_path / "archive" / name, name, small(5), flat=name == "p1")
    series(small(), tmp_path / "archive" / "p3", "p3", 7)
    return tmp_path / "archive"


def test_every_volume_of_every_study_is_a_case_and_the_rest_is_told(archive: Path) -> None:
    scans = found(archive)
    assert names(scans) == ["p1_s2", "p1_s3", "p2_s2", "p2_s3", "p3"]
    assert len({case.study for case in scans.cases}) == 3
    assert reasons(scans, archive) == [
        "p1, series 1: a localizer",
        "p1: DICOM objects without an image (1)",
        "p2, series 1: a localizer",
        "p2: DICOM objects without an image (1)",
    ]


def test_hidden_dicom_files_are_told(archive: Path) -> None:
    """An unfinished copy leaves slices under hidden names; the others were segmented in silence."""
    paths = series(small(6), archive / "p4", "p4", 7)
    for path in paths[-2:]:
        path.rename(path.with_name(f".{path.name}.Ab12"))
    (archive / "p4" / ".DS_Store").write_bytes(b"no DICOM")
    assert "p4: hidden DICOM files, as an unfinished copy leaves (2)" in reasons(found(archive), archive)
    notes = load(archive / "p4").source.notes
    assert "hidden DICOM files, as an unfinished copy leaves: 2" in notes


@pytest.mark.parametrize("above", [".", "p4"])
def test_a_series_in_several_folders_is_one_scan(archive: Path, above: str) -> None:
    """Each part was a scan of its own, and got a mask that ended in the middle of the organ."""
    folder = archive / above / "DIR000"
    paths = series(small(6), folder, "p4", 7)
    whole = found(folder).cases[0]
    wanted = read_case(whole, Reading())
    (archive / above / "DIR001").mkdir()
    for path in paths[::2]:
        path.rename(archive / above / "DIR001" / path.name)
    scans = found(archive)
    (case,) = [case for case in scans.cases if case.series == whole.series]
    assert len(scans.cases) == 6
    assert case.path == folder.parent
    read = read_case(case, Reading())
    np.testing.assert_array_equal(read.array, wanted.array)
    assert read.geometry.matches(wanted.geometry)


def test_a_slice_in_two_folders_joins_them_once(archive: Path) -> None:
    """A move was interrupted between the copy of a file and its removal."""
    paths = series(small(6), archive / "DIR000", "p4", 7)
    (archive / "DIR001").mkdir()
    for path in paths[3:]:
        shutil.copy(path, archive / "DIR001")
    for path in paths[4:]:
        path.unlink()
    (case,) = [case for case in found(archive).cases if case.path == archive]
    assert len(case.files) == 6
    edit(archive / "DIR001" / paths[3].name, values(ImageComments="another"))
    assert {"DIR000", "DIR001"} <= set(names(found(archive)))


@pytest.mark.parametrize(
    "change",
    [{"FrameOfReferenceUID": "1.2.3"}, {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, None],
)
def test_parts_that_are_no_volume_together_stay_scans(
    archive: Path, change: dict[str, object] | None
) -> None:
    """Two slabs, planes or frames of reference under one UID were segmented each, and still are."""
    paths = series(small(9), archive / "DIR000", "p4", 7)
    (archive / "DIR001").mkdir()
    for path in paths[5:]:
        target = path.rename(archive / "DIR001" / path.name)
        if change is not None:
            edit(target, values(**change))
    if change is None:
        paths[4].unlink()
        paths[3].unlink()
    assert {"DIR000", "DIR001"} <= set(names(found(archive)))


def test_a_joined_series_takes_the_name_of_no_part(archive: Path) -> None:
    """Each part had a mask of its own, which is of another scan than the whole."""
    paths = series(small(6), archive / "p4" / "DIR000", "p4", 7)
    (archive / "p4" / "DIR001").mkdir()
    for path in paths[3:]:
        path.rename(archive / "p4" / "DIR001" / path.name)
    (case,) = found(archive / "p4").cases
    known = {
        case.series: [Case("DIR000", archive / "p4" / "DIR000"), Case("DIR001", archive / "p4" / "DIR001")]
    }
    assert names(find_scans([archive / "p4"], Reading(), lambda: known)) == ["p4"]
    known[case.series].append(Case("before", archive / "p4"))
    assert names(find_scans([archive / "p4"], Reading(), lambda: known)) == ["before"]


def test_copies_and_phases_of_a_series_in_several_folders_stay_scans(archive: Path) -> None:
    paths = series(small(6), archive / "p4", "p4", 7)
    shutil.copytree(archive / "p4", archive / "copy")
    (archive / "copy" / paths[0].name).unlink()
    assert names(found(archive)) == ["copy", "p1_s2", "p1_s3", "p2_s2", "p2_s3", "p3", "p4"]
    for number, path in enumerate(sorted((archive / "copy").iterdir())):  # the same places, other instances
        edit(path, values(SOPInstanceUID=uid("p4", "copy", number)))
    assert names(found(archive)) == ["copy", "p1_s2", "p1_s3", "p2_s2", "p2_s3", "p3", "p4"]


def test_slices_that_are_each_a_series_are_a_case_that_fails(archive: Path) -> None:
    """A study is not passed over because a program gave each file a SeriesInstanceUID of its own."""
    for n, path in enumerate(series(small(6), archive / "p4", "p4", 7)):
        edit(path, values(SeriesInstanceUID=uid("p4", "slice", n)))
    scans = found(archive)
    assert names(scans)[-1] == "p4"
    assert not any("p4" in line for line in reasons(scans, archive))
    with pytest.raises(InputError, match="in as many series, one in each"):
        read_case(scans.cases[-1], Reading())


@pytest.mark.parametrize("flat", [True, False])
def test_only_the_files_of_its_series_are_read_and_hashed(tmp_path: Path, flat: bool) -> None:
    study = whole_study(tmp_path / "p", "p", small(5), flat=flat)
    case = found(tmp_path, wanted="description~lge").cases[0]
    assert (case.name, case.path, len(case.files)) == ("p_s2", study, 5)
    before = scan_sha256(case.path, case.paths)
    volume = read_case(case, Reading(), hashed=True)
    assert np.array_equal(volume.array, small(5).array)
    assert volume.source.sha256 == before
    assert set(series_files(study, case.series)) == set(case.paths)
    series(small(), study, "p", 9)
    report(study / "more", "p")
    assert scan_sha256(study, series_files(study, case.series)) == before
    edit(case.paths[2], values(SeriesDescription="changed"))
    assert scan_sha256(study, series_files(study, case.series)) != before


def test_a_rule_takes_what_fits_in_every_study(archive: Path) -> None:
    scans = found(archive, wanted="description~lge")
    assert names(scans) == ["p1_s2", "p2_s2"]
    assert "p1, series 3: it does not fit 'description~lge'" in reasons(scans, archive)
    assert "p3, series 1: it does not fit 'description~lge'" in reasons(scans, archive)


def test_one_truth_is_for_one_series(archive: Path, tmp_path: Path) -> None:
    save(small(), tmp_path / "truth.nii.gz")
    with pytest.raises(
        InputError, match=r"one truth file was given for 2 cases\. Choose one series with series="
    ):
        match_truth(found(archive / "p1").cases, tmp_path / "truth.nii.gz")
    chosen = found(archive / "p1", wanted="2").cases
    assert match_truth(chosen, tmp_path / "truth.nii.gz") == {"p1_s2": tmp_path / "truth.nii.gz"}
    for name in ("p1", "p2_s3"):  # the folder's name, if one of its series is processed, or the series' name
        (tmp_path / "truths").mkdir(exist_ok=True)
        save(small(), tmp_path / "truths" / f"{name}.nii.gz")
    assert set(match_truth(chosen, tmp_path / "truths")) == {"p1_s2"}
    assert set(match_truth(found(archive).cases, tmp_path / "truths")) == {"p2_s3"}


def test_an_image_file_fits_no_rule(archive: Path) -> None:
    save(small(), archive / "a.nii.gz")
    assert names(found(archive)) == ["a", "p1_s2", "p1_s3", "p2_s2", "p2_s3", "p3"]
    scans = found(archive, wanted="modality=MR,description~lge")
    assert names(scans) == ["p1_s2", "p2_s2"]
    assert reasons(scans, archive)[0] == "a.nii.gz: an image file, which has no series to choose from"


def test_the_rule_of_the_model_chooses_among_several_and_gives_way_where_nothing_fits(archive: Path) -> None:
    scans = found(archive, rule="description~lge")
    assert names(scans) == ["p1_s2", "p2_s2", "p3"]
    assert "p2, series 3: it does not fit 'description~lge', as the model wants it" in reasons(scans, archive)
    assert names(found(archive, rule="description~nothing")) == names(found(archive))


def test_a_number_is_that_of_inspect_and_a_uid_is_one_series(archive: Path) -> None:
    assert names(found(archive, wanted="2")) == ["p1_s2", "p2_s2"]
    assert names(found(archive / "p1", wanted="3")) == ["p1_s3"]
    key = found(archive).cases[3].series
    scans = found(archive, wanted=key)
    assert (names(scans), scans.cases[0].series) == (["p2_s3"], key)
    assert "p1, series 2: another one was asked for" in reasons(scans, archive)


def test_one_slice_stands_for_its_series(tmp_path: Path) -> None:
    study = whole_study(tmp_path / "p", "p", small(5), flat=True)
    scans = found(study / "S3_IM_0002.dcm")
    (case,) = scans.cases
    assert (case.name, scans.skipped) == ("S3_IM_0002", ())
    assert [path.name[:2] for path in case.paths] == ["S3"] * 4
    assert read_case(case, Reading(), hashed=True).source.sha256 == scan_sha256(case.path, case.paths)


def test_a_tree_as_fetch_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        series(small(), out / uid("a", number), "a", number)
    assert sorted(names(found(out))) == sorted(str(uid("a", number)) for number in (1, 2))
    assert len({case.study for case in found(out).cases}) == 1
    assert names(found(out, wanted="2")) == ["out_s2"]


def test_studies_lie_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    for patient in ("p1", "p2"):
        for study in "ab":
            series(small(), root / "2024" / patient / f"{patient}{study}" / "x", patient + study, 1)
    (root / "2024" / "p1" / "read me.txt").write_text("")
    assert names(found(root)) == ["p1a", "p1b", "p2a", "p2b"]
    assert reasons(found(root), root) == ["2024/p1: other files than scans (1)"]


def test_junk_is_passed_over_in_a_batch_and_refused_alone(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    series(small(), root / "p1", "p1", 1)
    report(root / "reports", "p2")
    for name in ("notes.txt", "empty/.x", "thumbs/a.png", "images/b.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("")
    scans = found(root)
    assert names(scans) == ["p1"]
    assert reasons(scans, root) == [
        f"{root}: other files than scans (1)",
        "empty: a folder without DICOM images",
        "images: a folder with image files, which are taken only if it is given itself",
        "thumbs: a folder without DICOM images",
        "reports: DICOM objects without an image (1)",
    ]
    given = found(root / "p1", root / "notes.txt", root / "empty", root / "reports")
    assert names(given) == ["p1"]
    assert len(given.skipped) == 3
    for alone, message in (
        ("notes.txt", "not a scan"),
        ("empty", "no scan here"),
        ("reports", "no DICOM slices"),
    ):
        with pytest.raises(InputError, match=message):
            found(root / alone)
    with pytest.raises(InputError, match="found nothing to segment"):
        found(root / "p1", root / "reports", wanted="modality=CT")


def test_what_has_vanished_is_a_case_that_fails(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    series(small(), root / "p1", "p1", 1)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    assert names(found(root)) == ["gone", "p1"]
    cases = found(root / "p1", tmp_path / "none.nii").cases
    assert [case.name for case in cases] == ["p1", "none"]
    shutil.rmtree(root / "p1")
    for case in cases:
        with pytest.raises(InputError, match="there is no such file or folder"):
            read_case(case, Reading(), hashed=True)
    with pytest.raises(InputError, match="there is no such file or folder"):
        found(tmp_path / "none.nii")


def test_a_slice_that_vanishes_is_missed(tmp_path: Path) -> None:
    series(small(), tmp_path / "p1", "p1", 1)
    (case,) = found(tmp_path / "p1").cases
    case.paths[0].unlink()
    with pytest.raises(InputError, match="No such file"):
        read_case(case, Reading())


def test_a_link_to_what_is_listed_is_named(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    files = series(small(), root / "p1", "p1", 1)
    save(small(), root / "a.nii.gz")
    (root / "b.nii.gz").symlink_to("a.nii.gz")
    (root / "p2").symlink_to("p1")
    (root / "p3").mkdir()
    for path in files:
        (root / "p3" / path.name).symlink_to(path)
    scans = found(root, root / "p1")
    assert names(scans) == ["a", "p1"]
    assert reasons(scans, root) == [
        f"p2: the same folder as {root}/p1",
        f"b.nii.gz: the same scan as {root}/a.nii.gz",
        f"p3: the same scan as {root}/p1",
    ]


@pytest.mark.parametrize("wanted", [None, "1"])
@pytest.mark.parametrize("deep", ["", "day"])
def test_series_of_a_study_behind_links_are_cases(tmp_path: Path, wanted: str | None, deep: str) -> None:
    """The links were taken for a part of the study's folder, in which links are not followed."""
    for name, number in (("a", 1), ("b", 2), ("c", 1)):
        series(small(), tmp_path / "store" / name, name, number)
    for path in (tmp_path / "store" / "b").iterdir():
        edit(path, values(StudyInstanceUID=uid("a")))
    root = tmp_path / "archive"
    for patient in ("p1", "p2"):
        (root / patient / deep).mkdir(parents=True)
    shutil.copytree(tmp_path / "store" / "a", root / "p1" / deep / "LGE")
    (root / "p1" / deep / "T1").symlink_to(tmp_path / "store" / "b")
    (root / "p2" / deep / "dicom").symlink_to(tmp_path / "store" / "c")
    for given in ([root], [root / "p1", root / "p2"]):
        scans = found(*given, wanted=wanted)
        paths = [case.path.relative_to(root) for case in scans.cases]
        linked = Path("p1", deep, "T1")
        if wanted is None:
            assert paths == [Path("p1", deep, "LGE"), linked, Path("p2", deep, "dicom")]
        else:  # the number is that in the folder of the study
            assert paths[0] in (Path("p1"), Path("p1", deep))
            assert paths[1:] == [Path("p2", deep, "dicom")]
            assert f"{linked}: a link to a folder, which is not followed" in "\n".join(reasons(scans, root))
        for case in scans.cases:
            assert np.array_equal(read_case(case, Reading(parse_series(wanted))).array, small().array)


def test_two_series_behind_links_chosen_by_number(tmp_path: Path) -> None:
    for name, number in (("LGE", 1), ("T1", 2)):
        series(small(), tmp_path / "store" / name, "a", number)
        (tmp_path / "p1").mkdir(exist_ok=True)
        (tmp_path / "p1" / name).symlink_to(tmp_path / "store" / name)
    assert [case.path.name for case in found(tmp_path / "p1", wanted="1").cases] == ["LGE", "T1"]


def test_a_link_among_slices_is_told(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    series(small(), root / "p1", "p1", 1)
    series(small(), root / "p2", "p2", 1)
    series(small(), tmp_path / "store", "p1", 2)
    (root / "p1" / "more").mkdir()
    (root / "p1" / "more" / "prior").symlink_to(tmp_path / "store")
    (root / "p2" / "prior").symlink_to(root / "p1")
    (root / "p2" / "own").mkdir()
    (root / "p2" / "same").symlink_to("own")  # read anyway
    for given in ([root], [root / "p1", root / "p2"]):
        scans = found(*given)
        assert names(scans) == ["p1", "p2"]
        assert reasons(scans, root)[:1] == [
            "p1/more/prior: a link to a folder, which is not followed among DICOM files: give that folder"
            " itself"
        ]
        assert [item.place for item in scans.skipped[1:]] == [f"{root}/p2/prior"]


@pytest.mark.parametrize("wanted", [None, "1"])
@pytest.mark.parametrize("deep", ["", "day"])
def test_the_only_archive_in_a_sub_folder_is_a_case(tmp_path: Path, wanted: str | None, deep: str) -> None:
    """The folder of the archive was read as a study, so that its scan was missing without an error."""
    root = tmp_path / "archive"
    for name in ("a", "b"):
        files = series(small(), tmp_path / name, name, 1)
        (root / name / deep).mkdir(parents=True)
        with zipfile.ZipFile(root / name / deep / "study.zip", "w") as packed:
            for path in files:
                packed.write(path, path.name)
    (root / "a" / "notes.txt").touch()
    series(small(), root / "c", "c", 1)
    scans = found(root, wanted=wanted)
    assert [case.path for case in scans.cases] == [
        root / "a" / deep / "study.zip",
        root / "b" / deep / "study.zip",
        root / "c",
    ]
    for case in scans.cases:
        assert np.array_equal(read_case(case, Reading(parse_series(wanted))).array, small().array)
    assert reasons(scans, root) == ["a: other files than scans (1)"]


def test_a_scan_behind_a_link_that_cannot_be_followed_is_a_case_that_fails(tmp_path: Path) -> None:
    """Such a link was passed over without a word, and within a study it ended the whole run."""
    root = tmp_path / "archive"
    series(small(), root / "p1", "p1", 1)
    series(small(), root / "p2", "p2", 1)
    unreachable(root / "p1" / "S1_IM_0009.dcm")
    unreachable(root / "x.nii.gz")
    unreachable(root / "y")
    scans = found(root)
    assert names(scans) == ["p1", "p2", "x", "y"]
    assert scans.skipped == ()
    for case in scans.cases:
        if case.name != "p2":
            with pytest.raises(InputError):
                read_case(case, Reading(), hashed=True)


@pytest.mark.parametrize("place", ["archive", "p2", "p1/b"])
def test_a_folder_that_cannot_be_read_is_a_case_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A series that may not be listed, or one of several folders, used to end the whole run."""
    root, real = tmp_path / "archive", os.scandir
    for study, part in (("p1", "a"), ("p1", "b"), ("p2", "a")):
        series(small(), root / study / part, study, ord(part))

    def scandir(path: object) -> object:
        if str(path).endswith(place):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    if place == "archive":
        with pytest.raises(InputError, match="Permission denied"):
            found(root)
    fine = {"archive": "p2", "p2": "p1", "p1/b": "p2"}[place]
    scans = found(root / fine, root) if place == "archive" else found(root)
    failing = [case for case in scans.cases if not case.files]
    assert {root / fine in (c.path, *c.path.parents) for c in scans.cases if c.files} == {True}
    assert [case.path for case in failing] == [root if place == "archive" else root / place[:2]]
    with pytest.raises(InputError, match="Permission denied"):
        read_case(failing[0], Reading(), hashed=True)


def test_the_folder_that_a_file_system_keeps_for_root_is_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each volume of a container with an ext file system has one, and so each run had a failed case."""
    root, opened, may = tmp_path / "scans", os.scandir, os.access
    for study in ("p1", "p2"):
        series(small(), root / study, study, 1)
    (root / "lost+found").mkdir()

    def scandir(path: object) -> object:
        if str(path).endswith("lost+found"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path)  # type: ignore[call-overload]

    def access(path: str | Path, mode: int) -> bool:
        return may(path, mode) and not str(path).endswith("lost+found")

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    monkeypatch.setattr(os, "access", access)
    assert [case.path for case in found(root).cases] == [root / "p1", root / "p2"]
    assert len([*walk_files(root)]) == len([*walk_files(root / "p1")]) + len([*walk_files(root / "p2")])
    assert root / "lost+found" not in entries_of(root)
    with pytest.raises(InputError, match="Permission denied"):  # if it is given itself
        found(root / "lost+found")


def test_files_that_a_check_of_the_disk_found_are_read(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    series(small(), root / "p1", "p1", 1)
    series(small(), root / "lost+found" / "#12", "p2", 1)
    assert len(found(root).cases) == 2


@pytest.mark.parametrize("names_of", ["IM0001", "study.zip"])
def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, names_of: str) -> None:
    """Slices need no suffix: a study out of reach looked like a folder without one, and nothing failed."""
    root = tmp_path / "archive"
    series(small(), root / "p1", "p1", 1)
    for folder, process in (("p2", "self"), ("p3/deep", "thread-self")):
        (root / folder).mkdir(parents=True)
        (root / folder / names_of).symlink_to(f"/proc/{process}/mem")  # regular files that cannot be read
    (root / "p4").mkdir()
    (root / "p4" / "notes.nii.gz").symlink_to("/proc/self/mem")
    for scans in (found(root), found(root / "p1", root / "p2", root / "p3/deep" / names_of)):
        assert len(scans.cases) == 3
        for case in scans.cases[1:]:
            with pytest.raises(InputError) as error:
                read_case(case, Reading(), hashed=True)
            # An archive has the size that the system states, which is 0 here: it is read as an empty one.
            assert Refusal.of(error.value, "load").final == (names_of == "study.zip")


def unreachable(link: Path) -> None:
    """Create a link that fails for another reason than a missing target, whoever runs the test."""
    link.symlink_to(link.name[-1] * 300)
    with pytest.raises(OSError, match="File name too long"):
        link.stat()


def test_links_that_go_round_in_circles_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        series(small(), tmp_path / "t" / name / "x", f"{name}x", 1)
        series(small(), tmp_path / "t" / name / "y", f"{name}y", 1)
        (tmp_path / "t" / name / "other").symlink_to(tmp_path / "t" / other)
    assert len(found(tmp_path / "t").cases) == 4


def test_damage_of_a_series_is_its_own(archive: Path) -> None:
    lge, cine = found(archive / "p1").cases
    cine.paths[1].write_bytes(cine.paths[1].read_bytes()[:-20])
    scans = found(archive / "p1")
    assert names(scans) == ["p1_s2", "p1_s3"]
    assert np.array_equal(read_case(scans.cases[0], Reading()).array, read_case(lge, Reading()).array)
    with pytest.raises(InputError, match="is damaged"):
        read_case(scans.cases[1], Reading())
    for path in (archive / "p3").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    (archive / "p3" / "more.dcm").write_bytes(b"")
    assert names(found(archive)) == ["p1_s2", "p1_s3", "p2_s2", "p2_s3", "p3"]


def test_names_stay_when_a_study_grows_and_whatever_folder_is_given(archive: Path) -> None:
    before = {case.series: [case] for case in found(archive).cases}
    series(small(), archive / "p3", "p3", 8)
    series(small(), archive / "p3" / "next", "next", 1)
    for given in (archive, archive.parent, archive / "p3"):
        grown = find_scans([given], Reading(), lambda: before)
        assert [name for name in sorted(names(grown)) if name.startswith("p3")] == ["p3", "p3_s1", "p3_s8"]
    os.rename(archive / "p3", archive / "renamed")
    assert "renamed_s8" in names(find_scans([archive], Reading(), lambda: before))


def test_a_number_that_is_none_stays_out_of_the_names(tmp_path: Path) -> None:
    for number, written in enumerate(("9" * 60, "../../x", "-4", ""), 1):
        for path in series(small(), tmp_path / "a" / "p", "p", number):
            data = pydicom.dcmread(path)
            data.add_new("SeriesNumber", "LO", written)
            data.save_as(path)
    assert all(re.fullmatch("p_[0-9a-f]{6}", name) for name in names(found(tmp_path / "a")))
    assert len(set(names(found(tmp_path / "a")))) == 4


def test_a_directory_file_before_the_slices_hides_no_study(tmp_path: Path) -> None:
    for number in (1, 2):
        series(small(), tmp_path / "a" / "p" / str(number), "p", number)
        report(tmp_path / "a" / "p" / str(number), "")
    assert names(found(tmp_path / "a")) == ["p_s1", "p_s2"]


@pytest.mark.data
@pytest.mark.slow
def test_real_studies(shared_data: Path) -> None:
    scans = found(shared_data / "dicom")
    assert [name.split("_")[0] for name in names(scans)] == [
        "brain-study", "brain-study", "oblique-t1", "philips-ct", "philips-ct-tilt",
    ]  # fmt: skip
    assert "philips-ct, series 1: a localizer" in reasons(scans, shared_data / "dicom")
    assert names(found(shared_data / "dicom", wanted="modality=CT,description!~stereo")) == ["philips-ct"]


def test_series_of_one_number_have_names_of_their_own(tmp_path: Path) -> None:
    for study in "ab":
        series(small(), tmp_path / "p" / study, study, 4)
    (tmp_path / "p" / "a" / "note.txt").write_text("")
    shutil.move(tmp_path / "p" / "b" / "S4_IM_0001.dcm", tmp_path / "p" / "S4_IM_0001.dcm")
    first, second = names(found(tmp_path / "p"))
    assert first.startswith("p_s4-")
    assert second.startswith("p_s4-")
    assert len({first, second}) == 2
    assert [first, second] == names(found(tmp_path / "p"))
