"""Attributes that the objects made from slices share: patient and study of the slices, maker and dates."""

from __future__ import annotations

import hashlib
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
from c3s3_seg.io.dicom_objects.codes import LONGEST_CODE, CodeTriplet, Kind, Maker, Segment, identity
from c3s3_seg.io.dicom_objects.references import Origin
from c3s3_seg.version import __version__

# Attributes of patient and study that an object made from images repeats (PS3.3, C.7.1 and C.7.2).
REPEATED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
    "SpecificCharacterSet", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
)  # fmt: skip
# An object of another patient, study, series or place is another object, even with the same slices.
OWNERS = (*REPEATED, "SeriesInstanceUID", "FrameOfReferenceUID")
PLACES = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
# When the object was made; and when its content was made, which is required.
WHEN_MADE = ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime")
WHEN_CONTENT = ("ContentDate", "ContentTime")
UNDATED = "19700101"
UTF_8 = "ISO_IR 192"  # PS3.3, C.12.1.1.2
SEXES = ("M", "F", "O")  # PS3.3, C.7.1.1; type 2: blank (unknown) is allowed, any other word is not
YES_OR_NO = ("YES", "NO")
LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
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
    """Return the data set of an object made from the slices of a scan, without attributes only its kind has.

    Parameters
    ----------
    source
        The slices: patient and study are those of the first.
    maker
        Program and model that made the object.
    sop_class
        SOP class UID of the object.
    kind
        Kind of the series, for its number and description.
    content
        Text that stands for the content. The UIDs follow from this text, the slices, their patient and the
        maker: the same content is the same instance.
    segments
        Labels whose names the object will hold.
    """
    first = source.header(source.slices[0])
    texts = stored_texts(first)
    seed = [owner_of(source), maker.name, maker.serial, content, identity(segments)]
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
    if data.get("PatientIdentityRemoved", "NO") not in YES_OR_NO:
        del data.PatientIdentityRemoved
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


def owner_of(source: Origin) -> str:
    """Return a hash of what an object takes from its slices, for its UIDs: patient, study, and each place.

    A PACS keeps the first object of a UID: under the UIDs of the wrong patient, or of slices at the wrong
    place, a corrected object would not get into it.
    """
    first = source.header(source.slices[0])
    owner = [str(first.get(keyword) or "").strip() for keyword in OWNERS]
    places = [
        [str(source.header(item).SOPInstanceUID), item.frame, *(item.text(keyword) for keyword in PLACES)]
        for item in source.slices
    ]
    return hashlib.sha256(repr([owner, places]).encode("utf-8", "backslashreplace")).hexdigest()


def date(data: Any, offset: object, maker: Maker) -> None:
    """Write the dates and times at which an object was made.

    All dates and times of an object are in one time zone (PS3.3, C.12.1.1.8), also those of the study: in
    that of the slices if they state it, else in that of this machine, which is not stated.

    Parameters
    ----------
    data
        The object, with the date of its study; its other dates and times are replaced.
    offset
        TimezoneOffsetFromUTC of the slices.
    maker
        If not `dated`, the content has the date of the study (19700101 if there is none) and the time 000000,
        and the others are left out.
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
        # highdicom adds itself as contributing equipment, with the time.
        for item in data.get("ContributingEquipmentSequence") or ():
            item.pop("ContributionDateTime", None)
    for keyword in (*WHEN_MADE, *WHEN_CONTENT) if maker.dated else WHEN_CONTENT:
        setattr(data, keyword, day if keyword.endswith("Date") else hour)


def state_source_loss(data: Any, source: Origin) -> None:
    """State in an object whether one of its slices was ever compressed with loss (PS3.3, C.7.6.1.1.5).

    Ratio and method are those of the first such slice, if it states them.
    """
    lossy = next((h for h in source.headers.values() if h.get("LossyImageCompression") == "01"), Dataset())
    for keyword in LOSS:
        data.pop(keyword, None)
        if keyword in lossy:
            data[keyword] = lossy[keyword]
    if not lossy:
        data.LossyImageCompression = "00"


def stored_texts(header: Any) -> dict[int, bytes]:
    """Return the texts of a header as the bytes in its file, which pydicom drops once it has decoded them.

    Parameters
    ----------
    header
        The data set of a file; elements that were accessed before are left out.

    Returns
    -------
    dict
        Tag -> bytes, without the padding. Only texts of the data set itself, not of its sequences.
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

    The texts of its slices are copied as bytes in their character set: some files state UTF-8 for a name in
    Latin-1, which would lose letters if it were decoded. All texts are encoded anew only if words of this
    package need UTF-8 and the slices have another character set: in that set, letters that it lacks would
    become `?`, and two labels could become one.

    Parameters
    ----------
    data
        The object, with the SpecificCharacterSet of its slices and their texts as pydicom decoded them.
    texts
        Texts that come from the slices: tag -> bytes, from `stored_texts`.
    maker, segments
        Maker and labels whose names the object holds.
    """
    words = (maker.name, *(word for segment in segments for word in segment.words))
    if all(word.isascii() for word in words) or data.get("SpecificCharacterSet") == UTF_8:
        for tag, text in texts.items():
            data[tag] = DataElement(tag, dictionary_VR(tag), text, validation_mode=config.IGNORE)
    else:
        data.SpecificCharacterSet = UTF_8


def item_of(**attributes: Any) -> Dataset:
    """Return a sequence item with these attributes."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def code_item(code: CodeTriplet) -> Dataset:
    """Return a sequence item for a code; a value of more than 16 characters is a long one (PS3.3, 8.1)."""
    value, scheme, meaning = code
    keyword = "CodeValue" if len(value) <= LONGEST_CODE else "LongCodeValue"
    return item_of(**{keyword: value}, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def reference(source: Origin, item: Slice) -> Dataset:
    """Return a sequence item that refers to a slice, or to a frame."""
    header = source.header(item)
    image = item_of(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if item.frame is not None:
        image.ReferencedFrameNumber = item.frame + 1
    return image
