"""Tests of written RTSTRUCT: contours enclose the mask's voxels and no others; decimal strings are valid."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.contours import inside
from helpers.dicom_seg import MAKER, SEGMENTS, drawn, errors

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom_objects.rtstruct_write import decimals, write_rtstruct


def test_contours_enclose_the_mask(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    mask.array[10:14, 18:21, 5:9] = 0  # a hole
    write_rtstruct(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    made = pydicom.dcmread(tmp_path / "a.dcm")
    by_uid = {pydicom.dcmread(p).SOPInstanceUID: pydicom.dcmread(p) for p in files}
    index = np.stack(np.meshgrid(np.arange(40), np.arange(36), indexing="ij"), -1).reshape(-1, 2)
    for segment, drawn_roi in zip(SEGMENTS, made.ROIContourSequence, strict=True):
        seen = np.zeros(mask.array.shape, bool)
        polygons: dict[int, list[np.ndarray]] = {}
        for contour in drawn_roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            voxels = mask.geometry.to_index(points)
            k = round(voxels[0, 2])
            assert np.abs(voxels[:, 2] - k).max() < 1e-3
            source = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert np.allclose(
                np.array(source.ImagePositionPatient, float), mask.geometry.to_mm((0, 0, k)), atol=1e-3
            )
            polygons.setdefault(k, []).append(voxels[:, :2])
        for k, several in polygons.items():
            seen[:, :, k] = inside(several, index).reshape(40, 36)
        assert np.array_equal(seen, mask.array == segment.value)


def test_the_standard_is_kept(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    write_rtstruct(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert errors(tmp_path / "a.dcm") == []
    made = pydicom.dcmread(tmp_path / "a.dcm")
    for roi in made.ROIContourSequence:
        for contour in roi.ContourSequence:
            assert all(len(v.original_string) <= 16 for v in contour.ContourData)
    assert [r.ROIName for r in made.StructureSetROISequence] == ["left_atrium", "wall"]


def test_an_empty_label_is_a_region_without_contours(files: list[Path], tmp_path: Path) -> None:
    scan: Volume = load(files[0].parent)
    write_rtstruct(
        scan.geometry.volume(np.zeros(scan.array.shape, np.uint8), scan.source), tmp_path / "a.dcm", SEGMENTS
    )
    made = pydicom.dcmread(tmp_path / "a.dcm")
    assert len(made.ROIContourSequence) == 2
    assert "ContourSequence" not in made.ROIContourSequence[0]
    assert errors(tmp_path / "a.dcm") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.00001, "0"),
        (-123.45678, "-123.4568"),
        (1e-7, "0"),
        (-2500.0, "-2500"),
        (0.1 + 0.2, "0.3"),
    ],
)
def test_decimals(value: float, text: str) -> None:
    assert decimals(np.array([value])) == [text]
