"""Write a picture as DICOM Secondary Capture (PS3.3, A.8.1), in the study of the scan that it shows."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.uid import SecondaryCaptureImageStorage

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Source
from c3s3_seg.io.dicom_objects.codes import PICTURE, Maker
from c3s3_seg.io.dicom_objects.common import YES_OR_NO, derived, reference, state_source_loss
from c3s3_seg.io.dicom_objects.references import origin
from c3s3_seg.io.dicom_objects.seg_write import hash_of
from c3s3_seg.system.files import write_whole


def write_capture(picture: Array, source: Source, path: Path, maker: Maker | None = None) -> None:
    """Write a picture as a Secondary Capture in the study of its scan.

    Parameters
    ----------
    picture
        (row, column, 3) uint8, red, green and blue. Nothing in it may name the patient.
    source
        Source of the scan: patient, study and references are those of its slices.
    path
        The file; it is replaced if it is there.
    maker
        Program and model that made the picture.

    Raises
    ------
    InputError
        If the picture has another shape or dtype, the scan is not a DICOM series, its slices have no UIDs, or
        the file cannot be written.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"found a picture {picture.shape} of {picture.dtype}; wanted (row, column, 3) uint8")
    with origin(source) as found:
        content = f"capture {hash_of(picture)}"
        data = derived(found, maker or Maker(), SecondaryCaptureImageStorage, PICTURE, content)
        # One for each file: a reference without a frame number is to all frames of the file.
        first_of_file = {item.path: item for item in reversed(found.slices)}
        state_source_loss(data, found)
        burned = {str(header.get("BurnedInAnnotation") or "") for header in found.headers.values()}
        data.SourceImageSequence = [reference(found, item) for item in first_of_file.values()]
    for item in data.SourceImageSequence:
        item.pop("ReferencedFrameNumber", None)
    data.Modality, data.Laterality, data.ConversionType = "OT", "", "WSD"
    data.DateOfSecondaryCapture, data.TimeOfSecondaryCapture = data.ContentDate, data.ContentTime
    data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    data.ImageComments = "Research use only"
    data.PatientOrientation = ""
    if burned <= {*YES_OR_NO}:  # the pixels of the slices are in the picture
        data.BurnedInAnnotation = max(burned)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = picture.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    pixels = picture.tobytes()
    data.PixelData = pixels + bytes(len(pixels) % 2)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    write_whole(path, buffer.getvalue())
