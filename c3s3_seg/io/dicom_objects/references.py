"""The DICOM slices that a mask was made from, to which a SEG, an RTSTRUCT or a secondary capture refers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.dicom.grid import Stack
from c3s3_seg.io.dicom.header import Slice, state_loss
from c3s3_seg.io.dicom.load import check, find_series
from c3s3_seg.io.dicom.series_choice import choose
from c3s3_seg.io.dicom_objects.codes import Uid
from c3s3_seg.io.reading import Reading
from c3s3_seg.system.choices import Repair

# Without these UIDs nothing can refer to a slice (PS3.3, 10.3 and C.7.4.1).
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Origin:
    """The slices behind a volume, in the order of their positions, and their whole headers.

    Parameters
    ----------
    stack
        Positions of the slices.
    slices
        One slice for each place.
    headers
        Data set of each file without its pixels, by path; the frames of a file share one data set.
    """

    stack: Stack
    slices: tuple[Slice, ...]
    headers: dict[Path, Any]

    def header(self, item: Slice) -> Any:
        """Return the whole header of a slice's file."""
        return self.headers[item.path]

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.slices[0].number("Columns", 0), self.slices[0].number("Rows", 0)

    def plane(self, mask: Volume, number: int) -> Array:
        """Return the labels of a mask at the pixels of a slice: (row, column).

        These are the mask's own voxels if it lies on the grid of the slices; if the scan was repaired, the
        nearest voxels, and background outside of the mask.
        """
        columns, rows = self.size
        if self._same_grid(mask.geometry):
            return np.asarray(mask.array[:, :, number].T)
        step = self.stack.turn[:, :2] * self.stack.spacing_mm
        i, j = np.meshgrid(np.arange(columns), np.arange(rows))
        places = self.stack.points_mm[number] + np.stack([i, j], axis=-1) @ step.T
        index = np.rint(mask.geometry.to_index(places)).astype(int)
        inside = ((index >= 0) & (index < mask.array.shape)).all(axis=-1)
        found = np.zeros((rows, columns), dtype=mask.array.dtype)
        found[inside] = mask.array[tuple(index[inside].T)]
        return found

    def _same_grid(self, grid: Geometry) -> bool:
        if not (self.stack.even and self.stack.upright):
            return False
        columns, rows = self.size
        return grid.matches(Geometry((columns, rows, len(self.slices)), self.stack.affine))


@contextmanager
def origin(source: Source) -> Iterator[Origin]:
    """Open again the series that a volume came from.

    Parameters
    ----------
    source
        Source of the volume; a series that was repaired for the volume is now read without the repair.

    Yields
    ------
    Origin
        Slices of the series, in the order of their positions. Files of an archive exist until the block ends.

    Raises
    ------
    InputError
        If the volume is not from a DICOM series, or nothing can refer to its slices: UIDs are missing or
        repeated, or they are of several studies.
    """
    if not is_from_dicom(source) or source.path is None:
        raise InputError(
            "a DICOM SEG, RTSTRUCT or secondary capture refers to slices in DICOM, and this scan has none",
            where=source.path,
            todo="Give the DICOM series as input, choose another --format, or leave --report sc out",
        )
    if is_zip(source.path):
        from c3s3_seg.io.archive import unpacked

        with unpacked(source.path) as folder:
            yield _open(folder, source)
    else:
        yield _open(source.path, source)


def is_from_dicom(source: Source) -> bool:
    """Return whether a volume was read from DICOM files."""
    path = source.path
    return path is not None and (path.is_dir() or is_zip(path) or is_dicom(path))


def _open(path: Path, source: Source) -> Origin:
    from c3s3_seg.io.deflated import whole_of

    # Gaps and tilt, which may have been repaired when the scan was read, are no obstacle here.
    every: frozenset[Repair] = frozenset({"gaps", "tilt"})
    found, reading = find_series(path, Reading(repair=every))
    if reading.series is None:
        reading = Reading(source.series or None, every)
    series, _ = choose(found, reading)
    placed = check(series, found.root, reading)
    slices = tuple(place[0] for place in placed.places)
    paths = dict.fromkeys(item.path for item in slices)
    headers = {p: whole_of(p, stop_before_pixels=True, force=True) for p in paths}
    for header in headers.values():
        state_loss(header)
    for item in slices:
        missing = [k for k in NEEDED if not Uid.is_valid(headers[item.path].get(k, ""))]
        if missing:
            raise InputError(
                f"'{item.name}' has no {', '.join(missing)} that is a UID, so nothing can refer to it",
                where=source.path,
                todo="Write NIfTI (--format nii.gz), or have the series sent again with its UIDs",
            )
    studies = {str(header.StudyInstanceUID) for header in headers.values()}
    if len(studies) > 1:
        raise InputError(
            f"the slices are of {len(studies)} studies by their StudyInstanceUID; wanted one, of which the"
            " object becomes a part",
            where=source.path,
            todo="Write NIfTI (--format nii.gz), or have the series sent again with its UIDs",
        )
    names = [str(headers[p].SOPInstanceUID) for p in paths]
    if len(set(names)) < len(names):
        raise InputError(
            "two slices have one SOPInstanceUID, so nothing can refer to them", where=source.path
        )
    return Origin(placed, slices, headers)
