"""Tests of slices that are known by their modality and place, and of other objects among slices."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    generate_uid,
)

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.inspect import inspect
from c3s3_seg.io.dicom.write_series import save_series

PRIVATE = "1.2.3.4.5"


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    """Write the oblique phantom as a CT series of 12 files and return their paths."""
    made = save_series(oblique, tmp_path / "series", description="phantom", seed_uid="a")
    for path in made:
        edit(path, values(SOPClassUID=CTImageStorage, Modality="CT"))
    return made


def classed(path: Path, uid: str | None, meta: str | None = None) -> None:
    """Give a file another SOP class, or none at all, in its header and in its meta information."""
    data = pydicom.dcmread(path)
    if uid is None:
        del data.SOPClassUID
    else:
        data.SOPClassUID = uid
    data.file_meta.MediaStorageSOPClassUID = meta or ""
    pydicom.dcmwrite(path, data, enforce_file_format=False)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("uid", [None, "", SecondaryCaptureImageStorage, PRIVATE])
def test_slices_of_another_class_are_read_by_modality_and_place(
    oblique: Volume, files: list[Path], uid: str | None, modality: str
) -> None:
    for path in files:
        edit(path, values(Modality=modality))
        classed(path, uid, PRIVATE if uid else None)
    for given in (files[0].parent, files[3]):
        back = load(given)
        assert np.array_equal(back.array, oblique.array)
        assert back.geometry.matches(oblique.geometry, 1e-4)
        (note,) = back.source.notes
        assert note.startswith("12 of 12 slices were read by modality and place; their class: ")
        assert ("no SOP class" in note) == (not uid)


def test_a_blank_class_that_the_meta_information_has(oblique: Volume, files: list[Path]) -> None:
    for path in files:
        classed(path, "", CTImageStorage)
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == (
        "SOPClassUID is blank in 12 of 12 slices, and was taken from the meta information",
    )


def test_a_blank_class_in_one_slice_alone(oblique: Volume, files: list[Path]) -> None:
    classed(files[11], None)
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("1 of 12 slices were read by modality and place; their class: no SOP class",)


@pytest.mark.parametrize(
    ("attributes", "missing"),
    [
        ({"Modality": "OT"}, None),
        ({"Modality": ""}, None),
        ({}, "ImageOrientationPatient"),
        ({}, "PixelSpacing"),
    ],
)
def test_what_is_no_slice_names_its_class_its_file_and_the_option(
    oblique: Volume, files: list[Path], attributes: dict[str, object], missing: str | None
) -> None:
    def change(data: pydicom.Dataset) -> None:
        data.SOPClassUID = SecondaryCaptureImageStorage
        values(**attributes)(data)
        if missing:
            del data[missing]

    for path in files:
        edit(path, change)
    with pytest.raises(InputError, match="0 series that are volumes") as error:
        load(files[0].parent)
    for word in ("IM_0001.dcm", "Secondary Capture Image Storage", "series="):
        assert word in str(error.value)
    (row,) = inspect(files[0].parent)
    assert "Secondary Capture Image Storage" in row.remarks[0]
    if missing:
        with pytest.raises(InputError, match=f"no valid {missing}"):
            load(files[0].parent, series=1)
    else:
        assert np.array_equal(load(files[0].parent, series=1).array, oblique.array)


def other(data: pydicom.Dataset, uid: str, **attributes: object) -> None:
    data.SOPClassUID, data.SOPInstanceUID = uid, generate_uid()
    values(**attributes)(data)


@pytest.mark.parametrize(
    ("uid", "attributes"),
    [
        (RTDoseStorage, {"Modality": "RTDOSE"}),
        (SegmentationStorage, {"Modality": "SEG", "NumberOfFrames": 3}),
        (UltrasoundImageStorage, {"Modality": "US", "Rows": 8, "PixelData": bytes(320)}),
        (SecondaryCaptureImageStorage, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
        (SecondaryCaptureImageStorage, {"Rows": 8, "PixelData": bytes(320)}),  # of another size
        (SecondaryCaptureImageStorage, {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
        (SecondaryCaptureImageStorage, {}),  # at the place of a slice
        (PRIVATE, {"Modality": "OT"}),
    ],
)
def test_one_object_of_another_kind_is_left_out(
    oblique: Volume, files: list[Path], uid: str, attributes: dict[str, object]
) -> None:
    extra = files[0].with_name("extra.dcm")
    shutil.copy(files[4], extra)
    edit(extra, lambda data: other(data, uid, **attributes))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    (note,) = back.source.notes
    assert note.startswith("left out, 1 of another kind: ")
    assert inspect(files[0].parent)[0].readable


def test_a_slice_that_is_left_out_leaves_a_gap_that_is_refused(files: list[Path]) -> None:
    """A slice of the stack is never lost silently: if it is taken for another kind, it leaves a gap."""
    edit(files[5], values(SOPClassUID=SecondaryCaptureImageStorage, Modality="OT"))
    with pytest.raises(InputError, match=r"slices are missing \(1\)"):
        load(files[0].parent)


def test_a_volume_of_two_slices_beside_an_object(oblique: Volume, files: list[Path]) -> None:
    for path in files[2:]:
        path.unlink()
    edit(files[1], values(SOPClassUID=RTDoseStorage, Modality="RTDOSE"))
    with pytest.raises(InputError, match=r"(?s)0 series.*'IM_0002.dcm' is no CT, MR or PET slice.*RT Dose"):
        load(files[0].parent)


def test_an_enhanced_file_with_a_blank_class_in_its_header(oblique: Volume, files: list[Path]) -> None:
    """The class is in the meta information, so the file is still inspected for frames."""
    for path in files[1:]:
        path.unlink()
    edit(files[0], values(NumberOfFrames=12))
    classed(files[0], "", EnhancedMRImageStorage)
    with pytest.raises(InputError, match="it has 12 frames and describes 0"):
        load(files[0].parent)


def test_a_whole_file_without_class_and_size_is_not_called_damaged(files: list[Path]) -> None:
    def change(data: pydicom.Dataset) -> None:
        del data.Rows, data.Columns

    edit(files[3], change)
    classed(files[3], None)
    with pytest.raises(
        InputError, match=r"IM_0004\.dcm' cannot be used: its header has no SOPClassUID"
    ) as error:
        load(files[0].parent)
    assert "damaged" not in str(error.value)
    whole = files[3].read_bytes()
    files[3].write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")])
    with pytest.raises(InputError, match=r"IM_0004\.dcm' is damaged: its header ends too early"):
        load(files[0].parent)
