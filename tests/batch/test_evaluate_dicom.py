"""Tests of DICOM SEG and RTSTRUCT as predictions and as truths: their grid, label names and refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit
from helpers.dicom_seg import MAKER, SEGMENTS, drawn

from c3s3_seg.batch.evaluate import EvaluationResult, EvaluationSettings, evaluate
from c3s3_seg.errors import C3S3Error, GeometryError, InputError, Told
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, save
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_grid import frames_grid
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.mask_files import find_masks
from c3s3_seg.io.mask_pair import load_pair, name_values
from c3s3_seg.io.scan_like import ScanError
from c3s3_seg.metrics.scoring import scores

KINDS = ("nii.gz", "seg.dcm", "labelmap", "rtstruct.dcm")


@pytest.fixture
def truth(files: list[Path]) -> Volume:
    """Return a mask on 40 x 36 x 12 oblique voxels with labels 1 and 3; the first slices are empty."""
    return drawn(load(files[0].parent))


@pytest.fixture
def moved(truth: Volume) -> Volume:
    """Return the same mask moved by a voxel along i, with an empty last slice."""
    array = np.roll(truth.array, 1, axis=0)
    array[:, :, -1] = 0
    return truth.geometry.volume(array, truth.source)


def numbered(mask: Volume) -> Volume:
    """Return the mask as in an image file made from a SEG: segment 2 is `wall`, whose label is 3."""
    return mask.geometry.volume(np.where(mask.array == 3, 2, mask.array).astype(np.uint8))


def write(mask: Volume, folder: Path, kind: str, case: str = "a") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{case}.{'seg.dcm' if kind == 'labelmap' else kind}"
    if kind == "nii.gz":
        save(numbered(mask), path)
    elif kind == "rtstruct.dcm":
        write_rtstruct(mask, path, SEGMENTS, MAKER)
    else:
        write_seg(mask, path, SEGMENTS, MAKER, labelmap=kind == "labelmap")
    return path


def dice_of(result: EvaluationResult) -> dict[str, float]:
    assert result.failures == ()
    return {row.label: row.score.dice for row in result.rows}


@pytest.mark.slow
@pytest.mark.parametrize("of_prediction", KINDS)
@pytest.mark.parametrize("of_truth", KINDS)
def test_every_kind_against_every_kind_scores_as_the_masks_do(
    truth: Volume, moved: Volume, tmp_path: Path, of_prediction: str, of_truth: str
) -> None:
    write(moved, tmp_path / "p", of_prediction)
    write(truth, tmp_path / "t", of_truth)
    images = tmp_path / "series" if {of_prediction, of_truth} == {"rtstruct.dcm"} else None
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", EvaluationSettings(images=images))
    wanted = scores(moved, truth, (1, 3))
    names = ("label_1", "label_2") if {of_prediction, of_truth} == {"nii.gz"} else ("left_atrium", "wall")
    assert [row.label for row in result.rows] == list(names)
    assert result.failures == ()
    assert result.remarks == ()
    for row, expected in zip(result.rows, wanted.values(), strict=True):
        found = row.score.flat()
        assert found == pytest.approx(expected.flat(), rel=1e-4)
    assert 0 < result.rows[0].score.dice < 1


def test_single_files_of_any_name_are_a_pair(truth: Volume, tmp_path: Path) -> None:
    prediction = write(truth, tmp_path / "p", "seg.dcm", "1.2.3")
    other = write(truth, tmp_path / "t", "nii.gz", "b")
    assert dice_of(evaluate(prediction, other, tmp_path / "out")) == {"left_atrium": 1, "wall": 1}
    assert dice_of(evaluate(other, prediction, tmp_path / "out")) == {"left_atrium": 1, "wall": 1}


def test_a_folder_for_each_case_and_files_beside_the_masks(truth: Volume, tmp_path: Path) -> None:
    """Exports have truths beside the slices in patient folders; predictions lie beside secondary captures."""
    for case in ("a", "b"):
        write(truth, tmp_path / "p", "seg.dcm", case)
        shutil.copytree(tmp_path / "series", tmp_path / "t" / case)
        shutil.move(write(truth, tmp_path / "s", "rtstruct.dcm"), tmp_path / "t" / case / "RS.1.2.3.dcm")
    shutil.copy(next((tmp_path / "series").iterdir()), tmp_path / "p" / "a.sc.dcm")
    (tmp_path / "p" / "a.json").write_text("{}")
    assert [case.name for case in find_masks(tmp_path / "t")] == ["a", "b"]
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    assert [(row.case, row.score.dice) for row in result.rows] == [
        ("a", 1), ("a", 1), ("b", 1), ("b", 1),
    ]  # fmt: skip


def test_two_rtstructs_take_the_grid_of_the_series_beside_them(truth: Volume, tmp_path: Path) -> None:
    one, other = (write(truth, tmp_path / side, "rtstruct.dcm") for side in "pt")
    with pytest.raises(InputError, match=r"has no grid of its own.*--images"):
        evaluate(one, other, tmp_path / "out")
    for path in (tmp_path / "series").iterdir():
        shutil.copy(path, tmp_path / "t")
    assert dice_of(evaluate(one, other, tmp_path / "out")) == {"left_atrium": 1, "wall": 1}
    assert dice_of(evaluate(one, tmp_path / "t", tmp_path / "out"))["wall"] == 1


def test_frames_say_the_grid_without_empty_slices_and_upside_down(truth: Volume, tmp_path: Path) -> None:
    path = write(truth, tmp_path / "p", "seg.dcm")
    grid = frames_grid([path])
    used = np.flatnonzero(truth.array.any(axis=(0, 1)))
    assert grid.shape == (40, 36, len(used))
    assert grid.spacing_mm == pytest.approx(truth.geometry.spacing_mm)
    corner = truth.geometry.to_index(grid.origin_mm)
    assert corner == pytest.approx([0, 0, used[0]], abs=1e-3)

    def only_some(data: pydicom.Dataset) -> None:
        """Remove middle frames of the first segment: two slices are then between the neighbouring frames."""
        keep = [n for n in range(int(data.NumberOfFrames)) if n not in (1, 2)]
        data.PixelData = np.packbits(data.pixel_array[keep].ravel(), bitorder="little").tobytes()
        data.PerFrameFunctionalGroupsSequence = [data.PerFrameFunctionalGroupsSequence[n] for n in keep]
        data.NumberOfFrames = len(keep)
        del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices

    edit(path, only_some)
    assert frames_grid([path]).shape == grid.shape


def test_far_apart_or_in_another_frame_of_reference_is_refused(truth: Volume, tmp_path: Path) -> None:
    one, other = (write(truth, tmp_path / side, "seg.dcm") for side in "pt")
    edit(other, lambda data: setattr(data, "FrameOfReferenceUID", "1.2.3"))
    with pytest.raises(GeometryError, match="different frames of reference"):
        evaluate(one, other, tmp_path / "out")

    def away(data: pydicom.Dataset) -> None:
        for frame in data.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient = [1e7, 0, 0]

    third = write(truth, tmp_path / "u", "seg.dcm")
    edit(third, away)
    with pytest.raises(GeometryError, match="reach over"):
        evaluate(one, third, tmp_path / "out")


@pytest.mark.parametrize("keep", [200, 2000, 4000])
def test_a_damaged_seg_is_one_line(truth: Volume, tmp_path: Path, keep: int) -> None:
    one, other = (write(truth, tmp_path / side, "seg.dcm") for side in "pt")
    other.write_bytes(other.read_bytes()[:keep])
    with pytest.raises(C3S3Error, match=r"t/a\.seg\.dcm") as caught:
        evaluate(one, other, tmp_path / "out")
    assert "scan" not in str(caught.value)


def renamed(mask: Volume, path: Path, *segments: Segment) -> Path:
    path.parent.mkdir(exist_ok=True)
    write_seg(mask, path, segments, MAKER)
    return path


def test_names_and_not_numbers_count_between_segs(truth: Volume, tmp_path: Path) -> None:
    """Order and letter case differ; a label that was not found is a miss, an extra label is reported."""
    atrium, wall = SEGMENTS
    swapped = (Segment("Wall", 3), Segment("LEFT_ATRIUM", 1))
    renamed(truth, tmp_path / "p" / "a.dcm", *swapped)
    renamed(truth, tmp_path / "t" / "a.dcm", atrium, wall)
    renamed(truth, tmp_path / "p" / "b.dcm", wall, Segment("extra", 1))
    renamed(truth, tmp_path / "t" / "b.dcm", atrium)
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    found = {(row.case, row.label): row.score.dice for row in result.rows}
    assert found == {("a", "left_atrium"): 1, ("a", "wall"): 1, ("b", "left_atrium"): 0, ("b", "wall"): 0}
    assert result.remarks == ("no truth has the label 3 (extra), and the predictions of b do: not measured",)


def test_other_names_are_a_mixup_until_they_are_said_to_be_the_same(truth: Volume, tmp_path: Path) -> None:
    one = renamed(truth, tmp_path / "p" / "a.dcm", Segment("LA", 1))
    other = renamed(truth, tmp_path / "t" / "a.dcm", SEGMENTS[0])
    with pytest.raises(InputError, match=r"no label in common|in common.*2 \(LA\).*1 \(left_atrium\)"):
        evaluate(one, other, tmp_path / "out")
    labels = {"atrium": 1, "LA": 1, "left_atrium": 1}
    result = evaluate(one, other, tmp_path / "out", EvaluationSettings(labels=labels))
    assert dice_of(result) == {"atrium": 1}


def test_a_seg_that_holds_another_organ_alone_is_a_miss_and_stays(truth: Volume, tmp_path: Path) -> None:
    for case, segment in (("a", SEGMENTS[0]), ("b", Segment("spleen", 1))):
        renamed(truth, tmp_path / "p" / f"{case}.dcm", segment)
        renamed(truth, tmp_path / "t" / f"{case}.dcm", SEGMENTS[0])
    settings = EvaluationSettings(labels={"left_atrium": 1})
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", settings)
    assert [row.score.dice for row in result.rows] == [1, 0]
    assert result.cohorts[0].of("hd95_mm").infinite == 1
    assert "holds none of the labels" in result.rows[1].notes[0]


def test_numbers_that_do_not_agree_are_to_be_named(truth: Volume, tmp_path: Path) -> None:
    """Compared with image files, the number of a segment is its value."""
    atrium, wall = SEGMENTS
    write(truth, tmp_path / "p", "nii.gz", "a")
    write(truth, tmp_path / "p", "nii.gz", "b")
    renamed(truth, tmp_path / "t" / "a.dcm", atrium, wall)
    renamed(truth, tmp_path / "t" / "b.dcm", wall, atrium)
    with pytest.raises(InputError, match=r"'wall' has the number 1 here, and .* '?left_atrium.*--labels"):
        evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    labels = {"left_atrium": 1, "wall": 2}
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", EvaluationSettings(labels=labels))
    assert set(dice_of(result).values()) == {1}
    rtstruct = write(truth, tmp_path / "r", "rtstruct.dcm")
    edit(rtstruct, lambda data: setattr(data.StructureSetROISequence[1], "ROINumber", "70000"))
    with pytest.raises(InputError, match="'wall' has the number 70000; wanted 1 to 65535"):
        name_values([rtstruct], [tmp_path / "p" / "a.nii.gz"])


def test_a_mask_on_another_grid_is_refused(truth: Volume, tmp_path: Path) -> None:
    seg = write(truth, tmp_path / "t", "seg.dcm")
    other = type(truth.geometry).build(truth.array.shape)
    save(other.volume(numbered(truth).array), tmp_path / "a.nii.gz")
    with pytest.raises(GeometryError, match="does not lie on the voxels"):
        evaluate(tmp_path / "a.nii.gz", seg, tmp_path / "out")


def test_the_page_shows_masks_of_dicom(truth: Volume, moved: Volume, tmp_path: Path) -> None:
    write(moved, tmp_path / "p", "seg.dcm")
    write(truth, tmp_path / "t", "rtstruct.dcm")
    settings = EvaluationSettings(html=True, images=tmp_path / "series")
    result = evaluate(tmp_path / "p" / "a.seg.dcm", tmp_path / "t", tmp_path / "out", settings)
    assert result.html_path is not None
    assert "left_atrium" in result.html_path.read_text(encoding="utf-8")


def test_dicom_images_are_scans_in_every_form(truth: Volume, tmp_path: Path) -> None:
    seg, series = write(truth, tmp_path / "p", "seg.dcm"), tmp_path / "series"
    for wrong in (series, tmp_path, next(series.iterdir())):
        if wrong == tmp_path:  # a folder of folders of slices
            shutil.copytree(series, tmp_path / "many" / "a")
            wrong = tmp_path / "many"
        with pytest.raises(ScanError, match="DICOM image"):
            evaluate(seg, wrong, tmp_path / "out")
        with pytest.raises(ScanError, match="DICOM image"):
            evaluate(wrong, seg, tmp_path / "out")
    archive = shutil.make_archive(str(tmp_path / "zips" / "a"), "zip", series)
    with pytest.raises(ScanError, match="archive"):
        evaluate(tmp_path / "p", Path(archive).parent, tmp_path / "out")


def test_a_folder_without_masks_says_what_was_looked_for(truth: Volume, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"found no mask here; looked for .*RTSTRUCT"):
        evaluate(tmp_path / "none", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"this is not a mask; wanted .*RTSTRUCT"):
        evaluate(tmp_path / "none" / "a.txt", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        evaluate(tmp_path / "nothing", tmp_path, tmp_path / "out")


def test_a_pair_is_read_on_the_grid_of_its_image(truth: Volume, tmp_path: Path) -> None:
    image, seg = write(truth, tmp_path / "p", "nii.gz"), write(truth, tmp_path / "t", "seg.dcm")
    one, other = load_pair(image, seg, {"LEFT_atrium": 1, "wall": 2})
    assert other.geometry is one.geometry
    assert np.array_equal(one.array, other.array)


def test_another_set_is_compared_by_names(truth: Volume, tmp_path: Path) -> None:
    """The other set pairs only with the second case, whose truth has only the wall, numbered 1."""
    atrium, wall = SEGMENTS
    for side in "pt":
        renamed(truth, tmp_path / side / "a.dcm", atrium, wall)
        renamed(truth, tmp_path / side / "b.dcm", wall)
    renamed(truth, tmp_path / "q" / "b.dcm", wall)
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", against=tmp_path / "q")
    (dice,) = [pair for pair in result.comparison if pair.metric == "dice"]
    assert (dice.label, dice.n, dice.mean, dice.against) == ("wall", 1, 1, 1)
    words = "the label left_atrium is not compared: the set 'against' has no label of this name"
    assert words in result.remarks
    write(truth, tmp_path / "r", "nii.gz", "a")  # compared by number: the wall has number 2
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", against=tmp_path / "r")
    assert [(p.label, p.against) for p in result.comparison if p.metric == "dice"] == [
        ("left_atrium", 1), ("wall", 1),
    ]  # fmt: skip


def test_image_files_are_compared_with_segs_by_value(truth: Volume, tmp_path: Path) -> None:
    for side in "pt":
        write(truth, tmp_path / side, "nii.gz")
    write(truth, tmp_path / "q", "seg.dcm")
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", against=tmp_path / "q")
    assert [(p.label, p.n, p.against) for p in result.comparison if p.metric == "dice"] == [
        ("label_1", 1, 1), ("label_2", 1, 1),
    ]  # fmt: skip
    assert result.remarks == ()


def test_no_case_in_both_sets_is_told(truth: Volume, tmp_path: Path) -> None:
    for case, side in (("a", "p"), ("b", "q")):
        write(truth, tmp_path / side, "nii.gz", case)
        write(truth, tmp_path / "t", "nii.gz", case)
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", against=tmp_path / "q")
    assert result.comparison == ()
    assert result.remarks == ("no case was measured in both sets: nothing is compared",)


def test_the_names_of_dicom_files_are_not_written(truth: Volume, tmp_path: Path) -> None:
    """There is a case for each folder; one case is damaged, one has no prediction."""
    for case in "abc":
        shutil.move(write(truth, tmp_path / "s", "seg.dcm"), tmp_path / "s" / "SECRET^NAME.dcm")
        (tmp_path / "t" / case).mkdir(parents=True)
        shutil.move(tmp_path / "s" / "SECRET^NAME.dcm", tmp_path / "t" / case)
    for case in "ab":
        write(truth, tmp_path / "p", "nii.gz", case)
    edit(tmp_path / "t" / "a" / "SECRET^NAME.dcm", lambda data: delattr(data, "SegmentSequence"))
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", EvaluationSettings(html=True))
    assert [failure.case for failure in result.failures] == ["c", "a"]
    assert "header of this DICOM SEG cannot be read" in result.failures[1].reason
    for path in (tmp_path / "out").iterdir():
        assert "SECRET" not in path.read_text(encoding="utf-8")


def test_the_files_of_a_scan_that_gives_the_grid_are_not_written(truth: Volume, tmp_path: Path) -> None:
    """One slice of the second case's scan is damaged: the terminal names it, written files only count it."""
    for case in "ab":
        write(truth, tmp_path / "p", "seg.dcm", case)
        write(truth, tmp_path / "t", "rtstruct.dcm", case)
        shutil.copytree(tmp_path / "series", tmp_path / "scans" / case)
    damaged = sorted((tmp_path / "scans" / "b").iterdir())[3]
    content = damaged.read_bytes()
    damaged.unlink()
    (damaged.parent / "SECRET^NAME.dcm").write_bytes(content[: len(content) // 2])
    settings = EvaluationSettings(html=True, images=tmp_path / "scans")
    (failure,) = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", settings).failures
    assert isinstance(failure.reason, Told)
    assert "SECRET^NAME.dcm" in failure.reason.named
    for path in (tmp_path / "out").iterdir():
        assert "SECRET" not in path.read_text(encoding="utf-8")


def test_a_damaged_header_fails_its_case_and_changes_nothing_for_the_others(
    truth: Volume, tmp_path: Path
) -> None:
    for side, kind in (("p", "seg.dcm"), ("t", "rtstruct.dcm")):
        for case in "ab":
            write(truth, tmp_path / side, kind, case)
    edit(tmp_path / "t" / "a.rtstruct.dcm", lambda data: delattr(data, "ROIContourSequence"))
    edit(tmp_path / "p" / "a.seg.dcm", lambda data: delattr(data, "SegmentSequence"))
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    assert [(row.case, row.label, row.score.dice) for row in result.rows] == [
        ("b", "left_atrium", 1), ("b", "wall", 1),
    ]  # fmt: skip
    assert [failure.case for failure in result.failures] == ["a"]


def test_names_beside_an_image_file_decide_over_numbers_of_segments(truth: Volume, tmp_path: Path) -> None:
    """A program may number the segments of a mask in another order."""
    segments = (Segment("wall", 1), Segment("left_atrium", 3))
    swapped = truth.geometry.volume(np.choose(truth.array, [0, 3, 0, 1]).astype(np.uint8), truth.source)
    (tmp_path / "t").mkdir()
    seg = tmp_path / "t" / "a.seg.dcm"
    write_seg(swapped, seg, segments, MAKER)
    image = write(truth, tmp_path / "p", "nii.gz")
    assert dice_of(evaluate(image, seg, tmp_path / "out")) == {"wall": 0, "left_atrium": 0}
    facts = {"c3s3_seg": "0", "case": "a", "labels": {"Left_atrium": 1, "wall": 2}, "made_with": {}}
    (tmp_path / "p" / "a.json").write_text(json.dumps(facts))
    for pair in ((image, seg), (seg, image)):
        assert set(dice_of(evaluate(*pair, tmp_path / "out")).values()) == {1}
    facts["labels"] = {"left_atrium": 2, "scar": 1}  # `wall` has number 1, which is another label here
    (tmp_path / "p" / "a.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="'wall' has the number 1 here, and in another file 'scar' has"):
        evaluate(image, seg, tmp_path / "out")
    facts["labels"] = {"cavity": 1, "shell": 2}  # no name in common: the numbers decide
    (tmp_path / "p" / "a.json").write_text(json.dumps(facts))
    assert set(dice_of(evaluate(image, seg, tmp_path / "out")).values()) == {0}


def test_masks_in_folders_of_cases_beside_files(truth: Volume, tmp_path: Path) -> None:
    for side in "pt":
        write(truth, tmp_path / side, "nii.gz", "a")
        for case in "bc":
            (tmp_path / side / case).mkdir()
            write(truth, tmp_path / side / case, "seg.dcm", "x")
        (tmp_path / side / "a").mkdir()  # the scan of the case, with a mask of somebody else
        write(truth, tmp_path / side / "a", "seg.dcm", "x")
    write(truth, tmp_path / "t" / "c", "seg.dcm", "y")  # an archive of masks is no case
    write(truth, tmp_path / "p" / "c", "seg.dcm", "y")
    (tmp_path / "t" / "drafts").mkdir()
    write(truth, tmp_path / "t" / "drafts", "seg.dcm", "x")  # nor is a folder without a partner
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    assert [case.name for case in find_masks(tmp_path / "t")] == ["a"]
    assert (sorted({row.case for row in result.rows}), result.failures) == (["a", "b"], ())
