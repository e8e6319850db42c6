"""What RTSTRUCT and key images have in common: patient and study of the slices, and who made it when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from c3s3_seg import __version__
from c3s3_seg.io.dicom.header import Slice
from c3s3_seg.io.dicom_objects.codes import Maker
from c3s3_seg.io.dicom_objects.references import Origin

# Of patient and study, what an object made from its images repeats (PS3.3, C.7.1.1 and C.7.2.1).
REPEATED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
    "SpecificCharacterSet",
)  # fmt: skip
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def derived(source: Origin, maker: Maker, kind: UID, content: str) -> FileDataset:
    """The data set of an object that is made from the slices of a scan, without what its kind has of its own.

    Parameters
    ----------
    source
        The slices: patient and study are those of the first.
    maker
        What made it.
    kind
        SOP class UID.
    content
        The UIDs follow from it, the slices and the maker: the same content is the same instance.
    """
    first = source.header(source.slices[0])
    seed = [str(first.SOPInstanceUID), maker.name, maker.serial, content]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*seed, "instance"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", Dataset(), file_meta=meta, preamble=bytes(128))
    for keyword in REPEATED:
        if keyword in first or keyword in TYPE_2:
            setattr(data, keyword, first.get(keyword, ""))
    now = datetime.now(UTC)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.InstanceCreationDate, data.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.TimezoneOffsetFromUTC = "+0000"
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[*seed, "series"])
    data.InstanceNumber = "1"
    data.SeriesDescription = f"c3s3-seg {maker.name}"[:64]
    data.Manufacturer, data.ManufacturerModelName = "c3s3-seg", maker.name[:64]
    data.SoftwareVersions = __version__
    return data


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
