"""What RTSTRUCT and secondary captures share: patient and study of the slices, and who made it when."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from c3s3_seg.io.dicom.header import Slice
from c3s3_seg.io.dicom_objects.codes import Kind, Maker, Segment
from c3s3_seg.io.dicom_objects.references import Origin
from c3s3_seg.version import __version__

# Of patient and study, what an object made from its images repeats (PS3.3, C.7.1.1 and C.7.2.1).
REPEATED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
    "SpecificCharacterSet",
)  # fmt: skip
# When it was made; and when its content was, which has to be there.
WHEN_MADE = ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime")
WHEN_CONTENT = ("ContentDate", "ContentTime")
UNDATED = "19700101"
UTF_8 = "ISO_IR 192"  # PS3.3, C.12.1.1.2
SEXES = ("M", "F", "O")  # PS3.3, C.7.1.1; type 2: blank, which is unknown, is allowed, and no other word
OFFSET = re.compile(r"[+-](0[0-9]|1[0-4])[0-5][0-9]")
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def derived(
    source: Origin,
    maker: Maker,
    sop_class: UID,
    kind: Kind,
    content: str,
    segments: Sequence[Segment] = (),
) -> FileDataset:
    """The data set of an object that is made from the slices of a scan, without what its kind has of its own.

    Parameters
    ----------
    source
        The slices: patient and study are those of the first.
    maker
        What made it.
    sop_class
        Its UID.
    kind
        Of the series: its number and description.
    content
        The UIDs follow from it, the slices and the maker: the same content is the same instance.
    segments
        The labels whose names it will hold.
    """
    first = source.header(source.slices[0])
    texts = stored_texts(first)
    seed = [str(first.SOPInstanceUID), maker.name, maker.serial, content]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*seed, "instance"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    for keyword in REPEATED:
        if keyword in first or keyword in TYPE_2:
            setattr(data, keyword, first.get(keyword, ""))
    if data.PatientSex not in SEXES:
        data.PatientSex = ""
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    date(data, first.get("TimezoneOffsetFromUTC"), maker)
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[*seed, "series"])
    data.InstanceNumber = "1"
    data.SeriesNumber = str(kind.number(first.get("SeriesNumber")))
    data.SeriesDescription = kind.description(maker)
    data.Manufacturer, data.ManufacturerModelName = "c3s3-seg", maker.name[:64]
    data.SoftwareVersions = __version__
    repeated = {tag_for_keyword(keyword) for keyword in REPEATED}
    set_character_set(data, {tag: text for tag, text in texts.items() if tag in repeated}, maker, segments)
    return data


def date(data: Any, offset: object, maker: Maker) -> None:
    """Write when an object was made.

    All dates and times of an object are of one time zone (PS3.3, C.12.1.1.8), also those of the study: it is
    that of the slices where they say theirs, else that of this machine, unsaid.

    Parameters
    ----------
    data
        The object, with the date of its study; what else it has of these attributes is replaced.
    offset
        TimezoneOffsetFromUTC of the slices.
    maker
        Without dates, the time of the content is that of the study, and the others are left out.
    """
    for keyword in (*WHEN_MADE, *WHEN_CONTENT, "TimezoneOffsetFromUTC"):
        data.pop(keyword, None)
    zone = str(offset or "").strip()
    if OFFSET.fullmatch(zone):
        data.TimezoneOffsetFromUTC = zone
    if maker.dated:
        now = datetime.now(datetime.strptime(zone, "%z").tzinfo if OFFSET.fullmatch(zone) else None)
        day, hour = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    else:
        day, hour = str(data.get("StudyDate") or ""), "000000"
        day = day if len(day) == 8 and day.isascii() and day.isdigit() else UNDATED
        # highdicom names itself as equipment that contributed, and when.
        for item in data.get("ContributingEquipmentSequence") or ():
            item.pop("ContributionDateTime", None)
    for keyword in (*WHEN_MADE, *WHEN_CONTENT) if maker.dated else WHEN_CONTENT:
        setattr(data, keyword, day if keyword.endswith("Date") else hour)


def stored_texts(header: Any) -> dict[int, bytes]:
    """The texts of a header as its file has them, which pydicom no longer knows once it has decoded them.

    Parameters
    ----------
    header
        The data set of a file; elements that were looked at before are left out.

    Returns
    -------
    dict
        Tag -> bytes, without the padding. Only of the data set itself, not of its sequences.
    """
    found = {}
    for tag in header.keys():  # noqa: SIM118 - a data set iterates over its elements, and decodes them
        element = header.get_item(tag)
        if not (element.is_raw and element.value and dictionary_has_tag(tag)):
            continue
        if dictionary_VR(tag) in CUSTOMIZABLE_CHARSET_VR:
            found[tag] = element.value.rstrip(b"\0 ")
    return found


def set_character_set(
    data: Any, texts: Mapping[int, bytes], maker: Maker, segments: Sequence[Segment] = ()
) -> None:
    """Choose the character set of an object (PS3.3, C.12.1.1.2): that of its slices, or UTF-8.

    The texts of its slices are bytes in their character set, and pass as they are: some files say UTF-8 of a
    name in Latin-1, which would lose its letters by being decoded. Only where our own words need UTF-8 and
    the slices have another character set are all texts written anew: what that cannot hold would become `?`,
    and two labels one.

    Parameters
    ----------
    data
        The object, with the SpecificCharacterSet of its slices and their texts as pydicom decoded them.
    texts
        Those of the texts that come from the slices: tag -> bytes, of `stored_texts`.
    maker, segments
        Whose names it holds.
    """
    words = (maker.name, *(word for segment in segments for word in segment.words))
    if all(word.isascii() for word in words) or data.get("SpecificCharacterSet") == UTF_8:
        for tag, text in texts.items():
            data[tag] = DataElement(tag, dictionary_VR(tag), text, validation_mode=config.IGNORE)
    else:
        data.SpecificCharacterSet = UTF_8


def item_of(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def reference(source: Origin, item: Slice) -> Dataset:
    """The item of a sequence that refers to a slice, or to a frame."""
    header = source.header(item)
    image = item_of(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if item.frame is not None:
        image.ReferencedFrameNumber = item.frame + 1
    return image
