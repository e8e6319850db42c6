"""Tests of slices that differ: within rounding they are read with a note, by more they are refused."""

from pathlib import Path

import numpy as np
import pytest
from conftest import rotation
from helpers.dicom_files import edit, values

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    return save_series(oblique, tmp_path / "series", description="phantom", seed_uid="a")


@pytest.fixture
def wide(tmp_path: Path) -> list[Path]:
    """Write five slices of 500 x 3 pixels of 0.5 mm, 2 mm apart: small errors move their far edge a lot."""
    grid = Geometry.build((500, 3, 5), (0.5, 0.5, 2.0), (-125, 0, 0))
    array = np.arange(7500, dtype=np.int16).reshape(500, 3, 5)
    return save_series(grid.volume(array), tmp_path / "wide", description="", seed_uid="w")


def test_orientations_off_by_rounding_are_read(oblique: Volume, files: list[Path]) -> None:
    cosines, off = oblique.geometry.direction[:, :2].T.ravel(), 2e-4 * np.array([1, 0, 0, 0, 0, 1])
    for n, path in enumerate(files):
        edit(path, values(ImageOrientationPatient=[f"{v:.8f}" for v in cosines + (n % 2) * off]))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    # The far edge of 20 x 16 voxels moves by half of the difference: less than 0.01 mm.
    assert back.geometry.matches(oblique.geometry, 0.01)
    assert back.geometry.is_orthogonal
    (note,) = back.source.notes
    assert note.startswith("the slices differ in ImageOrientationPatient by up to 0.0002, which is taken for")


@pytest.mark.parametrize(("off", "goes"), [(3e-4, True), (6e-4, False)])
@pytest.mark.parametrize("axis", [1, 2])
def test_what_counts_is_the_far_edge(wide: list[Path], off: float, goes: bool, axis: int) -> None:
    """499 pixels times half of the difference are 0.075 and 0.15 voxels; along the normal, a quarter."""
    edit(wide[2], values(ImageOrientationPatient=[1, *[off if n == axis else 0 for n in (1, 2)], 0, 1, 0]))
    if goes or axis == 2:
        assert "ImageOrientationPatient" in load(wide[0].parent).source.notes[0]
    else:
        with pytest.raises(InputError, match=r"ImageOrientationPatient: 'IM_0001.dcm' and 'IM_0003"):
            load(wide[0].parent)


def test_four_times_the_difference_along_the_normal_is_refused(wide: list[Path]) -> None:
    edit(wide[2], values(ImageOrientationPatient=[1, 0, 24e-4, 0, 1, 0]))
    with pytest.raises(InputError, match="differ in ImageOrientationPatient"):
        load(wide[0].parent)


@pytest.mark.parametrize(("spacing", "goes"), [("0.50015", True), ("0.5003", False)])
def test_pixel_spacings_off_by_rounding(wide: list[Path], spacing: str, goes: bool) -> None:
    edit(wide[2], values(PixelSpacing=["0.5", spacing]))  # the row distance is first: this one is along i
    if goes:
        assert "PixelSpacing by up to 0.00015" in load(wide[0].parent).source.notes[0]
    else:
        with pytest.raises(InputError, match=r"differ in PixelSpacing: .* by 0\.1\d+ voxels"):
            load(wide[0].parent)


def test_axes_off_a_right_angle_by_rounding(wide: list[Path]) -> None:
    for path in wide:
        edit(path, values(ImageOrientationPatient=[1, 0.0003, 0, 0, 1, 0]))
    back = load(wide[0].parent)
    assert back.geometry.is_orthogonal
    assert "off a right angle" in back.source.notes[0]
    for path in wide:
        edit(path, values(ImageOrientationPatient=[1, 0.001, 0, 0, 1, 0]))
    with pytest.raises(GeometryError, match="not perpendicular"):
        load(wide[0].parent)


@pytest.mark.parametrize("name", ["A^B^^", "A^B^^^", "A ^B", "A^B^=^", "a^B"])
def test_one_name_written_in_two_ways(oblique: Volume, files: list[Path], name: str) -> None:
    for path in files:
        edit(path, values(PatientName="A^B"))
    edit(files[4], values(PatientName=name))
    back = load(files[0].parent)
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == (
        "the slices write the patient's name in 2 ways, which differ in empty parts or in capitals alone",
    )


@pytest.mark.parametrize("name", ["A", "^A^B", "A^^B", "A^B^C", "B^A", ""])
def test_two_names_are_two_patients(files: list[Path], name: str) -> None:
    for path in files:
        edit(path, values(PatientName="A^B"))
    edit(files[4], values(PatientName=name))
    with pytest.raises(InputError, match=r"of two patients: 'IM_0001.dcm' and 'IM_0005.dcm'"):
        load(files[0].parent)


def stored(files: list[Path], pixels: np.ndarray, **attributes: object) -> Path:
    for n, path in enumerate(files):
        content = pixels[:, :, n].T.astype(np.int16).tobytes()
        edit(path, values(PixelData=content, BitsStored=12, HighBit=15, **attributes))
    return files[0].parent


def test_a_high_bit_of_15_with_12_bits_stored(oblique: Volume, files: list[Path]) -> None:
    low = oblique.array % 4096
    back = load(stored(files, low))
    assert np.array_equal(back.array, low)
    note = "HighBit is not BitsStored - 1 in 12 slices: no value needs more bits than BitsStored"
    assert back.source.notes == (note,)
    back = load(stored(files, low - 2048, PixelRepresentation=1))  # the sign fills the upper bits
    assert np.array_equal(back.array, low - 2048)
    back = load(stored(files, (low - 2048) & 0x0FFF, PixelRepresentation=1))  # the upper bits are zero
    assert np.array_equal(back.array, low - 2048)
    assert np.array_equal(load(stored(files, low * 0, PixelRepresentation=0)).array, low * 0)


@pytest.mark.parametrize("shift", ["upper", "both"])
def test_values_in_the_upper_bits_are_refused_with_what_was_found(
    oblique: Volume, files: list[Path], shift: str
) -> None:
    low = oblique.array % 2048
    folder = stored(files, low * 16 if shift == "upper" else low * 16 + 1)
    with pytest.raises(
        InputError, match=r"HighBit 15 with BitsStored 12, and values from \d+ to \d+"
    ) as error:
        load(folder)
    assert "damaged" not in str(error.value)
    with pytest.raises(InputError, match="no value uses the lowest bits"):
        load(stored(files, oblique.array % 200 * 16))


def test_what_differs_within_rounding_goes_into_dicom_and_back(oblique: Volume, files: list[Path]) -> None:
    """highdicom accepts no slices of two orientations, and no slice may be left without its mask."""
    cosines, off = oblique.geometry.direction[:, :2].T.ravel(), 2e-4 * np.array([1, 0, 0, 0, 0, 1])
    for n, path in enumerate(files):
        edit(
            path,
            values(
                ImageOrientationPatient=[f"{v:.8f}" for v in cosines + (n % 2) * off],
                PixelSpacing=["0.9", "0.70001" if n % 3 else "0.7"],
                PatientName="A^B" if n % 2 else "A^B^^",
            ),
        )
    scan = load(files[0].parent)
    assert len(scan.source.notes) == 3
    mask = scan.geometry.volume((scan.array > 2000).astype(np.uint8), scan.source)
    folder = files[0].parent.parent
    write_seg(mask, folder / "seg.dcm", (Segment("a", 1),))
    write_rtstruct(mask, folder / "rt.dcm", (Segment("a", 1),))
    for name in ("seg.dcm", "rt.dcm"):
        assert np.array_equal(load_mask(folder / name, grid=scan.geometry).array, mask.array)


@pytest.mark.parametrize("decimals", [4, 5])
def test_a_mask_of_a_series_with_rounded_cosines_is_on_its_grid(tmp_path: Path, decimals: int) -> None:
    """Rounded cosines are up to 1e-4 off a right angle, which moves the far corner of 0.46 m by 0.03 mm."""
    scan = Geometry.build((512, 512, 2), (0.9, 0.9, 3), (-200, -180, 40), rotation(20, -12, 33)).volume(
        np.zeros((512, 512, 2), np.int16)
    )
    for path in save_series(scan, tmp_path / "series", description="", seed_uid="r"):
        cosines = [f"{v:.{decimals}f}" for v in scan.geometry.direction[:, :2].T.ravel()]
        edit(path, values(ImageOrientationPatient=cosines))
    back = load(tmp_path / "series")
    assert np.abs(back.geometry.direction[:, 0] @ back.geometry.direction[:, 1]) > 1e-6
    for name in ("m.nii.gz", "m.nii", "m.nrrd", "m.mha"):
        save(back.geometry.volume(np.ones(back.geometry.shape, np.uint8)), tmp_path / name)
        assert load(tmp_path / name).geometry.matches(back.geometry, 1e-3)
