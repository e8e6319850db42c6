"""Read a DICOM SEG as a mask, with each frame at its stated position (PS3.3, A.51 and C.8.20).

The frames need not be in the order of the slices, nor have their orientation: each pixel goes to the
voxel at its position. A frame that lies between the voxels is refused, never resampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import C3S3Error, GeometryError, InputError
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.io.dicom.decoder import DecoderRefusal, PixelDecoder
from c3s3_seg.io.dicom.header import unreadable
from c3s3_seg.io.dicom_objects.seg_frames import Frame, frames_of, segment_names
from c3s3_seg.io.dicom_objects.seg_grid import OFF_VOXELS, STEP_PART

PLAIN_BITS = (1, 8, 16)  # per pixel: BINARY has 1, LABELMAP 8 or 16 (PS3.3, A.51 and C.8.20.2)


def read_seg(path: Path, grid: Geometry, values: Mapping[str, int]) -> Volume:
    """Read the segments of a DICOM SEG onto the grid of its scan.

    Parameters
    ----------
    path
        A BINARY or LABELMAP segmentation.
    grid
        Grid of the scan that the SEG was drawn on.
    values
        Segment label -> value in the mask, from 1. Several labels may share a value.

    Returns
    -------
    Volume
        Labels (i, j, k) uint16 on `grid`; 0 where there is no frame.

    Raises
    ------
    InputError
        If the SEG is fractional, two segments overlap, a frame does not state its position or shows a segment
        without a name, two segments have one number, two frames of a segment lie at one position and differ,
        the pixels are not laid out as stated, or the file is damaged.
    GeometryError
        If a frame does not lie on the voxels of the grid, or lies outside of it; if the scan is in another
        frame of reference (PS3.3, C.7.4.1); for the reasons of `frames_of`.
    """
    try:
        data = _open(path)
        grid.refuse_other_frame(data.get("FrameOfReferenceUID"), path, "DICOM SEG")
        numbers = segment_names(data, path)
        wanted = {number: values[name] for number, name in numbers.items() if name in values}
        array = np.zeros(grid.shape, dtype=np.uint16)
        frames = frames_of(data, path)
        points = np.array([frame.position for frame in frames]).reshape(-1, 3)
        places = np.rint(grid.to_index(points))
        seen: dict[tuple[int | None, ...], tuple[int, int]] = {}
        for frame, pixels, place in zip(frames, _pixels(data, path), places, strict=True):
            _refuse_another(frame, pixels, place, seen, path)
            _refuse_unnamed(frame, pixels, {0, data.get("PixelPaddingValue"), *numbers}, path)
            for number, inside in _segments(frame, pixels, wanted):
                _put(array, _voxels(frame, inside, grid, places, path), wanted[number], path)
    except (C3S3Error, MemoryError):
        raise
    except Exception as error:  # a damaged file can hold anything
        raise InputError(
            unreadable("DICOM SEG", error), where=path, todo="Copy or export it again"
        ) from error
    names = Counter(numbers.values())
    notes = [f"segment '{n}': {times} segments of this name were united"
             for n, times in names.items() if n in values and times > 1]  # fmt: skip
    others = sum(name not in values for name in numbers.values())
    if others:
        notes.append(f"{others} other segments of the DICOM SEG were left out")
    return grid.volume(array, Source(path, "SEG", notes=tuple(notes)))


def _open(path: Path) -> Any:
    from c3s3_seg.io.deflated import whole_of

    data = whole_of(path, force=True)
    kind = str(data.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        raise InputError(
            f"found a DICOM SEG of type '{kind}'; wanted BINARY or LABELMAP",
            where=path,
            todo="Export it as binary: where a fraction becomes a mask is for you to say",
        )
    return data


def _pixels(data: Any, path: Path) -> Iterator[Array]:
    """Yield each frame (row, column). Compressed frames are decoded in a process of their own."""
    count = len(data.PerFrameFunctionalGroupsSequence)
    if int(data.NumberOfFrames) != count:
        raise InputError(f"it has {data.NumberOfFrames} frames and describes {count} of them", where=path)
    if not data.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_plain(data, count, path)
        for frame in range(count):
            yield _plain(data, frame)
        return
    decoder = PixelDecoder()
    try:
        for frame in range(count):
            yield decoder.pixels(path, frame, (int(data.Rows), int(data.Columns)))
    except DecoderRefusal as refused:
        raise InputError(f"its frames cannot be decoded ({refused})", where=path) from None
    finally:
        decoder.close()


def _check_plain(data: Any, count: int, path: Path) -> None:
    """Raise if the pixels are not laid out as stated: they would be read as a different mask."""
    bits, samples = int(data.BitsAllocated), int(data.get("SamplesPerPixel") or 1)
    if bits not in PLAIN_BITS or samples != 1:
        raise InputError(
            f"the pixels of this DICOM SEG have {samples} x {bits} bits; wanted 1 x 1, 8 or 16",
            where=path,
            todo="Have it exported again",
        )
    wanted = (count * int(data.Rows) * int(data.Columns) * bits + 7) // 8
    found = len(data.PixelData)
    if not wanted <= found <= wanted + 1:  # one byte makes the length even
        raise InputError(
            "this DICOM SEG is damaged, or lays out its frames in another way than the standard: they take"
            f" {wanted} bytes of pixels, and it has {found}",
            where=path,
            todo="Copy or export it again",
        )


def _plain(data: Any, frame: int) -> Array:
    """Return a frame of uncompressed pixels; frames of 1-bit pixels follow without padding to a byte."""
    rows, columns, bits = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
    size = rows * columns
    if bits == 1:
        first = frame * size
        packed = np.frombuffer(data.PixelData, np.uint8)[first // 8 : (first + size + 7) // 8]
        return np.unpackbits(packed, bitorder="little")[first % 8 :][:size].reshape(rows, columns)
    kind = np.dtype(
        np.uint8 if bits == 8 else "<u2" if data.file_meta.TransferSyntaxUID.is_little_endian else ">u2"
    )
    return np.frombuffer(data.PixelData, kind, size, frame * size * kind.itemsize).reshape(rows, columns)


def _refuse_unnamed(frame: Frame, pixels: Array, known: Set[Any], path: Path) -> None:
    """Raise if a frame shows a segment without a name: whether it is requested is not known."""
    shown = set(np.unique(pixels).tolist()) if frame.segment is None else {frame.segment}
    if shown - known:
        what = f"frame {frame.number} of this DICOM SEG shows segment {min(shown - known)}"
        raise InputError(f"{what}, which it does not name", where=path, todo="Have it exported again")


def _refuse_another(
    frame: Frame, pixels: Array, place: Array, seen: dict[tuple[int | None, ...], tuple[int, int]], path: Path
) -> None:
    """Raise if two frames of a segment at one position differ: they are points in time, not parts of a mask.

    `seen`: segment and voxel of the first pixel -> number of the frame and hash of its pixels.
    """
    found = frame.number, hash(pixels.tobytes())
    first = seen.setdefault((frame.segment, *map(int, place)), found)
    if first[1] != found[1]:
        what = "lie at one place" if frame.segment is None else f"show segment {frame.segment} at one place"
        raise InputError(
            f"frames {first[0]} and {frame.number} of this DICOM SEG {what}, and differ",
            where=path,
            todo="Export each point in time, or each version, as a file of its own",
        )


def _segments(
    frame: Frame, pixels: Array, wanted: Mapping[int, int]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield each requested segment that a frame shows, with its pixels in the frame."""
    if frame.segment is not None:
        if frame.segment in wanted:
            yield frame.segment, pixels != 0
        return
    for number in sorted(set(np.unique(pixels).tolist()) & set(wanted)):
        yield number, pixels == number


def _voxels(
    frame: Frame, inside: NDArray[np.bool_], grid: Geometry, places: Array, path: Path
) -> NDArray[np.intp]:
    """Return the voxels (n, 3) in which the `inside` pixels of a frame lie.

    `places` (frames, 3) are the voxels of the first pixels of all frames.
    """
    first = grid.to_index(frame.position)
    along = grid.to_index(frame.position + frame.along) - first
    down = grid.to_index(frame.position + frame.down) - first
    rows, columns = inside.shape
    ends = np.array([[0, 0], [columns - 1, 0], [0, rows - 1], [columns - 1, rows - 1]])
    # With whole steps: steps of 59/58 voxels reach whole voxels at the corners, and nowhere between.
    off = (first - np.rint(first)) + ends @ np.stack([along - np.rint(along), down - np.rint(down)])
    if not _are_steps(along, down, frame, grid, places) or np.abs(off).max() > OFF_VOXELS:
        raise GeometryError(
            f"frame {frame.number} of this DICOM SEG does not lie on the voxels of the scan, {grid}",
            where=path,
            todo="Export it on the grid of the series that it was drawn on",
        )
    steps = np.rint(np.stack([along, down]))
    # Before the place of each pixel: of a frame far larger than the scan they would take all memory.
    reach = np.rint(first) + _outermost(inside) @ steps
    if reach.size and (reach.min() < 0 or (reach >= grid.shape).any()):
        raise GeometryError(f"frame {frame.number} of this DICOM SEG reaches out of the scan", where=path)
    pixels = np.stack(np.nonzero(inside)[::-1], axis=1)
    return np.asarray(np.rint(first) + pixels @ steps, dtype=np.intp)


def _outermost(inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return (2, 2): the first column and row with a pixel, and the last ones; (0, 2) without a pixel."""
    lines = [np.flatnonzero(inside.any(axis=axis)) for axis in (0, 1)]
    return np.stack([line[[0, -1]] if line.size else line for line in lines], axis=1)


def _are_steps(along: Array, down: Array, frame: Frame, grid: Geometry, places: Array) -> bool:
    """Return whether pixels are voxels: steps of 1 along one axis each, and the slice distance of the scan.

    A stated slice distance is wrong if two frames lie on neighbouring slices of the scan: programs copy it
    from headers in which it is the gap between slices.
    """
    axes = [int(np.abs(step).argmax()) for step in (along, down)]
    single = all(round(float(np.abs(np.rint(step)).sum())) == 1 for step in (along, down))
    if not single or axes[0] == axes[1]:
        return False
    axis = 3 - sum(axes)
    step_mm = float(grid.spacing_mm[axis])
    gaps = np.diff(np.unique(places[:, axis]))
    apart = frame.apart
    if apart == 0 and gaps.size and frame.thick > 0 and _alike(gaps.min() * step_mm, frame.thick):
        apart = frame.thick  # not stated, and the frames lie as far apart as they are thick
    return apart == 0 or _alike(apart, step_mm) or bool((gaps == 1).any())


def _alike(one_mm: float, other_mm: float) -> bool:
    return abs(one_mm / other_mm - 1) < STEP_PART


def _put(array: Array, index: NDArray[np.intp], value: int, path: Path) -> None:
    where = tuple(index.T)
    before = array[where]
    clash = int(((before != 0) & (before != value)).sum())
    if clash:
        raise InputError(
            f"two segments overlap: {clash} voxels of one slice belong to both",
            where=path,
            todo="Leave one of them out with --labels, or mend them where they were drawn",
        )
    array[where] = value
