"""RTSTRUCT in: our own contours come back to the voxel; holes, slits and what cannot be placed."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import edit
from test_io_dicom_seg import MAKER, SEGMENTS, drawn, files  # noqa: F401
from test_io_dicom_seg_read import read
from test_io_rtstruct import inside as slowly_inside

from c3s3_seg.errors import C3S3Error
from c3s3_seg.io import load
from c3s3_seg.io.drawing import look_at_drawing
from c3s3_seg.io.rtstruct import write_rtstruct
from c3s3_seg.io.rtstruct_read import inside
from c3s3_seg.volume import Volume


@pytest.fixture
def mask(files: list[Path]) -> Volume:  # noqa: F811
    """Two labels, a hole, voxels that touch at a corner, and voxels on the border of the scan."""
    mask = drawn(load(files[0].parent))
    mask.array[10:14, 18:21, 5:9] = 0
    mask.array[30, 30, 4], mask.array[31, 31, 4] = 1, 1
    mask.array[0, :5, 3:6] = 1
    return mask


@pytest.fixture
def written(mask: Volume, tmp_path: Path) -> Path:
    write_rtstruct(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    return tmp_path / "a.dcm"


def test_contours_come_back_to_the_voxel(mask: Volume, written: Path) -> None:
    back = read(written, mask.geometry)
    assert int((back.array != mask.array).sum()) == 0
    assert back.geometry is mask.geometry


def test_it_says_what_it_was_drawn_on(mask: Volume, written: Path, files: list[Path]) -> None:  # noqa: F811
    drawing = look_at_drawing(written)
    assert drawing is not None
    assert (drawing.kind, drawing.names) == ("rtstruct", ("left_atrium", "wall"))
    assert drawing.series == {mask.source.series_uid}
    assert drawing.slices == {str(pydicom.dcmread(path).SOPInstanceUID) for path in files}


def test_random_polygons_as_a_slow_rule_fills_them() -> None:
    random = np.random.default_rng(3)
    points = np.stack(np.meshgrid(np.arange(31), np.arange(23), indexing="ij"), -1).reshape(-1, 2)
    for _ in range(40):  # self-crossing, and partly outside of the grid
        polygon = random.uniform(-6, 34, (int(random.integers(3, 12)), 2))
        assert np.array_equal(inside(polygon, (31, 23)), slowly_inside([polygon], points).reshape(31, 23))


def test_points_on_an_edge_are_in_one_of_two_neighbours() -> None:
    left, right = np.array([[1, 1], [4, 1], [4, 5], [1, 5]]), np.array([[4, 1], [8, 1], [8, 5], [4, 5]])
    both = inside(left.astype(float), (10, 8)).astype(int) + inside(right.astype(float), (10, 8))
    assert both.max() == 1
    assert both.sum() == 7 * 4


def test_a_slit_to_a_hole_changes_nothing() -> None:
    outer = [[0.5, 0.5], [9.5, 0.5], [9.5, 9.5], [0.5, 9.5], [0.5, 0.5]]
    hole = [[3.5, 3.5], [3.5, 6.5], [6.5, 6.5], [6.5, 3.5], [3.5, 3.5]]
    filled = inside(np.array(outer + hole), (11, 11))
    wanted = np.zeros((11, 11), bool)
    wanted[1:10, 1:10] = True
    wanted[4:7, 4:7] = False
    assert np.array_equal(filled, wanted)


def contour(data: pydicom.Dataset, number: int = 2) -> pydicom.Dataset:
    return data.ROIContourSequence[0].ContourSequence[number]


def shift(part: float):  # type: ignore[no-untyped-def]
    """All contours, along the normal, by a part of the step of 2.5 mm."""

    def change(data: pydicom.Dataset) -> None:
        images = [
            np.array(c.ContourData, float).reshape(-1, 3) for c in data.ROIContourSequence[0].ContourSequence
        ]
        flat = images[0] - images[0].mean(axis=0)
        normal = np.linalg.svd(flat)[2][2]
        for region in data.ROIContourSequence:
            for item in region.ContourSequence:
                moved = np.array(item.ContourData, float).reshape(-1, 3) + part * 2.5 * normal
                item.ContourData = [f"{v:.4f}" for v in moved.ravel()]

    return change


def opened(data: pydicom.Dataset) -> None:
    contour(data).ContourGeometricType = "OPEN_PLANAR"


def elsewhere(data: pydicom.Dataset) -> None:
    for region in data.StructureSetROISequence:
        region.ReferencedFrameOfReferenceUID = "1.2.3"


def same_region(data: pydicom.Dataset) -> None:
    data.ROIContourSequence[1].ContourSequence = data.ROIContourSequence[0].ContourSequence


def every_second(data: pydicom.Dataset) -> None:
    contours = list(data.ROIContourSequence[1].ContourSequence)  # of this region there is one a slice
    data.ROIContourSequence[1].ContourSequence = contours[::2]


def broken(data: pydicom.Dataset) -> None:
    contour(data).ContourData = contour(data).ContourData[:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift(0.3), "lies 0.75 mm off the nearest slice"),
        (opened, "type 'OPEN_PLANAR'; wanted closed"),
        (elsewhere, "another frame of reference"),
        (same_region, "two regions overlap"),
        (every_second, "has contours on 4 of 7 slices"),
        (broken, "is damaged"),
        (shift(40), "above or below the scan"),
    ],
)
def test_refusals(mask: Volume, written: Path, change: object, message: str) -> None:
    edit(written, change)  # type: ignore[arg-type]
    with pytest.raises(C3S3Error, match=message):
        read(written, mask.geometry)


def test_rounding_of_a_planning_system_is_no_obstacle(mask: Volume, written: Path) -> None:
    edit(written, shift(0.03))
    assert np.array_equal(read(written, mask.geometry).array, mask.array)


def test_a_region_without_contours(mask: Volume, tmp_path: Path) -> None:
    mask.array[:] = 0
    write_rtstruct(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert not read(tmp_path / "a.dcm", mask.geometry).array.any()
