"""Write a `Volume` as a classic MR series: simulated scans for demonstrations and tests, no patient's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Array, Geometry, Volume
from c3s3_seg.io.dicom.header import own_copy
from c3s3_seg.system.files import make_folder


def save_series(
    volume: Volume, folder: str | Path, *, description: str, seed_uid: str, patient: str = "PHANTOM"
) -> list[Path]:
    """Write a volume as an MR Image Storage series, one file a slice, Explicit VR Little Endian.

    Parameters
    ----------
    volume
        (i, j, k), whole numbers from 0 to 65535, on a grid of right angles; i becomes the column, j the row.
    folder
        Output folder, created if necessary; it must be empty.
    description
        SeriesDescription, cut to 64 characters.
    patient
        PatientID.
    seed_uid
        Seed of the UIDs: the same seed gives the same files, another seed another series.

    Returns
    -------
    list of Path
        The files in the order of their positions along the slice normal. Where the axes i, j, k are
        left-handed this is the reverse of k, since a series is read along the normal.

    Raises
    ------
    InputError
        If the values do not fit uint16, the folder is not empty, or a file cannot be written (none is left).
    GeometryError
        If the grid has no right angles.
    """
    folder = Path(folder)
    geometry = volume.geometry
    if not geometry.is_orthogonal:
        raise GeometryError("the axes are not perpendicular, which a series cannot keep", where=folder)
    pixels = _pixels(volume.array)
    order = list(range(geometry.shape[2]))
    if np.linalg.det(geometry.direction) < 0:
        order.reverse()
    shared = _shared(geometry, description[:64], seed_uid)
    shared.PatientID = patient
    written: list[Path] = []
    try:
        make_folder(folder)
        if any(folder.iterdir()):
            raise InputError("the folder is not empty", where=folder, todo="Give a new one")
        for number, k in enumerate(order, 1):
            written.append(folder / f"IM_{number:04d}.dcm")
            item = _slice(shared, geometry, k, number, seed_uid)
            item.PixelData = pixels[:, :, k].T.tobytes()
            item.save_as(written[-1], enforce_file_format=True)
    except OSError as error:
        for path in written:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise InputError(f"the series cannot be written: {error.strerror or error}", where=folder) from error
    return written


def _pixels(array: Array) -> Array:
    whole = array.dtype.kind in "iub" or np.array_equal(array, np.floor(array))
    if not whole or array.min() < 0 or array.max() > 65535:
        raise InputError("found values that are no whole numbers from 0 to 65535, which a series holds")
    return array.astype("<u2")


def _uid(*parts: str) -> UID:
    return generate_uid(entropy_srcs=list(parts))


def _decimals(values: Array) -> list[str]:
    """Return decimal strings of at most 16 characters (PS3.5, 6.2, DS)."""
    return [format_number_as_ds(float(v) + 0.0) for v in values]


def _shared(geometry: Geometry, description: str, seed_uid: str) -> Dataset:
    """Return the attributes that all slices share: all of type 1 and 2 in the MR Image IOD (PS3.3, A.4)."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName = "PHANTOM^SIMULATED"
    data.PatientBirthDate, data.PatientSex = "", ""
    data.StudyInstanceUID, data.SeriesInstanceUID = _uid(seed_uid, "study"), _uid(seed_uid, "series")
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "", "", "", ""
    data.ReferringPhysicianName = ""
    data.Modality, data.SeriesNumber, data.SeriesDescription = "MR", "1", description
    data.Laterality = ""  # type 2C: unknown, as is the body part
    data.PatientPosition = "HFS"
    data.FrameOfReferenceUID = geometry.frame_uid or _uid(seed_uid, "frame")
    data.PositionReferenceIndicator = ""
    data.Manufacturer = ""
    data.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    data.BurnedInAnnotation = "NO"
    data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
    data.MRAcquisitionType, data.EchoTime, data.EchoTrainLength, data.RepetitionTime = "3D", None, None, None
    spacing = geometry.spacing_mm
    data.PixelSpacing = _decimals(spacing[[1, 0]])  # rows first (PS3.3, 10.7.1.3)
    data.SliceThickness, data.SpacingBetweenSlices = _decimals(spacing[[2, 2]])
    data.ImageOrientationPatient = _decimals(geometry.direction[:, :2].T.ravel())
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Columns, data.Rows = geometry.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    return data


def _slice(shared: Dataset, geometry: Geometry, k: int, number: int, seed_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(seed_uid, "slice", str(number))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # FileDataset does not copy the elements of a dataset, so each slice gets a copy.
    data = FileDataset("", own_copy(shared), file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.InstanceNumber = str(number)
    data.ImagePositionPatient = _decimals(geometry.to_mm([0, 0, k]))
    return data
