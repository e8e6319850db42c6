"""Inspect a path series by series: whether each can be read, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from c3s3_seg.errors import C3S3Error, Told, named, public
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import read
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.reading import Reading, SeriesRule

if TYPE_CHECKING:
    from c3s3_seg.io.dicom.grid import Stack
    from c3s3_seg.io.dicom.header import Slice


@dataclass(frozen=True)
class SeriesRow:
    """One series of a DICOM folder, or one image file.

    Parameters
    ----------
    number, uid
        Values that `--series` accepts; an image file has no UID.
    modality, description
        Values from the header; the description is free text.
    slices, size
        Number of slices, and the size of a slice as text.
    spacing_mm, orientation
        Texts; empty if unknown. `LPS`: the indices grow to the left, back and head; ` oblique`: an
        axis is off by a degree or more.
    readable
        Whether `predict` would accept the series.
    verdict
        `volume`, `no volume`, `refused` or `not asked for`.
    path
        The folder of the first slice, relative to the inspected folder; for an image file its name.
    remarks
        Why the series is refused, no volume or not requested, or the notes of the volume.
    """

    number: int
    uid: str
    modality: str
    description: str
    slices: int
    size: str
    spacing_mm: str
    orientation: str
    readable: bool
    verdict: str
    path: str
    remarks: tuple[str, ...] = ()


def inspect(path: str | Path, reading: Reading | None = None, *, pixels: bool = True) -> list[SeriesRow]:
    """Inspect an image file, a DICOM file or folder, a DICOMDIR or a zip file.

    Parameters
    ----------
    path
        Same as in `load`.
    reading
        The repairs and the series that would be requested.
    pixels
        Whether the pixels are decoded too; if not, damaged pixels are not noticed.

    Raises
    ------
    InputError
        If there is nothing at `path` that could be read.
    """
    path, reading = Path(path), reading or Reading()
    if is_zip(path):
        from c3s3_seg.io.archive import unpacked

        with unpacked(path) as folder:
            return _series_rows(folder, reading, pixels)
    if path.is_dir() or is_dicom(path):
        return _series_rows(path, reading, pixels)
    return [_image_row(path, reading)]


def _series_rows(path: Path, reading: Reading, pixels: bool) -> list[SeriesRow]:
    from c3s3_seg.io.dicom.load import build, check, find_series
    from c3s3_seg.io.dicom.series_choice import choose, objection

    found, _ = find_series(path, reading)
    if not found.series or not isinstance(reading.series, SeriesRule | None):
        choose(found, reading)  # raises if there is no series, or none of this number or UID
    rows = []
    places = _Places()
    for number, series in enumerate(found.series, 1):
        first = series.slices[0]
        head = (number, series.key, series.modality, series.description, len(series.slices))
        size = f"{first.text('Columns')} x {first.text('Rows')}"
        place = places.of(first.name)
        if not series.is_volume:
            rows.append(SeriesRow(*head, size, "", "", False, "no volume", place, _told(series.why_not)))
            continue
        if why_not := objection(found, series, reading.series):
            rows.append(SeriesRow(*head, size, "", "", False, "not asked for", place, (why_not,)))
            continue
        try:
            chosen, notes = choose(found, Reading(number, reading.repair))
            placed = check(chosen, found.root, reading)
            notes = tuple(note for note in notes if not note.startswith("series "))
            if pixels:
                volume = build(chosen, notes, path, reading)
                grid, notes = volume.geometry, volume.source.notes
            else:
                grid, more = _from_headers(placed, first, found.root)
                notes = (*notes, *more)
            rows.append(SeriesRow(*head, size, *_grid(grid), True, "volume", place, _told(*notes)))
        except C3S3Error as error:
            rows.append(SeriesRow(*head, size, "", "", False, "refused", place, (_reason(error),)))
    return rows


def _from_headers(placed: Stack, first: Slice, root: Path) -> tuple[Geometry, tuple[str, ...]]:
    """Return the grid that a stack has, or gets when it is repaired, and the notes; no pixel is read."""
    from c3s3_seg.io.dicom.repair import even_steps

    affine, notes, count = placed.affine, placed.notes, len(placed.places)
    if not placed.upright:
        notes = (*notes, "the tilt would be repaired (tilt)")
    if not placed.even:
        steps, step_mm = even_steps(placed.offsets_mm[:, 2], root)
        affine[:3, 2] = placed.turn[:, 2] * step_mm
        notes = (*notes, f"{count} slices would be resampled to {steps + 1} (gaps)")
    return Geometry((first.number("Columns", 0), first.number("Rows", 0), count), affine), notes


def _image_row(path: Path, reading: Reading) -> SeriesRow:
    try:
        volume: Volume = read(path, reading)
    except C3S3Error as error:
        if not path.is_file():
            raise
        return SeriesRow(1, "", "-", "", 0, "-", "", "", False, "refused", path.name, (_reason(error),))
    shape = volume.geometry.shape
    size = f"{shape[0]} x {shape[1]}"
    grid = _grid(volume.geometry)
    return SeriesRow(
        1, "", "-", "", shape[2], size, *grid, True, "volume", path.name, _told(*volume.source.notes)
    )


def _told(*texts: str) -> tuple[str, ...]:
    """Return each text in both versions, with and without names of files."""
    return tuple(Told(text, named=True) for text in texts)


def _reason(error: C3S3Error) -> str:
    """Return the fault and the remedy, without the place, which is another column."""
    todo = f". {error.todo}" if error.todo else ""
    return Told.of(named(error.what) + named(todo), public(error.what) + public(todo), as_named=True)


class _Places:
    """The folders of series: named on a terminal, numbered where the text is stored."""

    def __init__(self) -> None:
        self._numbers: dict[PurePath, int] = {PurePath(): 0}

    def of(self, file: str) -> str:
        """Return the folder of a slice; `.` is the inspected folder."""
        folder = PurePath(file).parent
        number = self._numbers.setdefault(folder, len(self._numbers))
        return Told.of(str(folder), f"folder {number}" if number else ".", as_named=True)


def _grid(geometry: Geometry) -> tuple[str, str]:
    # Off by more than a degree.
    oblique = np.abs(geometry.direction).max(axis=0).min() < np.cos(np.radians(1))
    spacing = " x ".join(f"{s:.4g}" for s in geometry.spacing_mm)
    return spacing, geometry.letters + (" oblique" if oblique else "")
