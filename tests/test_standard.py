"""DICOM objects written for every kind of series conform: dciodvfy finds no error but the source's."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_seg import MAKER, SEGMENTS, differing, drawn, errors
from pydicom.uid import JPEG2000Lossless, generate_uid

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.secondary_capture import write_capture
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.phantom import Simulator, simulate
from c3s3_seg.system.choices import Repair

COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))
# Errors of the real slices in attributes that have to be copied, and the summary line that dciodvfy adds.
THEIRS = ("Patient's Age", "Dicom dataset contains invalid data values")
# The folder, the number of its slices used, and the repairs. The axis of an oblique series is known from the
# rounded positions of its slices: ten slices are too few for the programs to agree.
REAL: dict[str, tuple[str, int, tuple[Repair, ...]]] = {
    "Philips CT": ("philips-ct/S2010", 10, ()),
    "tilted CT": ("philips-ct-tilt", 10, ("tilt", "gaps")),
    "oblique MR": ("oblique-t1", 24, ()),
    "brain MR": ("brain-study/12-T1post-05670", 22, ()),
    "brain MR crop": ("brain-study/13_HCropVolume", 10, ()),
}


def some_slices(series: Path, count: int, folder: Path) -> Path:
    """Link the first slices of a series to a new folder: checks are per object and frame, so few suffice."""
    numbers = {path: pydicom.dcmread(path, force=True).get("InstanceNumber") for path in series.iterdir()}
    slices = sorted((path for path in numbers if numbers[path]), key=lambda path: int(numbers[path]))
    folder.mkdir()
    for path in slices[:count]:
        (folder / path.name).symlink_to(path)
    return folder


def check_all(scan: Volume, folder: Path) -> None:
    """Write every kind of object and check it for errors; the SEG is read back unless repaired."""
    mask = drawn(scan)
    write_seg(mask, folder / "binary.dcm", SEGMENTS, MAKER)
    write_seg(mask, folder / "labelmap.dcm", SEGMENTS, MAKER, labelmap=True)
    write_rtstruct(mask, folder / "rtstruct.dcm", SEGMENTS, MAKER)
    picture = np.random.default_rng(0).integers(0, 256, (31, 27, 3), np.uint8)
    write_capture(picture, scan.source, folder / "key.dcm", MAKER)
    for name in ("binary", "labelmap", "rtstruct", "key"):
        path = folder / f"{name}.dcm"
        assert [e for e in errors(path) if not any(t in e for t in THEIRS)] == [], name
    if not any("repaired" in note for note in scan.source.notes):
        assert differing(folder / "binary.dcm", mask, folder / "q") == 0
    points = pydicom.dcmread(folder / "rtstruct.dcm").ROIContourSequence[0].ContourSequence
    assert all(len(v.original_string) <= 16 for c in points for v in c.ContourData)
    key = pydicom.dcmread(folder / "key.dcm")
    assert np.array_equal(key.pixel_array, picture)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_of_a_real_series(shared_data: Path, tmp_path: Path, name: str) -> None:
    place, count, repair = REAL[name]
    scan = load(some_slices(shared_data / "dicom" / place, count, tmp_path / "slices"), repair=repair)
    assert [
        word for word in repair if f"repaired on request ({word})" not in " ".join(scan.source.notes)
    ] == []
    check_all(scan, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["phantom", "compressed", "enhanced"])
def test_of_a_phantom(tmp_path: Path, kind: str) -> None:
    files = save_series(simulate(31_070, COARSE).scan, tmp_path / "s", description="", seed_uid=kind)
    if kind == "compressed":
        for path in files:
            data = pydicom.dcmread(path)
            data.compress(JPEG2000Lossless, generate_instance_uid=False)
            data.save_as(path)
    if kind == "enhanced":
        legacy = pytest.importorskip("highdicom.legacy")
        sources = [pydicom.dcmread(files[n * 5 % len(files)]) for n in range(len(files))]
        for source in sources:
            source.AccessionNumber = "1"
        made = legacy.LegacyConvertedEnhancedMRImage(sources, generate_uid(), 1, generate_uid(), 1)
        (tmp_path / "e").mkdir()
        made.save_as(tmp_path / "e" / "one.dcm")
    check_all(load(tmp_path / ("e" if kind == "enhanced" else "s")), tmp_path)
