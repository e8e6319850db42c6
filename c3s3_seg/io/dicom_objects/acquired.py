"""Refuse to read a drawing onto the grid of a scan in which slices were interpolated (`--repair gaps`).

A DICOM SEG or RTSTRUCT has frames or contours on acquired slices. On the slices between them it would be
background in the middle of the organ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import C3S3Error, GeometryError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io.cases import scan_stem
from c3s3_seg.io.detect import is_zip
from c3s3_seg.io.dicom_objects.seg_grid import frames_and_contours
from c3s3_seg.io.dicom_objects.segmentation import Drawing
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.io.reading import Reading, is_interpolated
from c3s3_seg.system.ownership import read_case


def refuse_interpolated(drawing: Drawing, mask: Volume, image: Path, scan: Path | None) -> None:
    """Refuse to compare a drawing with a mask of a scan in which slices were interpolated.

    Parameters
    ----------
    drawing
        The DICOM SEG or RTSTRUCT.
    mask
        Its labels (i, j, k) on the grid of the other mask.
    image
        Image file of the other mask.
    scan
        The scan, if it was given.

    Raises
    ------
    GeometryError
        If the JSON beside the image file says that gaps were repaired; else, if the slices of the scan have
        gaps; else, if the references of the drawing leave no other explanation for slices without a frame or
        contour between others.
    """
    found = _by_record(image)
    if found is None and scan is not None:
        found = _by_scan(drawing, scan)
    if found or (found is None and _by_references(drawing, mask)):
        raise GeometryError(
            "it was drawn on the acquired slices, and the other mask has slices between them that were"
            " interpolated (`predict --repair gaps`), where it would be background",
            where=drawing.path,
            todo="Compare it with a mask of the acquired slices (`predict --format dicom-seg`); if no slice"
            " was interpolated, give the scans with --images",
        )


def _by_record(image: Path) -> bool | None:
    """Return what the JSON of `predict` beside a mask says; None without it."""
    record = read_case(image.with_name(f"{scan_stem(image_stem(image))}.json")) or {}
    scan = record.get("scan")
    notes = scan.get("notes") if isinstance(scan, dict) else None
    return is_interpolated(map(str, notes)) if isinstance(notes, list) else None


def _by_scan(drawing: Drawing, scan: Path) -> bool | None:
    """Return whether the slices of the series that a drawing names have gaps; None if this is not known."""
    from c3s3_seg.io.dicom.load import check, find_series

    if image_suffix(scan) or is_zip(scan):
        return None
    try:
        found, _ = find_series(scan, Reading())
        named = [series for series in found.series if series.is_volume and series.uid in drawing.series]
        reading = Reading(repair=frozenset({"gaps", "tilt"}))
        stacks = [check(series, found.root, reading) for series in named]
    except C3S3Error:  # a scan that cannot be read says nothing
        return None
    return not all(stack.even for stack in stacks) if stacks else None


def _by_references(drawing: Drawing, mask: Volume) -> bool:
    """Return whether all slices of a grid that a drawing does not name may lie in its gaps.

    Programs name all slices of the series, or those with a frame or contour. A slice without any between
    others is then one of the series that is empty, or one that the series does not have.
    """
    grid = mask.geometry
    unnamed = [size - len(drawing.slices) for size in grid.shape]
    used = [np.flatnonzero(mask.array.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not drawing.slices or not any(0 < unnamed[axis] <= _gaps(used[axis]) for axis in range(3)):
        return False
    frames, contours, _ = frames_and_contours(drawing.path, is_seg=drawing.kind == "dicom-seg")
    points = [frame.position for frame in frames] or [contour[0] for contour in contours if len(contour)]
    axis = 2  # of the slices; contours are read along this axis alone
    if frames:
        normal = np.cross(frames[0].along, frames[0].down)
        axis = int(np.abs(grid.direction.T @ normal).argmax())
    drawn = np.unique(np.rint(grid.to_index(np.array(points))[:, axis]))
    return 0 < unnamed[axis] <= _gaps(drawn)


def _gaps(places: NDArray[Any]) -> int:
    """Return how many whole numbers between the first and the last of ascending ones are not among them."""
    return int(places[-1] - places[0]) + 1 - len(places) if len(places) else 0
