"""The DICOM names of a label, of the program that drew it, of a series, and of an object: its UID.

Imports nothing of this package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

OWN_SCHEME = "99C3S3"  # PS3.16, 8: private schemes begin with 99
LONGEST_CODE, LONGEST_NAME = 16, 64  # PS3.5, 6.2, SH and LO
# Colours of the labels in their order, by Okabe and Ito, which differ for any colour vision: as red, green
# and blue; and the same colours in CIELab, as DICOM SEG stores them.
LABEL_COLOURS = ((230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))
LABEL_CIELAB = ((71, 16, 75), (58, -46, 13), (89, -13, 75), (61, 39, -11), (54, 43, 63))

CodeTriplet = tuple[str, str, str]  # value, scheme and meaning; SNOMED CT is the scheme SCT
# PS3.16, CID 7150: the category of everything that is an organ or a part of one.
ANATOMY: CodeTriplet = ("123037004", "SCT", "Anatomical Structure")


@dataclass(frozen=True)
class Segment:
    """A label of a mask with its DICOM code.

    Parameters
    ----------
    name
        Name as in the bundle.
    value
        Value in the mask.
    code
        Its code. None: a private code is made from the name.
    modifier
        Modifier of the code, which names the part, if the part has no code of its own.
    category
        Category of the code (PS3.16, CID 7150). None: Anatomical Structure.
    """

    name: str
    value: int
    code: CodeTriplet | None = None
    modifier: CodeTriplet | None = None
    category: CodeTriplet | None = None

    @property
    def coded(self) -> CodeTriplet:
        """The code, or the private one: the name, or its beginning and a hash if too long for a CodeValue."""
        return self.code or (_shortened(self.name, LONGEST_CODE), OWN_SCHEME, self.name[:LONGEST_NAME])

    @property
    def stored_name(self) -> str:
        """The name, or its beginning and a hash if too long for a SegmentLabel or an ROIName."""
        return _shortened(self.name, LONGEST_NAME)

    @property
    def is_anatomy(self) -> bool:
        """Whether the label is known to be an organ or a part of one."""
        return self.code is not None and (self.category or ANATOMY)[:2] == ANATOMY[:2]

    @property
    def words(self) -> tuple[str, ...]:
        """All texts of the segment that a DICOM object holds."""
        return (self.name, *self.coded, *(self.modifier or ()), *(self.category or ()))


def _shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters; texts that differ anywhere stay different."""
    if len(text) <= most:
        return text
    return f"{text[: most - 7]}-{sha256(text.encode()).hexdigest()[:6]}"


def identity(segments: Sequence[Segment]) -> str:
    """Return a text of the values, names and codes of labels, for the UIDs of an object with these labels."""
    return repr([(s.value, s.words, *([s.category] if s.category else [])) for s in segments])


@dataclass(frozen=True)
class Maker:
    """The program and the model that made a mask, for the equipment module.

    Parameters
    ----------
    name, serial
        The bundle's name and the hash of its weights.
    dated
        Whether objects state when they were made. If not, a second run writes the same bytes.
    """

    name: str = "c3s3-seg"
    serial: str = "0"
    dated: bool = True


@dataclass(frozen=True)
class Kind:
    """A kind of series that this package makes: its place among those of a scan, and the word for it."""

    place: int
    word: str

    def number(self, scan: object) -> int:
        """Return the series number: far from the scanner's, one for each scan and kind, always the same."""
        try:
            of_scan = int(str(scan or 0)) % 1000
        except ValueError:
            of_scan = 0
        return 90_000 + 10 * of_scan + self.place

    def description(self, maker: Maker) -> str:
        """Return the series description: at most 64 characters (PS3.5, 6.2, LO); lists show the first 20."""
        end = f": {self.word} (c3s3-seg)"
        return maker.name[: 64 - len(end)] + end


SEGMENTATION, LABEL_MAP = Kind(1, "segmentation"), Kind(2, "label map")
CONTOURS, PICTURE = Kind(3, "contours"), Kind(4, "picture")


class Uid(str):
    """A DICOM UID: numbers with dots between them, at most 64 characters (PS3.5, 9.1).

    A UID that becomes part of a path or is sent to a server is parsed into this type, which refuses `.`,
    `..`, an empty component, a wildcard or a separator. Leading zeros, which the standard forbids and old
    files have, are accepted: they do no harm.

    Raises
    ------
    ValueError
        If the text is not a UID. The message does not repeat the text, which may be a name.
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
        """Return whether a value of a header is a UID."""
        text = str(text)
        return len(text) <= 64 and cls._FORM.fullmatch(text) is not None
