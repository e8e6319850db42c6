"""Tests that `load_mask` reads DICOM SEG and RTSTRUCT as `evaluate` passes them and names unusable files."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit
from helpers.dicom_seg import MAKER, SEGMENTS, drawn
from pydicom.uid import DeflatedExplicitVRLittleEndian

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import deflated, load, load_mask, save
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_grid import frames_grid, seg_grid
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.io.pacs.outbox import collect


@pytest.fixture
def mask(files: list[Path]) -> Volume:
    return drawn(load(files[0].parent))


def written(mask: Volume, path: Path, kind: str) -> Path:
    if kind == "rtstruct":
        write_rtstruct(mask, path, SEGMENTS, MAKER)
    else:
        write_seg(mask, path, SEGMENTS, MAKER, labelmap=kind == "labelmap")
    return path


@pytest.mark.parametrize("kind", ["seg", "labelmap", "rtstruct"])
@pytest.mark.parametrize("name", ["a.dcm", "no_suffix"])
def test_a_drawing_is_a_mask_on_the_grid_of_another(
    mask: Volume, tmp_path: Path, kind: str, name: str
) -> None:
    save(mask, tmp_path / "a.nii.gz")
    path, grid = written(mask, tmp_path / name, kind), load_mask(tmp_path / "a.nii.gz").geometry
    back = load_mask(path, grid=grid, values={"left_atrium": 1, "wall": 3})
    assert back.geometry is grid
    assert back.array.dtype == np.uint8
    assert np.array_equal(back.array, mask.array)
    assert (back.source.path, back.source.notes) == (path, ())


@pytest.mark.parametrize("undefined", [True, False])
def test_a_deflated_drawing_with_a_long_header_is_read(
    mask: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undefined: bool
) -> None:
    """The header was cut after 4 MB, in the middle of 10,000 frames, and the file was taken for no mask."""
    plain = written(mask, tmp_path / "plain.dcm", "seg")
    data = pydicom.dcmread(plain)
    data["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(tmp_path / "packed.dcm", enforce_file_format=True)
    content = plain.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    frames = content.index(b"\x00\x52\x30\x92") - start
    monkeypatch.setattr(deflated, "HEADER_BYTES", frames + 200)
    wanted, found = look_at_drawing(plain), look_at_drawing(tmp_path / "packed.dcm")
    assert wanted is not None
    assert found == replace(wanted, path=tmp_path / "packed.dcm")
    assert len(collect([tmp_path / "packed.dcm"]).files) == 1
    assert identity((tmp_path / "packed.dcm").read_bytes()) == identity(plain.read_bytes())


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_without_values_the_numbers_are_the_values_and_are_noted(
    mask: Volume, tmp_path: Path, kind: str
) -> None:
    back = load_mask(written(mask, tmp_path / "a.dcm", kind), grid=mask.geometry)
    assert np.array_equal(back.array, np.select([mask.array == 1, mask.array == 3], [1, 2]))
    assert back.source.notes[-1].endswith(": left_atrium = 1, wall = 2")


def test_numbers_that_are_no_values_give_way_to_the_order(mask: Volume, tmp_path: Path) -> None:
    path = written(mask, tmp_path / "a.dcm", "rtstruct")

    def from_nought(data) -> None:  # type: ignore[no-untyped-def]
        for n, (region, contours) in enumerate(
            zip(data.StructureSetROISequence, data.ROIContourSequence, strict=True)
        ):
            region.ROINumber = contours.ReferencedROINumber = n

    edit(path, from_nought)
    assert load_mask(path, grid=mask.geometry).source.notes[-1].endswith(": left_atrium = 1, wall = 2")


@pytest.mark.parametrize("kind", ["seg", "labelmap"])
def test_a_seg_has_a_grid_of_its_own(mask: Volume, tmp_path: Path, kind: str) -> None:
    """The grid extends from the first frame to the last, gaps included; every voxel is at its place."""
    mask.array[:, :, 6] = 0  # a slice without a frame, between others
    path = written(mask, tmp_path / "a.dcm", kind)
    back = load_mask(path, values={"left_atrium": 1, "wall": 3})
    assert back.geometry.frame_uid == mask.geometry.frame_uid
    index = np.argwhere(back.array)
    there = mask.geometry.to_index(back.geometry.to_mm(index))
    assert np.abs(there - np.rint(there)).max() < 0.01
    assert len(index) == np.count_nonzero(mask.array)
    assert np.array_equal(mask.array[tuple(np.rint(there).astype(int).T)], back.array[tuple(index.T)])


def stating(apart: str | None):  # type: ignore[no-untyped-def]
    def change(data) -> None:  # type: ignore[no-untyped-def]
        measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.pop("SpacingBetweenSlices", None)
        if apart is not None:
            measures.SpacingBetweenSlices = apart

    return change


@pytest.mark.parametrize("stated", ["2.5", "-2.5", None])
def test_slices_between_those_with_a_frame_are_known_by_the_stated_distance(
    mask: Volume, tmp_path: Path, stated: str | None
) -> None:
    mask.array[:] = 0
    mask.array[10:20, 10:20, [3, 5, 7]] = 1
    path = written(mask, tmp_path / "a.dcm", "seg")
    edit(path, stating(stated))
    back = load_mask(path)
    assert back.geometry.spacing_mm[2] == pytest.approx(2.5 if stated else 5.0)
    assert np.flatnonzero(back.array.any(axis=(0, 1))).tolist() == ([0, 2, 4] if stated else [0, 1, 2])
    assert frames_grid([path]).matches(back.geometry)


@pytest.mark.parametrize("stated", ["-2.5", "0.7", "1.5"])
def test_a_wrong_distance_of_slices_gives_way_to_their_places(
    mask: Volume, tmp_path: Path, stated: str
) -> None:
    path = written(mask, tmp_path / "a.dcm", "seg")
    edit(path, stating(stated))
    back = load_mask(path, grid=mask.geometry, values={"left_atrium": 1, "wall": 3})
    assert np.array_equal(back.array, mask.array)
    assert seg_grid(path).spacing_mm[2] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("stated", "thick", "step"), [("0.25", "2.25", 2.5), ("0.5", "2.5", 2.5), ("0.5", "0.5", 0.5)]
)
def test_a_gap_between_slices_is_not_their_distance(
    mask: Volume, tmp_path: Path, stated: str, thick: str, step: float
) -> None:
    """Each slice used to become ten slices of 0.25 mm: a tenth of the volume, with surfaces between all."""

    def change(data: pydicom.Dataset) -> None:
        stating(stated)(data)
        data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = thick

    path = written(mask, tmp_path / "a.dcm", "seg")
    edit(path, change)
    for grid in (seg_grid(path), frames_grid([path])):
        assert grid.spacing_mm[2] == pytest.approx(step)
    if step == 2.5:  # the distance of the mask's slices
        back = load_mask(path)
        assert np.count_nonzero(back.array) * back.geometry.voxel_ml == pytest.approx(
            np.count_nonzero(mask.array) * mask.geometry.voxel_ml
        )


def test_rounded_places_are_no_other_slices(mask: Volume, tmp_path: Path) -> None:
    """Steps of 2/3 mm are written with two digits: 133.33 mm are 200 steps, not 199 or 202."""
    path = written(mask, tmp_path / "a.dcm", "seg")

    def far(data) -> None:  # type: ignore[no-untyped-def]
        stating(None)(data)
        groups = data.PerFrameFunctionalGroupsSequence
        for n, frame in enumerate(groups):
            step = n if n < len(groups) - 1 else 200
            frame.PlanePositionSequence[0].ImagePositionPatient = ["0", "0", f"{step * 2 / 3:.2f}"]
        plane = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]

    edit(path, far)
    assert frames_grid([path]).shape[2] == 201


def test_frames_far_apart_take_no_memory(mask: Volume, tmp_path: Path) -> None:
    path = written(mask, tmp_path / "a.dcm", "seg")

    def apart(data) -> None:  # type: ignore[no-untyped-def]
        stating(None)(data)
        for n, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            place = mask.geometry.to_mm([0, 0, n * 0.016 if n < 2 else 4000 * n])
            frame.PlanePositionSequence[0].ImagePositionPatient = [f"{v:.3f}" for v in place]

    edit(path, apart)
    with pytest.raises(C3S3Error, match=r"a\.dcm: the masks reach over"):
        load_mask(path)


def test_one_frame_takes_its_thickness(mask: Volume, tmp_path: Path) -> None:
    mask.array[:, :, :5], mask.array[:, :, 6:] = 0, 0
    path = written(mask, tmp_path / "a.dcm", "seg")
    assert load_mask(path).geometry.shape == (*mask.array.shape[:2], 1)
    assert np.isclose(load_mask(path).geometry.spacing_mm[2], mask.geometry.spacing_mm[2])

    def unsaid(data) -> None:  # type: ignore[no-untyped-def]
        stating(None)(data)
        del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness

    edit(path, unsaid)
    for grid_of in (seg_grid, lambda path: frames_grid([path])):
        with pytest.raises(C3S3Error, match=r"a\.dcm: the one frame .* does not say how thick it is"):
            grid_of(path)


def test_refusals_name_the_file(mask: Volume, files: list[Path], tmp_path: Path) -> None:
    seg, drawing = (written(mask, tmp_path / f"{kind}.dcm", kind) for kind in ("seg", "rtstruct"))
    with pytest.raises(C3S3Error, match=r"IM_0001\.dcm: this DICOM file is no mask"):
        load_mask(files[0])
    with pytest.raises(C3S3Error, match=r"rtstruct\.dcm: .*the grid of its scan is needed"):
        load_mask(drawing)
    with pytest.raises(C3S3Error, match=r"seg\.dcm: this DICOM SEG holds none of liver"):
        load_mask(seg, grid=mask.geometry, values={"liver": 1})
    seg.write_bytes(seg.read_bytes()[:-2000])
    with pytest.raises(C3S3Error, match=r"seg\.dcm: this DICOM SEG is damaged"):
        load_mask(seg, grid=mask.geometry)
    (tmp_path / "text.dcm").write_text("no DICOM at all")
    with pytest.raises(C3S3Error, match=r"text\.dcm: this DICOM file is no mask"):
        load_mask(tmp_path / "text.dcm")


def test_frames_that_are_no_stack_need_the_scan(mask: Volume, tmp_path: Path) -> None:
    path = written(mask, tmp_path / "a.dcm", "seg")

    def shift(data) -> None:  # type: ignore[no-untyped-def]
        place = data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
        place.ImagePositionPatient = [float(v) + 0.7 for v in place.ImagePositionPatient]

    edit(path, shift)
    with pytest.raises(C3S3Error, match=r"a\.dcm: the frames of this DICOM SEG are no stack"):
        load_mask(path)


@pytest.mark.parametrize(
    ("kind", "keyword"),
    [("seg", "PerFrameFunctionalGroupsSequence"), ("seg", "Rows"), ("rtstruct", "StructureSetROISequence")],
)
def test_an_attribute_that_is_missing_is_named(mask: Volume, tmp_path: Path, kind: str, keyword: str) -> None:
    path = written(mask, tmp_path / "a.dcm", kind)
    edit(path, lambda data: delattr(data, keyword))
    with pytest.raises(C3S3Error, match=rf"a\.dcm: this (DICOM SEG|RTSTRUCT) (has no {keyword}|holds none)"):
        load_mask(path, grid=mask.geometry, values={"left_atrium": 1})


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
@pytest.mark.parametrize("value", [-1, 0, 65536])
def test_a_value_that_no_mask_has_is_called_so(mask: Volume, tmp_path: Path, kind: str, value: int) -> None:
    path = written(mask, tmp_path / "a.dcm", kind)
    message = f"found the value {value} for the label 'wall'; wanted 1 to 65535"
    with pytest.raises(InputError, match=message):
        load_mask(path, grid=mask.geometry, values={"left_atrium": 1, "wall": value})
    assert load_mask(path, grid=mask.geometry, values={"wall": 65535}).array.max() == 65535


@pytest.mark.parametrize("spacing", [["0", "0"], ["1e300", "1"]])
def test_frames_of_no_plausible_size_are_refused_with_the_file(
    mask: Volume, tmp_path: Path, spacing: list[str]
) -> None:
    path = written(mask, tmp_path / "a.dcm", "seg")

    def change(data: pydicom.Dataset) -> None:
        data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = spacing

    edit(path, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(GeometryError, match=r"a\.dcm: frame 1 of this DICOM SEG has a PixelSpacing of"):
            load_mask(path)
