"""Tests that a scan in place of a mask is known by its voxels; many, small or ragged labels pass."""

from pathlib import Path

import numpy as np
import pytest
from conftest import small_scan
from helpers.dicom_files import edit
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.scan_like import ScanError, refuse_scan, refuse_scans, scan_words
from c3s3_seg.phantom import simulate

SHAPE = (40, 36, 32)


def bodies(count: int, shape: tuple[int, int, int] = SHAPE, ragged: float = 0.0) -> np.ndarray:
    """Return a mask of `count` labels that fill the volume, each voxel nearest to its label's centre."""
    random = np.random.default_rng(0)
    centres = random.uniform(0, shape, (count, 3))
    places = np.indices(shape).reshape(3, -1).T + random.normal(0, ragged, (np.prod(shape), 3))
    return (cKDTree(centres).query(places)[1] + 1).reshape(shape).astype(np.uint16)


def noise(kind: str) -> np.ndarray:
    random = np.random.default_rng(1)
    if kind == "smooth":
        field = gaussian_filter(random.standard_normal(SHAPE), 3)
        return np.asarray((254 * (field - field.min()) / np.ptp(field)).astype(np.uint8))
    arrays = {
        "8 bits": random.integers(0, 255, SHAPE).astype(np.uint8),
        "few intensities": random.integers(0, 64, SHAPE).astype(np.uint8),
        "CT": random.normal(0, 300, SHAPE).astype(np.int16),
        "CT from 0": random.normal(1024, 100, SHAPE).astype(np.uint16),
        "whole floats": random.integers(0, 2000, SHAPE).astype(np.float32),
        "fractions": random.normal(100, 20, SHAPE).astype(np.float32),
        "negative fractions": random.normal(0, 1, SHAPE).astype(np.float64),
        "scaled to 1": random.random(SHAPE).astype(np.float32),
        "brain alone": random.integers(100, 900, SHAPE) * (bodies(5) == 1),
        "tiny": random.integers(0, 255, (9, 8, 7)),
        "ramp": np.arange(9 * 8 * 7).reshape(9, 8, 7),
    }
    return np.asarray(arrays[kind])


@pytest.mark.parametrize(
    "kind",
    ["8 bits", "few intensities", "CT", "CT from 0", "whole floats", "fractions", "negative fractions",
     "scaled to 1", "brain alone", "tiny", "ramp", "smooth"],
)  # fmt: skip
def test_scans_of_every_kind_are_known(kind: str) -> None:
    words = scan_words(noise(kind))
    assert words is not None
    assert "looks like a" in words


def test_simulated_scans_are_known_and_their_truths_pass() -> None:
    found = simulate(0)
    assert "looks like a scan" in (scan_words(found.scan.array) or "")
    assert scan_words(found.truth.array) is None
    assert "fractions" in (scan_words(small_scan(0).array) or "")


def test_masks_with_many_labels_pass() -> None:
    assert scan_words(bodies(104)) is None
    assert scan_words(bodies(104, ragged=0.5)) is None
    assert scan_words(bodies(400)) is None
    assert scan_words(bodies(104).astype(np.float32)) is None
    assert scan_words(bodies(104, (12, 10, 8))) is None  # about 9 voxels each
    shell = np.linalg.norm(np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] / 2, axis=0)
    assert scan_words(bodies(300) * ((shell > 10) & (shell < 13))) is None  # a shell, like a cortex


def test_masks_of_small_and_ragged_labels_pass() -> None:
    lone = np.zeros(SHAPE, np.uint8)
    lone.reshape(-1)[:208] = np.repeat(np.arange(1, 105), 2)  # two adjacent voxels per label
    assert scan_words(lone) is None
    speckle = np.random.default_rng(2).integers(0, 6, SHAPE)
    assert scan_words(speckle) is None
    assert scan_words(np.zeros(SHAPE, np.uint8)) is None
    assert scan_words(np.ones(SHAPE, bool)) is None


def test_what_is_neither_is_left_to_the_reader_of_masks() -> None:
    half = bodies(3).astype(np.float32) + 0.5
    assert scan_words(half) is None
    ignored = bodies(3).astype(np.int16) - 2
    assert scan_words(ignored) is None
    assert scan_words(noise("8 bits").astype(np.complex64)) is None


def test_a_probability_map_is_called_one() -> None:
    assert "probability map" in (scan_words(noise("scaled to 1")) or "")


def test_floats_that_are_off_by_rounding_are_labels() -> None:
    off = np.random.default_rng(3).uniform(-1e-4, 1e-4, SHAPE)
    assert scan_words(bodies(104) + off) is None


def test_the_file_and_the_reason_are_named(tmp_path: Path) -> None:
    grid = Geometry.build(SHAPE)
    save(grid.volume(noise("8 bits")), tmp_path / "s.nii.gz")
    with pytest.raises(ScanError, match=r"s\.nii\.gz: this looks like a scan.*between 0 and 254"):
        refuse_scan(tmp_path / "s.nii.gz")
    save(grid.volume(bodies(104)), tmp_path / "m.nii.gz")
    refuse_scan(tmp_path / "m.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    refuse_scan(tmp_path / "broken.nii.gz")  # its case fails later, with the reason


def test_a_dicom_image_is_a_scan_by_its_modality(tmp_path: Path, oblique: Volume) -> None:
    files = save_series(oblique, tmp_path / "series", description="phantom", seed_uid="a")
    edit(files[0], lambda data: setattr(data, "PatientName", "SECRET^NAME"))
    with pytest.raises(ScanError, match=r"DICOM image \(MR\)") as caught:
        refuse_scan(files[0])
    assert "SECRET" not in str(caught.value)


def test_one_scan_among_masks_is_not_the_wrong_folder(tmp_path: Path) -> None:
    grid = Geometry.build(SHAPE)
    paths = [tmp_path / f"{n}.nii.gz" for n in range(5)]
    for path in paths:
        save(grid.volume(noise("8 bits")), path)
    with pytest.raises(ScanError, match=r"0\.nii\.gz"):
        refuse_scans(paths)
    save(grid.volume(bodies(3)), paths[1])
    refuse_scans(paths)
    refuse_scans([])


@pytest.mark.data
def test_real_scans_are_known_and_real_masks_pass(shared_data: Path) -> None:
    for name in ("la", "hippocampus"):
        scan = sorted((shared_data / name / "imagesTr").glob("*.nii.gz"))[:3]
        for path in scan:
            with pytest.raises(ScanError):
                refuse_scan(path)
        for path in sorted((shared_data / name / "labelsTr").glob("*.nii.gz"))[:3]:
            refuse_scan(path)
