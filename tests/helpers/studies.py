"""Shared by tests of studies: series of one study, nested or flat, with the other objects of a PACS."""

from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from pydicom.uid import UID, generate_uid

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.phantom import Simulator, simulate

COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))
STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


@cache
def heart() -> Volume:
    """Return a scan that the phantom model accepts."""
    return simulate(31_000, COARSE).scan


@cache
def small(slices: int = 4) -> Volume:
    """Return a volume that the phantom's domain check refuses: too few slices, too small a field of view."""
    shape = (12, 10, slices)
    return Geometry.build(shape, (2.0, 2.0, 2.0)).volume(
        np.arange(120 * slices, dtype=np.uint16).reshape(shape)
    )


def uid(*words: object) -> UID:
    return generate_uid(entropy_srcs=[str(word) for word in words])


def series(
    volume: Volume, folder: Path, study: str, number: int, description: str = "", **attributes: object
) -> list[Path]:
    """Add a series to a folder, under file names that contain its number; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    placed = []
    for n, content in enumerate(_slices(volume), 1):
        data = pydicom.dcmread(BytesIO(content))
        data.PatientID, data.StudyInstanceUID, data.FrameOfReferenceUID = (
            study,
            uid(study),
            uid(study, "frame"),
        )
        data.SeriesInstanceUID, data.SeriesNumber = uid(study, number), str(number)
        data.SeriesDescription = description
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid(study, number, n)
        for keyword, value in attributes.items():
            setattr(data, keyword, value)
        placed.append(folder / f"S{number}_IM_{n:04d}.dcm")
        data.save_as(placed[-1])
    return placed


_WRITTEN: dict[int, tuple[Volume, list[bytes]]] = {}


def _slices(volume: Volume) -> list[bytes]:
    """Return the contents of the DICOM files of a volume, which are written once."""
    if id(volume) not in _WRITTEN:
        with TemporaryDirectory() as folder:
            files = save_series(volume, Path(folder) / "s", description="", seed_uid="template")
            _WRITTEN[id(volume)] = volume, [path.read_bytes() for path in files]
    return _WRITTEN[id(volume)][1]


def report(folder: Path, study: str) -> Path:
    """Write a structured report, which has no image; without a StudyInstanceUID if `study` is empty."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(STRUCTURED_REPORT)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid(study, "report")
    data.StudyInstanceUID = uid(study) if study else ""
    data.SeriesInstanceUID, data.Modality = uid(study, "sr"), "SR"
    folder.mkdir(parents=True, exist_ok=True)
    data.save_as(folder / "A_report.dcm", enforce_file_format=True)
    return folder / "A_report.dcm"


def whole_study(folder: Path, study: str, scan: Volume, *, flat: bool = False) -> Path:
    """Write a scan (series 2), a short volume (3), a localizer (1) and a report, flat or in sub-folders."""
    places = [folder] * 4 if flat else [folder / "study" / name for name in ("1", "2", "3", "sr")]
    series(small(1), places[0], study, 1, "localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(scan, places[1], study, 2, "LGE 3D")
    series(small(), places[2], study, 3, "cine")
    report(places[3], study)
    return folder
