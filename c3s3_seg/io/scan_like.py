"""Detect a scan given in place of a mask: the most common slip on the command line, which costs minutes.

A mask may have hundreds of labels, so their number alone decides nothing. But its labels are bodies: most
neighbouring voxels are equal, and each label lies in a part of the volume. In a scan most neighbours
differ, and each value is spread over the volume. Measured: of neighbours that are both not 0, 78 to 99.8 %
differ in scans (atria, hippocampi, cine, CT, simulated ones), 0 to 7 % in their masks, 14 to 27 % in 104
bodies of 4 to 9 voxels; a value fills 0.06 to 1.6 % of its bounding box in scans, 20 to 45 % in masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Array
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.image.files import image_suffix, load_image
from c3s3_seg.metrics.surface_distance import union_box

FEW = 16  # values: an array with no more is taken for a mask
ROUGH = 0.6  # share of unequal neighbours from which on an array is a scan ...
PLAIN = 0.3  # share of unequal neighbours below which an array is plainly a mask
FILLED = 0.1  # ... if its values fill less of their boxes than this
MANY = 255  # ... or if there are more values than this ...
FULL = 0.9  # ... or if more of the volume than this is not background
SIDE = 80  # voxels along each axis of the block in the middle that is inspected
ROUNDING = 1e-3  # tolerance for labels that were stored as floats
FIRST = 3  # files that are inspected, of many


class ScanError(InputError):
    """The error for a file that looks like a scan where a mask is required."""


def scan_words(array: Array) -> str | None:
    """Return in words why the voxels (i, j, k) of a file look like a scan and not a mask; else None.

    A file that holds other than whole numbers from 0 and is no scan either is left to `load_mask` to refuse.
    """
    if array.dtype.kind not in "iuf":
        return None
    block, whole = _middle(array), True
    if block.dtype.kind == "f" and block.size:
        nearest = np.rint(block)
        whole = float(np.abs(block - nearest).max()) <= ROUNDING
        block = nearest if whole else block
    values = np.unique(block[block != 0])
    if len(values) <= FEW or _rough(block) < ROUGH:
        return None
    low, high = array.min(), array.max()
    between = f"between {low:g} and {high:g}"
    if not whole:
        if low >= 0 and high <= 1:
            return f"this looks like a probability map or a scaled scan: it holds fractions {between}"
        return f"this looks like a scan: it holds fractions {between}"
    full = np.count_nonzero(array) > FULL * array.size  # in a small array each value has few voxels
    if low < 0 or full or len(values) > MANY or _filled(block, values) < FILLED:
        return f"this looks like a scan: it holds {len(values)} or more values {between}, scattered"
    return None


def holds_bodies(array: Array) -> bool:
    """Return whether the voxels (i, j, k) are plainly those of a mask, however many values they have."""
    return array.dtype.kind in "iuf" and _rough(_middle(array)) < PLAIN


def refuse_scan(path: Path) -> None:
    """Raise if a file is a scan where a mask is required. A folder or an unreadable file passes.

    Raises
    ------
    ScanError
        If the file looks like a scan; the error names the file and the reason.
    """
    words = _dicom_words(path)
    if words is None and image_suffix(path) is not None:
        try:
            words = scan_words(load_image(path).array)
        except C3S3Error:  # the case fails with its reason when it is read
            return
    if words:
        raise ScanError(f"{words}; wanted a mask", where=path, todo=TODO)


TODO = "Give the folder of the masks: PREDICTIONS first, REFERENCE second"


def refuse_scans(paths: list[Path]) -> None:
    """Raise if all of the first `FIRST` files are scans: then the wrong folder was given.

    A single scan among masks is a case that fails by itself.

    Raises
    ------
    ScanError
        If all are scans: the error for the first.
    """
    first: ScanError | None = None
    for path in paths[:FIRST]:
        try:
            refuse_scan(path)
        except ScanError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _dicom_words(path: Path) -> str | None:
    """Return in words that a file is an archive or a DICOM image, with its modality; else None."""
    if is_zip(path):
        return "this is an archive of DICOM files"
    if not is_dicom(path):
        return None
    from c3s3_seg.io.deflated import header_of
    from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing

    try:
        if look_at_drawing(path) is not None:
            return None
        head: Any = header_of(path, specific_tags=["Modality"], force=True)
        modality = str(head.get("Modality", "") or "")
    except Exception:  # the parser of pydicom raises errors of any type
        return None
    if not (modality.isalnum() and modality.isascii()):
        return None
    return f"this looks like a scan: a DICOM image ({modality})"


def _middle(array: Array) -> Array:
    """Return the middle of the bounding box of nonzero voxels, at most `SIDE` voxels along each axis."""
    box = []
    for part in union_box(array, array):
        start = part.start + max(0, part.stop - part.start - SIDE) // 2
        box.append(slice(start, min(part.stop, start + SIDE)))
    return np.asarray(array[tuple(box)])


def _rough(block: Array) -> float:
    """Return the share of unequal pairs among the pairs of face neighbours that are both not 0."""
    pairs = unequal = 0
    for axis in range(3):
        line = np.moveaxis(block, axis, 0)
        both = (line[1:] != 0) & (line[:-1] != 0)
        pairs += int(np.count_nonzero(both))
        unequal += int(np.count_nonzero(both & (line[1:] != line[:-1])))
    return unequal / pairs if pairs else 0.0


def _filled(block: Array, values: Array) -> float:
    """Return the median, over the values, of the share of its bounding box that a value fills."""
    from scipy import ndimage

    places = np.searchsorted(values, block) + 1
    places[block == 0] = 0
    counts = np.bincount(places.ravel(), minlength=len(values) + 1)[1:]
    boxes = ndimage.find_objects(places)
    shares = [
        count / np.prod([part.stop - part.start for part in box])
        for count, box in zip(counts, boxes, strict=True)
        if box is not None
    ]
    return float(np.median(shares))
