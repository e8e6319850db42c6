"""Read the header of one DICOM file and locate its pixels; recognise broken and foreign files."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from c3s3_seg.errors import cause_of
from c3s3_seg.io.deflated import header_of, parsed, whole_of
from c3s3_seg.io.detect import DICOM_SUFFIXES, MEDIA_DIRECTORY, PREFIX_END, begins_as_dicom

PLACE_MM = 0.005  # two positions this near are one place: decimal strings often have two decimals
_STORAGE = "1.2.840.10008.5.1.4.1.1."
SLICE_CLASSES = {_STORAGE + end for end in ("2", "4", "128")}  # CT, MR, PET: one slice a file
FRAME_CLASSES = {
    _STORAGE + end for end in ("2.1", "2.2", "4.1", "4.4", "128.1", "130")
}  # enhanced CT, MR, PET
CAPTURE_CLASSES = {_STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4")}  # secondary captures

# Only these attributes are read: a private header can be a hundred times as long. The numbers are the
# tags of the b-values of Siemens, Philips and GE, which older scanners write nowhere else.
NAMES: list[Any] = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality",
    "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "FrameOfReferenceUID", "PatientID",
    "PatientName", "ModalityLUTSequence", "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle",
    "TemporalPositionIdentifier", "DiffusionBValue", "DiffusionGradientOrientation", "AcquisitionNumber",
    "TriggerTime", "AcquisitionTime", "InstanceNumber", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "LossyImageCompression", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "StudyInstanceUID", "ComplexImageComponent", "SequenceName", "ProtocolName", "ScanningSequence",
    "PulseSequenceName", "Units", "AcquisitionDate", "AcquisitionDateTime",
    0x0019100C, 0x20011003, 0x00431039,
]  # fmt: skip
_NUMBERS = {"US": "u2", "SS": "i2", "US or SS": "u2", "UL": "u4", "SL": "i4", "FD": "f8", "FL": "f4"}
# Types of the private b-values: implicit VR states none, and a PACS may have set the type to unknown.
_PRIVATE = {0x0019100C: "IS", 0x20011003: "FL", 0x00431039: "IS"}
# JPEG baseline and extended: always with loss (PS3.5, 8.2.1), whether the header states it or not.
LOSSY_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEG = "ISO_10918_1"  # PS3.3, C.7.6.1.1.5.1
SERIES_UID = Tag("SeriesInstanceUID")
STUDY_TAGS: list[Any] = ["StudyInstanceUID"]
TAGS = [Tag(name) for name in NAMES]  # pydicom would convert the names to tags for each file anew


@dataclass(frozen=True)
class Slice:
    """One slice: its file, its name below the folder that was given, and its attributes.

    Parameters
    ----------
    path, name
        The file, and its name in messages.
    data
        The attributes of `NAMES`; for a frame of an enhanced file, those of the frame.
    frame
        Number of the frame, from 0, within a file of several frames.
    plain
        Byte offset and number of bytes of the pixels in the file, if they are stored as plain
        little-endian numbers.
    """

    path: Path
    name: str
    data: pydicom.Dataset
    frame: int | None = None
    plain: tuple[int, int] | None = None
    _texts: dict[str | int, str] = field(default_factory=dict, compare=False, repr=False)
    _lists: dict[str, NDArray[np.float64]] = field(default_factory=dict, compare=False, repr=False)

    def text(self, keyword: str | int) -> str:
        """Return an attribute as text; empty if it is missing or cannot be read."""
        if keyword not in self._texts:
            self._texts[keyword] = self._read(keyword)
        return self._texts[keyword]

    def _read(self, keyword: str | int) -> str:
        try:
            item = self.data.get_item(_tag(keyword))
            if isinstance(item, RawDataElement):
                return _raw_text(item.tag, item.VR, item.value or b"", item.is_little_endian)
            value = None if item is None else item.value
            if isinstance(value, MultiValue):
                return "\\".join(str(v) for v in value)
            return "" if value is None else str(value).strip()
        except Exception:  # pydicom converts a value on first access, and raises errors of any type
            return ""

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64] | None:
        """Return the (count,) finite numbers of an attribute; None if it is missing or has others."""
        if keyword not in self._lists:
            try:
                self._lists[keyword] = np.array([float(v) for v in self.text(keyword).split("\\")])
            except ValueError:
                self._lists[keyword] = np.empty(0)
        values = self._lists[keyword]
        return values if values.shape == (count,) and np.isfinite(values).all() else None

    def number(self, keyword: str, default: int) -> int:
        """Return an attribute as a whole number; `default` if it is missing or not a number."""
        try:
            return int(self.text(keyword) or default)
        except ValueError:
            return default

    @property
    def is_localizer(self) -> bool:
        """Whether ImageType contains LOCALIZER, the third value of scout views (PS3.3, C.8.2.1.1.1)."""
        return "LOCALIZER" in self.text("ImageType").upper()

    @property
    def sop_class(self) -> str:
        """The SOP class UID, from the meta information if the header leaves it blank; empty if unknown."""
        return self.text("SOPClassUID") or _storage_class(self.data) or ""

    @property
    def is_capture(self) -> bool:
        """Whether this is a secondary capture without a position in the patient."""
        return self.sop_class in CAPTURE_CLASSES and not self.text("ImagePositionPatient")


@lru_cache(256)
def _tag(keyword: str | int) -> BaseTag:
    return Tag(keyword)


@lru_cache(4096)
def _raw_text(tag: BaseTag, vr: str | None, raw: bytes, little: bool) -> str:
    """Return values as text, separated by `\\`. Most are the same in all slices, so they are cached."""
    if vr in (None, "UN", "OB", "OW"):  # read as text, the bytes could pass for the digits of a number
        vr = _PRIVATE.get(tag) or dictionary_VR(tag)
    if vr in _NUMBERS:
        kind = np.dtype(("<" if little else ">") + _NUMBERS[vr])
        return "\\".join(str(v) for v in np.frombuffer(raw, kind).tolist())
    if vr == "SQ":
        return raw.hex()
    return "\\".join(v.strip(" \0") for v in raw.decode("latin-1").split("\\"))


@dataclass(frozen=True)
class Broken:
    """A file that should be a slice but cannot be used, and the UID of its series, if the file states it.

    `whole`: the file is complete; the attributes that it lacks were never written. `cut_uid`: the file may
    end within the UID of its series.
    """

    name: str
    reason: str
    series_uid: str | None = None
    whole: bool = False
    cut_uid: bool = False

    def may_be_of(self, series_uid: str) -> bool:
        """Return whether the file is of a series, or may be: its UID is unknown, or the beginning of this."""
        own = self.series_uid or ""
        return series_uid.startswith(own) if self.cut_uid or not own else series_uid == own

    @property
    def verdict(self) -> str:
        """The fault of the file, worded to follow its name."""
        return f"cannot be used: {self.reason}" if self.whole else f"is damaged: {self.reason}"


def unreadable(kind: str, error: Exception) -> str:
    """Return the message for an object that could not be read; it names a missing attribute, if any."""
    keyword = getattr(error, "name", None) if isinstance(error, AttributeError) else None
    if isinstance(keyword, str) and tag_for_keyword(keyword) is not None:
        return f"this {kind} has no {keyword}: it is damaged, or was written without it"
    return f"this {kind} is damaged, or not one that can be read ({cause_of(error)})"


def look_at(path: Path, name: str) -> Slice | Broken | bool:
    """Return a slice, a broken one, True for a file that may have been a slice, False for any other."""
    try:
        with path.open("rb") as file:
            return _look_into(file, path, name)
    except OSError as error:
        return Broken(name, f"it cannot be read: {cause_of(error)}")


def study_of(path: Path) -> str:
    """Return the StudyInstanceUID of a DICOM object of any kind; "" if it has none or cannot be read."""
    try:
        data = header_of(path, force=True, specific_tags=STUDY_TAGS)
        return Slice(path, path.name, data).text("StudyInstanceUID")
    except Exception:  # the parser of pydicom raises errors of any type
        return ""


def own_copy(data: pydicom.Dataset, keywords: Iterable[Any] | None = None) -> pydicom.Dataset:
    """Copy a dataset with all its elements, including those of nested sequences.

    `Dataset(dict(data))` shares its elements with `data`, so that setting an attribute of one would set
    the attribute of the other.

    Parameters
    ----------
    data
        Dataset to copy. Elements that were not converted yet are converted.
    keywords
        Attributes to copy, if present; None: all.
    """
    tags = data.keys() if keywords is None else [Tag(k) for k in keywords if k in data]
    copied = pydicom.Dataset()
    for tag in tags:
        element = data[tag]
        value = element.value
        if element.VR == "SQ" or isinstance(value, MultiValue):
            value = copy.deepcopy(value)
        copied[tag] = pydicom.DataElement(tag, element.VR, value, already_converted=True)
    return copied


def read_whole(path: Path) -> Any:
    """Read a file with all its attributes; set a missing transfer syntax to the one that was parsed."""
    data = whole_of(path, force=True)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, _ = data.original_encoding
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return data


def state_loss(data: Any) -> None:
    """State in a header that its pixels were compressed with loss, if only its transfer syntax says so."""
    if data.file_meta.get("TransferSyntaxUID") in LOSSY_SYNTAXES:
        data.LossyImageCompression = "01"
        if "LossyImageCompressionMethod" not in data:
            data.LossyImageCompressionMethod = JPEG


def _look_into(file: BinaryIO, path: Path, name: str) -> Slice | Broken | bool:
    head = file.read(PREFIX_END)
    if not begins_as_dicom(head):
        if len(head) < PREFIX_END and not head[:128].strip(b"\0") and b"DICM".startswith(head[128:]):
            return True
        named = path.suffix.lower() in DICOM_SUFFIXES
        return Broken(name, "it is named like a DICOM file and is none") if named else False
    try:
        file.seek(0)
        data = parsed(file, stop_before_pixels=True, force=True, specific_tags=TAGS)
        state_loss(data)
        reached = _reaches_pixels(file)
        item = Slice(path, name, data, None, _plain_pixels(data, file))
        uid = item.text("SeriesInstanceUID") or None
        kind = item.text("SOPClassUID") or _storage_class(data)
    except Exception as error:  # the parser of pydicom raises errors of any type
        return Broken(name, f"its header cannot be read ({cause_of(error)})")
    if kind == MEDIA_DIRECTORY:
        return False
    if item.text("Rows") and item.text("Columns"):
        return item
    # A header that is cut may end within the SOP class UID, or within the series UID.
    if kind is None or any(c.startswith(kind) for c in SLICE_CLASSES | FRAME_CLASSES):
        if not reached:
            # Attributes are in the order of their tags: one after the UID shows that the UID is whole.
            cut = max(data.keys(), default=0) <= SERIES_UID
            return Broken(name, "its header ends too early", uid, cut_uid=cut)
        lacks = [k for k in ("SOPClassUID", "Rows", "Columns") if not item.text(k)]
        return Broken(name, f"its header has no {', '.join(lacks)}", uid, whole=True)
    return False


def _reaches_pixels(file: BinaryIO) -> bool:
    """Return whether pydicom stopped before pixel data (group 7FE0), and not at the end of the file."""
    start = file.tell()
    group = file.read(2)
    file.seek(start)
    return group in (b"\xe0\x7f", b"\x7f\xe0")


def _storage_class(data: Any) -> str | None:
    meta = getattr(data, "file_meta", None) or {}
    return str(meta.get("MediaStorageSOPClassUID", "") or "") or None


def _plain_pixels(data: Any, file: BinaryIO) -> tuple[int, int] | None:
    """Return offset and size of plain little-endian pixels if all are there; None: pydicom reads them."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        return None
    # pydicom stopped before the pixel data: tag, then type and length (PS3.5, 7.1.2). Some writers state
    # implicit types and write explicit ones; as a length, which is even, their letters would be odd.
    start = file.tell()
    head = file.read(12)
    explicit = head[4:6] in (b"OW", b"OB")
    if head[:4] != b"\xe0\x7f\x10\x00" or not (explicit or syntax == ImplicitVRLittleEndian):
        return None
    start += 12 if explicit else 8
    length = int.from_bytes(head[8:] if explicit else head[4:8], "little")
    if length == 0xFFFFFFFF or start + length > os.fstat(file.fileno()).st_size:
        return None
    return start, length
