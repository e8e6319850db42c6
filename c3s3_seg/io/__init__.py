"""Read and write volumes. Every axis and sign convention of a file format is handled in this package.

`load` reads a scan, `load_mask` reads a mask, `save` writes either; `find_cases` finds the scans and
`match_truth` their truths. A reader returns the right volume, or raises an error that names the file
or the position; no volume is ever changed silently.

In memory, array axes are (i, j, k) = (x, y, z) and positions are mm in LPS, see `c3s3_seg.geometry.volume`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.arguments import FLAG, instances_of
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io.cases import Case, Skipped, match_truth
from c3s3_seg.io.detect import is_dicom, is_zip, why_unreadable
from c3s3_seg.io.image.files import IMAGE_SUFFIXES, image_suffix, load_image, load_mask
from c3s3_seg.io.image.save import save
from c3s3_seg.io.places import find_cases
from c3s3_seg.io.reading import Reading, SeriesRule, parse_series, repairs
from c3s3_seg.system.choices import Repair
from c3s3_seg.system.reading import given_path

if TYPE_CHECKING:
    from c3s3_seg.io.hashes import Watch

__all__ = [
    "Case",
    "Reading",
    "Repair",
    "SeriesRule",
    "Skipped",
    "find_cases",
    "load",
    "load_mask",
    "match_truth",
    "read",
    "read_case",
    "save",
]


def load(
    path: str | Path,
    *,
    series: int | str | SeriesRule | None = None,
    repair: Repair | Collection[Repair] = (),
    rule: SeriesRule | None = None,
    hashed: bool = False,
) -> Volume:
    """Read a scan: an image file, a folder with a DICOM series, or one file of such a series.

    Parameters
    ----------
    path
        `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha`, `.mhd`, a DICOM file, a DICOMDIR, a zip file with
        DICOM files, or a folder that holds DICOM files, in its sub-folders too.
    series
        Series of the folder: its number in the list of the error message (from 1), its UID, or a rule
        that exactly one series fits.
    repair
        Faults that may be repaired, see `Reading`: "gaps", "tilt", "orthonormal". Each repair is
        recorded in the notes of the volume.
    rule
        Rule that chooses among several volumes if `series` is None.
    hashed
        Whether to set `source.sha256`: the hash of the file, or of all DICOM files of the folder.

    Returns
    -------
    Volume
        The array (i, j, k), in the file's own type (DICOM: float32, or float64 where float32 would
        merge neighbouring values), on its grid in mm, LPS.

    Raises
    ------
    InputError
        If `path` does not exist, is not a scan, is damaged, or has several series; if an argument is of
        another kind; if the hash is requested and the scan changed while it was read.
    MemoryLimitError
        If there is not enough memory for the voxels.
    GeometryError
        If the grid is not orthogonal and evenly spaced.
    """
    wanted = parse_series(series) if isinstance(series, str) else series
    rule = instances_of(SeriesRule, "a SeriesRule").or_none().take("rule", rule)
    mended = repairs((repair,) if isinstance(repair, str) else repair)
    return read(path, Reading(wanted, mended, rule), hashed=hashed)


def read(path: str | Path, reading: Reading, *, hashed: bool = False) -> Volume:
    """Read a scan as `load` does, with all choices in one object."""
    path, hashed = given_path(path), FLAG.take("hashed", hashed)
    if is_zip(path):
        return _load_zip(path, reading, hashed)
    if os.path.isdir(path) or is_dicom(path):
        return _load_dicom(path, reading, hashed)
    if not os.path.exists(path):
        raise InputError("there is no such file or folder", where=path)
    if image_suffix(path) is None:
        if why := why_unreadable(path):
            raise InputError(f"the file cannot be read: {why}", where=path)
        raise InputError(
            f"this is not a scan that can be read; wanted {', '.join(IMAGE_SUFFIXES)}, a DICOM file"
            " or a folder with a DICOM series",
            where=path,
        )
    if reading.series is not None:
        raise InputError("an image file has no series to choose from", where=path, todo="Leave series out")
    return load_image(path, orthonormal="orthonormal" in reading.repair, hashed=hashed, dense=True)


def read_case(case: Case, reading: Reading, *, hashed: bool = False) -> Volume:
    """Read the scan of a case; if the files of its DICOM series are known, read only these files."""
    if not case.files:
        return read(case.path, reading, hashed=hashed)
    if not os.path.exists(case.path):
        raise InputError("there is no such file or folder", where=case.path)
    from c3s3_seg.io.dicom.load import load_files
    from c3s3_seg.io.hashes import Watch

    watch = Watch(case.path, case.paths) if hashed else None
    volume = load_files(case.path, case.paths, replace(reading, series=case.series or None, rule=None))
    return _with_hash(volume, watch)


def _load_dicom(path: Path, reading: Reading, hashed: bool) -> Volume:
    from c3s3_seg.io.dicom.load import load_series
    from c3s3_seg.io.hashes import Watch

    watch = Watch(path) if hashed else None
    return _with_hash(load_series(path, reading), watch)


def _with_hash(volume: Volume, watch: Watch | None) -> Volume:
    if watch is None:
        return volume
    return replace(volume, source=replace(volume.source, sha256=watch.sha256()))


def _load_zip(path: Path, reading: Reading, hashed: bool) -> Volume:
    from c3s3_seg.io.archive import unpacked
    from c3s3_seg.io.dicom.load import load_series

    digest = hashlib.sha256() if hashed else None
    with unpacked(path, digest) as folder:
        volume = load_series(folder, reading)
    sha256 = digest.hexdigest() if digest else None
    return replace(volume, source=replace(volume.source, path=path, sha256=sha256))
