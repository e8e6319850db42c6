"""Read the UIDs that identify a DICOM file from its header, and whether it may be a slice of a scan."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from c3s3_seg.errors import InputError
from c3s3_seg.io.deflated import parsed_header
from c3s3_seg.io.detect import PREFIX_END, begins_as_dicom
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.association import REPORTS, SCANS
from c3s3_seg.io.pacs.query import text_of

_ASKED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_PLACED = ("Modality", "ImagePositionPatient")
_MODALITIES = ("CT", "MR", "PT")


@dataclass(frozen=True)
class Identity:
    """The UIDs of an object, and whether it states a place in a scan.

    Parameters
    ----------
    study, series, instance
        UIDs of the study, of the series, and of the object.
    kind
        SOP class UID.
    is_placed
        Whether it states CT, MR or PET and a position in the patient, as slices of other classes do.
    """

    study: Uid
    series: Uid
    instance: Uid
    kind: Uid
    is_placed: bool = False

    @property
    def may_be_scan(self) -> bool:
        """Whether the object may hold slices of CT, MR or PET, by its class or its modality and position."""
        return self.kind in SCANS or (self.is_placed and self.kind not in REPORTS)


def identity(content: bytes | BinaryIO) -> Identity:
    """Return the UIDs of a DICOM file.

    Parameters
    ----------
    content
        The file, or its content; with a preamble, or beginning with group 0008.

    Raises
    ------
    InputError
        If it is not a DICOM file, or a UID is missing or not valid. No value of the header is repeated.
    """
    try:
        file = BytesIO(content) if isinstance(content, bytes) else content
        force = begins_as_dicom(file.read(PREFIX_END))
        file.seek(0)
        asked = [*_ASKED, *_PLACED]
        header = parsed_header(file, force=force, specific_tags=asked)
        modality, position = (text_of(header, name) for name in _PLACED)
        study, series, instance, kind = (Uid(text_of(header, name)) for name in _ASKED)
        return Identity(study, series, instance, kind, modality in _MODALITIES and position != "")
    except Exception as error:  # pydicom raises whatever its parser trips over
        raise InputError("this is no DICOM file with valid UIDs") from error
