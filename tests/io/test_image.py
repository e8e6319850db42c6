"""Tests of NIfTI, NRRD and MHA: the right volume at the right place, or a refusal with the reason."""

import gzip
import os
import subprocess
import sys
import time
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from conftest import rotation

from c3s3_seg.errors import GeometryError, InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import limits, load, load_mask, save
from c3s3_seg.io.formats import check_format
from c3s3_seg.io.image import nifti as nifti_module
from c3s3_seg.io.image import save as save_module
from c3s3_seg.io.image.nifti_forms import DIRECTIONS

DOORS = [".nii", ".nii.gz", ".nrrd", ".mha"]
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
VOLUME = Geometry.build((2, 2, 2)).volume(np.zeros((2, 2, 2), np.uint8))


def nifti(
    path: Path, array: np.ndarray, *, qcode: int = 1, scode: int = 1, kind: type = nib.Nifti1Image
) -> Path:
    """Write a NIfTI file with nibabel: 1 mm, RAS axes, origin (10, 20, 30) RAS."""
    affine = np.eye(4)
    affine[:3, 3] = 10, 20, 30
    image = kind(array, affine)
    image.set_qform(affine, qcode)
    image.set_sform(affine, scode)
    nib.save(image, path)
    return path


def patch(path: Path, offset: int, values: bytes) -> Path:
    """Overwrite bytes of an uncompressed file."""
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(values)] = values
    path.write_bytes(raw)
    return path


def ramp(dtype: str = "<i2") -> np.ndarray:
    return np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)


def sitk_position(path: Path, index: tuple[int, int, int]) -> np.ndarray:
    return np.array(
        SimpleITK.ReadImage(str(path)).TransformContinuousIndexToPhysicalPoint([float(n) for n in index])
    )


@pytest.mark.parametrize("suffix", DOORS)
def test_every_door_keeps_voxels_and_places(oblique: Volume, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    save(oblique, path)
    back = load(path)
    assert back.array.dtype == oblique.array.dtype
    assert np.array_equal(back.array, oblique.array)
    assert back.geometry.matches(oblique.geometry, 1e-3)
    assert back.source.notes == ()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", DOORS)
def test_simpleitk_sees_a_written_file_where_we_do(oblique: Volume, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    save(oblique, path)
    for index in [(0, 0, 0), (19, 0, 0), (0, 15, 0), (0, 0, 11), (3, 7, 2)]:
        assert np.allclose(sitk_position(path, index), oblique.geometry.to_mm(index), atol=1e-3)
    seen = SimpleITK.ReadImage(str(path))
    assert seen.GetPixel(3, 7, 2) == oblique.array[3, 7, 2]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nibabel_sees_both_forms_where_we_do(oblique: Volume, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    save(oblique, path)
    seen = nib.load(path)
    assert int(seen.header["sform_code"]) > 0
    assert int(seen.header["qform_code"]) > 0
    assert np.allclose(FLIP @ seen.get_sform(), oblique.geometry.affine, atol=1e-4)
    assert np.allclose(FLIP @ seen.get_qform(), oblique.geometry.affine, atol=1e-3)
    assert np.array_equal(np.asarray(seen.dataobj), oblique.array)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_all_48_orientations(tmp_path: Path, order: tuple[int, ...]) -> None:
    array = ramp()
    for signs in product((1, -1), repeat=3):
        direction = np.eye(3)[:, order] * signs
        grid = Geometry.build(array.shape, (0.5, 1.0, 2.0), (5, -6, 7), direction)
        path = tmp_path / "turned.nii"
        save(grid.volume(array), path)
        back = load(path)
        assert np.array_equal(back.array, array)
        assert back.geometry.matches(grid, 1e-4)
        assert np.allclose(FLIP @ nib.load(path).affine, grid.affine, atol=1e-4)
        assert np.allclose(sitk_position(path, (3, 1, 2)), grid.to_mm((3, 1, 2)), atol=1e-4)


def test_reading_nibabel_files_agrees_with_nibabel(oblique: Volume, tmp_path: Path) -> None:
    for kind, name in [
        (nib.Nifti1Image, "one.nii.gz"),
        (nib.Nifti2Image, "two.nii"),
        (nib.Nifti2Image, "two.nii.gz"),
    ]:
        for scode, qcode in [(1, 0), (0, 1), (2, 1)]:
            image = kind(oblique.array, FLIP @ oblique.geometry.affine)
            image.set_qform(FLIP @ oblique.geometry.affine, qcode)
            image.set_sform(FLIP @ oblique.geometry.affine, scode)
            nib.save(image, tmp_path / name)
            back = load(tmp_path / name)
            assert np.array_equal(back.array, oblique.array)
            assert back.geometry.matches(oblique.geometry, 1e-3)
            assert back.source.notes == ()


def test_big_endian(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    path = tmp_path / "big.nii"
    image = nib.Nifti1Image(ramp(">i2"), np.diag([2, 3, 4, 1]), header)
    nib.save(image, path)
    assert path.read_bytes()[:4] == b"\0\0\1\x5c"
    back = load(path)
    assert np.array_equal(back.array, ramp())
    assert back.array.dtype == np.int16
    assert back.array.dtype.isnative
    assert np.allclose(back.geometry.spacing_mm, [2, 3, 4])


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "scaled.nii")
    raw = patch(tmp_path / "scaled.nii", 112, np.array([0.5, -3], "<f4").tobytes())
    back = load(raw)
    assert back.array.dtype == np.float32
    assert np.array_equal(back.array, nib.load(raw).get_fdata(dtype=np.float32))
    assert not np.array_equal(back.array, ramp())


def test_gzip_content_named_nii(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", ramp()).rename(tmp_path / "a.nii")
    assert np.array_equal(load(path).array, ramp())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.99])
def test_truncated_nifti_is_refused(oblique: Volume, tmp_path: Path, name: str, part: float) -> None:
    path = tmp_path / name
    save(oblique, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(InputError, match=r"damaged|truncated|ends within"):
        load(path)


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_one_flipped_byte_in_a_gzip_is_refused(tmp_path: Path, at: float) -> None:
    # The blocks are stored uncompressed, so a flip changes only a voxel and only the checksum reveals it.
    plain = nifti(tmp_path / "a.nii", ramp("<f4")).read_bytes()
    raw = bytearray(gzip.compress(plain, compresslevel=0))
    raw[int(len(raw) * at)] ^= 1
    path = tmp_path / "a.nii.gz"
    path.write_bytes(raw)
    with pytest.raises(InputError, match="checksum"):
        load(path)
    path.write_bytes(gzip.compress(plain, compresslevel=0))
    assert np.array_equal(load(path).array, ramp("<f4"))


def test_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    for name, content in [
        ("a.nii", b""),
        ("b.nii", b"x" * 600),
        ("c.nii.gz", b"\x1f\x8b"),
        ("d.nrrd", b""),
        ("e.mha", b""),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load(tmp_path / name)


def test_what_is_no_scan_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"a\.txt.*\.nii\.gz"):
        load(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "folder")
    with pytest.raises(InputError, match="no series"):
        load(nifti(tmp_path / "c.nii", ramp()), series=1)


def test_shear_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.002
    nib.save(nib.Nifti1Image(ramp(), affine), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"a\.nii.*not perpendicular"):
        load(tmp_path / "a.nii")


def test_sheared_nrrd_is_refused(tmp_path: Path) -> None:
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.nrrd")
    raw = (tmp_path / "a.nrrd").read_bytes()
    assert b"space directions: (1,0,0) (0,1,0) (0,0,1)" in raw
    (tmp_path / "a.nrrd").write_bytes(raw.replace(b"(1,0,0) (0,1,0)", b"(1,0,0) (0.1,1,0)"))
    with pytest.raises(GeometryError, match="not perpendicular"):
        load(tmp_path / "a.nrrd")


def test_forms_that_disagree_are_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(ramp(), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 7
    image.set_qform(moved, 1)
    image.set_sform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    back = load(tmp_path / "a.nii")
    assert "disagree by up to 7 mm: the sform is used" in back.source.notes[0]
    assert np.allclose(back.geometry.affine, FLIP)


@pytest.mark.parametrize("order", [(-1, 1, 1), (1, 1, -1)])
def test_forms_that_name_other_sides_of_the_patient_are_told_apart(
    tmp_path: Path, order: tuple[int, int, int]
) -> None:
    """Mirrored forms had the note of forms that are a little apart, and no warning."""
    image = nib.Nifti1Image(ramp(), np.eye(4))
    image.set_qform(np.diag([*order, 1]), 1)
    image.set_sform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    assert f"also in {DIRECTIONS}: the sform is used" in load(tmp_path / "a.nii").source.notes[0]


def moved_by(mm: float) -> np.ndarray:
    affine = np.diag([-0.8, 0.9, 2.5, 1.0])  # as the axes of most scans run, in RAS
    affine[:3, 3] = 30 + mm, -40, 50
    return affine


def scan_with(path: Path, header: str, *, version: int = 1) -> Path:
    """Write a scan of 4 x 5 x 6 voxels whose header is of one of the kinds that readers take differently."""
    image = (nib.Nifti2Image if version == 2 else nib.Nifti1Image)(ramp(), moved_by(0))
    image.set_qform(moved_by(0), 1)
    if header == "neither":
        image.set_qform(None, 0)
        image.set_sform(None, 0)
    elif header == "qform":
        image.set_sform(None, 0)
    elif header == "sform":
        image.set_qform(None, 0)
        image.set_sform(moved_by(0), 4)
    elif header == "spacing":
        image.set_qform(None, 0)
        image.set_sform(moved_by(0), 2)
    else:
        image.set_sform(moved_by(float(header) if header != "zeros" else 0), 4)
    nib.save(image, path)
    if header in ("zeros", "spacing"):  # nibabel would set these fields from each other
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = bytearray(file.read())
        if header == "zeros":
            raw[280:328] = bytes(48)
        else:
            raw[80:92] = np.array([1, 1, 3], "<f4").tobytes()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def seen_by_other_programs(path: Path) -> list[np.ndarray]:
    """Return where nibabel and SimpleITK see the voxels, and the form codes."""
    seen, codes = nib.load(path), ("qform_code", "sform_code")
    image = SimpleITK.ReadImage(str(path))
    itk = (image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    return [seen.affine, *map(np.array, itk), np.array([int(seen.header[code]) for code in codes])]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("header", ["neither", "qform", "sform", "zeros", "spacing", "0", "0.1", "7"])
def test_a_mask_lies_on_its_scan_for_every_reader(tmp_path: Path, header: str, suffix: str) -> None:
    """With both codes 0, nibabel saw a mask mirrored; with another sform, ITK saw it at the sform."""
    scan = load(scan_with(tmp_path / f"scan{suffix}", header))
    labels = (scan.array > 50).astype(np.uint8)
    save(scan.geometry.volume(labels, scan.source), tmp_path / f"mask{suffix}", note="a note")
    wanted, found = (seen_by_other_programs(tmp_path / f"{name}{suffix}") for name in ("scan", "mask"))
    assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))
    back = load_mask(tmp_path / f"mask{suffix}", grid=scan.geometry)
    assert np.array_equal(back.array, labels)
    assert nib.load(tmp_path / f"mask{suffix}").header["descrip"] == b"a note"


def test_a_mask_of_a_nifti_2_scan_has_its_forms(tmp_path: Path) -> None:
    scan = load(scan_with(tmp_path / "scan.nii", "7", version=2))
    save(scan.geometry.volume(scan.array, scan.source), tmp_path / "mask.nii")
    wanted, found = (nib.load(tmp_path / f"{name}.nii").header for name in ("scan", "mask"))
    assert np.allclose(wanted.get_qform(), found.get_qform(), rtol=1e-6)  # float32
    assert np.allclose(wanted.get_sform(), found.get_sform(), rtol=1e-6)
    assert (int(found["qform_code"]), int(found["sform_code"])) == (1, 4)


@pytest.mark.parametrize("header", ["neither", "7"])
def test_a_volume_on_another_grid_has_no_forms_of_its_source(tmp_path: Path, header: str) -> None:
    scan = load(scan_with(tmp_path / "scan.nii", header))
    half = Geometry(scan.geometry.shape, scan.geometry.affine @ np.diag([0.5, 0.5, 0.5, 1]))
    save(half.volume(scan.array, scan.source), tmp_path / "half.nii")
    assert np.allclose(FLIP @ nib.load(tmp_path / "half.nii").affine, half.affine, atol=1e-4)
    assert np.allclose(sitk_position(tmp_path / "half.nii", (3, 1, 2)), half.to_mm((3, 1, 2)), atol=1e-4)


def test_an_sform_of_zeros_gives_way_to_the_qform(tmp_path: Path) -> None:
    back = load(scan_with(tmp_path / "a.nii", "zeros"))
    assert back.source.notes == ("the sform is set and has zeros alone: the qform is used",)
    assert np.allclose(
        sitk_position(tmp_path / "a.nii", (3, 1, 2)), back.geometry.to_mm((3, 1, 2)), atol=1e-4
    )
    with pytest.raises(GeometryError, match="singular"):
        load(patch(tmp_path / "a.nii", 252, bytes(2)))  # without a qform


def test_no_form_is_noted(tmp_path: Path) -> None:
    back = load(nifti(tmp_path / "a.nii", ramp(), qcode=0, scode=0))
    assert "not known" in back.source.notes[0]
    assert np.allclose(sitk_position(tmp_path / "a.nii", (3, 1, 2)), back.geometry.to_mm((3, 1, 2)))


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_nan_and_infinity_are_counted(tmp_path: Path, name: str) -> None:
    array = ramp("<f4")
    array[0, 0, 0] = np.nan
    array[1, 1, 1:3] = np.inf
    image = SimpleITK.GetImageFromArray(array)
    SimpleITK.WriteImage(image, str(tmp_path / name))
    with pytest.raises(InputError, match="1 NaN and 2 infinite values among 120"):
        load(tmp_path / name)
    with pytest.raises(InputError, match="1 NaN and 2 infinite"):
        save(Geometry.build((4, 5, 6)).volume(array), tmp_path / "out.nii")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2), (4, 5, 6, 1, 3)])
def test_other_than_one_volume_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = nifti(tmp_path / "a.nii", np.zeros(shape, np.int16))
    with pytest.raises(InputError, match=r"shape \(4, 5.*one 3D volume"):
        load(path)


def test_4d_with_one_volume_works(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz", ramp()[..., None])
    assert np.array_equal(load(path).array, ramp())
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / name))
        back = load(tmp_path / name)
        assert np.array_equal(back.array, ramp())
        assert back.geometry.matches(load(path).geometry)


@pytest.mark.parametrize(
    ("dtype", "word"), [("c8", "complex"), ([("R", "u1"), ("G", "u1"), ("B", "u1")], "RGB")]
)
def test_no_real_numbers_are_refused(tmp_path: Path, dtype: object, word: str) -> None:
    path = nifti(tmp_path / "a.nii", np.zeros((4, 5, 6), dtype))
    with pytest.raises(InputError, match=word):
        load(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_colour_nrrd_and_mha_are_refused(tmp_path: Path, name: str) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / name))
    with pytest.raises(InputError, match=r"one 3D volume|type"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_nrrd_and_mha_are_refused(oblique: Volume, tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / name
    image = SimpleITK.GetImageFromArray(oblique.array)
    SimpleITK.WriteImage(image, str(path), useCompression=packed)
    raw = path.read_bytes()
    load(path)
    path.write_bytes(raw[:-40])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        load(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_flipped_byte_in_compressed_nrrd_and_mha_is_refused(
    oblique: Volume, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    save(oblique, path)
    raw = bytearray(path.read_bytes())
    raw[-300] ^= 8
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged|truncated"):
        load(path)


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_detached_headers_are_read_and_kept_in_their_folder(
    oblique: Volume, tmp_path: Path, name: str
) -> None:
    image = SimpleITK.GetImageFromArray(oblique.array.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / name))
    assert np.array_equal(load(tmp_path / name).array, oblique.array)
    data = next(p for p in tmp_path.iterdir() if p.name != name)
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="truncated"):
        load(tmp_path / name)
    text = (tmp_path / name).read_text().replace(data.name, f"../{tmp_path.name}/{data.name}")
    (tmp_path / name).write_text(text)
    data.write_bytes(whole)
    with pytest.raises(InputError, match="not one file beside it"):
        load(tmp_path / name)


def test_nrrd_spaces(tmp_path: Path) -> None:
    save(Geometry.build((4, 5, 6), origin_mm=(1, 2, 3)).volume(ramp()), tmp_path / "a.nrrd")
    raw = (tmp_path / "a.nrrd").read_bytes()
    path = tmp_path / "b.nrrd"
    path.write_bytes(raw.replace(b"left-posterior-superior", b"right-anterior-superior"))
    assert np.allclose(load(path).geometry.origin_mm, [-1, -2, 3])
    path.write_bytes(raw.replace(b"left-posterior-superior", b"scanner-xyz"))
    with pytest.raises(InputError, match="its space is 'scanner-xyz'"):
        load(path)
    lines = [line for line in raw.split(b"\n") if not line.startswith(b"space")]
    path.write_bytes(b"\n".join(lines))
    assert any("not known" in note for note in load(path).source.notes)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_sizes_that_cannot_be_true_are_refused(tmp_path: Path, name: str) -> None:
    path = patch(nifti(tmp_path / "a.nii", ramp()), 42, np.array([30000] * 3, "<i2").tobytes())
    if name.endswith(".gz"):
        raw = path.read_bytes()
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw))
    with pytest.raises(InputError, match="30000 x 30000 x 30000 voxels need 54"):
        load(path)


def test_60000_cubed_is_refused_in_every_format(tmp_path: Path) -> None:
    nii = nifti(tmp_path / "a.nii", ramp(), kind=nib.Nifti2Image)
    patch(nii, 24, np.array([60000] * 3, "<i8").tobytes())
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.nrrd")
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.mha")
    for path in (nii, tmp_path / "a.nrrd", tmp_path / "a.mha"):
        path.write_bytes(path.read_bytes().replace(b" 4 5 6\n", b" 60000 60000 60000\n"))
        with pytest.raises(InputError, match="60000 x 60000 x 60000 voxels need"):
            load(path)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_spacing_that_cannot_be_is_refused(tmp_path: Path, value: float) -> None:
    path = patch(nifti(tmp_path / "a.nii", ramp()), 84, np.float32(value).tobytes())
    with pytest.raises(InputError, match=r"spacing of .*positive"):
        load(path)


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan"])
def test_spacing_that_cannot_be_is_refused_in_mha(tmp_path: Path, value: bytes) -> None:
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    assert b"ElementSpacing = 1 1 1" in raw
    (tmp_path / "a.mha").write_bytes(
        raw.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 " + value + b" 1")
    )
    with pytest.raises(InputError, match=r"spacing of .*positive"):
        load(tmp_path / "a.mha")


@pytest.mark.parametrize("value", [b"0", b"nan"])
def test_direction_that_cannot_be_is_refused_in_nrrd(tmp_path: Path, value: bytes) -> None:
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.nrrd")
    raw = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(raw.replace(b"(0,0,1)\n", b"(0,0," + value + b")\n"))
    with pytest.raises(InputError, match=r"a\.nrrd"):
        load(tmp_path / "a.nrrd")


def test_tiny_spacing_units_and_broken_affines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(ramp(), np.diag([1, 1, 1e-6, 1])), path)
    with pytest.raises(InputError, match="spacing"):
        load(path)
    patch(nifti(path, ramp()), 123, bytes([1]))
    with pytest.raises(InputError, match="metres"):
        load(path)
    patch(nifti(path, ramp()), 280, np.float32(np.nan).tobytes())
    with pytest.raises(GeometryError, match=r"a\.nii.*finite"):
        load(path)
    patch(nifti(path, ramp()), 280, bytes(16))
    with pytest.raises(GeometryError, match="singular"):
        load(path)
    patch(nifti(path, ramp()), 108, np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="cannot start at byte"):
        load(path)
    patch(nifti(path, ramp()), 344, b"ni1\0")
    with pytest.raises(InputError, match="two files"):
        load(path)
    patch(nifti(path, ramp()), 44, np.int16(-5).tobytes())
    with pytest.raises(InputError, match="positive sizes"):
        load(path)


def test_other_headers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    patch(nifti(path, ramp()), 112, np.array([2, np.nan], "<f4").tobytes())
    with pytest.raises(InputError, match="intercept"):
        load(path)
    patch(nifti(path, ramp()), 40, np.int16(0).tobytes())
    with pytest.raises(InputError, match="claims 0 dimensions"):
        load(path)
    patch(nifti(path, ramp()), 70, np.int16(999).tobytes())
    with pytest.raises(InputError, match="type 999"):
        load(path)
    patch(nifti(path, ramp()), 344, b"abc")
    with pytest.raises(InputError, match="magic"):
        load(path)


def test_bytes_after_the_last_voxel_are_noted(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", ramp())
    path.write_bytes(path.read_bytes() + b"tail")
    assert load(path).source.notes == ("4 bytes after the last voxel were not used",)


def test_pairs_and_units_of_other_nrrd_writers(tmp_path: Path) -> None:
    """Keys may have colons (`key:=value`), and some programs write the unit in full."""
    grid = Geometry.build((4, 5, 6))
    save(grid.volume(ramp()), tmp_path / "a.nrrd")
    more = b'DICOM:0008:=x: y\nDICOM:0010:=y\ntype:of:=z\nspace units: "millimeter" "Millimeters" "mm"\n'
    raw = (tmp_path / "a.nrrd").read_bytes().replace(b"encoding:", more + b"encoding:")
    (tmp_path / "a.nrrd").write_bytes(raw)
    back = load(tmp_path / "a.nrrd")
    assert np.array_equal(back.array, ramp())
    assert back.geometry.matches(grid)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"encoding: gzip", b"encoding: ascii", "encoding 'ascii'"),
        (b"type: short", b"type: block", "type 'block'"),
        (b"encoding: gzip", b"encoding: gzip\nbyte skip: 4", "skips bytes"),
        (b"encoding: gzip", b'encoding: gzip\nspace units: "cm" "cm" "cm"', "wanted mm"),
        (b"sizes: 4 5 6", b"sizes: 4 5 0", "positive sizes"),
        (b"sizes: 4 5 6", b"sizes: 4 5 x", "wanted numbers"),
        (b"sizes: 4 5 6", b"sizes: 4 30", "one 3D volume"),
        (b"NRRD", b"DRRN", "magic"),
    ],
)
def test_nrrd_headers_that_cannot_be_are_refused(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.nrrd")
    raw = (tmp_path / "a.nrrd").read_bytes()
    assert old in raw
    (tmp_path / "a.nrrd").write_bytes(raw.replace(old, new))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"BinaryData = True", b"BinaryData = False", "plain binary"),
        (b"MET_SHORT", b"MET_STRING", "plain binary"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = slice%03d.raw 1 6 1", "not one file"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = LIST", "not one file"),
        (b"ElementDataFile", b"Element", "ends within its header"),
        (b"DimSize = 4 5 6", b"DimSize = 4 5 -6", "positive sizes"),
    ],
)
def test_mha_headers_that_cannot_be_are_refused(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    assert old in raw
    (tmp_path / "a.mha").write_bytes(raw.replace(old, new))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe, a device or a folder"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"NDims = 3", b"NDims = 3\nDistanceUnits = cm", "its distances are in cm; wanted mm"),
        (b"NDims = 3", b"NDims = 3\nElementNumberOfChannels = x", "x values a voxel; wanted one 3D volume"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 1e-6", "spacing"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = ", "data file '' is not one file"),
    ],
)
def test_more_mha_headers_that_cannot_be(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    save(Geometry.build((4, 5, 6)).volume(ramp()), tmp_path / "a.mha")
    raw = (tmp_path / "a.mha").read_bytes()
    assert old in raw
    (tmp_path / "a.mha").write_bytes(raw.replace(old, new))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.mha")


def test_axes_that_are_named_otherwise_are_noted(oblique: Volume, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    save(oblique, path)
    assert oblique.geometry.letters == "LPS"
    raw = path.read_bytes()
    assert b"AnatomicalOrientation = RAI" in raw  # MetaImage names the sides from which LPS axes come
    for said in (b"???", b"RAI", b""):
        path.write_bytes(raw.replace(b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = " + said))
        assert load(path).source.notes == ()
    path.write_bytes(raw.replace(b"AnatomicalOrientation = RAI", b"AnatomicalOrientation = LPI"))
    (note,) = load(path).source.notes
    assert note == "the axes are named RAS and have the directions LPS: the directions are used"


def test_a_spacing_that_the_sform_does_not_have_is_noted(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", ramp(), qcode=0)
    assert load(path).source.notes == ()
    patch(path, 84, np.float32(1.5).tobytes())
    back = load(path)
    assert "pixdim is [1.0, 1.5, 1.0] mm, the spacing of the sform [1.0, 1.0, 1.0]" in back.source.notes[0]
    assert np.allclose(back.geometry.spacing_mm, 1)


def test_one_voxel_and_anisotropy(tmp_path: Path) -> None:
    for shape, spacing in [((1, 1, 1), (1, 1, 1)), ((3, 4, 2), (0.5, 0.5, 10))]:
        volume = Geometry.build(shape, spacing).volume(np.full(shape, 7, np.int16))
        save(volume, tmp_path / "a.nii.gz")
        assert load(tmp_path / "a.nii.gz").geometry.matches(volume.geometry)


@pytest.mark.parametrize(("top", "dtype"), [(255, np.uint8), (256, np.uint16), (65536, np.int32)])
def test_mask_type_holds_its_labels(tmp_path: Path, top: int, dtype: type) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = top
    mask = load_mask(nifti(tmp_path / "m.nii.gz", array))
    assert mask.array.dtype == dtype
    assert mask.array[1, 2, 3] == top


@pytest.mark.parametrize("value", [0.5, -1.0, 2e-3, 1.9989, -2e-3, 1e20, 2.0**31])
def test_mask_with_other_values_is_refused(tmp_path: Path, value: float) -> None:
    array = np.zeros((4, 5, 6), np.float64)
    array[1, 2, 3] = value
    with pytest.raises(InputError, match="whole numbers"):
        load_mask(nifti(tmp_path / "m.nii.gz", array))


def test_mask_with_nan_is_refused(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 NaN"):
        load_mask(nifti(tmp_path / "m.nii.gz", array))


def test_mask_grid(oblique: Volume, tmp_path: Path) -> None:
    grid = oblique.geometry
    mask = (oblique.array == 9000).astype(np.uint8)
    save(grid.volume(mask), tmp_path / "m.nii.gz")
    back = load_mask(tmp_path / "m.nii.gz", grid=grid)
    assert np.array_equal(back.array, mask)
    assert back.geometry is grid
    moved = grid.affine.copy()
    moved[2, 3] += 0.1
    other = Geometry(grid.shape, moved)
    with pytest.raises(GeometryError, match=r"not on the grid.*found 20 x 16 x 12.*wanted 20 x 16 x 12"):
        load_mask(tmp_path / "m.nii.gz", grid=other)
    with pytest.raises(GeometryError, match=r"apart, 0\.01 mm allowed"):
        load_mask(tmp_path / "m.nii.gz", grid=other)
    with pytest.raises(InputError, match="not an image file"):
        load_mask(tmp_path / "m.txt")


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8", ">i2"])
def test_types_are_kept(tmp_path: Path, dtype: str) -> None:
    array = (ramp() % 2 if dtype == "bool" else ramp() % 100).astype(dtype)
    for suffix in DOORS:
        save(Geometry.build((4, 5, 6)).volume(array), tmp_path / f"a{suffix}")
        back = load(tmp_path / f"a{suffix}").array
        assert back.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
        assert np.array_equal(back, array)


def test_what_cannot_be_written_is_refused(oblique: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wanted \.nii"):
        save(oblique, tmp_path / "a.png")
    with pytest.raises(InputError, match="does not exist"):
        save(oblique, tmp_path / "none" / "a.nii.gz")
    with pytest.raises(InputError, match="float16"):
        save(oblique.geometry.volume(oblique.array.astype(np.float16)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="float16"):
        save(oblique.geometry.volume(oblique.array.astype(">f2")), tmp_path / "a.nii")
    tilted = oblique.geometry.affine.copy()
    tilted[:3, 2] += [0.1, 0, 0]
    with pytest.raises(GeometryError, match="perpendicular"):
        save(Geometry(oblique.geometry.shape, tilted).volume(oblique.array), tmp_path / "a.nii")
    for spacing_mm in (1e-5, 2000.0):  # in metres, or in micrometres; `load` would refuse the file
        grid = Geometry.build(oblique.geometry.shape, spacing_mm)
        with pytest.raises(GeometryError, match=r"a\.mha: found a spacing .* wanted 0\.001 to 1000.* in mm"):
            save(grid.volume(oblique.array), tmp_path / "a.mha")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(InputError, match="could not be written"):
        save(oblique, tmp_path / "folder.nii")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.nii"]


def nearly_right(cosine: float) -> Geometry:
    """Return an oblique grid of 512 x 0.9 mm, whose first two axes are nearly perpendicular."""
    direction = rotation(20, -12, 33)
    direction[:, 1] += cosine * direction[:, 0]
    direction[:, 1] /= np.linalg.norm(direction[:, 1])
    return Geometry.build((512, 512, 2), (0.9, 0.9, 3.0), (-200, -180, 40), direction)


@pytest.mark.parametrize("cosine", [5e-6, 4e-5, 9e-5])
@pytest.mark.parametrize("suffix", DOORS)
def test_axes_just_off_a_right_angle_are_kept(tmp_path: Path, suffix: str, cosine: float) -> None:
    """SimpleITK alone writes the nearest rotation into NIfTI: up to 0.03 mm off at the far corner."""
    grid = nearly_right(cosine)
    array = np.zeros(grid.shape, np.uint8)
    array[100:300, 200:400, 1] = 3
    path = tmp_path / f"m{suffix}"
    save(grid.volume(array), path, note="a note")
    back = load_mask(path, grid=grid)
    assert np.array_equal(back.array, array)
    read = load(path)
    assert read.geometry.matches(grid, 1e-4)  # float32, 500 mm from the origin
    assert read.source.notes == ()
    for corner in [(511, 511, 1), (511, 0, 0), (0, 511, 1)]:
        assert np.allclose(sitk_position(path, corner), grid.to_mm(corner), atol=1e-4)
    if ".nii" in suffix:
        seen = nib.load(path)
        assert np.allclose(FLIP @ seen.affine, grid.affine, atol=1e-4)
        assert np.allclose(FLIP @ seen.get_qform(), grid.affine, atol=1e-3)
        assert seen.header["descrip"] == b"a note"
        assert np.array_equal(np.asarray(seen.dataobj), array)
        first = path.read_bytes()
        save(grid.volume(array), path, note="a note")
        assert path.read_bytes() == first


def test_a_nifti_file_that_is_cut_before_its_axes_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk SimpleITK writes a part of the file without an error."""

    def cut(path: Path) -> np.ndarray:
        os.truncate(path, path.stat().st_size - 20)
        return nifti_module.read_affine(path)

    grid = nearly_right(9e-5)
    monkeypatch.setattr(save_module, "read_affine", cut)
    noise = np.random.default_rng(0).integers(0, 200, grid.shape).astype(np.uint8)
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(InputError, match=r"could not be written in full.*Check that the disk has room"):
            save(grid.volume(noise), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Geometry.build((2, 2, 2), (1, 1, 1), (1e5 + 0.123,) * 3), r"float32.* apart, 0\.001 mm allowed"),
        (Geometry.build((2, 2, 2), (1, 1, 1), (1e300, 0, 0)), "float32"),
        (
            Geometry.build((2, 2, 2), (0.002, 1, 1), (5e3 + 2.3e-4, 0, 0)),
            r"float32.* apart, 0\.0002 mm allowed",
        ),
        (Geometry.build((32768, 1, 1)), "32768 voxels along an axis; a NIfTI file holds 32767 at most"),
    ],
)
def test_a_grid_that_nifti_cannot_hold_is_refused_before_the_network_runs(
    tmp_path: Path, grid: Geometry, message: str
) -> None:
    scan = grid.volume(np.zeros(grid.shape, np.uint8))
    with pytest.raises(GeometryError, match=rf"{message}.*Write \.nrrd or \.mha") as error:
        save(scan, tmp_path / "a.nii.gz")
    assert "disk" not in str(error.value)
    with pytest.raises(GeometryError, match=message):
        check_format(scan, "nii.gz")
    check_format(scan, "nrrd")
    save(scan, tmp_path / "a.nrrd")
    assert load(tmp_path / "a.nrrd").geometry.matches(grid)
    longest = Geometry.build((32767, 1, 1))
    save(longest.volume(np.ones(longest.shape, np.uint8)), tmp_path / "b.nii.gz")


@pytest.mark.parametrize("fault", ["voxel", "place", "short"])
def test_a_bad_write_never_reaches_its_name(
    oblique: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = tmp_path / "a.nii"
    path.write_text("what was here before")
    write = save_module._write

    def bad(array: np.ndarray, geometry: Geometry, aside: Path) -> None:
        if fault == "voxel":
            array = array.copy()
            array[0, 0, 0] += 1
        if fault == "place":
            geometry = Geometry.build(geometry.shape, geometry.spacing_mm, geometry.origin_mm, np.eye(3))
        write(array, geometry, aside)
        if fault == "short":
            os.truncate(aside, 1000)

    monkeypatch.setattr(save_module, "_write", bad)
    with pytest.raises(InputError, match=r"could not be written in full") as error:
        save(oblique, path)
    assert ("disk has room" in str(error.value)) == (fault != "place")
    assert path.read_text() == "what was here before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_lack_of_memory_at_the_end_names_the_file(
    oblique: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named the temporary file, which was gone by then."""
    monkeypatch.setattr(limits, "SMALL", 0)
    monkeypatch.setattr(limits, "free_bytes", lambda: 0)
    with pytest.raises(MemoryLimitError, match=rf"^{tmp_path}/a\.nii\.gz: the memory did not suffice.* Give"):
        save(oblique, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_file(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from c3s3_seg.errors import InputError
from c3s3_seg.io import save
from c3s3_seg.geometry.volume import Geometry
noise = np.random.default_rng(0).integers(0, 30000, (40, 40, 40)).astype(np.int16)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
    try:
        save(Geometry.build(noise.shape).volume(noise), sys.argv[1] + "/a" + suffix)
    except InputError as error:
        if "could not be written in full" in str(error):
            continue
    sys.exit("written all the same: " + suffix)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_hard(oblique: Volume, tmp_path: Path) -> None:
    for name in ["sp ace.nii.gz", "ümläut 脑.nrrd", "new\nline.mha", "x" * 248 + ".nii.gz", "UPPER.NII.GZ"]:
        save(oblique, tmp_path / name)
        assert np.array_equal(load(tmp_path / name).array, oblique.array)


def test_reading_nifti_imports_no_dicom(oblique: Volume, tmp_path: Path) -> None:
    save(oblique, tmp_path / "a.nii.gz")
    code = (
        "import sys; from c3s3_seg.io import load; load(sys.argv[1]);"
        "print([m for m in ('pydicom', 'nibabel', 'SimpleITK', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nendian: little\nencoding: raw\n"
META = b"ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\n"
OTHER = np.arange(120, dtype="<i2")[::-1].tobytes()
VOXELS = ramp().tobytes(order="F")


@pytest.fixture
def two_data_files(tmp_path: Path) -> Path:
    (tmp_path / "right.raw").write_bytes(VOXELS)
    (tmp_path / "other.raw").write_bytes(OTHER)
    return tmp_path


@pytest.mark.parametrize(
    "lines",
    [
        b"ElementDataFile: other.raw\nElementDataFile = right.raw\n",
        b"ElementDataFile = other.raw\nElementDataFile = right.raw\n",
        b"ElementDataFile = right.raw\nElementDataFile: /etc/passwd\n",
        b"  ElementDataFile=right.raw\n\nElementDataFile = LIST\nother.raw\n",
        b"elementdatafile = other.raw\nElementDataFile = right.raw\n",
        b"ElementDataFile\x0b= other.raw\nElementDataFile = right.raw\n",
        b"#ElementDataFile = other.raw\nElementDataFile = right.raw\n",
        b"ElementSpacing = 1 1 1\nElementSpacing = 2 2 2\nElementDataFile = right.raw\n",
        b"Offset = 1 1 1\nPosition = 2 2 2\nElementDataFile = right.raw\n",
        b"offset = 1 1 1\nOffset = 2 2 2\nElementDataFile = right.raw\n",
        b"DimSize = 5 4 6\nElementDataFile = right.raw\n",
        b"BinaryDataByteOrderMSB = False\nElementByteOrderMSB = True\nElementDataFile = right.raw\n",
    ],
)
def test_mhd_headers_that_say_two_things_are_refused(two_data_files: Path, lines: bytes) -> None:
    path = two_data_files / "a.mhd"
    path.write_bytes(META + lines)
    with pytest.raises(InputError, match=r"twice, or in two ways|has to be the last line"):
        load(path)
    path.write_bytes(META + b"ElementDataFile: right.raw")
    assert np.array_equal(load(path).array, ramp())


@pytest.mark.parametrize(
    "lines",
    [
        b"data file: other.raw\ndata file: right.raw\n",
        b"data file: other.raw\ndatafile: right.raw\n",
        b"Data File: right.raw\nDATA FILE: other.raw\n",
        b"spacings: 1 1 1\nspacings: 2 2 2\ndata file: right.raw\n",
        b"endian: big\ndata file: right.raw\n",
        b"byte skip: 0\nbyteskip: 0\ndata file: right.raw\n",
    ],
)
def test_nrrd_headers_that_say_two_things_are_refused(two_data_files: Path, lines: bytes) -> None:
    for name in ("a.nhdr", "a.nrrd"):
        path = two_data_files / name
        path.write_bytes(NRRD + lines)
        with pytest.raises(InputError, match="twice, or in two ways"):
            load(path)
        path.write_bytes(NRRD + b"data file: right.raw\n\n")
        assert np.array_equal(load(path).array, ramp())


@pytest.mark.parametrize(
    "name",
    [
        "/etc/hostname", "../outside.raw", "sub/../../outside.raw", "LIST", "list 3", "right%d.raw 1 2 1",
        "none.raw", ".", "sub", "pipe", "x" * 300, "link.raw", "chain.raw", "linked/deep.raw",
    ],
)  # fmt: skip
def test_data_files_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.raw").write_bytes(OTHER)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep.raw").write_bytes(OTHER)
    (folder / "linked").symlink_to(tmp_path / "out", target_is_directory=True)
    (folder / "link.raw").symlink_to(tmp_path / "outside.raw")
    (folder / "chain.raw").symlink_to("link.raw")
    os.mkfifo(folder / "pipe")
    for path, text in (
        (folder / "a.mhd", META + b"ElementDataFile = %b\n" % name.encode()),
        (folder / "a.mha", META + b"ElementDataFile = %b\n" % name.encode()),
        (folder / "a.nhdr", NRRD + b"data file: %b\n" % name.encode()),
        (folder / "a.nrrd", NRRD + b"data file: %b\n\n" % name.encode()),
    ):
        path.write_bytes(text)
        with pytest.raises(InputError, match=r"is not one file beside it|is a link out of the folder"):
            load(path)


def test_data_files_inside_the_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ü b.raw").write_bytes(VOXELS)
    (tmp_path / "link.raw").symlink_to("sub/ü b.raw")
    for name in ("sub/ü b.raw", "link.raw"):
        (tmp_path / "a.mhd").write_bytes(META + b"ElementDataFile = %b\n" % name.encode())
        (tmp_path / "a.nhdr").write_bytes(NRRD + b"data file: %b\n" % name.encode())
        for header in ("a.mhd", "a.nhdr"):
            assert np.array_equal(load(tmp_path / header).array, ramp())


def test_a_header_behind_a_link_has_its_data_beside_it(tmp_path: Path) -> None:
    for name in ("real", "view"):
        (tmp_path / name).mkdir()
    (tmp_path / "real" / "a.mhd").write_bytes(META + b"ElementDataFile = a.raw\n")
    (tmp_path / "real" / "a.raw").write_bytes(VOXELS)
    (tmp_path / "whole").symlink_to("real", target_is_directory=True)
    assert np.array_equal(load(tmp_path / "whole" / "a.mhd").array, ramp())
    (tmp_path / "view" / "a.mhd").symlink_to("../real/a.mhd")
    (tmp_path / "view" / "a.raw").symlink_to("../real/a.raw")
    with pytest.raises(InputError, match="is a link out of the folder"):
        load(tmp_path / "view" / "a.mhd")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"endian: little", b"endian: middle", "its endian is 'middle'"),
        (b"endian: little\n", b"", "its endian is ''"),
        (b"dimension: 3", b"dimension: 4", "dimension 4 and sizes 4 5 6"),
        (b"encoding: raw", b"encoding: raw\nspace: LPS\nspacings: 1 2 3", "no space directions"),
        (b"encoding: raw", b"encoding: raw\nspace: LPS\nspace directions: (1,0,0) (0,1,0)", "3 vectors"),
        (b"encoding: raw", b"encoding: raw\nspace: LPS\nspace directions: (1,0,0) (0,1,0) (0,x,1)", "vector"),
        (b"encoding: raw", b"encoding: raw\nspace: LPS\nspace directions: (1,0,0) (0,1,0) none", "one 3D"),
        (b"encoding: raw", b"encoding: raw\nspace: LPS\nspace origin: (1,2)", "wanted three numbers"),
        (b"encoding: raw", b"encoding: raw\naxis mins: 1 2 3", "but no spacings"),
        (b"encoding: raw", b"encoding: raw\nspacings: 1 2", "wanted one for each axis"),
        (b"encoding: raw", b"encoding: raw\nspacings: 1 2 0", "positive numbers"),
        (b"encoding: raw", b"encoding: raw\nline skip: 2", "skips bytes"),
        (b"encoding: raw", b"encoding: raw\nkinds: domain domain time", "of the kinds domain, domain, time"),
        (b"encoding: raw", b"encoding: raw\nkinds: vector domain domain", "wanted three in space"),
        (b"encoding: raw", b"encoding: raw\nkinds: domain domain", "wanted one for each axis"),
        (b"encoding: raw", b'encoding: raw\nunits: "cm" "cm" "cm"', "wanted mm"),
    ],
)  # fmt: skip
def test_more_nrrd_headers_that_cannot_be(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    assert old in NRRD
    (tmp_path / "a.nrrd").write_bytes(NRRD.replace(old, new) + b"\n" + VOXELS)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.nrrd")


def test_layers_of_3d_slicer_are_called_so(tmp_path: Path) -> None:
    """Layers hold segments that overlap, but a mask has one value per voxel."""
    image = SimpleITK.GetImageFromArray(np.zeros((6, 5, 4, 2), np.uint8), isVector=True)
    for key, value in {"ID": "S", "LabelValue": "1", "Layer": "1", "Name": "la"}.items():
        image.SetMetaData(f"Segment0_{key}", value)
    for name in ("a.seg.nrrd", "a.nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        with pytest.raises(InputError, match=r"\(2, 4, 5, 6\).*It holds segments of 3D Slicer in layers"):
            load_mask(tmp_path / name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (b"Offset = 1 2\n", "its Offset is '1 2'; wanted 3 numbers"),
        (b"TransformMatrix = 1 0 0\n", "wanted 9 numbers"),
        (b"ElementToIntensityFunctionSlope = 2\n", "some programs apply"),
        (b"HeaderSize = -1\n", "it skips bytes before the voxels"),
    ],
)
def test_meta_headers_that_other_programs_read_otherwise(tmp_path: Path, more: bytes, message: str) -> None:
    (tmp_path / "a.mha").write_bytes(META + more + b"ElementDataFile = LOCAL\n" + VOXELS)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.mha")


def itk(path: Path, io: str) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels (i, j, k) and affine as SimpleITK reads them: the reference for this package's reader."""
    image = SimpleITK.ReadImage(str(path), imageIO=io)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), affine


@pytest.mark.parametrize("space", [b"LPS", b"right-anterior-superior", b"LAS", None])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["little", "big"])
def test_nrrd_headers_are_read_as_itk_reads_them(
    tmp_path: Path, space: bytes | None, packed: bool, order: str
) -> None:
    array = ramp("<i2" if order == "little" else ">i2")
    text = NRRD.replace(b"endian: little", b"endian: " + order.encode())
    directions = b"space directions: (0, 0.8,0.6) (2,0,0) (0,-1.8,2.4)\nspace origin: (5,-6.5,7)\n"
    text += b"spacings: 1 2 3\naxis mins: 5 6 7\ncenterings: cell node cell\n" if space is None else b""
    text += b"" if space is None else b"space: " + space + b"\n" + directions
    data = array.tobytes(order="F")
    text = text.replace(b"encoding: raw", b"encoding: gzip") if packed else text
    path = tmp_path / "a.nrrd"
    path.write_bytes(text + b"Segment0_Name:=a: b\n\n" + (gzip.compress(data) if packed else data))
    ours, (voxels, affine) = load(path), itk(path, "NrrdImageIO")
    assert np.array_equal(ours.array, voxels)
    assert np.array_equal(ours.array, ramp())
    assert np.allclose(ours.geometry.affine, affine)
    assert ours.array.dtype == np.int16


@pytest.mark.parametrize("kind", ["CHAR", "USHORT", "LONG", "ULONG_LONG", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("big", [False, True])
def test_meta_headers_are_read_as_itk_reads_them(tmp_path: Path, kind: str, big: bool) -> None:
    types = {"CHAR": "i1", "USHORT": "u2", "LONG": "i4", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
    array = ramp((">" if big else "<") + types[kind])
    text = META.replace(b"MET_SHORT", b"MET_" + kind.encode())
    text += b"ElementByteOrderMSB = %b\nRotation = 0 0.8 0.6 1 0 0 0 -0.6 0.8\n" % str(big).encode()
    text += b"Origin = 1 2 3\nElementSize = 0.5 2 3\nElementDataFile = Local\n"
    path = tmp_path / "a.mha"
    path.write_bytes(text + array.tobytes(order="F"))
    ours, (voxels, affine) = load(path), itk(path, "MetaImageIO")
    assert np.array_equal(ours.array, voxels)
    assert np.allclose(ours.geometry.affine, affine)
    assert ours.array.dtype == types[kind]
    assert ours.array.flags.aligned


def test_axes_of_one_voxel_and_voxels_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    text = NRRD.replace(b"dimension: 3\nsizes: 4 5 6", b"dimension: 4\nsizes: 1 4 5 6") + b"space: LPS\n"
    text += b"space directions: none (1,0,0) (0,2,0) (0,0,3)\nkinds: list domain domain domain\n"
    path.write_bytes(text + b"\n" + VOXELS)
    assert np.array_equal(load(path).array, ramp())
    assert load(path).geometry.spacing_mm.tolist() == [1, 2, 3]
    path.write_bytes(text.replace(b"1 4 5 6", b"2 4 5 3") + b"\n" + VOXELS)
    with pytest.raises(InputError, match="one 3D volume"):
        load(path)
    path.write_bytes(NRRD + b"byte skip: -1\n\n" + b"a header of another kind" + VOXELS)
    assert np.array_equal(load(path).array, ramp())


def test_a_header_without_spacing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(META + b"ElementDataFile = LOCAL\n" + VOXELS)
    (tmp_path / "a.nrrd").write_bytes(NRRD + b"\n" + VOXELS)
    for name in ("a.mha", "a.nrrd"):
        assert "no spacing: 1 mm was taken" in load(tmp_path / name).source.notes[-1]


@pytest.mark.parametrize("suffix", DOORS)
def test_an_offset_keeps_grey_values_apart(tmp_path: Path, suffix: str) -> None:
    array = ramp("f8") + 1e8
    save(Geometry.build(array.shape).volume(array), tmp_path / f"a{suffix}")
    back = load(tmp_path / f"a{suffix}").array
    assert back.dtype == np.float64
    assert np.array_equal(back, array)


def test_a_slope_and_an_intercept_that_float32_cannot_hold(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", ramp())
    patch(path, 112, np.array([1, 1e8], "<f4").tobytes())
    assert np.array_equal(load(path).array, ramp() + 1e8)
    patch(path, 112, np.array([2, 1000], "<f4").tobytes())
    assert load(path).array.dtype == np.float32
    wide = nifti(tmp_path / "b.nii", ramp(), kind=nib.Nifti2Image)
    patch(wide, 176, np.array([1e300, 0], "<f8").tobytes())
    assert np.array_equal(load(wide).array, ramp() * 1e300)
    patch(wide, 176, np.array([1e308, 0], "<f8").tobytes())
    with pytest.raises(InputError, match="infinite values"):
        load(wide)


def test_a_slope_keeps_whole_numbers_of_32_bits_apart(tmp_path: Path) -> None:
    """float32 keeps 16 bits of their range, and merged neighbours: 2 values were left of 27."""
    array = (np.arange(27).reshape(3, 3, 3) + 2**30).astype("<i4")
    array[0, 0, 0] = 0
    path = patch(nifti(tmp_path / "a.nii", array), 112, np.array([0.5, 0], "<f4").tobytes())
    assert np.array_equal(load(path).array, array * 0.5)
    small = patch(nifti(tmp_path / "b.nii", ramp("<i4")), 112, np.array([0.5, 0], "<f4").tobytes())
    assert load(small).array.dtype == np.float32


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_a_mask_that_nibabel_has_scaled_is_rounded_and_noted(tmp_path: Path, suffix: str) -> None:
    labels = (ramp() % 4).astype(np.uint8)
    near = labels * np.float64(1.0000153) - 1e-5
    save(Geometry.build(labels.shape).volume(near), tmp_path / f"m.{suffix}")
    mask = load_mask(tmp_path / f"m.{suffix}")
    assert np.array_equal(mask.array, labels)
    assert mask.array.dtype == np.uint8
    assert mask.source.notes[-1].startswith("labels were rounded to whole numbers: they were off by up to 3")
    exact = nifti(tmp_path / "exact.nii.gz", labels.astype(np.float32))
    assert load_mask(exact).source.notes == ()


def test_a_mask_that_is_none_says_what_it_holds(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[0, 0, :3] = 0.25, 0.5, 1
    with pytest.raises(
        InputError, match=r"m\.nii\.gz.*0\.25, one of 2 such values among 120.*of probabilities"
    ):
        load_mask(nifti(tmp_path / "m.nii.gz", array))
    array[0, 0, 0] = 7.25
    with pytest.raises(InputError, match=r"found 7\.25, one of 2 such values") as error:
        load_mask(nifti(tmp_path / "m.nii.gz", array))
    assert "probabilities" not in str(error.value)
    with pytest.raises(InputError, match=r"found -3, one of 120 such"):
        load_mask(nifti(tmp_path / "m.nii.gz", np.full((4, 5, 6), -3, np.int16)))


def test_a_header_is_not_its_own_data_file(tmp_path: Path) -> None:
    for name, head in (
        ("a.mhd", META + b"ElementDataFile = a.mhd\n"),
        ("a.nhdr", NRRD + b"data file: a.nhdr\n"),
    ):
        (tmp_path / name).write_bytes(head)
        with pytest.raises(InputError, match=f"its data file '{name}' is the header itself"):
            load(tmp_path / name)


def test_a_long_scan_that_is_hardly_turned_is_written(tmp_path: Path) -> None:
    """The quaternion of this scan, rounded to float32, moves the far end by 0.22 mm."""
    grid = Geometry.build(
        (600, 2, 1100), (0.8, 0.8, 0.8), (-250.0, -250.0, -1000.0), rotation(0.668, 1.002, 0.01)
    )
    save(grid.volume(np.ones(grid.shape, np.uint8)), tmp_path / "a.nii.gz")
    back = load(tmp_path / "a.nii.gz")
    assert back.geometry.matches(grid, 1e-3)
    assert back.source.notes == ()


@pytest.mark.parametrize(
    ("name", "begin", "blanks", "end"),
    [
        ("a.nrrd", b"NRRD0004\ntype: uchar\nkey: a", b" ", b"x\nsizes: 2 2 2\n\n"),
        ("a.mha", b"NDims = 3\nComment = a", b" ", b"x\nDimSize = 2 2 2\nElementDataFile = LOCAL\n"),
        ("b.mha", b"NDims = 3\n", b" \n", b"DimSize = 2 2 2\nElementDataFile = LOCAL\n"),
        ("a.mhd", b"NDims = 3\nElementDataFile = a", b" ", b"x"),
    ],
)
def test_a_header_of_blanks_takes_no_time(
    tmp_path: Path, name: str, begin: bytes, blanks: bytes, end: bytes
) -> None:
    """In quadratic time, 100,000 blanks would take half a minute or more of the processor."""
    (tmp_path / name).write_bytes(begin + blanks * 100_000 + end)
    start = time.process_time()
    with pytest.raises(InputError, match=r"wanted (numbers|plain binary)|sizes are"):
        load(tmp_path / name)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("read", [load, load_mask])
@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".dcm", "none.dcm"])
def test_a_name_that_no_file_has_is_no_file(tmp_path: Path, read: object, name: str) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / name)  # type: ignore[operator]


@pytest.mark.parametrize("note", ["x" * 80, "\u00fc" * 40])
def test_a_note_that_is_too_long_is_not_the_fault_of_the_disk(note: str, tmp_path: Path) -> None:
    volume = Geometry.build((2, 2, 2)).volume(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match="found a note of 80 bytes, wanted at most 79"):
        save(volume, tmp_path / "x.nii.gz", note=note)
    assert list(tmp_path.iterdir()) == []
    save(volume, tmp_path / "x.nii.gz", note="\u00fc" * 39)


def test_what_is_no_volume_or_no_path_is_refused(tmp_path: Path) -> None:
    volume: Any = Geometry.build((2, 2, 2)).volume(np.zeros((2, 2, 2), np.uint8))
    array: Any = volume.array
    with pytest.raises(InputError, match="found ndarray, wanted a Volume"):
        save(array, tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match=r"found PosixPath, wanted a Volume\. Read the file with c3s3_seg"):
        save(tmp_path / "x.nii.gz", volume)  # type: ignore[arg-type]
    for call in (load, load_mask, lambda path: save(volume, path)):
        with pytest.raises(InputError, match=r"found an empty path; write \. for the working folder"):
            call("")
        with pytest.raises(InputError, match="found NoneType, wanted a path"):
            call(None)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="found a path with the character 0"):
            call(tmp_path / "o\0.nii")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("note", ["a\nOffset = 9 9 9", "a\r", "\udc80", None, 5])
@pytest.mark.parametrize("suffix", DOORS)
def test_a_note_is_one_line_of_text(note: Any, suffix: str, tmp_path: Path) -> None:
    volume = Geometry.build((2, 2, 2)).volume(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(InputError, match=r"found note=.*, wanted one line of printable text"):
        save(volume, tmp_path / f"n{suffix}", note=note)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("read", "wrong", "message"),
    [
        (load, {"repair": None}, "found repair=None, wanted some of gaps, tilt, orthonormal"),
        (load, {"repair": 5}, "found repair=5, wanted some of"),
        (load, {"rule": "modality=MR"}, "found rule='modality=MR', wanted a SeriesRule"),
        (load, {"hashed": "no"}, "found hashed='no', wanted True or False"),
        (load_mask, {"hashed": "no"}, "found hashed='no', wanted True or False"),
        (load_mask, {"grid": "scan.nii.gz"}, "found grid='scan.nii.gz', wanted a Geometry"),
        (
            load_mask,
            {"grid": VOLUME},
            "grid of type Volume, wanted a Geometry, .*: volume.geometry",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused_in_words(
    read: Any, wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save(VOLUME, tmp_path / "x.nii.gz", note="one line")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.nii.gz", **wrong)
    assert load(tmp_path / "x.nii.gz", repair=["gaps"], hashed=True).source.sha256
    load_mask(tmp_path / "x.nii.gz", grid=VOLUME.geometry)
