"""DICOM SEG in: what we wrote comes back to the voxel, and what cannot be placed for certain is refused."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values
from helpers.dicom_seg import MAKER, SEGMENTS, drawn
from helpers.seg_read import read
from pydicom.uid import RLELossless

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing


@pytest.fixture
def mask(files: list[Path]) -> Volume:
    return drawn(load(files[0].parent))


@pytest.mark.parametrize(("frame", "refused"), [("1.2.3.4", True), ("", False)])
def test_another_frame_of_reference_is_refused(
    mask: Volume, tmp_path: Path, frame: str, refused: bool
) -> None:
    """Frames on the very voxels of the scan, measured from another origin."""
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
    """As other programs write them: last slice first, rows upside down, an odd number of bits a frame."""
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
    """A SEG of some of the slices alone, whose frames have 37 x 35 = 1295 pixels, no multiple of 8 bits."""
    from c3s3_seg.io.dicom.write_series import save_series

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
    """Its frames are one voxel longer, or turned by one voxel from the first column to the last."""
    along, down = mask.geometry.direction[:, :2].T
    spacing_mm = mask.geometry.spacing_mm
    step = 38 / 37  # of 38 columns over 39 voxels
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
    with pytest.raises(GeometryError, match="frame 1 of this DICOM SEG does not lie on the voxels"):
        read(tmp_path / "a.dcm", mask.geometry)


@pytest.mark.parametrize("labelmap", [False, True])
def test_a_segment_that_is_not_named_is_refused(mask: Volume, tmp_path: Path, labelmap: bool) -> None:
    """It was background, without a word."""

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
