"""Read NIfTI, NRRD and MHA files: the reader of each format, and the checks of all volumes and masks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from c3s3_seg.errors import GeometryError, InputError, MemoryLimitError, shown
from c3s3_seg.geometry.arguments import FLAG, GRID
from c3s3_seg.geometry.orthonormalize import nearest_rotation
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.io.content import CHANGED, WAIT
from c3s3_seg.io.detect import is_dicom
from c3s3_seg.io.image.nifti import Parts, read_nifti
from c3s3_seg.io.image.nrrd_mha import read_nrrd_or_meta
from c3s3_seg.io.limits import SPACING_RANGE_MM
from c3s3_seg.system.reading import given_path, sha256


class Reader(Protocol):
    """A reader of the files of one format."""

    def __call__(self, path: Path, *, hashed: bool, dense: bool) -> Parts:
        """Read a file; `hashed` and `dense` are the same as in `load_image`."""


# Suffix -> its reader. A further format needs a module beside this one and its rows here.
READERS: dict[str, Reader] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_nrrd_or_meta,
    ".nhdr": read_nrrd_or_meta,
    ".mha": read_nrrd_or_meta,
    ".mhd": read_nrrd_or_meta,
}
IMAGE_SUFFIXES = tuple(READERS)
_LONGEST_FIRST = sorted(IMAGE_SUFFIXES, key=len, reverse=True)
# Masks that went through a slope and an intercept in float32 are off by up to 1e-5 of their labels.
ROUNDED_BY = 1e-3
ROUNDED = "labels were rounded"  # start of the note on a mask that was off whole numbers
# Cosine to the nearest axis of the patient; below this, programs may disagree on the name of an axis.
PLAIN = 0.75


def image_suffix(path: Path) -> str | None:
    """Return the image suffix of a file name, in lower case; None if it has none."""
    name = path.name.lower()
    return next((s for s in _LONGEST_FIRST if name.endswith(s)), None)


def image_stem(path: Path) -> str:
    """Return the name of an image file without its suffix; `.nii.gz` is one suffix."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.name


def load_image(
    path: str | Path, *, orthonormal: bool = False, hashed: bool = False, dense: bool = False
) -> Volume:
    """Read an image file.

    Parameters
    ----------
    path
        `.nii`, `.nii.gz` (NIfTI-1 or NIfTI-2, either byte order), `.nrrd`, `.nhdr`, `.mha`, `.mhd`.
    orthonormal
        Whether to take the nearest rotation, with a note, if the axes are not quite perpendicular.
    hashed
        Whether to set `source.sha256`, the hash of the bytes that were read.
    dense
        Whether this is a scan: a file that unpacks to more than any scan does is refused before that.

    Returns
    -------
    Volume
        The array (i, j, k) in the file's type (where the header scales it: float32 or, if that would
        merge neighbouring values, float64), on its grid in mm, LPS.

    Raises
    ------
    InputError
        If the file is missing, truncated or damaged, holds NaN or infinite values, is not one real
        3D volume, or has a header that cannot be true.
    GeometryError
        If the axes are not perpendicular.
    MemoryLimitError
        If there is not enough memory for the voxels.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix is None:
        what = "this is not an image file"
        if not os.path.exists(path):
            what = "there is no such file, and by its name it is not an image file"
        raise InputError(f"{what}; wanted {', '.join(IMAGE_SUFFIXES)}", where=path)
    try:
        return _checked(READERS[suffix](path, hashed=hashed, dense=dense), path, orthonormal)
    except MemoryError as error:  # memory that was free when checked may be taken by now
        todo = "Give more memory, or a coarser scan"
        raise MemoryLimitError("the memory did not suffice to read it", where=path, todo=todo) from error


def load_mask(
    path: str | Path,
    *,
    grid: Geometry | None = None,
    hashed: bool = False,
    values: Mapping[str, int] | None = None,
    orthonormal: bool = False,
) -> Volume:
    """Read a mask: whole numbers from 0.

    Parameters
    ----------
    path
        An image file, see `load_image`; a DICOM SEG or an RTSTRUCT, see `dicom_objects.segmentation`.
    grid
        The grid of the scan that the mask belongs to. An RTSTRUCT needs it.
    hashed
        Whether to set `source.sha256`, the hash of the bytes that were read; for DICOM, of the file,
        which must not change meanwhile.
    values
        For DICOM: name of a segment or a region -> its value; None: its number.
    orthonormal
        Same as in `load_image`: for the mask of a scan that was read so.

    Returns
    -------
    Volume
        Labels (i, j, k), uint8 if they fit, else uint16 or int32; on `grid` itself if it is given.

    Raises
    ------
    InputError
        If a value is not a whole number from 0, an argument of another kind, or for any reason of
        `load_image`.
    GeometryError
        If the mask is not on `grid`.
    """
    path, grid, hashed = given_path(path), GRID.or_none().take("grid", grid), FLAG.take("hashed", hashed)
    if is_dicom(path):
        return _drawn(path, grid, values, hashed=hashed)
    mask = as_labels(load_image(path, hashed=hashed, orthonormal=orthonormal))
    return mask if grid is None else put_on(mask, grid)


def put_on(mask: Volume, grid: Geometry) -> Volume:
    """Return a mask on the grid of its scan itself, which its own grid has to match.

    Raises
    ------
    GeometryError
        If the mask is on another grid.
    """
    if not mask.geometry.matches(grid):
        raise GeometryError(
            f"the mask is not on the grid of the scan: found {mask.geometry}; wanted {grid}"
            + mask.geometry.distance_note(grid),
            where=mask.source.path,
            todo="Resample the mask to the scan, or give the scan that it was drawn on",
        )
    return Volume(mask.array, grid, mask.source)


def _drawn(path: Path, grid: Geometry | None, values: Mapping[str, int] | None, *, hashed: bool) -> Volume:
    from c3s3_seg.io.dicom_objects.segmentation import load_drawn_mask

    known = sha256(path) if hashed else None
    mask = load_drawn_mask(path, grid, values)
    if known is not None and sha256(path) != known:
        raise InputError(CHANGED, where=path, todo=WAIT)
    return replace(mask, source=replace(mask.source, sha256=known))


def as_labels(volume: Volume) -> Volume:
    """Convert values of any type to those of a mask: uint8 if they fit, else uint16 or int32.

    Parameters
    ----------
    volume
        Whole numbers from 0. Values that are off by up to 1e-3, as a slope in a header causes, are
        rounded, with a note.

    Raises
    ------
    InputError
        If other values are found; the error states one, how many, and whether they look like probabilities.
    """
    array, off = nearest_whole(volume.array)
    low, top = (float(array.min()), float(array.max())) if array is not None else (-1.0, -1.0)
    # The bound comes first: a huge float must not overflow the type that it is compared in.
    if array is None or low < 0 or top > np.iinfo(np.int32).max:
        raise _no_labels(volume)
    dtype = next(t for t in (np.uint8, np.uint16, np.int32) if top <= np.iinfo(t).max)
    source = volume.source
    if off > 0:
        note = f"{ROUNDED} to whole numbers: they were off by up to {off:.2g}"
        source = replace(source, notes=(*source.notes, note))
    return Volume(array.astype(dtype), volume.geometry, source)


def nearest_whole(array: Array) -> tuple[Array | None, float]:
    """Return the whole numbers within 1e-3 of values (any shape), and the largest distance from them.

    Returns
    -------
    tuple
        The array itself if it holds integers, else a rounded copy in its own type, or None if a value is
        further off, NaN or infinite; and the distance, 0.0 for integers.
    """
    if array.dtype.kind != "f":
        return array, 0.0
    whole = np.rint(array)
    with np.errstate(invalid="ignore"):  # infinite values
        off = float(np.abs(np.subtract(whole, array)).max())
    if not off <= ROUNDED_BY:
        return None, off
    return whole + 0.0, off  # turns -0.0 into 0.0


def _no_labels(volume: Volume) -> InputError:
    array = volume.array.astype(np.float64)
    right = (np.abs(array - np.rint(array)) <= ROUNDED_BY) & (np.rint(array) >= 0)
    wrong = ~(right & (array <= np.iinfo(np.int32).max))
    count, first = int(wrong.sum()), float(array[wrong][0])
    found = f"found {first:.6g}, one of {count} such values among {array.size} voxels"
    todo = None
    if array.min() >= 0 and array.max() <= 1:
        found += "; all lie between 0 and 1, as in a map of probabilities"
        todo = "Give the mask that was made of it, or cut it off at a threshold"
    what = f"a mask must hold whole numbers from 0, and this file holds others: {found}"
    return InputError(what, where=volume.source.path, todo=todo)


def _checked(parts: Parts, path: Path, orthonormal: bool) -> Volume:
    notes, forms = parts.notes, parts.forms
    try:
        geometry = Geometry(parts.array.shape, parts.affine)
    except GeometryError as error:
        raise GeometryError(error.what, where=path) from error
    low, high = SPACING_RANGE_MM
    spacing = geometry.spacing_mm
    if spacing.min() < low or spacing.max() > high:
        raise InputError(f"found a spacing of {shown(spacing)} mm; wanted {low} to {high:g}", where=path)
    if not geometry.is_orthogonal and orthonormal:
        affine, note = nearest_rotation(geometry.affine, geometry.shape, path)
        geometry, notes, forms = Geometry(geometry.shape, affine), (*notes, note), b""
    if not geometry.is_orthogonal:
        raise GeometryError(
            f"the axes are not perpendicular: sheared by {geometry.shear_degrees:.3g} degrees",
            where=path,
            todo="Resample the scan, or let the nearest rotation be taken with --repair orthonormal",
        )
    if parts.array.dtype.kind == "f":
        check_finite(parts.array, path)
    notes = (*notes, *_sides_note(parts.sides, geometry))
    source = Source(path=path, notes=notes, sha256=parts.sha256 or None, nifti_forms=forms)
    return Volume(parts.array, geometry, source)


def _sides_note(stated: str, geometry: Geometry) -> tuple[str, ...]:
    """Return a note if the header names other sides than its directions have, unless these are oblique."""
    plain = np.abs(geometry.direction).max(axis=0).min() > PLAIN
    if not plain or not re.fullmatch("[LRPASI]{3}", stated) or stated == geometry.letters:
        return ()
    return (
        f"the axes are named {stated} and have the directions {geometry.letters}: the directions are used",
    )


def check_finite(array: Array, path: Path) -> None:
    """Refuse voxels that are not finite numbers.

    Raises
    ------
    InputError
        If a voxel is NaN or infinite; the error states how many are.
    """
    if np.isfinite(array).all():
        return
    raise InputError(
        f"found {int(np.isnan(array).sum())} NaN and {int(np.isinf(array).sum())} infinite values"
        f" among {array.size} voxels; wanted numbers",
        where=path,
    )
