"""Shared by tests of DICOM: edits of the files of a written series."""

from collections.abc import Callable
from pathlib import Path

import pydicom

Edit = Callable[[pydicom.Dataset], None]


def edit(path: Path, change: Edit) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def values(**attributes: object) -> Edit:
    def change(data: pydicom.Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(data, keyword, value)

    return change
