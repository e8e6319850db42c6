"""Read a DICOM RTSTRUCT as a mask of the voxel centres within its contours (PS3.3, C.8.8.6).

`rtstruct_fill` combines the contours of a region on one slice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.io.dicom.header import unreadable
from c3s3_seg.io.dicom_objects.rtstruct_fill import Unclear, fill
from c3s3_seg.io.dicom_objects.rtstruct_outline import TooManyPairs, inside

__all__ = ["inside", "points_mm", "read_rtstruct", "region_name"]

XOR = "CLOSEDPLANAR_XOR"
CLOSED = ("CLOSED_PLANAR", XOR)
POINT = "POINT"  # an isocentre or a marker
# How far a contour may lie off its slice: planning systems round to a tenth of a mm.
OFF_MM, OFF_PART = 0.1, 0.1
# If fewer slices than this part of those from first to last are drawn on, the rest was to be interpolated.
FILLED = 0.6
# A line through every voxel of 1024 x 1024 is this long; a far longer line would take all memory.
MOST_LENGTH_VOX = 1 << 20
# Distance from the centre of an outer voxel to its edge, plus a rounding error.
EDGE_VOX = 0.55


def read_rtstruct(path: Path, grid: Geometry, values: Mapping[str, int]) -> Volume:
    """Read regions of an RTSTRUCT onto the grid of its scan.

    Parameters
    ----------
    path
        The file.
    grid
        Grid of the scan that the RTSTRUCT was drawn on.
    values
        Region name -> value in the mask, from 1. Several names may share a value.

    Returns
    -------
    Volume
        Labels (i, j, k) uint16 on `grid`; a region without contours is 0 everywhere.

    Raises
    ------
    InputError
        If a contour is not closed, regions overlap, only every second slice is drawn on, a region has
        contours and no voxel, contours can be read in two ways, or the file is damaged.
    GeometryError
        If a region is in another frame of reference, or a contour is too long or lies between or outside of
        the slices.
    """
    from c3s3_seg.io.deflated import whole_of

    try:
        data = whole_of(path, force=True)
        regions = _regions(data, path)
        array = np.zeros(grid.shape, dtype=np.uint16)
        notes: list[str] = []
        drawn = _contours(data)
        nameless = sorted(set(drawn) - set(regions))
        if nameless:
            raise InputError(f"it has contours of region {nameless[0]}, which it does not name", where=path)
        for number, region in regions.items():
            value = values.get(region_name(region))
            if value is not None:
                grid.refuse_other_frame(region.get("ReferencedFrameOfReferenceUID"), path, "RTSTRUCT")
                found = _region(drawn.get(number, []), region_name(region), grid, path)
                _put(array, found.array, value, path)
                notes += found.notes
    except (C3S3Error, MemoryError):
        raise
    except Exception as error:  # a damaged file can hold anything
        raise InputError(unreadable("RTSTRUCT", error), where=path, todo="Copy or export it again") from error
    names = Counter(map(region_name, regions.values()))
    notes += [f"region '{n}': {times} regions of this name were united"
              for n, times in names.items() if n in values and times > 1]  # fmt: skip
    others = sum(region_name(item) not in values for item in regions.values())
    if others:
        notes.append(f"{others} other regions of the RTSTRUCT were left out")
    return grid.volume(array, Source(path, "RTSTRUCT", notes=tuple(notes)))


def _regions(data: Any, path: Path) -> dict[int, Any]:
    """Return number -> item of each region; raise if two names share a number, on which contours depend."""
    found: dict[int, Any] = {}
    for item in data.StructureSetROISequence:
        if region_name(found.setdefault(int(item.ROINumber), item)) != region_name(item):
            raise InputError(
                f"two regions of different names have the number {item.ROINumber}",
                where=path,
                todo="Have it exported again: which of them a contour belongs to is not known",
            )
    return found


def _contours(data: Any) -> dict[int, list[Any]]:
    """Return number of a region -> all of its contours, which may be spread over several items."""
    found: dict[int, list[Any]] = defaultdict(list)
    for drawn in data.get("ROIContourSequence") or ():
        found[int(drawn.ReferencedROINumber)] += drawn.get("ContourSequence") or ()
    return found


@dataclass(frozen=True)
class _Region:
    """A region: (i, j, k) bool, and the notes on it."""

    array: NDArray[np.bool_]
    notes: tuple[str, ...]


def _region(contours: Sequence[Any], name: str, grid: Geometry, path: Path) -> _Region:
    kinds = {str(contour.get("ContourGeometricType", "")) for contour in contours}
    if kinds <= {POINT}:
        what = "it has points only, which enclose no voxel" if contours else "it has no contours"
        return _Region(np.zeros(grid.shape, dtype=np.bool_), (f"region '{name}': {what}",))
    for kind in sorted(kinds - set(CLOSED)):
        what = f"the region '{name}' has a contour of type '{kind}'; wanted closed ones"
        raise InputError(what, where=path, todo="Leave it out with --labels, or close it where it was drawn")
    slices: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    array, notes = np.zeros(grid.shape, dtype=np.bool_), Counter[str]()
    for contour in contours:
        points = points_mm(contour)
        if len(points) < int(contour.get("NumberOfContourPoints") or 0):
            what = f"a contour of '{name}' has {len(points)} of its {contour.NumberOfContourPoints} points"
            raise InputError(what, where=path, todo="Copy or export it again")
        if len(points):
            k, polygon = _on_slice(points, name, grid, path)
            slices[k].append(polygon)
        else:
            notes["contours have no points and were left out"] += 1
    gaps = _between(set(slices), name, path)
    if gaps:
        notes["slices between others have no contour: they are background"] = gaps
    for k, polygons in slices.items():
        try:
            filled = fill(polygons, grid.shape[:2], exclusive=XOR in kinds)
        except Unclear as unclear:
            raise InputError(
                f"the contours of the region '{name}' on slice {k + 1} can be read in two ways: {unclear}",
                where=path,
                todo="Mend them where they were drawn: a hole must lie clear within its outer contour",
            ) from None
        except TooManyPairs as many:
            raise InputError(
                f"the region '{name}' has {len(polygons)} contours on slice {k + 1}, and {many}",
                where=path,
                todo="Mend them where they were drawn, or leave the region out",
            ) from None
        array[:, :, k] = filled.inside
        notes += filled.notes
    clipped = sum(_is_clipped(polygons, grid.shape[:2]) for polygons in slices.values())
    _refuse_empty(array, len(contours), clipped, name, path)
    return _Region(array, _notes(notes, name, clipped, kinds))


def points_mm(contour: Any) -> NDArray[np.float64]:
    """Return the points (n, 3) of a contour in mm, LPS; (0, 3) if the contour has no data.

    Explicit VR has 16 bits for the length of decimal strings, so longer data become UN (PS3.5, 6.2.2).
    """
    values = contour.get("ContourData")
    if isinstance(values, bytes):
        values = [part for part in values.decode("ascii").strip(" \0").split("\\") if part]
    return np.array([] if values is None else values, dtype=np.float64).reshape(-1, 3)


def _is_clipped(polygons: list[NDArray[np.float64]], shape: tuple[int, int]) -> bool:
    """Return whether contours of a slice reach out of the slice: beyond the edge of its outer voxels."""
    return any((p.min(axis=0) < -EDGE_VOX).any() or (p.max(axis=0) > np.subtract(shape, 1) + EDGE_VOX).any()
               for p in polygons)  # fmt: skip


def _notes(counts: Counter[str], name: str, clipped: int, kinds: set[str]) -> tuple[str, ...]:
    notes = [f"region '{name}': {number} {text}" for text, number in sorted(counts.items())]
    if clipped:
        notes.append(
            f"region '{name}': cut at the border of the scan on {clipped} slices, where it reaches out"
        )
    if len(kinds) > 1:
        notes.append(f"region '{name}': of {' and '.join(sorted(kinds))} contours, read as {XOR}")
    return tuple(notes)


def _refuse_empty(array: NDArray[np.bool_], count: int, clipped: int, name: str, path: Path) -> None:
    if not array.any():
        where = "lie outside of the scan" if clipped else "enclose no voxel centre, or cancel each other out"
        raise InputError(
            f"the region '{name}' has {count} contours and not one voxel: they {where}",
            where=path,
            todo="Give the series that it was drawn on, or have the region exported again",
        )


def _on_slice(
    points: NDArray[np.float64], name: str, grid: Geometry, path: Path
) -> tuple[int, NDArray[np.float64]]:
    """Return the slice that a contour lies on, and the corners (n, 2) of the contour in voxels."""
    index = grid.to_index(points)
    k = int(np.rint(np.median(index[:, 2])))
    step_mm = float(grid.spacing_mm[2])
    off_mm = float(np.abs(index[:, 2] - k).max()) * step_mm
    if off_mm > max(OFF_MM, OFF_PART * step_mm):
        raise GeometryError(
            f"a contour of '{name}' lies {off_mm:.3g} mm off the nearest slice of the scan",
            where=path,
            todo="Give the series that it was drawn on, or have it exported on its slices",
        )
    if not 0 <= k < grid.shape[2]:
        raise GeometryError(f"a contour of '{name}' lies above or below the scan", where=path)
    length_vox = float(np.linalg.norm(np.diff(index, axis=0, append=index[:1]), axis=1).sum())
    if length_vox > MOST_LENGTH_VOX:
        what = f"a contour of '{name}' is {length_vox:.3g} voxels of the scan long"
        raise GeometryError(
            f"{what}; up to {MOST_LENGTH_VOX} are read", where=path, todo="Have it exported again"
        )
    return k, index[:, :2]


def _between(slices: set[int], name: str, path: Path) -> int:
    """Return how many slices between the first and the last have no contour; raise if too many."""
    span = max(slices) - min(slices) + 1 if slices else 0
    if span > 2 and len(slices) < FILLED * span:
        raise InputError(
            f"the region '{name}' has contours on {len(slices)} of {span} slices",
            where=path,
            todo="Interpolate them where they were drawn: slices without a contour would be background",
        )
    return span - len(slices)


def _put(array: Array, region: NDArray[np.bool_], value: int, path: Path) -> None:
    clash = int((region & (array != 0) & (array != value)).sum())
    if clash:
        raise InputError(
            f"two regions overlap in {clash} voxels",
            where=path,
            todo="Leave one of them out with --labels, or mend them where they were drawn",
        )
    array[region] = value


def region_name(item: Any) -> str:
    """Return the ROIName of a region (PS3.3, C.8.8.5), or a name made from its number."""
    return str(item.get("ROIName", "") or "").strip() or f"region {item.ROINumber}"
