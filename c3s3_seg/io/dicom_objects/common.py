"""What RTSTRUCT and key images have in common: patient and study of the slices, and who made it when."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

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
SEXES = ("M", "F", "O")  # PS3.3, C.7.1.1; type 2: blank, which is unknown, is allowed, and no other word
OFFSET = re.compile(r"[+-](0[0-9]|1[0-4])[0-5][0-9]")
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def derived(source: Origin, maker: Maker, sop_class: UID, kind: Kind, content: str) -> FileDataset:
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
    """
    first = source.header(source.slices[0])
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
    set_character_set(data, maker)
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
        for item in (
            data.get("ContributingEquipmentSequence") or ()
        ):  # by highdicom, which says that it helped
            item.pop("ContributionDateTime", None)
    for keyword in (*WHEN_MADE, *WHEN_CONTENT) if maker.dated else WHEN_CONTENT:
        setattr(data, keyword, day if keyword.endswith("Date") else hour)


def set_character_set(data: Any, maker: Maker, segments: Sequence[Segment] = ()) -> None:
    """Have an object written in UTF-8 where our own words need it (PS3.3, C.12.1.1.2).

    Else it has the character set of its slices, in which the patient's name is: what that cannot hold would
    become `?`, and two labels one.
    """
    if not all(word.isascii() for word in (maker.name, *(w for segment in segments for w in segment.words))):
        data.SpecificCharacterSet = "ISO_IR 192"


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
