"""The modality of scans, as DICOM spells it."""

from __future__ import annotations

import re

SPELLINGS = {"MRI": "MR", "MRT": "MR", "PET": "PT"}  # other spellings of DICOM's codes
CODES = ("CT", "MR", "PT", "NM", "US", "XA", "MG", "DX", "CR")


def modality_code(text: str) -> str:
    """Return the DICOM code of a modality (`mri`, `{'0': 'MRI'}` -> MR); without one, the text unchanged."""
    words = [SPELLINGS.get(word, word) for word in re.findall("[A-Z]+", text.upper())]
    return next((word for word in words if word in CODES), text)
