"""The headers of the slices as highdicom requires them of the source images of a DICOM SEG.

Only the copies in an `Origin` change, never a file.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array
from c3s3_seg.io.dicom_objects.common import REPEATED, SEXES, TYPE_2, YES_OR_NO
from c3s3_seg.io.dicom_objects.references import Origin

# The functional groups that all frames must share, and the attribute that the slices of a stack share.
SHARED = {"PixelMeasuresSequence": "PixelSpacing", "PlaneOrientationSequence": "ImageOrientationPatient"}


def source_images(source: Origin, planes: Array) -> tuple[list[Any], Array]:
    """Return the source images for highdicom, and the planes of a mask in the order of these images.

    Parameters
    ----------
    source
        The slices; their headers are changed.
    planes
        (slice, row, column) labels, in the order of the slices.

    Raises
    ------
    InputError
        If the slices lie in several enhanced files.
    """
    for header in source.headers.values():
        for keyword in TYPE_2:  # a blank value is allowed, but highdicom requires the attribute
            if keyword not in header:
                setattr(header, keyword, "")
        if header.get("PatientSex") not in SEXES:
            header.PatientSex = ""
        if header.get("PatientIdentityRemoved", "NO") not in YES_OR_NO:
            del header.PatientIdentityRemoved
    if source.slices[0].frame is None:
        _share_geometry(source)
        for header in source.headers.values():
            _set_steps(source, header)
        return [source.header(item) for item in source.slices], planes
    refuse_several_files(source)
    (image,) = source.headers.values()
    order = _leave_out_other_frames(source, image)
    _share_groups(source, image)
    return [image], planes[order]


def refuse_several_files(source: Origin) -> None:
    """Refuse frames of several enhanced files, to which highdicom lets no SEG refer.

    Raises
    ------
    InputError
        If the slices lie in several enhanced files.
    """
    if source.slices[0].frame is not None and len(source.headers) > 1:
        raise InputError(
            "the scan lies in several enhanced files, to which one DICOM SEG cannot refer",
            where=source.slices[0].path.parent,
            todo="Write RTSTRUCT (--format rtstruct) or NIfTI (--format nii.gz)",
        )


def set_aside(images: list[Any]) -> list[Any]:
    """Return patient and study of the first image, and blank them in all images.

    highdicom quotes a name of one part in a warning, and a name of seven in a log; it does not support all
    character sets (ISO 2022 IR 87 beside the default one), and refuses dates that old files have.
    """
    first = images[0]
    patient = [deepcopy(first[keyword]) for keyword in REPEATED if keyword in first]
    for header in images:
        for keyword in TYPE_2:
            setattr(header, keyword, "")
        header.pop("SpecificCharacterSet", None)
    return patient


def _leave_out_other_frames(source: Origin, image: Any) -> list[int]:
    """Leave only the frames of the stack in a header, and return its slices in the order of the file.

    Frames of another phase or echo lie at the same places, which highdicom refuses.
    """
    numbers = [item.frame or 0 for item in source.slices]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    groups = image.PerFrameFunctionalGroupsSequence
    image.PerFrameFunctionalGroupsSequence = [groups[numbers[n]] for n in order]
    image.NumberOfFrames = len(order)
    return order


def _share_groups(source: Origin, image: Any) -> None:
    """Move pixel measures and orientation, which a file may state for each frame, into the shared groups."""
    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [Dataset()]
    (shared,), each = image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence
    for group, keyword in SHARED.items():
        item = (each[0].get(group) or shared.get(group) or [Dataset()])[0]
        for frame in each:
            frame.pop(group, None)
        setattr(shared, group, [item])
        if keyword not in item or _differs(source, keyword):
            setattr(item, keyword, _common(source)[keyword])
    _set_steps(source, shared.PixelMeasuresSequence[0])


def _share_geometry(source: Origin) -> None:
    """Give all headers the directions and the spacing of the stack, from which they differ by rounding."""
    for keyword, values in _common(source).items():
        if _differs(source, keyword):
            for header in source.headers.values():
                setattr(header, keyword, values)


def _differs(source: Origin, keyword: str) -> bool:
    return len({item.text(keyword) for item in source.slices}) > 1


def _common(source: Origin) -> dict[str, list[str]]:
    """Return the directions and the spacing of the stack, by their attributes."""
    values = {
        "ImageOrientationPatient": source.stack.turn[:, :2].T.ravel(),
        "PixelSpacing": source.stack.spacing_mm[::-1],
    }
    return {name: [format_number_as_ds(float(v) + 0.0) for v in found] for name, found in values.items()}


def _set_steps(source: Origin, measures: Any) -> None:
    """Give a header the true distance of its slices, which the SEG repeats (PS3.3, C.7.6.16.2.1).

    In headers of scans the distance may be the gap between slices, negative, that of an earlier
    reconstruction, or missing. An invalid thickness becomes the mean step.
    """
    step = format_number_as_ds(source.stack.step_mm)
    measures.pop("SpacingBetweenSlices", None)
    if source.stack.even and source.stack.upright:
        measures.SpacingBetweenSlices = step
    try:
        thickness = float(measures.get("SliceThickness") or 0)
    except (TypeError, ValueError):  # `2,5`, or a word
        thickness = 0.0
    if not 0 < thickness < float("inf"):
        measures.SliceThickness = step
