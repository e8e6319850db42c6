"""Read the UIDs that identify a DICOM file from its header, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from c3s3_seg.errors import InputError
from c3s3_seg.io.deflated import header_of
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.pacs.association import SCANS
from c3s3_seg.io.pacs.query import text_of

_ASKED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class Identity:
    """The UIDs of an object.

    Parameters
    ----------
    study, series, instance
        UIDs of the study, of the series, and of the object.
    kind
        SOP class UID.
    """

    study: Uid
    series: Uid
    instance: Uid
    kind: Uid

    @property
    def may_be_scan(self) -> bool:
        """Whether objects of this class hold slices of CT, MR or PET."""
        return self.kind in SCANS


def identity(content: bytes) -> Identity:
    """Return the UIDs of a DICOM file.

    Parameters
    ----------
    content
        The file, with its preamble.

    Raises
    ------
    InputError
        If it is not a DICOM file, or a UID is missing or not valid. No value of the header is repeated.
    """
    try:
        header = header_of(content, specific_tags=list(_ASKED))
        return Identity(*(Uid(text_of(header, name)) for name in _ASKED))
    except Exception as error:  # pydicom raises whatever its parser trips over
        raise InputError("this is no DICOM file with valid UIDs") from error
