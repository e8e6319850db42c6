"""What tests of studies share: series of one study, nested or flat, with what a PACS has beside them."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import UID, generate_uid

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.phantom import Simulator, simulate

COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))
STRUCTURED_REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


def heart(seed: int = 31_000) -> Volume:
    """A scan that the phantom model takes."""
    return simulate(seed, COARSE).scan


def small(slices: int = 4) -> Volume:
    """A volume that its domain check refuses: too few slices and too small a field of view."""
    shape = (12, 10, slices)
    return Geometry.build(shape, (2.0, 2.0, 2.0)).volume(
        np.arange(120 * slices, dtype=np.uint16).reshape(shape)
    )


def uid(*words: object) -> UID:
    return generate_uid(entropy_srcs=[str(word) for word in words])


def series(
    volume: Volume, folder: Path, study: str, number: int, description: str = "", **attributes: object
) -> list[Path]:
    """Add a series to the files of a folder, under names of their own."""
    aside = folder / ".aside"
    files = save_series(volume, aside, description=description, seed_uid=f"{study}-{number}", patient=study)
    placed = []
    for path in files:
        data = pydicom.dcmread(path)
        data.StudyInstanceUID, data.SeriesNumber = uid(study), str(number)
        for keyword, value in attributes.items():
            setattr(data, keyword, value)
        placed.append(folder / f"S{number}_{path.name}")
        data.save_as(placed[-1])
    shutil.rmtree(aside)
    return placed


def report(folder: Path, study: str) -> Path:
    """A structured report, which has no image; of no study where `study` is empty."""
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
    """A scan (series 2), a short volume (3), a localizer (1) and a report, flat or in sub-folders."""
    places = [folder] * 4 if flat else [folder / "study" / name for name in ("1", "2", "3", "sr")]
    series(small(1), places[0], study, 1, "localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(scan, places[1], study, 2, "LGE 3D")
    series(small(), places[2], study, 3, "cine")
    report(places[3], study)
    return folder
