"""Find the grid of the frames of DICOM SEG files without their scan.

Slices without a frame are often left out of a SEG, so the grid covers the frames of all given files, and the
contours of an RTSTRUCT that is compared with them. Voxels beyond the grid are background in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.deflated import whole_of
from c3s3_seg.io.dicom.header import unreadable
from c3s3_seg.io.dicom_objects.rtstruct_read import points_mm
from c3s3_seg.io.dicom_objects.seg_frames import Frame, Points, frames_of
from c3s3_seg.io.limits import check_size

LARGEST_SIDE, LARGEST_SIZE = 4096, 2e9  # voxels: a position far away is damaged
SAME_MM = 1e-2
OFF_VOXELS = 0.05  # positions are written as decimals; a SEG of another grid is off by far more somewhere
STEP_PART = 0.02  # part of a slice distance: two distances that differ by less are the same


def frames_grid(segs: Sequence[Path], rtstructs: Sequence[Path] = ()) -> Geometry:
    """Return the grid of the first SEG's frames, extended over all frames and contours.

    Parameters
    ----------
    segs
        DICOM SEG files, at least one.
    rtstructs
        RTSTRUCT files that are compared with them.

    Returns
    -------
    Geometry
        Grid with axes i, j, k along a row, down a column and across the slices of the first frame; mm, LPS.

    Raises
    ------
    InputError
        If a file is damaged, there is no frame, or a frame does not state its position or, if it is the only
        one, its thickness.
    GeometryError
        If the files are in different frames of reference or lie far apart, or for the reasons of `frames_of`.
    MemoryLimitError
        If the memory does not suffice for a mask on the grid.
    """
    frames: list[Frame] = []
    uids = set()
    contours = [np.empty((0, 3))]
    for path in (*segs, *rtstructs):
        found, points, uid = frames_and_contours(path, is_seg=path in segs)
        frames += found
        contours += points
        uids.add(uid)
    if len(uids - {""}) > 1:
        raise GeometryError("the two masks are in different frames of reference", where=segs[-1])
    if not frames:
        raise InputError("this DICOM SEG has no frame", where=segs[0])
    return _covering(frames, np.concatenate(contours), max(uids) or None, segs[0])


def seg_grid(path: Path) -> Geometry:
    """Return the grid of one DICOM SEG from its first to its last frame: empty slices are often left out.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Geometry
        Same as in `frames_grid`, with axes at right angles.

    Raises
    ------
    InputError, MemoryLimitError
        For the reasons of `frames_grid`.
    GeometryError
        If the frames are not a stack with even steps, or for the reasons of `frames_of`.
    """
    frames, _, uid = frames_and_contours(path, is_seg=True)
    if not frames:
        raise InputError("this DICOM SEG has no frame", where=path)
    grid = _covering(frames, np.empty((0, 3)), uid or None, path)
    index = grid.to_index(np.array([frame.corners for frame in frames]))
    if not grid.is_orthogonal or np.abs(index - np.rint(index)).max() > OFF_VOXELS:
        what = "the frames of this DICOM SEG are no stack of even steps"
        raise GeometryError(what, where=path, todo="Give the scan that it was drawn on")
    return grid


def frames_and_contours(path: Path, *, is_seg: bool) -> tuple[list[Frame], list[Points], str]:
    """Return the frames of a SEG or contours of an RTSTRUCT, and the UID of their frame of reference.

    Raises
    ------
    InputError, GeometryError
        If the file is damaged, or for the reasons of `frames_of`.
    """
    kind = "DICOM SEG" if is_seg else "RTSTRUCT"
    try:
        data: Any = whole_of(path, force=True)
        frames, contours = (frames_of(data, path), []) if is_seg else ([], list(_contours(data)))
        return frames, contours, str(data.get("FrameOfReferenceUID", "") or "")
    except (C3S3Error, MemoryError):
        raise
    except Exception as error:  # a damaged file can hold anything
        raise InputError(unreadable(kind, error), where=path, todo="Copy or export it again") from error


def _contours(data: Any) -> Iterator[Points]:
    for region in data.get("ROIContourSequence") or ():
        for contour in region.get("ContourSequence") or ():
            yield points_mm(contour)


def _covering(frames: Sequence[Frame], contours: Points, uid: str | None, path: Path) -> Geometry:
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused
            return _reaching(frames, contours, uid, path)
    except GeometryError as error:
        what = error.what if error.where else f"the frames of this DICOM SEG lie on no grid: {error.what}"
        raise GeometryError(what, where=path, todo="Copy or export it again") from error


def _reaching(frames: Sequence[Frame], contours: Points, uid: str | None, path: Path) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = np.stack([frames[0].along, frames[0].down, _step(frames, path)], axis=1)
    affine[:3, 3] = frames[0].corners[0]
    reach = Geometry((1, 1, 1), affine).to_index(np.concatenate([*(f.corners for f in frames), contours]))
    first = np.floor(reach.min(axis=0) + 0.5)
    shape = np.floor(reach.max(axis=0) + 0.5) - first + 1
    if not np.isfinite(reach).all() or shape.max() > LARGEST_SIDE or shape.prod() > LARGEST_SIZE:
        raise GeometryError(f"the masks reach over {shape.tolist()} voxels", where=path)
    affine[:3, 3] = Geometry((1, 1, 1), affine).to_mm(first)
    i, j, k = (int(n) for n in shape)
    check_size(path, (i, j, k), 2 * i * j * k)
    return Geometry((i, j, k), affine, uid)


def _step(frames: Sequence[Frame], path: Path) -> Points:
    """Return the step (3,) from one slice to the next in mm; oblique to the slices of a tilted gantry."""
    first = frames[0]
    normal = np.cross(first.along, first.down)
    normal /= np.linalg.norm(normal)
    alike = [f for f in frames if np.allclose([f.along, f.down], [first.along, first.down], atol=1e-4)]
    places = np.array([frame.corners[0] for frame in alike])
    depths = (places - places[0]) @ normal
    low, high = int(depths.argmin()), int(depths.argmax())
    gaps = np.diff(np.sort(depths))
    gaps = gaps[gaps > SAME_MM]
    if not gaps.size:
        thick = first.apart or first.thick
        if not thick > 0:
            what = "the one frame of this DICOM SEG does not say how thick it is"
            raise InputError(what, where=path, todo="Give the scan that it was drawn on")
        return np.asarray(normal * thick, dtype=np.float64)
    # Each gap is rounded, so the mean of the single steps is taken. If a stated distance divides this mean,
    # slices without a frame lie between; a distance that does not divide it is wrong.
    single = float(gaps[gaps < 1.5 * gaps.min()].mean())
    apart = first.apart if _holds(first.apart, single, first.thick) else single
    count = np.rint((depths[high] - depths[low]) / apart)
    return np.asarray((places[high] - places[low]) / count, dtype=np.float64)


def _holds(apart: float, single: float, thick: float) -> bool:
    """Return whether a stated distance `apart` is right if slices with a frame are `single` apart; in mm."""
    parts = single / apart if apart > 0 else 0.5
    if parts <= 0.5 or abs(parts - np.rint(parts)) >= STEP_PART * parts:
        return False
    # A gap of 0.3 mm between slices of 3 mm, or the distance of an earlier reconstruction, also divides the
    # step; but then slices, with or without the gap, leave no room for others between them.
    filled = any(abs(size / single - 1) < STEP_PART for size in (thick, thick + apart))
    return parts < 2.5 or not filled
