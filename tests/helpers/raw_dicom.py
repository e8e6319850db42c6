"""Shared by tests of DICOM: elements with bytes that pydicom would not write."""

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from helpers.dicom_files import Edit


def raw(**attributes: str) -> Edit:
    """Return an edit that sets attributes to the bytes of texts, valid for their type or not."""

    def change(data: pydicom.Dataset) -> None:
        for keyword, text in attributes.items():
            tag, content = Tag(keyword), text.encode("latin-1")
            content += b" " * (len(content) % 2)
            data[tag] = RawDataElement(tag, dictionary_VR(tag), len(content), content, 0, False, True)

    return change
