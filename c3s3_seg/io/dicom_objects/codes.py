"""What DICOM calls a label, the program that drew it, and an object: its UID. Imports nothing of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass

OWN_SCHEME = "99C3S3"  # PS3.16, 8: private schemes begin with 99


@dataclass(frozen=True)
class Segment:
    """One label of a mask as DICOM names it.

    Parameters
    ----------
    name
        As in the bundle.
    value
        In the mask.
    code
        Value, scheme and meaning; SNOMED CT is the scheme SCT. None: a private code is made of the name.
    """

    name: str
    value: int
    code: tuple[str, str, str] | None = None

    @property
    def coded(self) -> tuple[str, str, str]:
        """The code, or the private one."""
        return self.code or (self.name[:16], OWN_SCHEME, self.name[:64])


@dataclass(frozen=True)
class Maker:
    """What made the mask, for the equipment module: the bundle's name and the hash of its weights."""

    name: str = "c3s3-seg"
    serial: str = "0"


class Uid(str):
    """A DICOM UID: numbers with dots between them, at most 64 characters (PS3.5, 9.1).

    A UID that becomes part of a path or is sent to a server is parsed into this type: `.`, `..`, an empty
    component, a wildcard or a separator is none. Leading zeros, which the standard forbids and old files
    have, are let through: they do no harm.

    Raises
    ------
    ValueError
        If it is not that. The text is not repeated: what stands in the place of a UID may be a name.
    """

    __slots__ = ()
    _FORM = re.compile(r"[0-9]+(\.[0-9]+)*")

    def __new__(cls, text: str) -> Uid:
        """Check the text."""
        if len(text) > 64 or cls._FORM.fullmatch(text) is None:
            raise ValueError("numbers with dots between them, at most 64 characters")
        return super().__new__(cls, text)

    @classmethod
    def is_valid(cls, text: object) -> bool:
        """Whether a value of a header is a UID."""
        text = str(text)
        return len(text) <= 64 and cls._FORM.fullmatch(text) is not None
