"""Read where each frame of a DICOM SEG lies, and which segment the frame shows (PS3.3, A.51, C.8.20).

All readers of a SEG use this module, whether the grid of the scan is known or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import GeometryError, InputError, shown
from c3s3_seg.io.limits import SPACING_RANGE_MM

Points = NDArray[np.float64]
GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
UNIT_LENGTH = 1e-3  # how far the length of a direction may differ from 1, same as for a scan
FAR_EDGE_VOX = 0.1  # how far an angle that is not right may move a pixel, same as for a scan


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as stated by its functional groups: its own ones, or those that all frames share.

    Parameters
    ----------
    number
        Place of the frame in the file, from 1.
    segment
        Number of the segment that the frame shows; None in a label map, whose pixels are such numbers.
    position
        (3,) float64: the centre of the first pixel, in mm, LPS.
    along, down
        (3,) float64: the step from one column to the next, and from one row to the next, in mm.
    shape
        Rows and columns.
    apart, thick
        Distance and thickness of the slices in mm; 0 if not stated.
    """

    number: int
    segment: int | None
    position: Points
    along: Points
    down: Points
    shape: tuple[int, int]
    apart: float
    thick: float

    @property
    def corners(self) -> Points:
        """(4, 3): the centres of the corner pixels, in mm, LPS; the first pixel comes first."""
        rows, columns = self.shape
        ends = [(c * self.along, r * self.down) for c in (0, columns - 1) for r in (0, rows - 1)]
        return np.array([self.position + c + r for c, r in ends])


def frames_of(data: Any, path: Path) -> list[Frame]:
    """Return the frames of a SEG in their order; empty if it has none.

    Parameters
    ----------
    data
        Data set of the SEG.
    path
        The file, for messages.

    Raises
    ------
    InputError
        If a frame does not state where it lies or, in a binary SEG, which segment it shows.
    GeometryError
        If directions are not of length 1 and at right angles, or pixels have no plausible size.
    """
    shared = (data.get("SharedFunctionalGroupsSequence") or [{}])[0]
    shape = int(data.Rows), int(data.Columns)
    is_map = data.get("SegmentationType") == "LABELMAP"
    return list(_frames(data.PerFrameFunctionalGroupsSequence, shared, shape, is_map, path))


def segment_names(data: Any, path: Path) -> dict[int, str]:
    """Return number -> SegmentLabel of each segment (PS3.3, C.8.20.4), without 0, a label map's background.

    Parameters
    ----------
    data
        Data set of a SEG.
    path
        The file, for messages.

    Raises
    ------
    InputError
        If two segments of different names have one number, which alone assigns a frame to a segment.
    """
    named: dict[int, str] = {}
    for item in data.SegmentSequence:
        number, label = int(item.SegmentNumber), str(item.get("SegmentLabel", "") or "").strip()
        name = label or f"segment {number}"
        if named.setdefault(number, name) != name:
            raise InputError(
                f"two segments of different names have the number {number}",
                where=path,
                todo="Have it exported again: which of them a frame shows is not known",
            )
    return {number: name for number, name in named.items() if number}


def _frames(groups: Any, shared: Any, shape: tuple[int, int], is_map: bool, path: Path) -> Iterator[Frame]:
    for number, own in enumerate(groups, 1):
        found = [(own.get(name) or shared.get(name) or [None])[0] for name in GROUPS]
        if None in found:
            raise InputError(f"frame {number} of this DICOM SEG does not say where it lies", where=path)
        place, plane, measures = found
        position = _numbers(place, "ImagePositionPatient", 3, number, path)
        cosines = _numbers(plane, "ImageOrientationPatient", 6, number, path)
        spacing = _numbers(measures, "PixelSpacing", 2, number, path)
        _check(cosines, spacing, shape, number, path)
        # PS3.3, C.7.6.2.1.1: the first cosines go with the column index, whose spacing is the second.
        yield Frame(
            number,
            None if is_map else _segment(own, shared, number, path),
            position,
            cosines[:3] * spacing[1],
            cosines[3:] * spacing[0],
            shape,
            abs(float(measures.get("SpacingBetweenSlices") or 0)),
            float(measures.get("SliceThickness") or 0),
        )


def _segment(own: Any, shared: Any, number: int, path: Path) -> int:
    name = "SegmentIdentificationSequence"
    found = (own.get(name) or shared.get(name) or [None])[0]
    if found is None:
        raise InputError(f"frame {number} of this DICOM SEG does not say which segment it shows", where=path)
    return int(found.ReferencedSegmentNumber)


def _numbers(item: Any, keyword: str, count: int, number: int, path: Path) -> Points:
    """Return the values of an attribute of a frame: (count,) float64."""
    values = np.array(getattr(item, keyword), dtype=np.float64)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InputError(
            f"frame {number} of this DICOM SEG has no {keyword} of {count} finite numbers",
            where=path,
            todo="Copy or export it again",
        )
    return values


def _check(cosines: Points, spacing: Points, shape: tuple[int, int], number: int, path: Path) -> None:
    """Raise as for a scan: if directions stretch or shear the frame, or pixel sizes have a wrong unit."""
    lengths = np.linalg.norm(cosines.reshape(2, 3), axis=1)
    low, high = SPACING_RANGE_MM
    if np.abs(lengths - 1).max() > UNIT_LENGTH:
        what = f"axes of ImageOrientationPatient with lengths {shown(lengths)}; wanted 1"
    elif abs(float(cosines[:3] @ cosines[3:])) / 2 * max(shape) > FAR_EDGE_VOX:
        what = "axes of ImageOrientationPatient that are not perpendicular"
    elif spacing.min() < low or spacing.max() > high:
        what = f"a PixelSpacing of {shown(spacing)} mm; wanted {low} to {high:g}"
    else:
        return
    raise GeometryError(
        f"frame {number} of this DICOM SEG has {what}", where=path, todo="Have it exported again"
    )
