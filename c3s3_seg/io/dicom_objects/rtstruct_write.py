"""Write a mask as DICOM RTSTRUCT: closed contours on the slices that the scan was read from (PS3.3, A.19).

Contours run halfway between the voxel centres inside and outside of a label. A hole is a contour of its
own, and a point is inside if an odd number of contours surrounds it, as radiotherapy programs assume.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io.dicom.header import Slice
from c3s3_seg.io.dicom_objects.codes import CONTOURS, LABEL_COLOURS, Maker, Segment
from c3s3_seg.io.dicom_objects.common import code_item, derived, item_of, reference
from c3s3_seg.io.dicom_objects.references import Origin, origin
from c3s3_seg.io.dicom_objects.seg_write import hash_of
from c3s3_seg.system.files import write_whole

STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"
# Explicit VR has 16 bits for the length of decimal strings (PS3.5, 7.1.2): up to 17 bytes a number.
EXPLICIT_POINTS = (1 << 16) // (3 * 17)

Contours = list[tuple[Slice, NDArray[np.float64]]]


def write_rtstruct(
    mask: Volume,
    path: Path,
    segments: tuple[Segment, ...],
    maker: Maker | None = None,
    *,
    ready: Callable[[Path], None] | None = None,
) -> None:
    """Write a mask as RTSTRUCT.

    Parameters
    ----------
    mask
        Labels (i, j, k), as predicted from a DICOM series.
    path
        The file; it is replaced if it is there.
    segments
        The labels; each becomes a region, numbered from 1 in this order. An empty label has no contour.
    maker
        Program and model that made the mask.
    ready
        Same as in `save`.

    Raises
    ------
    InputError
        If the scan is not a DICOM series, its slices have no UIDs, or the file cannot be written.
    """
    with origin(mask.source) as source:
        planes = [source.plane(mask, n) for n in range(len(source.slices))]
        contours = [_contours(source, planes, segment.value) for segment in segments]
        data = _data_set(source, segments, contours, maker or Maker(), hash_of(mask.array))
    if any(len(points) > EXPLICIT_POINTS for region in contours for _, points in region):
        # A longer contour would become UN, which many programs cannot read; implicit VR has 32 bits.
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    write_whole(path, buffer.getvalue(), ready)


def decimals(values: NDArray[np.float64]) -> list[str]:
    """Return decimal strings of at most 16 characters (PS3.5, 6.2): tenths of a micrometre are enough."""
    # Adding 0 turns -0 into 0.
    return [f"{value:.4f}".rstrip("0").rstrip(".") for value in np.round(values, 4) + 0.0]


def _contours(source: Origin, planes: list[Array], value: int) -> Contours:
    from contourpy import LineType, contour_generator

    step = source.stack.turn[:, :2] * source.stack.spacing_mm
    found: Contours = []
    for number, (item, plane) in enumerate(zip(source.slices, planes, strict=True)):
        inside = plane == value
        if not inside.any():
            continue
        padded = np.pad(inside, 1).astype(np.float64)  # so that every contour is closed
        lines: Any = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
        for line in lines:
            pixels = line[:-1] - 1  # (column, row); the last point is the first one again
            found.append((item, source.stack.points_mm[number] + pixels @ step.T))
    return found


def _data_set(
    source: Origin, segments: tuple[Segment, ...], contours: list[Contours], maker: Maker, content: str
) -> FileDataset:
    first = source.header(source.slices[0])
    data = derived(source, maker, RTStructureSetStorage, CONTOURS, f"rtstruct {content}", segments)
    data.StructureSetDate, data.StructureSetTime = (
        data.pop("ContentDate").value,
        data.pop("ContentTime").value,
    )
    data.Modality, data.OperatorsName = "RTSTRUCT", ""
    data.StructureSetLabel, data.StructureSetDescription = "c3s3-seg", "Research use only"
    data.ApprovalStatus = "UNAPPROVED"
    frame = str(first.FrameOfReferenceUID)
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
    data.ReferencedFrameOfReferenceSequence = [_referenced(source, first, frame)]
    data.StructureSetROISequence = [_roi(n, s, frame) for n, s in enumerate(segments, 1)]
    data.ROIContourSequence = [_drawn(source, n, c) for n, c in enumerate(contours, 1)]
    data.RTROIObservationsSequence = [_observed(n, s) for n, s in enumerate(segments, 1)]
    return data


def _referenced(source: Origin, first: Any, frame: str) -> Dataset:
    images = [reference(source, item) for item in source.slices]
    series = item_of(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = item_of(
        ReferencedSOPClassUID=STUDY_COMPONENT,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return item_of(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])


def _roi(number: int, segment: Segment, frame: str) -> Dataset:
    return item_of(
        ROINumber=str(number),
        ReferencedFrameOfReferenceUID=frame,
        ROIName=segment.stored_name,
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _drawn(source: Origin, number: int, contours: Contours) -> Dataset:
    drawn = item_of(
        ROIDisplayColor=list(LABEL_COLOURS[(number - 1) % len(LABEL_COLOURS)]),
        ReferencedROINumber=str(number),
    )
    if contours:
        drawn.ContourSequence = [
            item_of(
                ContourImageSequence=[reference(source, item)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=str(len(points)),
                ContourData=decimals(points.ravel()),
            )
            for item, points in contours
        ]
    return drawn


def _observed(number: int, segment: Segment) -> Dataset:
    code = code_item(segment.coded)
    if segment.modifier is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [code_item(segment.modifier)]
    return item_of(
        ObservationNumber=str(number),
        ReferencedROINumber=str(number),
        RTROIInterpretedType="ORGAN" if segment.is_anatomy else "",  # type 2 (PS3.3, C.8.8.8)
        ROIInterpreter="",
        RTROIIdentificationCodeSequence=[code],
    )
