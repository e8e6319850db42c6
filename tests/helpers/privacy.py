"""Shared by tests: MARKER, found, planted."""

import pydicom
from pydicom.datadict import DicomDictionary

# Parts of the keywords of attributes of the patient, the visit and the persons involved.
WORDS = (
    "Patient", "Physician", "Operator", "Institution", "Accession", "StudyID", "Birth", "Visit", "Insurance",
)  # fmt: skip


SKIPPED = (
    "ImagePositionPatient", "ImageOrientationPatient", "PatientPosition", "PatientOrientation",
    "PatientFrameOfReferenceSource",
)  # fmt: skip


MARKER = "ZQXMARK"


DATE, TIME = "18991231", "235958.123"


def planted(data: pydicom.Dataset) -> None:
    """Set a marker of the right type in each attribute of `WORDS`, each date and time, and two comments."""
    count = 0
    for vr, _, _, _, keyword in DicomDictionary.values():
        wanted = any(word in keyword for word in WORDS) or vr in ("DA", "DT", "TM")
        if not wanted or keyword in SKIPPED or "Code" in keyword:
            continue
        value = {
            "PN": f"{MARKER}^{keyword[:20]}", "LO": f"{MARKER}{keyword[:40]}", "SH": f"{MARKER}{keyword[:8]}",
            "LT": MARKER, "ST": MARKER, "UT": MARKER, "UC": MARKER, "DA": DATE, "DT": DATE + "235958",
            "TM": TIME, "CS": MARKER, "AS": "119Y",
        }.get(vr)  # fmt: skip
        if value is not None:
            setattr(data, keyword, value)
            count += 1
    data.PatientName, data.PatientID = f"{MARKER}^NAME", f"{MARKER}ID"
    data.SeriesDescription = f"{MARKER} in free text"
    data.ImageComments = f"{MARKER} in free text"
    assert count > 150


def found(*contents: bytes) -> list[bytes]:
    marks = (MARKER.encode(), DATE.encode(), TIME.encode())
    return [mark for mark in marks for content in contents if mark in content]
