"""Tests of which scans are found in a folder, under which names, and which truth belongs to each."""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import Case, find_cases, match_truth
from c3s3_seg.io.cases import mask_files, unique_names, walk_files
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.pacs.outbox import Outbox, collect


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def series(folder: Path) -> Path:
    volume = Geometry.build((3, 4, 2)).volume(np.zeros((3, 4, 2), np.uint16))
    save_series(volume, folder, description="", seed_uid=folder.name)
    return folder


def outgoing(path: Path) -> Outbox:
    return collect([path], every=True)


def names(*paths: Path) -> list[str]:
    return [case.name for case in find_cases(paths)]


def test_a_folder_of_images_and_series(tmp_path: Path) -> None:
    touch(*(tmp_path / n for n in ("b.nii.gz", "a.mha", "c.NRRD", ".hidden.nii", "notes.txt", "d.raw")))
    series(tmp_path / "e" / "deep")
    touch(tmp_path / "f" / "notes.txt", tmp_path / ".g" / "a.dcm")
    found = find_cases([tmp_path])
    assert found == [
        Case("a", tmp_path / "a.mha"),
        Case("b", tmp_path / "b.nii.gz"),
        Case("c", tmp_path / "c.NRRD"),
        Case("e", tmp_path / "e"),
    ]


def test_files_and_series_given_one_by_one(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii.gz", tmp_path / "a.mha")
    one = series(tmp_path / "s1")
    file = one / "IM_0002.dcm"
    assert names(tmp_path / "b.nii.gz", tmp_path / "a.mha", one, file) == ["b", "a", "s1", "IM_0002"]
    assert names(tmp_path / "a.mha", tmp_path / "a.mha", tmp_path) == ["a", "b", "s1"]


def test_the_folder_of_a_series_can_be_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(series(tmp_path / "patient"))
    assert names(Path(".")) == ["patient"]


def test_names_are_unique_whatever_the_case(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "scan.nii.gz", tmp_path / "y" / "Scan.nii.gz", tmp_path / "y" / "other.nii")
    assert names(tmp_path / "x", tmp_path / "y") == ["x_scan", "y_Scan", "other"]
    touch(tmp_path / "z" / "x" / "SCAN.nii", tmp_path / "x" / "scan.nrrd", tmp_path / "z" / "x_scan_1.nii")
    found = names(tmp_path / "x", tmp_path / "z" / "x", tmp_path / "z")
    assert found == ["x_scan_2", "x_scan_3", "x_SCAN_4", "x_scan_1"]
    assert len({name.casefold() for name in found}) == len(found)


def test_unicode_forms_of_one_name_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "m\u00fcller.nii", tmp_path / "mu\u0308ller.mha")
    assert len(set(names(tmp_path))) == 2
    assert all(name.endswith(("_1", "_2")) for name in names(tmp_path))


def test_nothing_to_find_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scan here; looked for \.nii"):
        find_cases([tmp_path])
    touch(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="not a scan"):
        find_cases([tmp_path / "notes.txt"])


def test_slices_beside_images_are_refused(tmp_path: Path) -> None:
    touch(series(tmp_path / "s") / "mask.nii.gz")
    with pytest.raises(InputError, match=r"DICOM slices and image files \(mask\.nii\.gz\)"):
        find_cases([tmp_path / "s"])


def test_loops_of_links_end(tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    series(cases / "a")
    touch(cases / "b.nii")
    (cases / "up").symlink_to(tmp_path, target_is_directory=True)
    (cases / "self").symlink_to("self")
    (cases / "a" / "again").symlink_to("..", target_is_directory=True)
    (cases / "gone.nii").symlink_to("nowhere.nii")
    assert names(cases) == ["a", "b", "gone"]


def test_a_linked_case_is_a_case_and_the_same_scan_is_taken_once(tmp_path: Path) -> None:
    real = series(tmp_path / "archive" / "a")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "linked").symlink_to(real, target_is_directory=True)
    assert names(tmp_path / "cases") == ["linked"]
    assert names(real, tmp_path / "cases") == ["a"]


def test_the_mask_files_of_a_case(tmp_path: Path) -> None:
    touch(*(tmp_path / n for n in ("x.seg.nrrd", "y.nii.gz", "y.seg.nrrd", "x.seg.txt", "xx.seg.nrrd")))
    assert mask_files(tmp_path, "x") == [tmp_path / "x.seg.nrrd"]
    assert mask_files(tmp_path, "y") == [tmp_path / "y.nii.gz", tmp_path / "y.seg.nrrd"]
    assert mask_files(tmp_path, "z") == []


def test_walking_is_sorted(tmp_path: Path) -> None:
    touch(*(tmp_path / n for n in ("b", "a", "c/z", "c/y", ".h/x", "c/.k")))
    assert [str(p.relative_to(tmp_path)) for p in walk_files(tmp_path)] == ["a", "b", "c/y", "c/z"]


def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir
    touch(tmp_path / "a" / "x.txt", tmp_path / "shut" / "y.txt")

    def scandir(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"shut: the folder cannot be read: Permission denied"):
        list(walk_files(tmp_path))


def test_a_path_with_nothing_at_it_is_called_so(tmp_path: Path) -> None:
    for name in ("scna.nii.gz", "scans", "*.nii.gz"):
        with pytest.raises(InputError, match=rf"{re.escape(name)}: there is no such file or folder"):
            find_cases([tmp_path / name])


def test_truth_is_found_by_name(tmp_path: Path) -> None:
    scans, truths = tmp_path / "scans", tmp_path / "truths"
    touch(*(scans / f"{n}.nii.gz" for n in "abcdef"))
    touch(
        *(
            truths / n
            for n in ("a.nii", "b_gt.nrrd", "c_label.nii.gz", "d_seg.mha", "e_mask.nii.gz", "x.nii", "f.txt")
        )
    )
    assert match_truth(find_cases([scans]), truths) == {
        "a": truths / "a.nii",
        "b": truths / "b_gt.nrrd",
        "c": truths / "c_label.nii.gz",
        "d": truths / "d_seg.mha",
        "e": truths / "e_mask.nii.gz",
    }


def test_a_truth_behind_a_link_that_cannot_be_followed_is_the_truth(tmp_path: Path) -> None:
    """It was passed over, so that its case was predicted without a score and without an error."""
    touch(*(tmp_path / "scans" / f"{n}.nii.gz" for n in "abc"), tmp_path / "truths" / "a.nii.gz")
    (tmp_path / "truths" / "b.nii.gz").symlink_to("x" * 300)
    (tmp_path / "truths" / "c.nii.gz").symlink_to("c.nii.gz")  # a loop leads nowhere
    assert sorted(match_truth(find_cases([tmp_path / "scans"]), tmp_path / "truths")) == ["a", "b"]


def test_a_segmentation_of_3d_slicer_is_the_truth_of_its_scan(tmp_path: Path) -> None:
    scans, truths = tmp_path / "scans", tmp_path / "truths"
    touch(*(scans / n for n in ("x.nrrd", "y.nii.gz", "z.mha")))
    touch(truths / "x.seg.nrrd", truths / "y-label.nrrd", truths / "Z.seg.nrrd", truths / "other.seg.nrrd")
    assert match_truth(find_cases([scans]), truths) == {
        "x": truths / "x.seg.nrrd",
        "y": truths / "y-label.nrrd",
    }
    touch(truths / "x.nrrd")
    with pytest.raises(InputError, match=r"several truths: x\.nrrd, x\.seg\.nrrd"):
        match_truth(find_cases([scans]), truths)


def test_a_segmentation_of_3d_slicer_as_a_prediction_has_the_truth_of_its_scan(tmp_path: Path) -> None:
    mine, truths = tmp_path / "mine", tmp_path / "truths"
    touch(mine / "x.seg.nrrd", mine / "y.seg.nrrd", truths / "x_gt.nii.gz", truths / "y.seg.nrrd")
    pairs = match_truth(find_cases([mine]), truths)
    assert pairs == {"x.seg": truths / "x_gt.nii.gz", "y.seg": truths / "y.seg.nrrd"}
    touch(mine / "x.nrrd")  # x_gt.nii.gz is then the truth of this scan
    pairs = match_truth(find_cases([mine]), truths)
    assert pairs == {"x": truths / "x_gt.nii.gz", "y.seg": truths / "y.seg.nrrd"}


@pytest.mark.slow
def test_ten_thousand_files_are_found_and_matched_in_a_moment(tmp_path: Path) -> None:
    """Each step once took quadratic time, that is minutes; the limits leave room for a busy machine."""
    scans, truths = tmp_path / "scans", tmp_path / "truths"
    scans.mkdir()
    truths.mkdir()
    for n in range(10_000):
        (scans / f"case-{n:05d}.nii.gz").touch()
        (truths / f"case-{n:05d}_gt.nii.gz").touch()
    started = time.process_time()
    found = find_cases([scans])
    pairs = match_truth(found, truths)
    assert time.process_time() - started < 8
    assert (len(found), len(pairs)) == (10_000, 10_000)
    assert pairs["case-09999"] == truths / "case-09999_gt.nii.gz"


def test_ten_thousand_scans_of_one_name_are_numbered_in_a_moment() -> None:
    started = time.process_time()
    found = unique_names([("scans", "image")] * 10_000)
    assert time.process_time() - started < 8
    assert (found[0], found[-1], len(set(found))) == ("scans_image_1", "scans_image_10000", 10_000)


def test_truth_of_a_series_and_beside_its_scan(tmp_path: Path) -> None:
    case = Case("p1", series(tmp_path / "p1"))
    touch(tmp_path / "p1_seg.nii.gz", tmp_path / "q.nii")
    assert match_truth([case], tmp_path) == {"p1": tmp_path / "p1_seg.nii.gz"}
    with pytest.raises(InputError, match="no truth"):
        match_truth([Case("q", tmp_path / "q.nii")], tmp_path)


def test_one_truth_file_is_for_one_case(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii", tmp_path / "b.nii", tmp_path / "t.nii")
    a, b = find_cases([tmp_path / "a.nii", tmp_path / "b.nii"])
    assert match_truth([a], tmp_path / "t.nii") == {"a": tmp_path / "t.nii"}
    with pytest.raises(InputError, match="one truth file was given for 2 cases"):
        match_truth([a, b], tmp_path / "t.nii")


def test_truth_that_is_missing_or_not_clear_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii", tmp_path / "t" / "a.nii", tmp_path / "t" / "a_gt.nii", tmp_path / "u" / "b.nii")
    cases = find_cases([tmp_path / "a.nii"])
    with pytest.raises(InputError, match=r"several truths: a\.nii, a_gt\.nii"):
        match_truth(cases, tmp_path / "t")
    with pytest.raises(InputError, match=r"no truth for any of 1 cases; looked for"):
        match_truth(cases, tmp_path / "u")
    with pytest.raises(InputError, match="there is no such file or folder"):
        match_truth(cases, tmp_path / "none")


def test_a_renamed_case_takes_no_other_truth(tmp_path: Path) -> None:
    touch(tmp_path / "x" / "scan.nii", tmp_path / "y" / "scan.nii", tmp_path / "t" / "scan.nii")
    cases = find_cases([tmp_path / "x", tmp_path / "y"])
    with pytest.raises(InputError, match="no truth"):
        match_truth(cases, tmp_path / "t")
    shutil.move(tmp_path / "t" / "scan.nii", tmp_path / "t" / "y_scan.nii")
    assert match_truth(cases, tmp_path / "t") == {"y_scan": tmp_path / "t" / "y_scan.nii"}


def test_a_pipe_is_called_a_pipe_and_not_a_folder(tmp_path: Path) -> None:
    pipe = tmp_path / "x.nii.gz"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(InputError, match="this is a pipe or a device; wanted an image file or a folder"):
            find_cases([path])


@pytest.mark.parametrize(
    "look", [lambda path: find_cases([path]), lambda path: [*walk_files(path)], outgoing]
)
def test_folders_that_are_nested_too_deep_are_refused(tmp_path: Path, look: Callable[[Path], object]) -> None:
    """Python limits recursion to about a thousand calls, so very deep folders are refused."""
    deep = tmp_path / "a"
    series(deep / Path(*["d"] * 60))
    assert look(deep)
    (deep / Path(*["e"] * 350)).mkdir(parents=True)
    with pytest.raises(InputError, match="a: the folders in it are nested more than 100 deep"):
        look(deep)
