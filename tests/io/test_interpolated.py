"""Tests of masks of repaired scans that `evaluate` compares: holes are refused, a shear of both is none."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from conftest import small_scan
from helpers.batches import MODEL
from helpers.dicom_files import edit

from c3s3_seg.batch import Job, predict_cases
from c3s3_seg.batch.evaluate import evaluate
from c3s3_seg.batch.result import BatchResult
from c3s3_seg.errors import GeometryError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects import acquired
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.mask_pair import load_labels, load_pair
from c3s3_seg.io.reading import Reading
from c3s3_seg.system.choices import MaskFormat

NAMES = {"left_atrium": 1}
SEGMENTS = (Segment("left_atrium", 1),)
GAP = 8  # number of the slice that is missing
ACQUIRED = "drawn on the acquired slices, and the other mask has slices between them that were interpolated"


def written(folder: Path, missing: int | None = GAP) -> Volume:
    """Write a series, without one of its slices, and return a mask of all slices: a box in its middle."""
    scan = small_scan(0)
    scan = scan.geometry.volume(scan.array.astype(np.uint16))
    files = save_series(scan, folder, description="", seed_uid="a")
    if missing is not None:
        files[missing].unlink()
    scan = load(folder, repair="gaps")
    box = np.zeros(scan.geometry.shape, np.uint8)
    box[8:16, 6:14, 4:12] = 1
    return scan.geometry.volume(box, scan.source)


def drawn(mask: Volume, path: Path) -> Path:
    (write_seg if path.name.endswith("seg.dcm") else write_rtstruct)(mask, path, SEGMENTS)
    return path


def stored(mask: Volume, path: Path) -> Path:
    save(mask.geometry.volume(mask.array), path)
    return path


def segmented(
    series: Path,
    out: Path,
    wanted: MaskFormat = "nii.gz",
    *,
    truth: Path | None = None,
    preview: bool = False,
) -> BatchResult:
    reading = Reading(repair=frozenset({"gaps"}))
    job = Job(out, suffix=wanted, allow_out_of_domain=True, reading=reading, truth=truth)
    return predict_cases([series], MODEL, job)


def predicted(series: Path, out: Path, wanted: MaskFormat = "nii.gz") -> Path:
    segmented(series, out, wanted)
    (mask,) = (path for path in out.iterdir() if path.name.endswith((".nii.gz", "seg.dcm")))
    return mask


@pytest.mark.parametrize("kind", ["seg.dcm", "rtstruct.dcm"])
def test_a_truth_of_the_acquired_slices_is_no_truth_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The interpolated slice was background in the truth, so that a right prediction was wrong there."""
    truth = drawn(written(tmp_path / "series"), tmp_path / f"truth.{kind}")
    prediction = predicted(tmp_path / "series", tmp_path / "out")
    monkeypatch.setattr(acquired, "_by_references", lambda *_: False)  # the JSON of `predict` says it
    for pair in ((prediction, truth), (truth, prediction)):
        with pytest.raises(GeometryError, match=ACQUIRED):
            evaluate(*pair, tmp_path / "scores")
    record = prediction.with_name("series.json")
    content = json.loads(record.read_text())
    content["scan"]["notes"] = []
    record.write_text(json.dumps(content))
    assert evaluate(prediction, truth, tmp_path / "scores").failures == ()


@pytest.mark.parametrize("kind", ["seg.dcm", "rtstruct.dcm"])
def test_predict_refuses_it_as_the_truth_too(tmp_path: Path, kind: str) -> None:
    truth = drawn(written(tmp_path / "series"), tmp_path / f"truth.{kind}")
    with pytest.raises(GeometryError, match="the truth was drawn on the acquired slices"):
        segmented(tmp_path / "series", tmp_path / "out", truth=truth)


def test_an_earlier_seg_of_the_acquired_slices_is_no_mask_of_the_repaired_scan(tmp_path: Path) -> None:
    """With a truth that came later it was scored with a hole where the scan was interpolated."""
    written(tmp_path / "series")
    predicted(tmp_path / "series", tmp_path / "out", "dicom-seg")
    same = predicted(tmp_path / "series", tmp_path / "whole")
    (row,) = segmented(tmp_path / "series", tmp_path / "out", "dicom-seg", truth=same).rows
    assert row.scores[0].score.dice == 1


def test_masks_of_the_acquired_slices_are_compared(tmp_path: Path) -> None:
    truth = drawn(written(tmp_path / "series"), tmp_path / "truth.seg.dcm")
    prediction = predicted(tmp_path / "series", tmp_path / "out", "dicom-seg")
    (row,) = evaluate(prediction, truth, tmp_path / "scores").rows
    assert 0 < row.score.dice < 1


@pytest.mark.parametrize("kind", ["seg.dcm", "rtstruct.dcm"])
def test_the_slices_of_the_scan_say_which_were_interpolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mask = written(tmp_path / "series")
    truth, image = drawn(mask, tmp_path / kind), stored(mask, tmp_path / "mask.nii.gz")
    with monkeypatch.context() as alone:
        alone.setattr(acquired, "_by_references", lambda *_: False)
        with pytest.raises(GeometryError, match=ACQUIRED):
            load_pair(image, truth, NAMES, tmp_path / "series")
    whole = written(tmp_path / "whole", None)
    whole.array[:, :, GAP] = 0  # nothing was drawn there
    truth = drawn(whole, tmp_path / kind)
    monkeypatch.setattr(acquired, "_by_references", lambda *_: True)
    one, other = load_pair(stored(whole, image), truth, NAMES, tmp_path / "whole")
    assert np.array_equal(one.array, other.array)


@pytest.mark.parametrize("kind", ["seg.dcm", "rtstruct.dcm"])
def test_slices_that_a_drawing_does_not_name_may_be_those_of_its_gap(tmp_path: Path, kind: str) -> None:
    mask = written(tmp_path / "series")
    truth, image = drawn(mask, tmp_path / kind), stored(mask, tmp_path / "mask.nii.gz")
    with pytest.raises(GeometryError, match=ACQUIRED):
        load_pair(image, truth, NAMES)
    affine = mask.geometry.affine[:, [2, 0, 1, 3]]
    if kind == "seg.dcm":  # an image file with the slices along its first axis
        other = Volume(mask.array.transpose(2, 0, 1), Geometry((16, 24, 20), affine))
        with pytest.raises(GeometryError, match=ACQUIRED):
            load_pair(stored(other, tmp_path / "other.nii.gz"), truth, NAMES)


def only_framed(data: pydicom.Dataset) -> None:
    """Name only the slices with a frame, as some programs do."""
    framed = {
        str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        for frame in data.PerFrameFunctionalGroupsSequence
    }
    (series,) = data.ReferencedSeriesSequence
    series.ReferencedInstanceSequence = [
        item for item in series.ReferencedInstanceSequence if item.ReferencedSOPInstanceUID in framed
    ]


@pytest.mark.parametrize("change", [None, only_framed])
def test_an_empty_slice_between_others_is_background(tmp_path: Path, change: object) -> None:
    mask = written(tmp_path / "series", None)
    mask.array[:, :, GAP] = 0
    truth, image = drawn(mask, tmp_path / "seg.dcm"), stored(mask, tmp_path / "mask.nii.gz")
    if change is not None:
        edit(truth, only_framed)
    one, other = load_pair(image, truth, NAMES)
    assert np.array_equal(one.array, other.array)


def sheared(array: np.ndarray, path: Path, shear: float = 0.01) -> Path:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[0, 1] = shear
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    return path


def test_a_truth_with_the_shear_of_its_scan_fits_the_prediction_of_the_repaired_scan(tmp_path: Path) -> None:
    array = (np.indices((16, 14, 8)).sum(axis=0) < 12).astype(np.uint8)
    scan = load(sheared(array.astype(np.int16), tmp_path / "scan.nii.gz"), repair="orthonormal")
    image = stored(scan.geometry.volume(array), tmp_path / "mask.nii.gz")
    truth = sheared(array, tmp_path / "truth.nii.gz")
    result = evaluate(image, truth, tmp_path / "out")
    assert [(row.label, row.score.dice) for row in result.rows] == [("label_1", 1)]
    assert result.rows[0].notes[0].startswith("truth: repaired on request (orthonormal)")
    assert np.array_equal(load_labels(truth).array, array)
    other = sheared(array, tmp_path / "other.nii.gz", 0.012)
    why = "the axes of the mask are not perpendicular"
    for pair in ((image, other), (other, image)):
        with pytest.raises(GeometryError, match=f"{why} .*is not on the grid"):
            load_pair(*pair, {})
    with pytest.raises(GeometryError, match=f"{why} .*neither are those of the other one"):
        load_pair(truth, truth, {})
