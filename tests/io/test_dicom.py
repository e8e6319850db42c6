"""Tests of DICOM series, read and written: places in mm against other readers; every fault is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import Edit, edit, values
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.hashes import scan_files


def add(data: np.ndarray | float) -> Edit:
    """Return an edit that adds `data` to the stored pixels."""

    def change(item: pydicom.Dataset) -> None:
        item.PixelData = (item.pixel_array + data).astype("<u2").tobytes()

    return change


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    """Write the oblique phantom as a series of 12 files, 2.5 mm apart, and return their paths."""
    return save_series(oblique, tmp_path / "series", description="phantom", seed_uid="a")


def highdicom_affine(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return the array (i, j, k) and the affine that highdicom reads, its axes in this package's order."""
    highdicom = pytest.importorskip("highdicom")
    seen = highdicom.get_volume_from_series([pydicom.dcmread(p) for p in paths])
    # highdicom's axes are slice, row, column.
    affine = seen.affine[:, [2, 1, 0, 3]]
    return seen.array.transpose(2, 1, 0), affine


def check_same_places(found: Volume, wanted: Volume) -> None:
    """Check that each voxel of `wanted` has its value at its position in `found`, in any slice order."""
    index = np.indices(wanted.geometry.shape).reshape(3, -1).T
    there = found.geometry.to_index(wanted.geometry.to_mm(index))
    assert np.abs(there - np.round(there)).max() < 1e-3
    i, j, k = np.round(there).astype(int).T
    assert np.array_equal(found.array[i, j, k], wanted.array.reshape(-1))


def test_write_and_read_keep_voxels_and_places(oblique: Volume, files: list[Path]) -> None:
    back = load(files[0].parent)
    assert back.array.dtype == np.float32
    assert np.array_equal(back.array, oblique.array)
    assert back.geometry.matches(oblique.geometry, 1e-4)
    assert back.geometry.frame_uid
    assert (back.source.modality, back.source.notes) == ("MR", ())
    assert back.source.series_uid == pydicom.dcmread(files[0]).SeriesInstanceUID


def test_a_left_handed_grid_keeps_its_places(oblique: Volume, tmp_path: Path) -> None:
    for axis in range(3):
        affine = oblique.geometry.affine.copy()
        affine[:, axis] *= -1
        volume = Geometry(oblique.geometry.shape, affine).volume(oblique.array)
        paths = save_series(volume, tmp_path / str(axis), description="left", seed_uid="left")
        back = load(paths[0].parent)
        check_same_places(back, volume)
        assert np.linalg.det(back.geometry.direction) > 0
    with pytest.raises((AssertionError, IndexError)):
        check_same_places(back, oblique)


def test_highdicom_sees_the_series_where_we_do(oblique: Volume, files: list[Path]) -> None:
    array, affine = highdicom_affine(files)
    seen = Geometry(array.shape, affine).volume(array)
    assert seen.array.shape == oblique.array.shape
    check_same_places(seen, oblique)


def test_simpleitk_sees_each_slice_where_we_do(oblique: Volume, files: list[Path]) -> None:
    import SimpleITK

    for k, path in enumerate(files):
        image = SimpleITK.ReadImage(str(path))
        place = image.TransformContinuousIndexToPhysicalPoint([3.0, 7.0, 0.0])
        assert np.allclose(place, oblique.geometry.to_mm((3, 7, k)), atol=1e-3)
        assert image.GetPixel(3, 7, 0) == oblique.array[3, 7, k]


def test_the_written_series_is_anonymous_and_deterministic(
    oblique: Volume, files: list[Path], tmp_path: Path
) -> None:
    again = save_series(oblique, tmp_path / "again", description="phantom", seed_uid="a")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in files]
    other = save_series(oblique, tmp_path / "other", description="phantom", seed_uid="b")
    first, second = pydicom.dcmread(files[0]), pydicom.dcmread(other[0])
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID != pydicom.dcmread(files[1]).SOPInstanceUID
    assert (str(first.PatientName), first.PatientBirthDate, first.StudyDate) == ("PHANTOM^SIMULATED", "", "")
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        assert all(len(v.original_string) <= 16 for v in first[keyword].value)


def test_what_a_series_cannot_hold_is_refused(oblique: Volume, files: list[Path], tmp_path: Path) -> None:
    grid = oblique.geometry
    for array in (oblique.array + 0.5, oblique.array - 1, oblique.array.astype(np.int32) + 60000):
        with pytest.raises(InputError, match="0 to 65535"):
            save_series(grid.volume(array), tmp_path / "no", description="", seed_uid="a")
    with pytest.raises(InputError, match="not empty"):
        save_series(oblique, files[0].parent, description="", seed_uid="a")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the folder cannot be made"):
        save_series(oblique, tmp_path / "file" / "x", description="", seed_uid="a")
    tilted = grid.affine.copy()
    tilted[:3, 2] += [0.1, 0, 0]
    with pytest.raises(GeometryError, match="perpendicular"):
        save_series(
            Geometry(grid.shape, tilted).volume(oblique.array), tmp_path / "no", description="", seed_uid="a"
        )
    assert not (tmp_path / "no").exists()


def test_neither_file_names_nor_instance_numbers_give_the_order(oblique: Volume, files: list[Path]) -> None:
    for n, path in enumerate(files):
        edit(path, values(InstanceNumber=str((n * 5) % 12)))
        path.rename(path.with_name(f"{(n * 7) % 12:02d} ümläut"))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)


def test_subfolders_and_junk(oblique: Volume, files: list[Path]) -> None:
    folder = files[0].parent
    (folder / "deep").mkdir()
    for path in files[6:]:
        path.rename(folder / "deep" / path.name)
    (folder / "notes.txt").write_text("x" * 500)
    (folder / "empty.txt").write_text("")
    (folder / ".hidden.dcm").write_text("")
    back = load(folder)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("ignored, not DICOM images: empty.txt, notes.txt",)


def test_one_file_stands_for_its_series(oblique: Volume, files: list[Path]) -> None:
    plain = files[3].rename(files[3].with_name("no_suffix"))
    assert np.array_equal(load(plain).array, oblique.array)
    with pytest.raises(InputError, match="one series"):
        load(plain, series=1)
    files[4].write_bytes(b"")
    with pytest.raises(InputError, match=files[4].name):
        load(plain)
    with pytest.raises(InputError, match=f"{files[4].name}.*damaged"):
        load(files[4])


def test_a_hidden_file_stands_for_its_series(oblique: Volume, files: list[Path]) -> None:
    """It was left out of its own series, which ended a run over many scans."""
    hidden = files[3].rename(files[3].with_name(".hidden.dcm"))
    assert np.array_equal(load(hidden).array, oblique.array)
    assert hidden in scan_files(hidden)


def test_one_file_beside_a_lost_slice_is_refused(files: list[Path]) -> None:
    """A last slice behind a lost link was passed over if a file and not the folder was given."""
    files[-1].unlink()
    for target in ("nowhere", "x" * 300):
        files[-1].symlink_to(target)
        with pytest.raises(InputError, match=r"IM_0012\.dcm' is damaged: it cannot be read"):
            load(files[0])
        files[-1].unlink()


def test_slope_and_intercept_of_each_slice(oblique: Volume, files: list[Path]) -> None:
    for n, path in enumerate(files):
        edit(path, values(RescaleSlope=str(1 + n / 4), RescaleIntercept=str(-1000 - n)))
    slope, intercept = 1 + np.arange(12) / 4, -1000 - np.arange(12)
    assert np.array_equal(load(files[0].parent).array, (oblique.array * slope + intercept).astype(np.float32))
    edit(files[5], values(RescaleSlope="0"))
    with pytest.raises(InputError, match=f"{files[5].name}' cannot be decoded: it has RescaleSlope 0"):
        load(files[0].parent)


def test_monochrome1_is_not_inverted(oblique: Volume, files: list[Path]) -> None:
    for path in files:
        edit(path, values(PhotometricInterpretation="MONOCHROME1"))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert "MONOCHROME1" in back.source.notes[0]


def test_overlays_in_high_bits_are_dropped_and_signs_kept(oblique: Volume, files: list[Path]) -> None:
    low = oblique.array % 2048
    for n, path in enumerate(files):
        stored = (low[:, :, n].T | 0x4000).astype("<u2")
        edit(path, values(PixelData=stored.tobytes(), BitsStored=12, HighBit=11))
    assert np.array_equal(load(files[0].parent).array, low)
    for n, path in enumerate(files):
        stored = ((low[:, :, n].T - 1000) & 0x0FFF).astype("<u2")
        edit(path, values(PixelData=stored.tobytes(), PixelRepresentation=1))
    assert np.array_equal(load(files[0].parent).array, np.where(low - 1000 > 2047, low - 5096, low - 1000))


def test_several_series_are_listed_and_can_be_chosen(oblique: Volume, files: list[Path]) -> None:
    folder = files[0].parent
    small = Geometry.build((5, 6, 3)).volume(np.arange(90, dtype=np.int16).reshape(5, 6, 3))
    second = save_series(small, folder / "b", description="Doe^Jane", seed_uid="b")
    for path in second:
        edit(path, values(SeriesNumber="2"))
    uid = pydicom.dcmread(second[0]).SeriesInstanceUID
    with pytest.raises(
        InputError, match=r"2 series .* 1: MR, 12 slices, 20 x 16; 2: MR, 3 slices, 5 x 6"
    ) as error:
        load(folder)
    assert "PHANTOM" not in str(error.value)
    assert "Doe" not in str(error.value)
    for choice in (2, "2", uid):
        back = load(folder, series=choice)
        assert np.array_equal(back.array, small.array)
        assert back.source.series_uid == uid
    assert np.array_equal(load(folder, series=1).array, oblique.array)
    for choice in (0, 3, -1, "1.2.3"):
        with pytest.raises(InputError, match=r"(?s)no series .*12 slices"):
            load(folder, series=choice)
    with pytest.raises(InputError, match="wanted the number of a series"):
        load(folder, series="")


def test_a_secondary_capture_is_no_volume(oblique: Volume, files: list[Path]) -> None:
    capture = files[0].with_name("capture.dcm")
    shutil.copy(files[0], capture)
    edit(
        capture,
        values(SOPClassUID=SecondaryCaptureImageStorage, SeriesInstanceUID=generate_uid(), SeriesNumber="9"),
    )
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("series 1 of 2 was taken: MR, 12 slices, 20 x 16",)
    for path in files:
        path.unlink()
    with pytest.raises(InputError, match="0 series that are volumes"):
        load(capture.parent)


def test_slices_that_are_each_a_series_are_called_so(files: list[Path]) -> None:
    for path in files:
        edit(path, values(SeriesInstanceUID=generate_uid(), StudyInstanceUID=generate_uid()))
    with pytest.raises(InputError, match=r"no volume, but 12 slices of one size.*one SeriesInstanceUID"):
        load(files[0].parent)
    for path in files[4:]:  # a few single images may be views that were planned one by one
        path.unlink()
    with pytest.raises(InputError, match=r"found 0 series that are volumes.* 4: MR, 1 slice"):
        load(files[0].parent)


def test_a_table_of_many_series_ends(files: list[Path]) -> None:
    item = pydicom.dcmread(files[0])
    for path in files:
        path.unlink()
    for n in range(40):
        item.SeriesInstanceUID = generate_uid()
        item.save_as(files[0].with_name(f"{n}.dcm"))
    with pytest.raises(InputError, match=r"30: MR, 1 slice[^:]*; and 10 more\."):
        load(files[0].parent)


def test_a_lookup_table_is_refused_and_an_empty_sequence_is_none(files: list[Path]) -> None:
    wanted = load(files[0].parent).array
    for path in files:
        edit(path, values(ModalityLUTSequence=[]))
    assert np.array_equal(load(files[0].parent).array, wanted)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "US"
    for path in files:
        edit(path, values(ModalityLUTSequence=[table]))
    with pytest.raises(InputError, match=r"lookup table in place of a slope.*RescaleSlope"):
        load(files[0].parent)


def test_a_localizer_among_the_slices_is_left_out(oblique: Volume, files: list[Path]) -> None:
    scout = files[0].with_name("scout.dcm")
    shutil.copy(files[0], scout)
    edit(
        scout,
        values(
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            Rows=8,
        ),
    )
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("left out as localizers: scout.dcm",)


def test_a_capture_in_the_same_series_is_left_out(oblique: Volume, files: list[Path]) -> None:
    shot = files[0].with_name("shot.dcm")
    shutil.copy(files[0], shot)

    def screen(data: pydicom.Dataset) -> None:
        data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        data.Rows, data.Columns, data.PixelData = 4, 4, bytes(32)
        del data.ImagePositionPatient, data.ImageOrientationPatient

    edit(shot, screen)
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("left out as secondary captures: shot.dcm",)
    # A slice whose class was changed lies among the others, so it is one of them.
    edit(files[5], values(SOPClassUID=SecondaryCaptureImageStorage))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == (
        "left out as secondary captures: shot.dcm",
        "1 of 12 slices were read by modality and place; their class: Secondary Capture Image Storage",
    )


def test_slices_that_were_compressed_with_loss_are_noted(files: list[Path]) -> None:
    for path in files:
        edit(path, values(LossyImageCompression="01"))
    assert load(files[0].parent).source.notes == (
        "the slices were compressed with loss before they came here",
    )


def test_a_pipe_among_the_files_is_passed_over_and_a_lost_link_is_not(
    oblique: Volume, files: list[Path]
) -> None:
    os.mkfifo(files[0].parent / "pipe")
    assert np.array_equal(load(files[0].parent).array, oblique.array)
    (files[0].parent / "IM_0013.dcm").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"IM_0013\.dcm' is damaged: it cannot be read"):
        load(files[0].parent)


def test_meta_information_of_no_known_type_is_damage(files: list[Path]) -> None:
    raw = files[4].read_bytes()
    at = raw.index(b"\x02\x00\x02\x00UI")
    files[4].write_bytes(raw[: at + 4] + b"U\0" + raw[at + 6 :])
    edit_class = raw.index(b"\x08\x00\x16\x00UI")
    broken = bytearray(files[4].read_bytes())
    broken[edit_class + 2] = 0x17  # so that the class is looked for in the meta information
    files[4].write_bytes(broken)
    with pytest.raises(InputError, match=r"IM_0005\.dcm' is damaged"):
        load(files[0].parent)


def test_sequences_within_sequences_do_not_end_the_program(files: list[Path]) -> None:
    raw = files[2].read_bytes()
    at = raw.index(b"\x10\x00\x10\x00PN")
    begin = b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    files[2].write_bytes(raw[:at] + begin * 20_000 + end * 20_000 + raw[at:])
    with pytest.raises(InputError, match=r"IM_0003\.dcm' is damaged"):
        load(files[0].parent)


def test_a_missing_slice_is_refused_with_the_gap(files: list[Path]) -> None:
    files[5].unlink()
    with pytest.raises(InputError, match=r"missing \(1\): 5 mm from 'IM_0005.dcm' to 'IM_0007.dcm'.*2\.5 mm"):
        load(files[0].parent)
    files[8].unlink()
    files[9].unlink()
    with pytest.raises(InputError, match=r"missing \(3\).*7\.5 mm"):
        load(files[0].parent)


def test_uneven_spacing_is_refused(oblique: Volume, files: list[Path]) -> None:
    normal = oblique.geometry.direction[:, 2]
    where = oblique.geometry.to_mm((0, 0, 6)) + 0.3 * normal
    edit(files[6], values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    with pytest.raises(GeometryError, match=r"unevenly spaced: the steps are 2\.2 to 2\.8 mm"):
        load(files[0].parent)
    where = oblique.geometry.to_mm((0, 0, 6)) + 0.02 * normal
    edit(files[6], values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    assert load(files[0].parent).source.notes == ("slices lie up to 0.020 mm beside the even grid",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PixelSpacing": ["1e-6", "1e-6"]}, "found a pixel spacing of 1e-06 mm; wanted 0.001 to 1000"),
        ({"PixelSpacing": ["0.7", "-0.7"]}, "found a pixel spacing of -0.7 mm"),
        ({"PixelSpacing": ["7000", "7000"]}, "found a pixel spacing of 7000 mm"),
        ({}, "found a mean step between slices of 25000 mm"),
    ],
)
def test_spacings_that_cannot_be_true_are_refused_as_in_image_files(
    oblique: Volume, files: list[Path], change: dict[str, object], message: str
) -> None:
    for k, path in enumerate(files):
        where = oblique.geometry.to_mm((0, 0, k if change else 10_000 * k))
        edit(path, values(ImagePositionPatient=[f"{v:.4f}" for v in where], **change))
    with pytest.raises(InputError, match=message):
        load(files[0].parent)


def test_gantry_tilt_is_found_from_the_positions(oblique: Volume, files: list[Path]) -> None:
    for k, path in enumerate(files):
        where = oblique.geometry.to_mm((0, 0, k)) + k * 0.4 * oblique.geometry.direction[:, 1]
        edit(path, values(ImagePositionPatient=[f"{v:.6f}" for v in where], GantryDetectorTilt="0"))
    with pytest.raises(GeometryError, match=r"tilted by 9\.09 degrees"):
        load(files[0].parent)


@pytest.mark.parametrize("aside_mm", [0, 3])
def test_a_copy_of_the_lowest_slice_hides_no_tilt(
    oblique: Volume, files: list[Path], aside_mm: float
) -> None:
    """From a copy at the same place no direction follows; one at the same height, but aside, is refused."""
    for k, path in enumerate(files):
        where = oblique.geometry.to_mm((0, 0, k)) + k * 0.4 * oblique.geometry.direction[:, 1]
        edit(path, values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    shutil.copy(files[0], files[0].with_name("copy.dcm"))
    where = oblique.geometry.to_mm((0, 0, 0)) + aside_mm * oblique.geometry.direction[:, 0]
    edit(files[0].with_name("copy.dcm"), values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    if aside_mm:
        with pytest.raises(GeometryError, match="do not lie one above the other"):
            load(files[0].parent, repair=("tilt",))
        return
    with pytest.raises(GeometryError, match=r"tilted by 9\.09 degrees"):
        load(files[0].parent)
    assert load(files[0].parent, repair=("tilt",)).geometry.shape[2] == 12


def test_a_slice_beside_the_others_is_refused(oblique: Volume, files: list[Path]) -> None:
    where = oblique.geometry.to_mm((0, 0, 6)) + 3 * oblique.geometry.direction[:, 0]
    edit(files[6], values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    with pytest.raises(GeometryError, match=r"'IM_0007.dcm' is 3 mm beside"):
        load(files[0].parent)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 5, -1])
@pytest.mark.parametrize("length", [0, 60, 128, 130, 132, 140, 400, 900, -10, -100])
def test_a_truncated_file_is_refused_by_name(files: list[Path], which: int, length: int) -> None:
    path = files[which]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=f"'{path.name}'"):
        load(path.parent)


@pytest.mark.slow
def test_truncation_at_any_length_is_never_silent(oblique: Volume, files: list[Path]) -> None:
    whole = files[-1].read_bytes()
    for length in range(0, len(whole), 101):
        files[-1].write_bytes(whole[:length])
        with pytest.raises(InputError):
            load(files[-1].parent)
    files[-1].write_bytes(whole)
    assert np.array_equal(load(files[-1].parent).array, oblique.array)


def test_a_damaged_file_blocks_the_series_that_it_may_be_of(oblique: Volume, tmp_path: Path) -> None:
    """A header that goes on after the UID 1.2.3.1 is not of 1.2.3.10; one that ends within it may be."""
    for uid in ("1.2.3.1", "1.2.3.10"):
        for path in save_series(oblique, tmp_path / uid, description="", seed_uid=uid):
            edit(path, values(SeriesInstanceUID=uid))
    cut = tmp_path / "1.2.3.1" / "IM_0003.dcm"
    whole = cut.read_bytes()
    ends = whole.index(b"1.2.3.1\0")
    cut.write_bytes(whole[: whole.index(b"\x20\0\x13\0IS") + 10])  # after the InstanceNumber
    assert np.array_equal(load(tmp_path, series="1.2.3.10").array, oblique.array)
    for length in (ends + 5, ends + 8):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"IM_0003\.dcm' is damaged"):
            load(tmp_path, series="1.2.3.10")


def test_stubs_without_a_suffix_are_refused_beside_slices_without_one(files: list[Path]) -> None:
    for path in files:
        path.rename(path.with_suffix(""))
    stub = files[0].with_suffix("")
    stub.write_bytes(b"")
    with pytest.raises(InputError, match="'IM_0001' is damaged"):
        load(stub.parent)


def test_a_file_named_dcm_that_is_none_is_refused(files: list[Path]) -> None:
    (files[0].parent / "text.dcm").write_text("x" * 300)
    with pytest.raises(InputError, match=r"'text\.dcm' is damaged.*is none"):
        load(files[0].parent)


def test_copies_of_a_slice_are_dropped_and_others_refused(oblique: Volume, files: list[Path]) -> None:
    twin = files[4].with_name("twin.dcm")
    shutil.copy(files[4], twin)
    back = load(twin.parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("dropped, the same slice twice: twin.dcm",)
    edit(twin, values(EchoTime="20"))
    edit(twin, add(1))
    with pytest.raises(
        InputError, match=r"same position: 'IM_0005.dcm' and 'twin.dcm', which differ in EchoTime"
    ):
        load(twin.parent)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"PatientID": "SECRET"}, "of two patients"),
        ({"PatientName": "SECRET"}, "of two patients"),
        ({"FrameOfReferenceUID": "1.2.3"}, "two frames of reference"),
        ({"Rows": 15}, "of two sizes"),
        ({"Modality": "CT"}, "of two modalities"),
        ({"Units": "BQML"}, "in two units"),
        ({"PixelSpacing": ["1", "1"]}, "differ in PixelSpacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "differ in ImageOrientationPatient"),
        ({"ImagePositionPatient": None}, "no valid ImagePositionPatient"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "not a grey image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not a grey image"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"SOPClassUID": EnhancedMRImageStorage}, "it has 1 frame and describes 0 of them"),
        ({"HighBit": 14}, "cannot be decoded: it has HighBit 14 with BitsStored 16; wanted 15"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "lookup table"),
    ],
)
def test_slices_that_do_not_belong_together(
    files: list[Path], attributes: dict[str, object], message: str
) -> None:
    edit(files[7], values(**attributes))
    with pytest.raises(InputError, match=message) as error:
        load(files[0].parent)
    assert "IM_0008.dcm" in str(error.value)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"PixelSpacing": ["0", "1"]}, "pixel spacing"),
        ({"PixelSpacing": None}, "no valid PixelSpacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.1, 0.995, 0]}, "not perpendicular"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, r"lengths \(2, 1\); wanted 1"),
        ({"ImagePositionPatient": [0, 0, 0]}, "one position|at 1 position"),
    ],
)
def test_geometry_that_cannot_be(files: list[Path], attributes: dict[str, object], message: str) -> None:
    for path in files:
        edit(path, values(**attributes))
    with pytest.raises(InputError, match=message):
        load(files[0].parent)


def test_an_enhanced_file_without_its_frames_is_refused(files: list[Path]) -> None:
    for path in files[1:]:
        path.unlink()
    edit(files[0], values(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=12))
    with pytest.raises(InputError, match=r"IM_0001.dcm' is damaged: it has 12 frames and describes 0"):
        load(files[0].parent)


def test_blank_uids_work(oblique: Volume, files: list[Path]) -> None:
    for path in files:
        edit(path, values(SeriesInstanceUID="", FrameOfReferenceUID=""))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert (back.source.series_uid, back.geometry.frame_uid) == (None, None)
    assert np.array_equal(load(files[2]).array, oblique.array)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM slices"):
        load(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.dcm"):
        load(tmp_path)


@pytest.mark.slow
def test_rle_and_big_endian_give_the_same_voxels(oblique: Volume, files: list[Path]) -> None:
    for path in files[:6]:
        data = pydicom.dcmread(path)
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(path)
    for path in files[6:]:
        data = pydicom.dcmread(path)
        data.PixelData = data.pixel_array.astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pydicom.dcmwrite(path, data, implicit_vr=False, little_endian=False)
    assert np.array_equal(load(files[0].parent).array, oblique.array)
    whole = files[3].read_bytes()
    for length in range(len(whole) - 200, len(whole), 66):
        files[3].write_bytes(whole[:length])
        with pytest.raises(InputError, match=files[3].name):
            load(files[0].parent)


@pytest.mark.slow
def test_deflated_and_jpeg_ls_give_the_same_voxels(oblique: Volume, files: list[Path]) -> None:
    pytest.importorskip("jpeg_ls")
    for path in files[:6]:
        data = pydicom.dcmread(path)
        data.compress(JPEGLSLossless, generate_instance_uid=False)
        data.save_as(path)
    for path in files[6:]:
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)
    assert np.array_equal(load(files[0].parent).array, oblique.array)
    for path in (files[3], files[8]):
        whole = path.read_bytes()
        for length in range(len(whole) - 300, len(whole) - 1, 142):  # the last byte may be padding
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=path.name):
                load(path.parent)
        path.write_bytes(whole)


def test_a_file_without_preamble_is_read(oblique: Volume, files: list[Path]) -> None:
    for path in files:
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        pydicom.dcmwrite(path.with_suffix(""), data, implicit_vr=True, little_endian=True)
        raw = path.with_suffix("").read_bytes()
        path.unlink()
        group = pydicom.filebase.DicomBytesIO(raw)
        group.seek(140)
        start = 144 + int.from_bytes(raw[140:144], "little")
        path.with_suffix("").write_bytes(raw[start:])
    assert np.array_equal(load(files[0].parent).array, oblique.array)


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_a_file_that_begins_with_its_meta_information_is_read(
    oblique: Volume, files: list[Path], syntax: str
) -> None:
    for path in files:
        if syntax == "implicit":
            edit(path, lambda data: setattr(data.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian))
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
    assert np.array_equal(load(files[0].parent).array, oblique.array)


def test_a_compression_without_decoder_is_named(files: list[Path]) -> None:
    def change(data: pydicom.Dataset) -> None:
        data.PixelData = encapsulate([b"\xff\x0a"])
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # a video

    edit(files[2], change)
    with pytest.raises(InputError, match=r"IM_0003.dcm' is compressed as MPEG2.*Export it uncompressed"):
        load(files[0].parent)


def test_ct_of_two_slices(files: list[Path]) -> None:
    for path in files[2:]:
        path.unlink()
    for path in files[:2]:
        edit(path, values(SOPClassUID=CTImageStorage, Modality="CT"))
    assert load(files[0].parent).geometry.shape == (20, 16, 2)
    files[1].unlink()
    with pytest.raises(InputError, match="0 series that are volumes"):
        load(files[0].parent)
    with pytest.raises(InputError, match="two or more"):
        load(files[0].parent, series=1)


def test_reading_dicom_imports_no_simpleitk(files: list[Path]) -> None:
    code = (
        "import sys; from c3s3_seg.io import load; load(sys.argv[1]);"
        "print([m for m in ('nibabel', 'SimpleITK', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(files[0])], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.data
def test_real_ct_is_where_highdicom_sees_it(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "philips-ct" / "S2010"
    back = load(folder)
    assert back.geometry.shape == (512, 512, 28)
    assert np.allclose(back.geometry.spacing_mm, [0.451171875, 0.451171875, 5])
    assert (back.array.min(), back.source.modality) == (-1024, "CT")
    check_against_highdicom(back, folder)


@pytest.mark.data
def test_real_oblique_mr_is_where_highdicom_sees_it(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "oblique-t1"
    back = load(folder)
    assert back.geometry.shape == (274, 384, 48)
    assert np.allclose(back.geometry.spacing_mm[:2], [0.699987828731537, 0.666666686534882])
    check_against_highdicom(back, folder)


def check_against_highdicom(found: Volume, folder: Path) -> None:
    paths = [p for p in sorted(folder.iterdir()) if p.name not in ("LICENSE", "DIRFILE")]
    array, affine = highdicom_affine(paths)
    if np.linalg.norm(affine[:3, 3] - found.geometry.origin_mm) > 1:  # reversed order of the slices
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
        array = array[:, :, ::-1]
    assert found.geometry.matches(Geometry(array.shape, affine), 1e-3)
    assert np.array_equal(found.array, array)


@pytest.mark.data
def test_real_tilted_ct_is_refused(shared_data: Path) -> None:
    with pytest.raises(GeometryError, match=r"tilted by 18\.5 degrees"):
        load(shared_data / "dicom" / "philips-ct-tilt")


@pytest.mark.data
def test_real_localizer_is_no_volume(shared_data: Path) -> None:
    study = shared_data / "dicom" / "philips-ct"
    assert load(study).geometry.shape == (512, 512, 28)
    with pytest.raises(InputError, match="0 series that are volumes"):
        load(study / "S1000")


@pytest.mark.data
def test_real_study_of_two_series(shared_data: Path) -> None:
    study = shared_data / "dicom" / "brain-study"
    with pytest.raises(InputError, match=r"1: MR, 22 slices, 512 x 512; 2: MR, 32 slices, 35 x 51"):
        load(study)
    assert load(study, series=1).geometry.shape == (512, 512, 22)
    crop = load(study, series=2)
    assert np.allclose(crop.geometry.direction, np.eye(3))
    assert np.allclose(crop.geometry.spacing_mm, 1)


def moved_slice(folder: Path, pixel_mm: float, step_mm: float, by_mm: tuple[float, float]) -> Path:
    """Write five slices, the third of which is moved along x and along the normal; return the folder."""
    grid = Geometry.build((4, 4, 5), (pixel_mm, pixel_mm, step_mm))
    array = np.arange(4 * 4 * 5).reshape(grid.shape)
    files = save_series(grid.volume(array), folder, description="", seed_uid="s")
    place = (by_mm[0], 0, 2 * step_mm + by_mm[1])
    edit(files[2], values(ImagePositionPatient=[f"{v:.4f}" for v in place]))
    return folder


@pytest.mark.parametrize(
    ("step_mm", "by_mm", "refused"),
    [(2.5, 0.048, False), (2.5, 0.052, True), (0.4, 0.01, False), (0.4, 0.012, True)],
)
def test_steps_may_differ_by_2_percent_or_by_rounding(
    tmp_path: Path, step_mm: float, by_mm: float, refused: bool
) -> None:
    """The limit is 0.05 mm for steps of 2.5 mm, and 0.011 mm for thin slices."""
    folder = moved_slice(tmp_path / "s", 1.0, step_mm, (0.0, by_mm))
    if refused:
        with pytest.raises(GeometryError, match="unevenly spaced"):
            load(folder)
    else:
        assert load(folder).geometry.spacing_mm[2] == pytest.approx(step_mm)


@pytest.mark.parametrize(
    ("pixel_mm", "aside_mm", "refused"),
    [(0.9, 0.088, False), (0.9, 0.092, True), (0.3, 0.048, False), (0.3, 0.052, True)],
)
def test_slices_may_lie_aside_by_a_tenth_of_a_pixel_or_by_rounding(
    tmp_path: Path, pixel_mm: float, aside_mm: float, refused: bool
) -> None:
    """The limit is 0.09 mm for pixels of 0.9 mm, and 0.05 mm for small pixels."""
    folder = moved_slice(tmp_path / "s", pixel_mm, 2.5, (aside_mm, 0.0))
    if refused:
        with pytest.raises(GeometryError, match="do not lie one above the other"):
            load(folder)
    else:
        assert load(folder).source.notes == (f"slices lie up to {aside_mm} mm beside the even grid",)


@pytest.mark.parametrize(
    ("wide_mm", "beside_mm", "refused"),
    [(2.51, "0.347", False), (2.535, "1.216", False), (2.537, "1.29", True)],
)
def test_steps_that_grow_by_little_add_up(
    tmp_path: Path, wide_mm: float, beside_mm: str, refused: bool
) -> None:
    """From the middle on, each step is longer by so little that it passes alone; the sum decides.

    The limit is half a step, 1.25 mm.
    """
    grid = Geometry.build((4, 4, 140), (1.0, 1.0, 2.5))
    array = np.arange(4 * 4 * 140).reshape(grid.shape)
    files = save_series(grid.volume(array), tmp_path / "s", description="", seed_uid="s")
    for n, path in enumerate(files):
        height = min(n, 70) * 2.5 + max(0, n - 70) * wide_mm
        edit(path, values(ImagePositionPatient=["0", "0", f"{height:.3f}"]))
    if refused:
        with pytest.raises(GeometryError, match=f"2.5 to {wide_mm} mm.* up to {beside_mm} mm beside an even"):
            load(tmp_path / "s")
        assert load(tmp_path / "s", repair="gaps").source.notes[-1].startswith("repaired on request (gaps)")
    else:
        assert load(tmp_path / "s").source.notes == (f"slices lie up to {beside_mm} mm beside the even grid",)
