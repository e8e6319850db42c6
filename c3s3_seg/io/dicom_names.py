"""What DICOM calls a label and the program that drew it. Imports nothing, so that any room may use it."""

from __future__ import annotations

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
