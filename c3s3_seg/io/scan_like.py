"""Is this a scan in place of a mask? The commonest slip on the command line, and one that costs minutes.

A mask may have hundreds of labels, so their number alone says nothing. But its labels are bodies: most
neighbours in them are alike, and each lies in a part of the volume. In a scan most neighbours differ, and
each value lies all over it. Measured: of neighbours that are both not 0, 78 to 99.8 % differ in scans
(atria, hippocampi, cine, CT, simulated ones), 0 to 7 % in their masks, 14 to 27 % in 104 bodies of 4 to 9
voxels; a value fills 0.06 to 1.6 % of the box around it in scans, 20 to 45 % in masks.
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

FEW = 16  # values: what has no more is taken for a mask
ROUGH = 0.6  # share of unequal neighbours from which on it is a scan ...
PLAIN = 0.3  # and up to which it is plainly none
FILLED = 0.1  # ... if its values fill less of their boxes than this
MANY = 255  # ... or if there are more values than this ...
FULL = 0.9  # ... or if more of the volume than this is not background
SIDE = 80  # voxels of the block in the middle that is looked at
ROUNDING = 1e-3  # of labels that were stored as floats
FIRST = 3  # files that are looked at, of many


class ScanError(InputError):
    """A file that looks like a scan where a mask is wanted."""


def scan_words(array: Array) -> str | None:
    """What the voxels (i, j, k) of a file look like where they are no mask's, in words; else None.

    What holds other than whole numbers from 0 and is no scan either is for `load_mask` to refuse.
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
    full = np.count_nonzero(array) > FULL * array.size  # in few voxels each value has one or two
    if low < 0 or full or len(values) > MANY or _filled(block, values) < FILLED:
        return f"this looks like a scan: it holds {len(values)} or more values {between}, scattered"
    return None


def holds_bodies(array: Array) -> bool:
    """Whether the voxels (i, j, k), whatever their number of values, are plainly those of a mask."""
    return array.dtype.kind in "iuf" and _rough(_middle(array)) < PLAIN


def refuse_scan(path: Path) -> None:
    """Raise if a file or folder is a scan where a mask is wanted. What cannot be read passes.

    Raises
    ------
    ScanError
        Naming the file, and why it looks like a scan.
    """
    words = _dicom_words(path)
    if words is None and image_suffix(path) is not None:
        try:
            words = scan_words(load_image(path).array)
        except C3S3Error:  # the case fails with its reason when it is read
            return
    if words:
        raise ScanError(f"{words}; wanted a mask", where=path, todo=TODO)


TODO = "Give the folder of the masks: PREDICTIONS first, TRUTH second"


def refuse_scans(paths: list[Path]) -> None:
    """Raise if all of the first `FIRST` files are scans: then the wrong folder was given.

    A single scan among masks is a case that fails by itself.

    Raises
    ------
    ScanError
        For the first of them.
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
    """Of DICOM images: their modality."""
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
    except Exception:  # pydicom raises whatever its parser trips over
        return None
    if not (modality.isalnum() and modality.isascii()):
        return None
    return f"this looks like a scan: a DICOM image ({modality})"


def _middle(array: Array) -> Array:
    """The middle of what is not 0, at most `SIDE` voxels along each axis."""
    box = []
    for part in union_box(array, array):
        start = part.start + max(0, part.stop - part.start - SIDE) // 2
        box.append(slice(start, min(part.stop, start + SIDE)))
    return np.asarray(array[tuple(box)])


def _rough(block: Array) -> float:
    """Of the pairs of face neighbours that are both not 0, the share that differs."""
    pairs = unequal = 0
    for axis in range(3):
        line = np.moveaxis(block, axis, 0)
        both = (line[1:] != 0) & (line[:-1] != 0)
        pairs += int(np.count_nonzero(both))
        unequal += int(np.count_nonzero(both & (line[1:] != line[:-1])))
    return unequal / pairs if pairs else 0.0


def _filled(block: Array, values: Array) -> float:
    """Median over the values: the share of the box around it that a value fills."""
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
