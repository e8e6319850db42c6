"""DICOM RTSTRUCT -> mask: which voxel centres lie within the contours (PS3.3, C.8.8.6).

A point is inside where an odd number of contours surrounds it, so that a contour within another one is a
hole, and a slit that leads to a hole changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.volume import Array, Geometry, Source, Volume

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# How far a contour may lie off its slice: planning systems round to a tenth of a mm.
OFF_MM, OFF_PART = 0.1, 0.1
# Fewer slices than this, of those between the first and the last, and the rest was to be interpolated.
FILLED = 0.6


def read_rtstruct(path: Path, grid: Geometry, values: Mapping[str, int]) -> Volume:
    """Read regions of an RTSTRUCT onto the grid of its scan.

    Parameters
    ----------
    path
        The file.
    grid
        Of the scan that it was drawn on.
    values
        Region name -> value in the mask, from 1. Several names may share a value.

    Returns
    -------
    Volume
        Labels (i, j, k) uint16 on `grid`; a region without contours is 0 everywhere.

    Raises
    ------
    InputError
        If a contour is not closed, regions overlap, only every second slice is drawn on, or it is damaged.
    GeometryError
        If it is of another frame of reference, or a contour lies between or outside of the slices.
    """
    import pydicom

    try:
        data = pydicom.dcmread(path, force=True)
        regions = {int(item.ROINumber): item for item in data.StructureSetROISequence}
        array = np.zeros(grid.shape, dtype=np.uint16)
        for drawn in data.get("ROIContourSequence") or ():
            region = regions[int(drawn.ReferencedROINumber)]
            value = values.get(region_name(region))
            if value is not None:
                _same_frame(region, grid, path)
                _put(array, _region(drawn, region_name(region), grid, path), value, path)
    except (C3S3Error, MemoryError):
        raise
    except Exception as error:  # a damaged file can hold anything
        what = f"this RTSTRUCT is damaged, or not one that can be read ({type(error).__name__})"
        raise InputError(what, where=path, todo="Copy or export it again") from error
    others = sum(region_name(item) not in values for item in regions.values())
    notes = (f"{others} other regions of the RTSTRUCT were left out",) if others else ()
    return grid.volume(array, Source(path, "RTSTRUCT", notes=notes))


def inside(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points of a grid lie in a closed polygon, by the even-odd rule.

    Parameters
    ----------
    polygon
        (n, 2): its corners as (i, j), in voxels; the last one is joined to the first.
    shape
        Numbers of points along i, j.

    Returns
    -------
    array
        (i, j) bool. A point on the edge is inside on the low side and outside on the high side.
    """
    ends = np.roll(polygon, -1, axis=0)
    low, high = np.minimum(polygon[:, 1], ends[:, 1]), np.maximum(polygon[:, 1], ends[:, 1])
    first = np.clip(np.ceil(low), 0, shape[1]).astype(int)
    count = np.clip(np.ceil(high), 0, shape[1]).astype(int) - first
    edge = np.repeat(np.arange(len(polygon)), count)
    j = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    start, run = polygon[edge], (ends - polygon)[edge]
    crossing = start[:, 0] + (j - start[:, 1]) * run[:, 0] / run[:, 1]
    toggles = np.zeros((shape[0] + 1, shape[1]), dtype=np.int32)
    np.add.at(toggles, (np.clip(np.ceil(crossing), 0, shape[0]).astype(int), j), 1)
    return np.asarray(np.cumsum(toggles[:-1], axis=0) % 2 == 1)


def _region(drawn: Any, name: str, grid: Geometry, path: Path) -> NDArray[np.bool_]:
    """(i, j, k) bool: one region."""
    array = np.zeros(grid.shape, dtype=np.bool_)
    slices = set()
    for contour in drawn.get("ContourSequence") or ():
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in CLOSED:
            raise InputError(
                f"the region '{name}' has a contour of type '{kind}'; wanted closed ones", where=path
            )
        points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
        k, polygon = _on_slice(points, name, grid, path)
        array[:, :, k] ^= inside(polygon, grid.shape[:2])
        slices.add(k)
    _refuse_sparse(slices, name, path)
    return array


def _on_slice(
    points: NDArray[np.float64], name: str, grid: Geometry, path: Path
) -> tuple[int, NDArray[np.float64]]:
    """The slice that a contour lies on, and its corners (n, 2) on it in voxels."""
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
    return k, index[:, :2]


def _refuse_sparse(slices: set[int], name: str, path: Path) -> None:
    span = max(slices) - min(slices) + 1 if slices else 0
    if span > 2 and len(slices) < FILLED * span:
        raise InputError(
            f"the region '{name}' has contours on {len(slices)} of {span} slices",
            where=path,
            todo="Interpolate them where they were drawn: slices without a contour would be background",
        )


def _same_frame(region: Any, grid: Geometry, path: Path) -> None:
    frame = str(region.get("ReferencedFrameOfReferenceUID", "") or "")
    if frame and grid.frame_uid and frame != grid.frame_uid:
        what = "this RTSTRUCT is in another frame of reference than the scan"
        raise GeometryError(what, where=path, todo="Give the series that it was drawn on")


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
    """ROIName (PS3.3, C.8.8.5), or its number."""
    return str(item.get("ROIName", "") or "").strip() or f"region {item.ROINumber}"
