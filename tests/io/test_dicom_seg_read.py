"""Tests of reading DICOM SEG: own files come back to the voxel; frames of uncertain place are refused."""

import tracemalloc
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import Edit, edit, values
from helpers.dicom_seg import MAKER, SEGMENTS, drawn
from helpers.seg_read import read
from pydicom.uid import RLELossless

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing


@pytest.fixture
def mask(files: list[Path]) -> Volume:
    return drawn(load(files[0].parent))


@pytest.mark.parametrize(("frame", "refused"), [("1.2.3.4", True), ("", False)])
def test_another_frame_of_reference_is_refused(
    mask: Volume, tmp_path: Path, frame: str, refused: bool
) -> None:
    """The frames lie exactly on the voxels of the scan, but are measured from another origin."""
    assert mask.geometry.frame_uid
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", values(FrameOfReferenceUID=frame))
    if refused:
        with pytest.raises(GeometryError, match="another frame of reference than the scan"):
            read(tmp_path / "a.dcm", mask.geometry)
    else:
        assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)


@pytest.mark.parametrize("labelmap", [False, True])
def test_a_seg_comes_back_to_the_voxel(mask: Volume, tmp_path: Path, labelmap: bool) -> None:
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=labelmap)
    back = read(tmp_path / "a.dcm", mask.geometry)
    assert int((back.array != mask.array).sum()) == 0
    assert back.geometry is mask.geometry
    assert back.source.notes == ()


def test_it_says_what_it_was_drawn_on(mask: Volume, files: list[Path], tmp_path: Path) -> None:
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    drawing = look_at_drawing(tmp_path / "a.dcm")
    assert drawing is not None
    assert (drawing.kind, drawing.names) == ("dicom-seg", ("left_atrium", "wall"))
    assert drawing.series == {mask.source.series_uid}
    assert drawing.slices == {str(pydicom.dcmread(path).SOPInstanceUID) for path in files}
    assert look_at_drawing(files[0]) is None
    (tmp_path / "text").write_text("no DICOM at all")
    assert look_at_drawing(tmp_path / "text") is None


def test_other_segments_are_left_out_and_values_may_be_shared(mask: Volume, tmp_path: Path) -> None:
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    one = read(tmp_path / "a.dcm", mask.geometry, {"wall": 2})
    assert np.array_equal(one.array, 2 * (mask.array == 3))
    assert one.source.notes == ("1 other segments of the DICOM SEG were left out",)
    both = read(tmp_path / "a.dcm", mask.geometry, {"wall": 1, "left_atrium": 1})
    assert np.array_equal(both.array, mask.array > 0)
    with pytest.raises(InputError, match=r"holds none of liver; it holds left_atrium, wall.*--labels"):
        read(tmp_path / "a.dcm", mask.geometry, {"liver": 1})


def test_frames_in_another_order_and_orientation_go_to_their_places(mask: Volume, tmp_path: Path) -> None:
    """Other programs write the last slice first, rows upside down and frames of an odd number of bits."""
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)

    def turn(data: pydicom.Dataset) -> None:
        pixels = data.pixel_array[::-1, ::-1]
        frames = list(data.PerFrameFunctionalGroupsSequence)[::-1]
        (orientation,) = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
        down = np.array(orientation.ImageOrientationPatient[3:], float)
        step = down * float(data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0])
        for frame in frames:
            (place,) = frame.PlanePositionSequence
            last = np.array(place.ImagePositionPatient, float) + (data.Rows - 1) * step
            place.ImagePositionPatient = [f"{v:.6f}" for v in last]
        orientation.ImageOrientationPatient = [
            *orientation.ImageOrientationPatient[:3],
            *(f"{-v:.9f}" for v in down),
        ]
        data.PerFrameFunctionalGroupsSequence = frames
        data.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes()

    edit(tmp_path / "a.dcm", turn)
    assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)


def test_what_highdicom_and_rle_make_of_a_crop_of_the_slices(mask: Volume, tmp_path: Path) -> None:
    """The SEG covers a crop; its frames have 37 x 35 = 1295 pixels, which is no multiple of 8 bits."""
    grid = Geometry.build((37, 35, 9), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0))
    save_series(grid.volume(np.zeros(grid.shape, np.uint16)), tmp_path / "s", description="", seed_uid="b")
    small = grid.volume(mask.array[:37, :35, 2:11].copy(), load(tmp_path / "s").source)
    write_seg(small, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert np.array_equal(read(tmp_path / "a.dcm", grid).array, small.array)
    theirs = highdicom.seg.segread(tmp_path / "a.dcm").get_volume(combine_segments=True)
    assert theirs.array.any()


def test_empty(mask: Volume, tmp_path: Path) -> None:
    mask.array[:] = 0
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert not read(tmp_path / "a.dcm", mask.geometry).array.any()


def test_another_grid_is_refused(mask: Volume, tmp_path: Path) -> None:
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    grid = mask.geometry
    half = grid.affine.copy()
    half[:3, 3] += half[:3, 2] / 2
    finer = grid.affine.copy()
    finer[:3, :3] /= 2
    thinner = grid.affine.copy()
    thinner[:3, 2] /= 2
    for affine in (half, finer, thinner):
        with pytest.raises(GeometryError, match="does not lie on the voxels"):
            read(tmp_path / "a.dcm", Geometry(grid.shape, affine))
    fewer = Geometry((grid.shape[0], grid.shape[1], 9), grid.affine)
    with pytest.raises(GeometryError, match="reaches out of the scan"):
        read(tmp_path / "a.dcm", fewer)


def overlapping(data: pydicom.Dataset) -> None:
    data.PixelData = b"\xff" * len(data.PixelData)


def fractional(data: pydicom.Dataset) -> None:
    data.SegmentationType = "FRACTIONAL"


def nowhere(data: pydicom.Dataset) -> None:
    del data.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def cut(data: pydicom.Dataset) -> None:
    data.PixelData = data.PixelData[: len(data.PixelData) // 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlapping, "two segments overlap"),
        (fractional, "of type 'FRACTIONAL'; wanted BINARY or LABELMAP"),
        (nowhere, "frame 4 of this DICOM SEG does not say where it lies"),
        (cut, "is damaged"),
        (values(NumberOfFrames=3), "has 3 frames and describes"),
    ],
)
def test_refusals(mask: Volume, tmp_path: Path, change: object, message: str) -> None:
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", change)  # type: ignore[arg-type]
    with pytest.raises(C3S3Error, match=message):
        read(tmp_path / "a.dcm", mask.geometry)


def test_a_damaged_compressed_frame_is_refused(mask: Volume, tmp_path: Path) -> None:
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=True)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    assert data.file_meta.TransferSyntaxUID == RLELossless
    data.PixelData = data.PixelData[:8] + bytes(len(data.PixelData) - 16) + data.PixelData[-8:]
    data.save_as(tmp_path / "b.dcm")
    with pytest.raises(InputError, match=r"cannot be decoded|is damaged"):
        read(tmp_path / "b.dcm", mask.geometry)


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImageOrientationPatient"])
def test_a_seg_that_meets_the_voxels_at_its_corners_alone_is_refused(
    mask: Volume, tmp_path: Path, keyword: str
) -> None:
    """The frames are one voxel longer, or turn by one voxel from the first column to the last."""
    along, down = mask.geometry.direction[:, :2].T
    spacing_mm = mask.geometry.spacing_mm
    step = 38 / 37  # 38 columns extend over 39 voxels
    turned = along + down * spacing_mm[1] / spacing_mm[0] / 37
    spacing = {"PixelSpacing": [spacing_mm[1], spacing_mm[0] * step]}
    if keyword == "ImageOrientationPatient":
        length = float(np.linalg.norm(turned))
        spacing = {"PixelSpacing": [spacing_mm[1], spacing_mm[0] * length]}
        spacing[keyword] = [*(turned / length), *down]

    def other(data: pydicom.Dataset) -> None:
        shared = data.SharedFunctionalGroupsSequence[0]
        measures, plane = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
        for name, numbers in spacing.items():
            group = measures if name == "PixelSpacing" else plane
            setattr(group, name, [f"{value:.10f}" for value in numbers])
        pixels = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
        size = data.NumberOfFrames * data.Rows * data.Columns
        frames = pixels[:size].reshape(data.NumberOfFrames, data.Rows, data.Columns)
        data.Columns = 38
        data.PixelData = np.packbits(frames[:, :, :38].ravel(), bitorder="little").tobytes()

    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", other)
    message = r"frame 1 of this DICOM SEG (does not lie on the voxels|has axes.* not perpendicular)"
    with pytest.raises(GeometryError, match=message):
        read(tmp_path / "a.dcm", mask.geometry)


@pytest.mark.parametrize("labelmap", [False, True])
def test_a_segment_that_is_not_named_is_refused(mask: Volume, tmp_path: Path, labelmap: bool) -> None:
    """Such a segment used to become background silently."""

    def unnamed(data: pydicom.Dataset) -> None:
        data.SegmentSequence = [item for item in data.SegmentSequence if item.SegmentNumber != 2]

    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=labelmap)
    edit(tmp_path / "a.dcm", unnamed)
    with pytest.raises(InputError, match=r"frame \d+ of this DICOM SEG shows segment 2, which it does not"):
        read(tmp_path / "a.dcm", mask.geometry)


def test_segments_of_one_name_are_united_with_a_note(mask: Volume, tmp_path: Path) -> None:
    def alike(data: pydicom.Dataset) -> None:
        for item in data.SegmentSequence:
            item.SegmentLabel = "left_atrium"

    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", alike)
    back = read(tmp_path / "a.dcm", mask.geometry)
    assert np.array_equal(back.array, mask.array > 0)
    assert back.source.notes == ("segment 'left_atrium': 2 segments of this name were united",)


def one_number(data: pydicom.Dataset) -> None:
    data.SegmentSequence[1].SegmentNumber = 1
    for frame in data.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1


def no_segment(data: pydicom.Dataset) -> None:
    del data.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence


def undescribed(data: pydicom.Dataset) -> None:
    del data.PerFrameFunctionalGroupsSequence[-1]
    data.NumberOfFrames -= 1


def at_one_place(data: pydicom.Dataset) -> None:
    groups = data.PerFrameFunctionalGroupsSequence
    groups[3].PlanePositionSequence = groups[2].PlanePositionSequence


def lying(group: str, **attributes: object) -> Edit:
    return lambda data: values(**attributes)(getattr(data.SharedFunctionalGroupsSequence[0], group)[0])


@pytest.mark.parametrize("with_scan", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_number, "two segments of different names have the number 1"),
        (no_segment, "frame 2 of this DICOM SEG does not say which segment it shows"),
        (undescribed, "they take 2340 bytes of pixels, and it has 2520"),
        (at_one_place, "frames 3 and 4 of this DICOM SEG show segment 1 at one place, and differ"),
        (
            lying("PixelMeasuresSequence", PixelSpacing=[0.9, -0.7]),
            r"frame 1 .* PixelSpacing of \[0\.9, -0\.7\]",
        ),
        (
            lying("PixelMeasuresSequence", PixelSpacing=0.9),
            "frame 1 .* has no PixelSpacing of 2 finite numbers",
        ),
        (
            lying("PlaneOrientationSequence", ImageOrientationPatient=[2, 0, 0, 0, 1, 0]),
            r"frame 1 .* with lengths \[2, 1\]; wanted 1",
        ),
        (
            lying("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0.02, 0.9998, 0]),
            "frame 1 .* that are not perpendicular",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_the_scan_and_without(
    mask: Volume, tmp_path: Path, change: Edit, message: str, with_scan: bool
) -> None:
    """Each fault used to give a mask of wrong shape, size or name silently, in one or both of the ways."""
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", change)
    with pytest.raises(C3S3Error, match=message):
        load_mask(tmp_path / "a.dcm", grid=mask.geometry if with_scan else None)


@pytest.mark.parametrize(
    ("bits", "samples", "written", "message"),
    [
        (32, 1, "u4", "have 1 x 32 bits"),
        (8, 3, "u1", "have 3 x 8 bits"),
        (16, 1, "u4", "take 23040 bytes"),
    ],
)
def test_pixels_of_another_layout_are_refused(
    mask: Volume, tmp_path: Path, bits: int, samples: int, written: str, message: str
) -> None:
    """Such pixels used to be read as if they were contiguous, which gave voxels of other places."""

    def change(data: pydicom.Dataset) -> None:
        data.decompress()
        pixels = np.repeat(data.pixel_array[..., None], samples, axis=-1)
        data.PixelData = pixels.astype(written).tobytes()
        data.BitsAllocated = data.BitsStored = bits
        data.HighBit, data.SamplesPerPixel = bits - 1, samples

    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=True)
    edit(tmp_path / "a.dcm", change)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.dcm", mask.geometry)


def test_a_frame_far_larger_than_the_scan_takes_no_memory(mask: Volume, tmp_path: Path) -> None:
    """The place of each pixel was computed before any was found to be outside: 550 MB for 3000 x 3000."""
    side = 2000

    def change(data: pydicom.Dataset) -> None:
        data.Rows = data.Columns = side
        data.PixelData = b"\xff" * (int(data.NumberOfFrames) * side * side // 8)

    array = mask.array * (np.arange(mask.array.shape[2]) == 8)
    write_seg(mask.geometry.volume(array, mask.source), tmp_path / "a.dcm", SEGMENTS[:1], MAKER)
    edit(tmp_path / "a.dcm", change)
    tracemalloc.start()
    try:
        with pytest.raises(GeometryError, match="frame 1 of this DICOM SEG reaches out of the scan"):
            read(tmp_path / "a.dcm", mask.geometry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * side * side  # the pixels, and whether each is inside; their places take 40 more


def test_the_pixels_of_a_larger_frame_that_are_in_the_scan_are_read(mask: Volume, tmp_path: Path) -> None:
    """Programs pad frames: only the pixels that are inside must lie in the scan."""

    def change(data: pydicom.Dataset) -> None:
        data.PixelData = np.packbits(
            np.pad(data.pixel_array, ((0, 0), (0, 4), (0, 5))), bitorder="little"
        ).tobytes()
        data.Rows, data.Columns = data.Rows + 4, data.Columns + 5

    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", change)
    assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)


def test_a_frame_that_is_there_twice_is_taken_once(mask: Volume, tmp_path: Path) -> None:
    def twice(data: pydicom.Dataset) -> None:
        pixels = data.pixel_array
        data.PixelData = np.packbits([*pixels, pixels[2]], bitorder="little").tobytes()
        groups = data.PerFrameFunctionalGroupsSequence
        groups.append(groups[2])
        data.NumberOfFrames += 1

    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", twice)
    assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)


def test_thick_frames_on_a_thin_scan_are_refused_without_a_stated_distance(tmp_path: Path) -> None:
    """Touching frames of 5 mm used to become every fifth slice of 1 mm: a fifth of the volume."""
    grid = Geometry.build((20, 18, 30), (0.7, 0.9, 1.0), (0, 0, 0))
    save_series(grid.volume(np.zeros(grid.shape, np.uint16)), tmp_path / "s", description="", seed_uid="c")
    scan = load(tmp_path / "s")
    array = np.zeros(grid.shape, np.uint8)
    array[5:10, 5:10, 5:26:5] = 1
    write_seg(scan.geometry.volume(array, scan.source), tmp_path / "a.dcm", SEGMENTS, MAKER)
    edit(tmp_path / "a.dcm", unstated)
    assert np.array_equal(read(tmp_path / "a.dcm", grid).array, array)  # the stated thickness is 1 mm
    edit(tmp_path / "a.dcm", lying("PixelMeasuresSequence", SliceThickness=5))
    with pytest.raises(GeometryError, match="frame 1 of this DICOM SEG does not lie on the voxels"):
        read(tmp_path / "a.dcm", grid)


def unstated(data: pydicom.Dataset) -> None:
    del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
