"""Tests of `predict --truth`: unusable truths are refused before any prediction; a miss stays a miss."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from helpers.batches import MODEL, Told

from c3s3_seg.batch import BatchPlan, Job, predict_cases, verify
from c3s3_seg.batch.result import BatchResult
from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.io import load, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.reading import Reading

CASES = 5


def truths(scans: Path, *values: int) -> Path:
    """Write the blob of each scan as a truth with a value, 0 for an empty one; the last value is repeated."""
    folder = scans.parent / "truths"
    folder.mkdir(exist_ok=True)
    for n in range(CASES):
        scan = load(scans / f"case-{n}.nii.gz")
        value = values[min(n, len(values) - 1)]
        save(scan.geometry.volume(((scan.array > 200) * value).astype(np.uint8)), folder / f"case-{n}.nii.gz")
    return folder


def run(scans: Path, truth: Path, out: Path, **plan: int) -> BatchResult:
    return predict_cases(
        [scans], MODEL, Job(out, truth=truth, allow_out_of_domain=True), None, BatchPlan(**plan)
    )


def test_scans_in_place_of_truths_are_refused_and_nothing_is_made(small_scans: Path, tmp_path: Path) -> None:
    copies = truths(small_scans, 1)
    for path in small_scans.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    for how in ({}, {"workers": 2}):
        with pytest.raises(InputError, match=r"case-0\.nii\.gz: this looks like a scan"):
            run(small_scans, copies, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
    words = ["predict", small_scans, "--model", "phantom", "-o", tmp_path / "out", "--truth", copies]
    answer = command.run(*words)
    assert answer.returncode == 2
    assert "looks like a scan" in answer.stderr


@pytest.mark.parametrize("value", [255, 2])
def test_truths_without_a_label_of_the_model_are_refused(
    small_scans: Path, tmp_path: Path, value: int
) -> None:
    with pytest.raises(InputError, match=rf"no truth holds a label of the model, 1 \(.*\): found {value}"):
        run(small_scans, truths(small_scans, value), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truth_of_another_label_is_a_miss_and_stays(small_scans: Path, tmp_path: Path) -> None:
    result = run(small_scans, truths(small_scans, 1, 2, 0), tmp_path / "out", limit=3)
    assert result.failures == ()
    first, other, empty = (row.scores[0].score for row in result.rows)
    assert first.flat()["truth_ml"] > 0
    # These truths hold no voxel of the label, so any voxel that the model finds is wrong.
    for row, score in zip(result.rows[1:], (other, empty), strict=True):
        assert score.flat()["truth_ml"] == 0
        assert score.dice == (0 if row.volumes_ml[0][1] else 1)


def test_a_truth_of_0_and_255_among_others_fails_before_the_network(
    small_scans: Path, tmp_path: Path
) -> None:
    result = run(small_scans, truths(small_scans, 1, 255, 1), tmp_path / "out", limit=2)
    assert [row.case for row in result.rows] == ["case-0"]
    assert "the truth holds 0 and 255; wanted 1" in result.failures[0].reason
    assert not (tmp_path / "out" / "case-1.nii.gz").exists()


def test_a_truth_that_cannot_be_read_is_its_own_case(small_scans: Path, tmp_path: Path) -> None:
    folder = truths(small_scans, 1)
    (folder / "case-0.nii.gz").write_bytes(b"nothing")
    result = run(small_scans, folder, tmp_path / "out", limit=2)
    assert [failure.case for failure in result.failures] == ["case-0"]
    assert [row.case for row in result.rows] == ["case-1"]


def test_a_truth_that_was_withdrawn_takes_its_scores_along(small_scans: Path, tmp_path: Path) -> None:
    """The scores against a wrong truth used to stay in every later summary."""
    folder, out = truths(small_scans, 1), tmp_path / "out"
    run(small_scans, folder, out)
    (folder / "case-0.nii.gz").unlink()
    for kept in (4, 5):
        result = run(small_scans, folder, out)
        assert [len(row.scores) for row in result.rows] == [0, 1, 1, 1, 1]
        assert result.kept == kept
    assert json.loads((out / "case-0.json").read_text())["scores"] == {}


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_a_drawing_in_dicom_is_the_truth_of_its_scan_and_is_known_again(
    small_scans: Path, tmp_path: Path, kind: str
) -> None:
    """One without empty slices was refused, contours too, and any other was compared again in each run."""
    scan, study, truth = load(small_scans / "case-0.nii.gz"), tmp_path / "study", tmp_path / "truth.dcm"
    save_series(
        scan.geometry.volume(scan.array.round().astype(np.uint16)), study, description="", seed_uid="a"
    )
    there = load(study)
    mask = there.geometry.volume((there.array > 200).astype(np.uint8), there.source)
    (write_seg if kind == "seg" else write_rtstruct)(mask, truth, (Segment("blob", 1),))
    first = run(study, truth, tmp_path / "out")
    assert first.failures == ()
    assert first.rows[0].scores[0].score.dice > 0.5
    assert run(study, truth, tmp_path / "out").kept == 1
    (write_seg if kind == "seg" else write_rtstruct)(mask, truth, (Segment("another", 1),))
    assert run(study, truth, tmp_path / "out").kept == 0


@pytest.mark.slow
def test_a_folder_of_dicom_seg_has_the_truths_of_its_cases(tmp_path: Path) -> None:
    archive, truths = tmp_path / "archive", tmp_path / "truths"
    made = command.run("phantom", "-o", archive, "--seed", "1", "--count", "2", "--truth", "dicom-seg")
    assert made.returncode == 0, made.stderr
    truths.mkdir()
    for path in archive.rglob("*.seg.dcm"):
        path.rename(truths / path.name)
    answer = command.run("predict", archive, "-o", tmp_path / "out", "--model", "phantom", "--truth", truths)
    assert answer.returncode == 0, answer.stderr
    for case in ("phantom-1", "phantom-2"):
        scores = json.loads((tmp_path / "out" / f"{case}.json").read_text())["scores"]
        assert min(found["dice"] for found in scores.values()) > 0.8


def test_a_truth_that_was_drawn_on_a_sheared_scan_gets_its_repair(small_scans: Path, tmp_path: Path) -> None:
    import nibabel

    shear = np.eye(3)
    shear[0, 1] = 0.01
    folder = truths(small_scans, 1)
    paths = [small_scans / "case-0.nii.gz", folder / "case-0.nii.gz"]
    for path in paths:
        image = nibabel.load(path)
        affine = image.affine.copy()
        affine[:3, :3] = shear @ affine[:3, :3]
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
    reading = Reading(repair=frozenset({"orthonormal"}))
    job = Job(tmp_path / "out", "nrrd", truth=paths[1], reading=reading, allow_out_of_domain=True)
    (row,) = predict_cases(paths[:1], MODEL, job).rows
    assert [score.label for score in row.scores] == ["left_atrium"]
    assert load(tmp_path / "out" / "repaired" / "case-0.nrrd").geometry.is_orthogonal
    told = Told()
    predict_cases(paths[:1], MODEL, replace(job, suffix="nii.gz", preview=True), told)
    assert told.note.startswith("reports updated for 1 finished case without segmenting again")
    assert [path.name for path in (tmp_path / "out" / "repaired").iterdir()] == ["case-0.nii.gz"]
    assert verify(tmp_path / "out").holds
    with pytest.raises(GeometryError, match="not perpendicular"):
        predict_cases(paths[:1], MODEL, replace(job, out=tmp_path / "other", reading=Reading()))


def test_cases_without_a_truth_are_told(small_scans: Path, tmp_path: Path) -> None:
    folder, told = truths(small_scans, 1), Told()
    for n in (1, 4):
        (folder / f"case-{n}.nii.gz").unlink()
    job = Job(tmp_path / "out", truth=folder, allow_out_of_domain=True)
    predict_cases([small_scans], MODEL, job, told)
    assert told.note == "no truth for 2 of 5 cases: case-1, case-4"
