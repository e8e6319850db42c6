"""Split an enhanced CT, MR or PET file into its frames, each a slice (PS3.3, C.7.6.16)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from c3s3_seg.errors import cause_of, quantity
from c3s3_seg.io.dicom.header import FRAME_CLASSES, NAMES, Broken, Slice, own_copy

# Functional group, and the sequence within it, if any -> its attributes, and their names in a classic
# slice. All of these attributes may be at the top level of the file as well.
GROUPS: dict[tuple[str, ...], dict[str, str]] = {
    ("PixelMeasuresSequence",): {"PixelSpacing": "PixelSpacing"},
    ("PlanePositionSequence",): {"ImagePositionPatient": "ImagePositionPatient"},
    ("PlaneOrientationSequence",): {"ImageOrientationPatient": "ImageOrientationPatient"},
    ("PixelValueTransformationSequence",): {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
    },
    ("FrameContentSequence",): {
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    ("MREchoSequence",): {"EffectiveEchoTime": "EchoTime"},
    ("MRModifierSequence",): {"InversionTimes": "InversionTime"},
    ("MRTimingAndRelatedParametersSequence",): {"FlipAngle": "FlipAngle"},
    ("MRDiffusionSequence",): {"DiffusionBValue": "DiffusionBValue"},
    ("MRDiffusionSequence", "DiffusionGradientDirectionSequence"): {
        "DiffusionGradientOrientation": "DiffusionGradientOrientation"
    },
    ("CardiacSynchronizationSequence",): {"NominalCardiacTriggerDelayTime": "TriggerTime"},
    ("MRImageFrameTypeSequence",): {
        "FrameType": "ImageType",
        "ComplexImageComponent": "ComplexImageComponent",
    },
    ("CTImageFrameTypeSequence",): {"FrameType": "ImageType"},
    ("PETFrameTypeSequence",): {"FrameType": "ImageType"},
}
# Characters of all attributes that the frames share: each frame is compared by them. Some 50 attributes of up
# to 64 characters have a fifth of it.
MOST_CHARACTERS = 1 << 14
_TOP = [t for t in NAMES if isinstance(t, str) and not t.endswith("FunctionalGroupsSequence")]


def is_enhanced(item: Slice) -> bool:
    """Return whether an item is a whole enhanced file."""
    return item.frame is None and item.sop_class in FRAME_CLASSES


def frames(item: Slice) -> tuple[Slice, ...] | Broken:
    """Return the frames of an enhanced file in its order; `Broken` if it does not describe each frame."""
    count = item.number("NumberOfFrames", 1)
    uid = item.text("SeriesInstanceUID") or None
    try:
        shared = item.data.get("SharedFunctionalGroupsSequence") or [Dataset()]
        each = item.data.get("PerFrameFunctionalGroupsSequence") or []
        if count < 1 or len(each) != count:
            return Broken(
                item.name, f"it has {quantity(count, 'frame')} and describes {len(each)} of them", uid
            )
        top = own_copy(item.data, _TOP)
        top.NumberOfFrames, top.SOPClassUID = 1, item.sop_class
        _set(top, shared[0])
        if long := _too_long(top):
            return Broken(item.name, long, uid, whole=True)
        elements = {element.tag: element for element in top}
        return tuple(_frame(item, elements, own, n) for n, own in enumerate(each))
    except Exception as error:  # pydicom converts sequences on first access
        return Broken(item.name, f"its frames cannot be read ({cause_of(error)})", uid)


def _frame(item: Slice, shared: Mapping[BaseTag, DataElement], own: Any, number: int) -> Slice:
    # The elements are shared: a small file can have thousands of frames, which copies would make large.
    data = Dataset(dict(shared))
    _set(data, own)
    return Slice(item.path, f"{item.name}, frame {number + 1}", data, number, _plain(item, number))


def _set(data: Dataset, groups: Any) -> None:
    """Set the attributes that functional groups state, each as a new element: elements may be shared."""
    for path, keywords in GROUPS.items():
        values = _within(groups, path)
        for theirs, ours in keywords.items():
            value = values.get(theirs) if values is not None else None
            if value is not None:
                data[ours] = DataElement(Tag(ours), dictionary_VR(ours), value)


def _too_long(top: Dataset) -> str:
    """Return the fault of attributes that are too long to be those of each frame; empty if there is none."""
    texts = [element for element in top if element.VR != "SQ"]
    sizes = {element.keyword or str(element.tag): _length(element.value) for element in texts}
    total, longest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if total <= MOST_CHARACTERS:
        return ""
    return (
        f"the attributes of all its frames have {total} characters, {sizes[longest]} of them in {longest};"
        f" wanted {MOST_CHARACTERS} at most"
    )


def _length(value: Any) -> int:
    return sum(len(str(v)) for v in (value if isinstance(value, MultiValue) else [value]))


def _plain(item: Slice, number: int) -> tuple[int, int] | None:
    """Return the byte offset and size of a frame's pixels; None if the file's pixels are not plain."""
    rows, columns, bits = (item.number(k, 0) for k in ("Rows", "Columns", "BitsAllocated"))
    size = rows * columns * bits // 8
    if item.plain is None or bits % 8 or size < 1 or size * item.number("NumberOfFrames", 1) > item.plain[1]:
        return None
    return item.plain[0] + number * size, size


def _within(groups: Any, path: tuple[str, ...]) -> Any:
    """Return the first item of a sequence within the first item of another; None if there is none."""
    for keyword in path:
        groups = (groups.get(keyword) or [None])[0]
        if groups is None:
            return None
    return groups
