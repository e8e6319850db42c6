"""Tests of reading RTSTRUCT: own contours come back to the voxel; holes, slits, contours without a place."""

import copy
import time
import tracemalloc
import warnings
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.contours import inside as slowly_inside
from helpers.dicom_files import edit
from helpers.dicom_seg import MAKER, SEGMENTS, drawn
from helpers.seg_read import read
from pydicom.uid import ExplicitVRLittleEndian

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects import rtstruct_fill, rtstruct_outline
from c3s3_seg.io.dicom_objects.rtstruct_fill import Unclear, fill
from c3s3_seg.io.dicom_objects.rtstruct_outline import Outline, TooManyPairs, inside, turns
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing


@pytest.fixture
def mask(files: list[Path]) -> Volume:
    """Return a mask of two labels with a hole, voxels that touch at a corner and voxels on the border."""
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


def test_it_says_what_it_was_drawn_on(mask: Volume, written: Path, files: list[Path]) -> None:
    drawing = look_at_drawing(written)
    assert drawing is not None
    assert (drawing.kind, drawing.names) == ("rtstruct", ("left_atrium", "wall"))
    assert drawing.series == {mask.source.series_uid}
    assert drawing.slices == {str(pydicom.dcmread(path).SOPInstanceUID) for path in files}


def test_a_slice_without_a_contour_between_others_is_noted(mask: Volume, written: Path) -> None:
    """The contour may have been forgotten, or the region may have two parts: nothing is interpolated."""

    def change(data: pydicom.Dataset) -> None:
        del data.ROIContourSequence[1].ContourSequence[3]  # this region has one contour per slice

    edit(written, change)
    back = read(written, mask.geometry)
    assert back.source.notes == (
        "region 'wall': 1 slices between others have no contour: they are background",
    )
    missing = np.flatnonzero((back.array != mask.array).any(axis=(0, 1)))
    assert len(missing) == 1
    assert not (back.array[:, :, missing] == 3).any()


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
    """Return an edit that moves all contours along the normal by a part of the step of 2.5 mm."""

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
    contours = list(data.ROIContourSequence[1].ContourSequence)  # this region has one contour per slice
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


def test_points_are_left_out(mask: Volume, written: Path) -> None:
    """An isocentre or a marker, as planning systems add it, encloses nothing; a mixed region is refused."""

    def isocentre(data: pydicom.Dataset) -> None:
        item = pydicom.Dataset()
        item.ContourGeometricType, item.NumberOfContourPoints, item.ContourData = "POINT", 1, ["1", "2", "3"]
        data.ROIContourSequence[1].ContourSequence = [item]

    edit(written, isocentre)
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, mask.array == 1)
    assert any("has points only, which enclose no voxel" in note for note in back.source.notes)
    edit(written, lambda data: setattr(contour(data), "ContourGeometricType", "POINT"))
    with pytest.raises(C3S3Error, match=r"type 'POINT'; wanted closed ones.*--labels"):
        read(written, mask.geometry)


Square = tuple[float, float, float, float]


def square(box: Square, *, back: bool = False, start: int = 0) -> np.ndarray:
    i0, j0, i1, j1 = box
    corners = np.array([[i0, j0], [i1, j0], [i1, j1], [i0, j1]], float)
    return np.roll(corners[::-1] if back else corners, start, axis=0)


def voxels(*boxes: Square) -> np.ndarray:
    """Return a (20, 20) bool array of the voxel centres within any of the squares."""
    i, j = np.indices((20, 20))
    none = np.zeros((20, 20), bool)
    return np.any([none, *((i > b[0]) & (i < b[2]) & (j > b[1]) & (j < b[3]) for b in boxes)], axis=0)


OUTER, INNER, ISLE = (1.5, 1.5, 15.5, 15.5), (4.5, 4.5, 12.5, 12.5), (6.5, 6.5, 9.5, 9.5)
CORNER = (10.5, 10.5, 18.5, 18.5)  # crosses OUTER
DENSE = np.array([[1.5 + n / 2, 1.5] for n in range(28)] + [[15.5, 1.5], [15.5, 15.5], [1.5, 15.5]])
KEYHOLE = np.vstack(
    [square(OUTER), square(OUTER)[:1], square(INNER, back=True), square(INNER, back=True)[:1]]
)
SAME_WAY = np.vstack([square(OUTER), square(OUTER)[:1], square(INNER), square(INNER)[:1]])
# One line that runs along two overlapping squares, so it crosses itself.
LOOPS = np.array(
    [[1.5, 1.5], [10.5, 1.5], [10.5, 10.5], [5.5, 10.5], [5.5, 5.5], [15.5, 5.5], [15.5, 15.5], [1.5, 15.5]]
)
HOLE = voxels(OUTER) & ~voxels(INNER)


@pytest.mark.parametrize(
    ("polygons", "wanted", "note"),
    [
        ([square(OUTER)], voxels(OUTER), None),
        ([square(OUTER), square(OUTER)], voxels(OUTER), "1 contours are there twice"),
        ([square(OUTER), square(OUTER, back=True, start=2)], voxels(OUTER), "1 contours are there twice"),
        ([square(OUTER), DENSE], voxels(OUTER), "1 contours are there twice"),
        ([square(OUTER), square(OUTER) + 0.05], voxels(OUTER), "1 contours are there twice"),
        ([square(OUTER)] * 4, voxels(OUTER), "3 contours are there twice"),
        ([np.vstack([square(OUTER), square(OUTER)])], voxels(OUTER), "1 contours cross themselves"),
        ([square(OUTER), square(INNER)], HOLE, None),
        ([square(INNER), square(OUTER, back=True)], HOLE, None),
        ([square(OUTER), square(INNER), square(INNER)], HOLE, "1 contours are there twice"),
        ([square(OUTER), square(INNER), square(ISLE)], HOLE | voxels(ISLE), None),
        ([square(ISLE), square(OUTER), square(INNER)], HOLE | voxels(ISLE), None),
        ([square(OUTER), square(CORNER)], voxels(OUTER, CORNER), "2 contours cross and were united"),
        (
            [square(OUTER), square(CORNER), square((3.5, 3.5, 8.5, 8.5))],
            voxels(OUTER, CORNER) & ~voxels((3.5, 3.5, 8.5, 8.5)),
            "2 contours cross and were united",
        ),
        ([square((1.5, 1.5, 5.5, 9.5)), square((5.5, 1.5, 9.5, 9.5))], voxels((1.5, 1.5, 9.5, 9.5)), None),
        ([KEYHOLE], HOLE, None),
        ([SAME_WAY], HOLE, None),
        ([LOOPS], None, "1 contours cross themselves: where they overlap is inside"),
        ([square(OUTER), square((3.1, 3.1, 3.4, 3.4))], voxels(OUTER), "1 contours enclose no voxel centre"),
        ([square(OUTER), square(OUTER)[:2]], voxels(OUTER), "1 contours enclose no voxel centre"),
        ([square(OUTER)[:2]], voxels(), "1 contours enclose no voxel centre"),
        ([square((-9.5, 1.5, -3.5, 9.5))], voxels(), "1 contours enclose no voxel centre"),
        ([square((-3.5, 8.5, 4.5, 30.5))], voxels((-3.5, 8.5, 4.5, 30.5)), None),
    ],
)  # fmt: skip
def test_closed_planar_contours(
    polygons: list[np.ndarray], wanted: np.ndarray | None, note: str | None
) -> None:
    filled = fill(polygons, (20, 20), exclusive=False)
    notes = [f"{number} {text}" for text, number in filled.notes.items()]
    if note is None:
        assert notes == []
    else:
        assert notes[0].startswith(note)
    if wanted is None:
        wanted = turns(polygons[0], (20, 20)) != 0
        assert filled.inside[8, 8]
        assert not inside(polygons[0], (20, 20))[8, 8]
    assert np.array_equal(filled.inside, wanted)


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([square(OUTER), square((2.0, 2.0, 15.0, 15.0))], "so near to its line"),  # may be a thin wall
        ([square(OUTER), square((1.5, 1.5, 15.5, 9.5))], "so near to its line"),
        ([square(OUTER), square((4.5, 4.5, 16.0, 8.5))], "within which .* voxels lie"),  # may be a hole
        ([square(OUTER), square(CORNER), square((8.5, 8.5, 12.5, 12.5))], "crosses by way of another"),
    ],
)  # fmt: skip
def test_contours_that_can_be_read_in_two_ways(polygons: list[np.ndarray], message: str) -> None:
    with pytest.raises(Unclear, match=message):
        fill(polygons, (20, 20), exclusive=False)


def test_exclusive_contours_are_what_the_standard_says() -> None:
    crossing = fill([square(OUTER), square(CORNER)], (20, 20), exclusive=True)
    assert np.array_equal(crossing.inside, voxels(OUTER) ^ voxels(CORNER))
    assert not crossing.notes
    twice = fill([square(OUTER), square(OUTER)], (20, 20), exclusive=True)
    assert not twice.inside.any()
    assert "cancel each other out" in next(iter(twice.notes))


def test_contours_of_random_masks_come_back_without_a_note() -> None:
    from contourpy import LineType, contour_generator

    random = np.random.default_rng(5)
    for share in np.linspace(0.1, 0.9, 12):
        mask = random.random((25, 18)) < share
        padded = np.pad(mask.T, 1).astype(float)
        lines = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
        filled = fill([np.round(line[:-1] - 1, 4) for line in lines], mask.shape, exclusive=False)
        assert np.array_equal(filled.inside, mask)
        assert not filled.notes


NO_WALL = "region 'wall': it has no contours"


def boxes(grid: Geometry, *drawn: Square, kind: str = "CLOSED_PLANAR"):  # type: ignore[no-untyped-def]
    """Return an edit: the first region becomes these squares on slices 3 and 4, the second is emptied."""

    def change(data: pydicom.Dataset) -> None:
        contours = []
        for k, box in product((3, 4), drawn):
            item = pydicom.Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = kind, 4
            points = grid.to_mm(np.column_stack([square(box), np.full(4, k)]))
            item.ContourData = [f"{v:.4f}" for v in points.ravel()]
            contours.append(item)
        data.ROIContourSequence[0].ContourSequence = contours
        data.ROIContourSequence[1].ContourSequence = []

    return change


def on_slices(mask: Volume, *drawn: Square) -> np.ndarray:
    i, j, k = np.indices(mask.array.shape)
    inside = np.any([(i > b[0]) & (i < b[2]) & (j > b[1]) & (j < b[3]) for b in drawn], axis=0)
    return inside & ((k == 3) | (k == 4))


def test_a_file_with_contours_that_are_there_twice_and_cross(mask: Volume, written: Path) -> None:
    edit(written, boxes(mask.geometry, OUTER, OUTER, CORNER))
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, on_slices(mask, OUTER, CORNER))
    assert back.source.notes == (
        "region 'left_atrium': 2 contours are there twice and were taken once",
        "region 'left_atrium': 4 contours cross and were united",
        NO_WALL,
    )
    edit(written, boxes(mask.geometry, OUTER, CORNER, kind="CLOSEDPLANAR_XOR"))
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, on_slices(mask, OUTER) ^ on_slices(mask, CORNER))
    assert back.source.notes == (NO_WALL,)


def test_mixed_types_are_exclusive_with_a_note(mask: Volume, written: Path) -> None:
    edit(written, boxes(mask.geometry, OUTER, INNER))

    def mix(data: pydicom.Dataset) -> None:
        for item in data.ROIContourSequence[0].ContourSequence[1::2]:
            item.ContourGeometricType = "CLOSEDPLANAR_XOR"

    edit(written, mix)
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, on_slices(mask, OUTER) & ~on_slices(mask, INNER))
    assert "read as CLOSEDPLANAR_XOR" in back.source.notes[0]


def test_what_reaches_out_of_the_scan_is_noted(mask: Volume, written: Path) -> None:
    edit(written, boxes(mask.geometry, (-4.5, 3.5, 6.5, 9.5)))
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, on_slices(mask, (-4.5, 3.5, 6.5, 9.5)))
    assert back.source.notes == (
        "region 'left_atrium': cut at the border of the scan on 2 slices, where it reaches out",
        NO_WALL,
    )
    edit(written, boxes(mask.geometry, (-0.5, -0.5, 39.5, 35.5)))  # to the edge, and not beyond
    back = read(written, mask.geometry)
    assert (back.array[:, :, 3] == 1).all()
    assert back.source.notes == (NO_WALL,)


@pytest.mark.parametrize(
    ("drawn", "kind", "message"),
    [
        ([(-9.5, 3.5, -2.5, 9.5)], "CLOSED_PLANAR", "has 2 contours and not one voxel: they lie outside"),
        ([(3.1, 3.1, 3.4, 3.4)], "CLOSED_PLANAR", "not one voxel: they enclose no voxel centre"),
        ([OUTER, OUTER], "CLOSEDPLANAR_XOR", "has 4 contours and not one voxel"),
        ([OUTER, (2.0, 2.0, 15.0, 15.0)], "CLOSED_PLANAR", "on slice 4 can be read in two ways"),
    ],
)  # fmt: skip
def test_a_region_is_never_silently_empty(
    mask: Volume, written: Path, drawn: list[Square], kind: str, message: str
) -> None:
    edit(written, boxes(mask.geometry, *drawn, kind=kind))
    with pytest.raises(C3S3Error, match=rf"a\.dcm: .*{message}"):
        read(written, mask.geometry)


def test_contours_of_a_region_in_two_items_belong_together(mask: Volume, written: Path) -> None:
    edit(written, boxes(mask.geometry, OUTER, INNER))

    def part(data: pydicom.Dataset) -> None:
        first, second = data.ROIContourSequence
        second.ReferencedROINumber = first.ReferencedROINumber
        contours = list(first.ContourSequence)
        first.ContourSequence, second.ContourSequence = contours[::2], contours[1::2]

    edit(written, part)
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, on_slices(mask, OUTER) & ~on_slices(mask, INNER))


def test_a_contour_that_lost_points_is_refused(mask: Volume, written: Path) -> None:
    def lose(data: pydicom.Dataset) -> None:
        contour(data).ContourData = contour(data).ContourData[:-3]

    edit(written, lose)
    with pytest.raises(C3S3Error, match=r"a contour of 'left_atrium' has \d+ of its \d+ points"):
        read(written, mask.geometry)


def test_regions_of_one_name_are_united_with_a_note_and_contours_of_none_are_refused(
    mask: Volume, written: Path
) -> None:
    def rename(data: pydicom.Dataset) -> None:
        data.StructureSetROISequence[1].ROIName = "left_atrium"

    edit(written, rename)
    back = read(written, mask.geometry)
    assert np.array_equal(back.array == 1, mask.array > 0)
    assert back.source.notes == ("region 'left_atrium': 2 regions of this name were united",)

    def lose(data: pydicom.Dataset) -> None:
        data.ROIContourSequence[0].ReferencedROINumber = 7

    edit(written, lose)
    with pytest.raises(C3S3Error, match=r"a\.dcm: it has contours of region 7, which it does not name"):
        read(written, mask.geometry)


def test_a_contour_without_points_is_noted(mask: Volume, written: Path) -> None:
    def change(data: pydicom.Dataset) -> None:
        del contour(data).ContourData, contour(data).NumberOfContourPoints

    whole = read(written, mask.geometry).array
    edit(written, change)
    back = read(written, mask.geometry)
    assert back.source.notes == ("region 'left_atrium': 1 contours have no points and were left out",)
    assert 0 < int((back.array != whole).sum()) < int((whole == 1).sum())


@pytest.mark.parametrize("name", ["left_atrium", "wall"])
def test_two_regions_of_one_number(mask: Volume, written: Path, name: str) -> None:
    """With two names, a contour would get the last of them; an item that is repeated does no harm."""

    def change(data: pydicom.Dataset) -> None:
        regions = data.StructureSetROISequence
        again = copy.deepcopy(regions[0])
        again.ROIName = name
        regions.append(again)

    whole = read(written, mask.geometry).array
    edit(written, change)
    if name == "left_atrium":
        assert np.array_equal(read(written, mask.geometry).array, whole)
        return
    with pytest.raises(InputError, match="two regions of different names have the number 1"):
        read(written, mask.geometry)


def test_a_contour_of_more_than_64_kib(tmp_path: Path) -> None:
    """The contour is written in implicit VR; others' explicit VR makes it UN, and it is still read."""
    grid = Geometry.build((96, 96, 2), (0.731, 0.731, 2.5), (-131.53, 112.25, 80.0))
    save_series(
        grid.volume(np.zeros(grid.shape, int)), tmp_path / "series", description="comb", seed_uid="comb"
    )
    scan = load(tmp_path / "series")
    comb = np.zeros(grid.shape, np.uint8)
    comb[1:-1, 1, :] = comb[1::2, 1:-1, :] = 1
    mask = scan.geometry.volume(comb, scan.source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_rtstruct(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    made = pydicom.dcmread(tmp_path / "a.dcm")
    assert contour(made, 0).get_item("ContourData").VR in (None, "DS")
    assert len("\\".join(map(str, contour(made, 0).ContourData))) > 1 << 16
    assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.save_as(tmp_path / "b.dcm")
    assert isinstance(contour(pydicom.dcmread(tmp_path / "b.dcm"), 0).ContourData, bytes)
    assert np.array_equal(read(tmp_path / "b.dcm", mask.geometry).array, mask.array)


def test_a_contour_that_runs_far_away_takes_no_memory(mask: Volume, written: Path) -> None:
    """Lines between two points are compared in steps of a quarter of a voxel, so length is limited."""

    def change(data: pydicom.Dataset) -> None:
        far = mask.geometry.to_mm([[-1e7, -1e7, 6], [1e7, -1e7, 6], [1e7, 1e7, 6], [-1e7, 1e7, 6]])
        item = copy.deepcopy(contour(data))
        item.ContourData, item.NumberOfContourPoints = [f"{v:.4f}" for v in far.ravel()], 4
        data.ROIContourSequence[0].ContourSequence.append(item)

    edit(written, change)
    with pytest.raises(C3S3Error, match=r"a contour of 'left_atrium' is 8e\+07 voxels of the scan long"):
        read(written, mask.geometry)


def test_contours_over_each_other_are_compared_up_to_a_limit(
    mask: Volume, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(data: pydicom.Dataset) -> None:
        contours = data.ROIContourSequence[0].ContourSequence
        contours.extend(copy.deepcopy(contour(data)) for _ in range(4))

    edit(written, change)
    monkeypatch.setattr(rtstruct_fill, "MOST_PAIRS", 3)
    with pytest.raises(InputError, match=r"has \d+ contours on slice \d+, and more than 3 pairs"):
        read(written, mask.geometry)


def covering(number: int) -> np.ndarray:
    """Return a triangle around the whole slice."""
    return np.array([[-1e4, -1e4], [2e4, -1e4], [256, 3e4]]) + number


def test_hundreds_of_contours_around_the_whole_slice_are_held_one_at_a_time() -> None:
    """Winding numbers of all voxels were held for each contour: 800 of them took 800 MB."""
    tracemalloc.start()
    try:
        filled = fill([covering(n) for n in range(41)], (256, 256), exclusive=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert filled.inside.all()
    assert peak < 12 * 256 * 256 * 4  # instead of 41


def test_contours_are_counted_before_any_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtstruct_fill, "turns", None)
    monkeypatch.setattr(rtstruct_fill, "relate", None)
    with pytest.raises(TooManyPairs, match="more than 20000 pairs"):
        fill([covering(n) for n in range(300)], (256, 256), exclusive=False)
    monkeypatch.setattr(rtstruct_outline, "MOST_POINTS", 100_000)
    monkeypatch.delattr(Outline, "points")
    with pytest.raises(TooManyPairs, match=r"are 3\.\d*e\+05 voxels long in all"):
        fill([covering(n) for n in range(3)], (256, 256), exclusive=False)


def test_what_a_contour_fills_takes_a_bit_for_each_voxel() -> None:
    """Contours within one another: up to 200 of them may cover a slice."""
    nested = [square((n + 0.5, n + 0.5, 255.5 - n, 255.5 - n)) for n in range(0, 80, 2)]
    patch = rtstruct_fill._Patch.of(rtstruct_fill.Outline(nested[0]), (256, 256), Counter())
    assert patch.bits.nbytes <= 256 * 256 / 8 + 256
    inside = fill(nested, (256, 256), exclusive=False).inside
    assert np.array_equal(inside, fill(nested, (256, 256), exclusive=True).inside)


def test_contours_of_many_points_are_compared_up_to_a_limit() -> None:
    """With two contours that run to and fro over each other, 4000 points took minutes, 40,000 hours."""
    random = np.random.default_rng(0)
    first, second = (random.random((20_000, 2)) * 60 + 10 * n for n in range(2))
    with pytest.raises(TooManyPairs, match="more points than can be compared"):
        fill([first, second], (128, 128), exclusive=False)
    small = [first[:200], second[:200]]
    assert fill(small, (128, 128), exclusive=False).inside.any()


def test_a_contour_of_many_points_that_overlaps_itself_takes_no_time() -> None:
    """Each edge used to be compared with all others to find a slit: 40,000 edges took two minutes."""
    angle = np.linspace(0, 4 * np.pi, 40_000)
    spiral = np.stack([64 + 30 * np.cos(angle) + angle, 64 + 30 * np.sin(angle)], axis=1)
    start = time.process_time()
    filled = fill([spiral], (128, 128), exclusive=False)
    assert time.process_time() - start < 20
    assert filled.notes == {"contours cross themselves: where they overlap is inside": 1}
