"""Tests of repairs on request: a damaged scan is restored in place and value; none is repaired unasked."""

from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values

from c3s3_seg.errors import GeometryError, InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import limits, load, save
from c3s3_seg.io.dicom.write_series import save_series

NIB_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def ramp() -> Volume:
    """Return a volume that is linear in mm along all patient axes: linear interpolation is exact."""
    from conftest import rotation

    grid = Geometry.build((24, 20, 12), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    values = 1000 + np.round(index @ [8, 12, 20])
    return grid.volume(values.astype(np.uint16))


def test_missing_slices_are_interpolated_only_on_request(ramp: Volume, tmp_path: Path) -> None:
    files = save_series(ramp, tmp_path / "s", description="", seed_uid="a")
    for n in (4, 7, 8):
        files[n].unlink()
    with pytest.raises(InputError, match=r"missing \(3\).*repair='gaps'"):
        load(tmp_path / "s")
    back = load(tmp_path / "s", repair=("gaps",))
    assert back.geometry.matches(ramp.geometry, 1e-3)
    assert np.abs(back.array - ramp.array).max() < 0.01
    (note,) = back.source.notes
    assert note.startswith("repaired on request (gaps): resampled to steps of 2.5 mm, 3 of 12 slices")
    assert "widest gap was 7.5 mm" in note


@pytest.mark.parametrize("fault", ["tilt", "gaps"])
def test_a_repair_that_takes_too_much_memory_is_refused(
    ramp: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Literal["tilt", "gaps"]
) -> None:
    """The positions stated in the files can make a few small slices a volume larger than the memory."""
    files = save_series(ramp, tmp_path / "s", description="", seed_uid="a")
    for k, path in enumerate(files):
        place = (2000.0 * k, 0, k) if fault == "tilt" else (0, 0, k if k < 11 else 100)
        edit(path, values(ImagePositionPatient=[f"{v:.6f}" for v in ramp.geometry.to_mm(place)]))
    monkeypatch.setattr(limits, "SMALL", 0)
    monkeypatch.setattr(limits, "free_bytes", lambda: 8.0 * 24 * 20 * 13)
    with pytest.raises(MemoryLimitError, match=r"22024 x 22 x 12" if fault == "tilt" else "24 x 20 x 101"):
        load(tmp_path / "s", repair=fault)


def test_uneven_slices_are_resampled_on_request(ramp: Volume, tmp_path: Path) -> None:
    files = save_series(ramp, tmp_path / "s", description="", seed_uid="a")
    grid = ramp.geometry
    heights = np.array([0, 1.08, 2.16, 3.24, 7.24, 11.24, 15.24, 22.24, 23.32, 24.4, 25.48, 26.56])
    for path, height in zip(files, heights, strict=True):
        where = grid.origin_mm + height * grid.direction[:, 2]
        edit(path, values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    with pytest.raises(GeometryError, match="unevenly spaced"):
        load(tmp_path / "s")
    back = load(tmp_path / "s", repair=("gaps",))
    assert back.geometry.is_orthogonal
    assert np.isclose(back.geometry.spacing_mm[2] * (back.geometry.shape[2] - 1), 26.56, atol=1e-3)
    # Each plane equals the linear interpolation between its neighbours.
    for k in range(back.geometry.shape[2]):
        height = k * back.geometry.spacing_mm[2]
        wanted = np.interp(height, heights, ramp.array[5, 7].astype(float))
        assert abs(back.array[5, 7, k] - wanted) < 0.05


def test_tilt_is_straightened_on_request(ramp: Volume, tmp_path: Path) -> None:
    files = save_series(ramp, tmp_path / "s", description="", seed_uid="a")
    grid = ramp.geometry
    inverse = np.linalg.inv(grid.affine)
    for k, path in enumerate(files):
        where = grid.to_mm((0, 0, k)) + k * 0.41 * grid.direction[:, 1] - k * 0.2 * grid.direction[:, 0]
        edit(path, values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
        # The shifted slice samples the same field of values.
        index = (inverse @ [*where, 1])[:3]
        i, j = np.indices(grid.shape[:2])
        seen = 1000 + 8 * (i + index[0]) + 12 * (j + index[1]) + 20 * index[2]
        data = pydicom.dcmread(path)
        data.PixelData = np.round(seen * 16).T.astype("<u2").tobytes()
        data.RescaleSlope, data.RescaleIntercept = "0.0625", "0"
        data.save_as(path)
    with pytest.raises(GeometryError, match=r"tilted by 10\.3 degrees.*repair='tilt'"):
        load(tmp_path / "s")
    back = load(tmp_path / "s", repair=("tilt",))
    assert back.geometry.is_orthogonal
    assert back.source.notes[0].startswith("repaired on request (tilt)")
    assert "10.3 degrees" in back.source.notes[0]
    # In the interior, every voxel has the value that the field has at the voxel's place.
    middle = np.array([[12, 10, k] for k in range(12)])
    there = (back.geometry.to_mm(middle) - grid.origin_mm) @ np.linalg.inv(grid.affine[:3, :3]).T
    wanted = 1000 + there @ [8, 12, 20]
    assert np.abs(back.array[tuple(middle.T)] - wanted).max() < 0.2
    with pytest.raises(GeometryError, match="tilted"):
        load(tmp_path / "s", repair=("gaps",))


@pytest.mark.data
def test_the_real_tilted_ct_is_straightened(shared_data: Path) -> None:
    back = load(shared_data / "dicom" / "philips-ct-tilt", repair=("tilt", "gaps"))
    assert back.geometry.is_orthogonal
    assert [note[:26] for note in back.source.notes if "repaired" in note] == [
        "repaired on request (tilt)",
        "repaired on request (gaps)",
    ]


def test_a_small_shear_takes_the_nearest_rotation_on_request(tmp_path: Path) -> None:
    import nibabel

    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    affine[0, 1] = 0.01
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"not perpendicular.*repair='orthonormal'"):
        load(tmp_path / "a.nii")
    back = load(tmp_path / "a.nii", repair=("orthonormal",))
    assert back.geometry.is_orthogonal
    assert np.allclose(back.geometry.spacing_mm, np.linalg.norm(affine[:3, :3], axis=0))
    middle = np.array([1.5, 2, 2.5])
    assert np.allclose(back.geometry.to_mm(middle), (NIB_FLIP @ affine @ [*middle, 1])[:3])
    assert "repaired on request (orthonormal)" in back.source.notes[-1]
    assert "by up to 0.0" in back.source.notes[-1]
    affine[0, 1] = 0.4
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "b.nii")
    with pytest.raises(GeometryError, match=r"sheared by 18\.4 degrees; up to 5 can be repaired"):
        load(tmp_path / "b.nii", repair=("orthonormal",))


def test_what_needs_no_repair_is_left_alone(ramp: Volume, tmp_path: Path) -> None:
    save_series(ramp, tmp_path / "s", description="", seed_uid="a")
    save(ramp, tmp_path / "a.nii.gz")
    for path in (tmp_path / "s", tmp_path / "a.nii.gz"):
        back = load(path, repair=("gaps", "tilt", "orthonormal"))
        assert np.array_equal(back.array, ramp.array)
        assert back.source.notes == ()


def test_a_scan_that_is_nearly_all_missing_is_refused(ramp: Volume, tmp_path: Path) -> None:
    files = save_series(ramp, tmp_path / "s", description="", seed_uid="a")
    for path in files[3:-1]:
        path.unlink()
    grid = ramp.geometry
    where = grid.origin_mm + 400 * grid.direction[:, 2]
    edit(files[-1], values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    with pytest.raises(InputError, match="nearly all of the scan is missing"):
        load(tmp_path / "s", repair=("gaps",))
