"""Which object a DICOM file is: the UIDs in its header, and nothing else of it."""

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
    """UIDs of an object.

    Parameters
    ----------
    study, series, instance
        Of the study, of the series, and its own.
    kind
        SOP class UID.
    """

    study: Uid
    series: Uid
    instance: Uid
    kind: Uid

    @property
    def may_be_scan(self) -> bool:
        """Whether objects of its class hold slices of CT, MR or PET."""
        return self.kind in SCANS


def identity(content: bytes) -> Identity:
    """The UIDs of a DICOM file.

    Parameters
    ----------
    content
        The file, with its preamble.

    Raises
    ------
    InputError
        If it is no DICOM file, or a UID is missing or none. No value of the header is repeated.
    """
    try:
        header = header_of(content, specific_tags=list(_ASKED))
        return Identity(*(Uid(text_of(header, name)) for name in _ASKED))
    except Exception as error:  # pydicom raises whatever its parser trips over
        raise InputError("this is no DICOM file with valid UIDs") from error
